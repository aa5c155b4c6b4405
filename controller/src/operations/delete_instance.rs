//! Deletes an instance with everything it has.

use super::{Lane, NewOperation, Origin};

/// Its name.
pub const KIND: &str = "delete_instance";
const VERSION: u16 = 1;

/// The operation that deletes the instance. In the same transaction the caller sets the task to deleting and cancels
/// what is queued on it (`Store::cancel_active`).
pub fn new(origin: Origin) -> NewOperation {
    let steps = ["stop_engine", "delete_host", "forget"].map(str::to_owned).to_vec();
    NewOperation { kind: KIND, version: VERSION, origin, lane: Lane::Lifecycle, state: serde_json::json!({}), steps }
}

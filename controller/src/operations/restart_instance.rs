//! Restarts the engine of an instance.

use super::{Lane, NewOperation, Origin};

/// Its name.
pub const KIND: &str = "restart_instance";
const VERSION: u16 = 1;

/// The operation that restarts the engine. The caller sets the task to restarting in the same transaction.
pub fn new(origin: Origin) -> NewOperation {
    let steps = ["restart_engine", "await_healthy"].map(str::to_owned).to_vec();
    NewOperation { kind: KIND, version: VERSION, origin, lane: Lane::Lifecycle, state: serde_json::json!({}), steps }
}

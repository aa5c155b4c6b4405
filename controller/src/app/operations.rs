//! Operations of an instance, as they are shown.
//!
//! SKELETON of the interface between `api` and `app`; bodies follow.

use time::OffsetDateTime;

use super::App;
use crate::error::Result;
use crate::identity::Caller;
use crate::ids::{InstanceId, OperationId};

/// An operation with its steps.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it does: `create_instance`.
    pub kind: String,
    /// `queued`, `running`, `undoing`, `done`, `failed`, `cancelled` or `stuck`.
    pub status: String,
    /// When it was asked for.
    pub created: OffsetDateTime,
    /// When a controller first took it.
    pub started: Option<OffsetDateTime>,
    /// When it ended.
    pub finished: Option<OffsetDateTime>,
    /// Why it failed.
    pub error: Option<String>,
    /// The step it is in.
    pub step: Option<String>,
    /// All of its steps, in order.
    pub steps: Vec<Step>,
}

/// A step of an operation.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name: `install_engine`.
    pub name: String,
    /// `pending`, `running`, `done`, `failed` or `undone`.
    pub status: String,
    /// When it began.
    pub started: Option<OffsetDateTime>,
    /// When it ended.
    pub finished: Option<OffsetDateTime>,
    /// Amount done and in all, and the unit (a stage's name where there are no amounts).
    pub progress: Option<(Option<u64>, Option<u64>, String)>,
    /// Why it failed, or why it is being tried again.
    pub error: Option<String>,
}

#[allow(unused_variables)]
impl App {
    /// Newest first, with the version of the answer. With `since` and `wait_s` the answer is held until the version is
    /// another or the time is over. Errors: 404.
    pub async fn list_operations(
        &self,
        caller: &Caller,
        id: InstanceId,
        since: Option<String>,
        wait_s: u64,
    ) -> Result<(Vec<Operation>, String)> {
        todo!()
    }
}

//! Operations, as they are asked for and as they are shown.

use time::OffsetDateTime;

use crate::ids::{InstanceId, OperationId, ProjectId};

/// Which operations of an instance exclude each other. All of them are done in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// One at a time; a second one is refused.
    Lifecycle,
    /// Queued, never refused as busy.
    Accounts,
}

impl Lane {
    /// The tag under which it is stored.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Accounts => "accounts",
        }
    }
}

/// Who asks for an operation, and on what.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The instance.
    pub instance: InstanceId,
    /// Its project.
    pub project: ProjectId,
    /// The request, as in the logs and in `x-openstack-request-id`.
    pub request_id: String,
    /// The user.
    pub user_id: String,
}

/// An operation that is about to be written. Made by the `new` of its file.
#[derive(Clone, Debug)]
pub struct NewOperation {
    /// What it does.
    pub kind: &'static str,
    /// Version of its steps and state.
    pub version: u16,
    /// Who asks, and on what.
    pub origin: Origin,
    /// What it excludes.
    pub lane: Lane,
    /// Its state before the first step; secrets in it are sealed.
    pub state: serde_json::Value,
    /// The names of its steps.
    pub steps: Vec<String>,
}

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

/// An operation that has changed.
#[derive(Clone, Debug)]
pub struct ChangedOperation {
    /// Whose.
    pub instance: InstanceId,
    /// The number of its last change: of two changes the later one has the greater number.
    pub changed: i64,
    /// The operation as it is now.
    pub operation: Operation,
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

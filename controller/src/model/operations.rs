//! Operations, as they are enqueued and as they are shown.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use crate::ids::{InstanceId, OperationId, ProjectId};

/// Lane of an operation. It decides which operations on a target exclude each other; those run in the order of the
/// queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Life cycle. Runs alone. Refused while an operation of this lane or a backup is active.
    Lifecycle,
    /// Databases and accounts. Runs one after the other, beside a backup. Never refused as busy.
    Accounts,
    /// Backup. Runs one at a time, beside changes of accounts. Refused while another backup or a life-cycle operation
    /// is active.
    Backup,
}

impl Lane {
    /// The text by which it is stored.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Accounts => "accounts",
            Self::Backup => "backup",
        }
    }

    /// Whether it is refused while another operation of an exclusive lane is active on a target.
    pub fn is_exclusive(self) -> bool {
        match self {
            Self::Lifecycle | Self::Backup => true,
            Self::Accounts => false,
        }
    }
}

/// Who requests an operation, and its targets.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The instances to change: at least one, all of the same project.
    pub targets: Vec<InstanceId>,
    /// Their project.
    pub project: ProjectId,
    /// The id in the logs and in `x-openstack-request-id`.
    pub request_id: String,
    pub user_id: String,
}

/// A step and its targets. It is executed on all of them at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub step: String,
    pub targets: Vec<InstanceId>,
}

/// An operation to enqueue. Made by the function `new` of its kind's file.
#[derive(Clone, Debug)]
pub struct NewOperation {
    pub kind: &'static str,
    /// Version of its steps and state.
    pub version: u16,
    pub origin: Origin,
    pub lane: Lane,
    /// Initial state shared by its targets. Secrets in it are encrypted.
    pub state: serde_json::Value,
    /// Stages, in order.
    pub plan: Vec<Stage>,
}

/// An operation and its steps, as shown by the API.
#[derive(Clone, Debug)]
pub struct Operation {
    pub id: OperationId,
    /// For example `create_instance`.
    pub kind: String,
    /// `queued`, `running`, `undoing`, `done`, `failed`, `cancelled` or `stuck`.
    pub status: String,
    pub created: OffsetDateTime,
    /// When a controller first claimed it.
    pub started: Option<OffsetDateTime>,
    pub finished: Option<OffsetDateTime>,
    pub error: Option<String>,
    /// Name of the current step.
    pub step: Option<String>,
    /// The steps of all targets, stage by stage.
    pub steps: Vec<Step>,
}

impl Operation {
    /// Its targets, sorted by id.
    pub fn targets(&self) -> impl Iterator<Item = InstanceId> {
        self.steps.iter().map(|step| step.target).collect::<BTreeSet<_>>().into_iter()
    }
}

/// An operation with the number of its last change.
#[derive(Clone, Debug)]
pub struct ChangedOperation {
    /// Later changes have greater numbers.
    pub changed: i64,
    pub operation: Operation,
}

/// A step of an operation.
#[derive(Clone, Debug)]
pub struct Step {
    /// For example `install_engine`.
    pub name: String,
    pub target: InstanceId,
    /// `pending`, `running`, `done`, `failed` or `undone`.
    pub status: String,
    pub started: Option<OffsetDateTime>,
    pub finished: Option<OffsetDateTime>,
    /// Amount done, total amount, and unit; without amounts the unit is the name of the job's stage.
    pub progress: Option<(Option<u64>, Option<u64>, String)>,
    /// Why it failed, or why it is retried.
    pub error: Option<String>,
}

//! Operations, as they are asked for and as they are shown.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use crate::ids::{InstanceId, OperationId, ProjectId};

/// Which operations on one target exclude each other. Those that do are done in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The life cycle: runs alone. Refused while another of its lane, or a backup, is active.
    Lifecycle,
    /// Databases and accounts: in order, beside a backup; never refused as busy.
    Accounts,
    /// A backup: one at a time, beside changes of accounts. Refused while another one, or the life cycle, is active.
    Backup,
}

impl Lane {
    /// The tag under which it is stored.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Accounts => "accounts",
            Self::Backup => "backup",
        }
    }

    /// Whether it is refused while another operation of such a lane is active on a target.
    pub fn is_exclusive(self) -> bool {
        match self {
            Self::Lifecycle | Self::Backup => true,
            Self::Accounts => false,
        }
    }
}

/// Who asks for an operation, and on what.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The instances that it holds and works on; one at least, all of one project.
    pub targets: Vec<InstanceId>,
    /// Their project.
    pub project: ProjectId,
    /// The request, as in the logs and in `x-openstack-request-id`.
    pub request_id: String,
    /// The user.
    pub user_id: String,
}

/// A step and the targets that it is for; it is done on all of them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The step's name.
    pub step: String,
    /// One at least.
    pub targets: Vec<InstanceId>,
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
    /// The state that its targets share, before the first step; secrets in it are sealed.
    pub state: serde_json::Value,
    /// Its stages, in order.
    pub plan: Vec<Stage>,
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
    /// The steps of all targets, stage by stage.
    pub steps: Vec<Step>,
}

impl Operation {
    /// The instances that it works on, in the order of their ids.
    pub fn targets(&self) -> impl Iterator<Item = InstanceId> {
        self.steps.iter().map(|step| step.target).collect::<BTreeSet<_>>().into_iter()
    }
}

/// An operation that has changed.
#[derive(Clone, Debug)]
pub struct ChangedOperation {
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
    /// On which instance.
    pub target: InstanceId,
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

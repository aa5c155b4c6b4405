//! Backups, as they are stored and shown.

use time::OffsetDateTime;

use crate::ids::{BackupId, DatastoreId, InstanceId, OperationId, ProjectId, ScheduleId, VersionId};

/// Where a backup stands.
///
/// ```text
/// NEW -> BUILDING -> SAVING -> COMPLETED      one that is asked for, taken, checked
///  `--------`----------`-----> FAILED         what it has written is removed
///                    COMPLETED, FAILED -> DELETING <-> DELETE_FAILED -> gone
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupState {
    /// Asked for.
    New,
    /// The agent takes it.
    Building,
    /// What was stored is checked.
    Saving,
    Completed,
    Failed,
    /// Its objects are being removed.
    Deleting,
    /// They could not be removed; it is tried again.
    DeleteFailed,
}

impl BackupState {
    pub const ALL: [Self; 7] =
        [Self::New, Self::Building, Self::Saving, Self::Completed, Self::Failed, Self::Deleting, Self::DeleteFailed];

    /// Trove's name, by which it is stored too.
    pub fn tag(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Building => "BUILDING",
            Self::Saving => "SAVING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Deleting => "DELETING",
            Self::DeleteFailed => "DELETE_FAILED",
        }
    }

    pub fn from_tag(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.tag() == tag)
    }

    /// Whether it is being taken.
    pub fn is_running(self) -> bool {
        matches!(self, Self::New | Self::Building | Self::Saving)
    }
}

/// A backup.
#[derive(Clone, Debug)]
pub struct Backup {
    pub id: BackupId,
    pub project: ProjectId,
    pub name: String,
    pub description: Option<String>,
    /// The source, which may be deleted.
    pub instance: InstanceId,
    /// What the source was then.
    pub source: BackupSource,
    /// The backup since which it holds what has changed; `None`: everything.
    pub parent: Option<BackupId>,
    pub state: BackupState,
    /// The operation that takes it.
    pub operation: OperationId,
    /// The schedule that has made it, which may be deleted.
    pub schedule: Option<ScheduleId>,
    /// age's public key.
    pub recipient: String,
    /// The secret key, sealed under [`Backup::SEALED`].
    pub identity: String,
    /// Of a completed one: what was stored.
    pub stored: Option<StoredBackup>,
    /// Why it failed, or cannot be deleted.
    pub fault: Option<String>,
    /// The last verification; `None`: there was none.
    pub verification: Option<Verification>,
    pub created: OffsetDateTime,
    pub updated: OffsetDateTime,
}

impl Backup {
    /// The purpose under which its secret key is sealed.
    pub const SEALED: &'static str = "backup";
}

/// What the source of a backup was when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSource {
    pub datastore_id: DatastoreId,
    pub datastore: String,
    pub version_id: VersionId,
    pub version: String,
    /// Such as `15.18`.
    pub version_number: String,
    /// Such as `15`.
    pub major: String,
    /// Size of its volume, GiB; 0 without one.
    pub volume_gib: u64,
    /// Who had enabled root.
    pub root_by: Option<String>,
}

/// What is stored of a completed backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBackup {
    /// The run that is the backup.
    pub run: String,
    /// BLAKE3 sum of its manifest, hex.
    pub manifest_sum: String,
    /// Bytes of the engine's stream.
    pub data_bytes: u64,
    /// Bytes of its objects.
    pub stored_bytes: u64,
    /// How far the engine's log had come, in the engine's own words.
    pub position: Option<String>,
    /// What an increment on it begins at; `None`: nothing builds on it.
    pub checkpoint: Option<String>,
    /// Bytes of memory that the data took, in an engine that holds all of them there; `None` too where the agent did not say so yet.
    pub memory_bytes: Option<u64>,
}

/// How far the verification of a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerificationState {
    Running,
    /// It was restored, its engine ran on it, and the engine's own check found nothing.
    Passed,
    Failed,
}

impl VerificationState {
    const ALL: [Self; 3] = [Self::Running, Self::Passed, Self::Failed];

    /// The text by which it is stored and shown.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Failed => "failed",
        }
    }

    pub fn from_tag(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.tag() == tag)
    }
}

/// A verification of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    pub state: VerificationState,
    /// Since when it runs, or when it ended.
    pub at: OffsetDateTime,
    /// The operation that does it.
    pub operation: OperationId,
    /// Why it failed: the step and the reason.
    pub fault: Option<String>,
}

/// How a project wants backups labelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupStrategy {
    pub project: ProjectId,
    /// Of which instance; `None`: of all others.
    pub instance: Option<InstanceId>,
    pub swift_container: String,
}

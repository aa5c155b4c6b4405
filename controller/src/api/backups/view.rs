//! A backup as the API shows it.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::http::links::{Link, Time};
use crate::app::backups::{Backup, Verification};
use crate::app::host_paths::without_host_paths;

/// Bytes in a GB of Trove's, which is a GiB.
const GIB: f64 = 1_073_741_824.0;

#[derive(Serialize, ToSchema)]
struct BackupDatastore {
    r#type: String,
    /// The version's name.
    version: String,
    version_id: Uuid,
}

/// The last verification of a backup: ours, beyond Trove.
#[derive(Serialize, ToSchema)]
struct VerificationView {
    /// `none`, `running`, `passed` or `failed`.
    state: &'static str,
    /// Since when it runs, or when it ended.
    at: Option<Time>,
    /// Why it failed.
    fault: Option<String>,
}

impl VerificationView {
    fn of(verification: Option<&Verification>) -> Self {
        Self {
            state: verification.map_or("none", |verification| verification.state.tag()),
            at: verification.map(|verification| verification.at.into()),
            fault: verification.and_then(|verification| verification.fault.as_deref()).map(without_host_paths),
        }
    }
}

/// A backup.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct BackupView {
    id: Uuid,
    name: String,
    description: Option<String>,
    /// Names its place, for operators; null until it is complete.
    #[serde(rename = "locationRef")]
    location_ref: Option<String>,
    /// The source, also when it is deleted.
    instance_id: Uuid,
    created: Time,
    updated: Time,
    /// GiB of data; null until it is complete.
    size: Option<f64>,
    /// `NEW`, `BUILDING`, `SAVING`, `COMPLETED`, `FAILED`, `DELETING` or `DELETE_FAILED`.
    status: &'static str,
    /// The backup since which it holds what has changed; null: everything.
    parent_id: Option<Uuid>,
    project_id: String,
    datastore: BackupDatastore,
    /// The schedule that has made it, also when that is deleted; left out of those that a person has made.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_id: Option<Uuid>,
    verification: VerificationView,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct BackupBody {
    pub(in crate::api) backup: BackupView,
}

/// A page of backups.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct BackupsPage {
    pub(in crate::api) backups: Vec<BackupView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) backups_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) links: Option<Vec<Link>>,
}

/// The view of lists and of a single one.
pub(in crate::api) fn view(backup: &Backup) -> BackupView {
    let stored = backup.stored.as_ref();
    BackupView {
        id: backup.id.0,
        name: backup.name.clone(),
        description: backup.description.clone(),
        location_ref: stored.map(|stored| format!("trove-backup://{}/{}/manifest.json", backup.id, stored.run)),
        instance_id: backup.instance.0,
        created: backup.created.into(),
        updated: backup.updated.into(),
        size: stored.map(|stored| size(stored.data_bytes)),
        status: backup.state.tag(),
        parent_id: backup.parent.map(|parent| parent.0),
        project_id: backup.project.0.clone(),
        datastore: BackupDatastore {
            r#type: backup.source.datastore.clone(),
            version: backup.source.version.clone(),
            version_id: backup.source.version_id.0,
        },
        schedule_id: backup.schedule.map(|id| id.0),
        verification: VerificationView::of(backup.verification.as_ref()),
    }
}

/// In hundredths, and not nothing.
fn size(bytes: u64) -> f64 {
    // Sizes are far below the 2^52 bytes that a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let gib = bytes as f64 / GIB;
    (gib * 100.0).ceil() / 100.0
}

//! A backup as the API shows it.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::http::links::{Link, Time};
use crate::app::backups::Backup;

/// Bytes in a GB of Trove's, which is a GiB.
const GIB: f64 = 1_073_741_824.0;

#[derive(Serialize, ToSchema)]
struct BackupDatastore {
    r#type: String,
    /// The version's name.
    version: String,
    version_id: Uuid,
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
    parent_id: Option<Uuid>,
    project_id: String,
    datastore: BackupDatastore,
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
        parent_id: None,
        project_id: backup.project.0.clone(),
        datastore: BackupDatastore {
            r#type: backup.source.datastore.clone(),
            version: backup.source.version.clone(),
            version_id: backup.source.version_id.0,
        },
    }
}

/// In hundredths, and not nothing.
fn size(bytes: u64) -> f64 {
    // Sizes are far below the 2^52 bytes that a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let gib = bytes as f64 / GIB;
    (gib * 100.0).ceil() / 100.0
}

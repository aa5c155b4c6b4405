//! `POST /backups`: 202 with the view.

use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::view::{BackupBody, view};
use crate::api::ApiState;
use crate::api::http::answer::{Begun, WithOperation};
use crate::api::http::auth::Authorized;
use crate::api::http::body::Json;
use crate::api::http::fault::Fault;
use crate::api::http::fields::{Bit, Name, Reference};
use crate::app::backups;
use crate::error::{Error, Result};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct BackupOrder {
    backup: NewBackup,
}

/// A backup to be taken. `restore_from` is not built yet.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBackup {
    name: Name,
    /// The source. Required, unless there is `restore_from`.
    instance: Option<Reference>,
    #[schema(max_length = 256)]
    description: Option<String>,
    /// The backup of the same instance since which it holds what has changed, by id; a name means the newest complete one that has it.
    parent_id: Option<Reference>,
    /// Whether it builds on the last one of the instance, where there is one.
    incremental: Option<Bit>,
    /// A label of Trove's clients, which means nothing here.
    #[allow(dead_code, reason = "accepted and not looked at")]
    swift_container: Option<Name>,
    /// `swift`, which stands for this service's storage.
    storage_driver: Option<Name>,
    restore_from: Option<Value>,
}

impl TryFrom<BackupOrder> for backups::NewBackup {
    type Error = Error;

    fn try_from(BackupOrder { backup: order }: BackupOrder) -> Result<Self> {
        if order.restore_from.is_some() {
            return Err(Error::NotImplemented("A backup with restore_from is not built yet.".to_owned()));
        }
        if let Some(driver) = order.storage_driver.filter(|driver| driver.0 != "swift") {
            let driver = crate::app::names::shown(&driver.0);
            return Err(Error::NotImplemented(format!("There is no storage_driver {driver} here, only \"swift\".")));
        }
        let missing = || Error::BadRequest("Validation error: backup['instance'] is required.".to_owned());
        Ok(Self {
            name: order.name.0,
            description: order.description,
            instance: order.instance.ok_or_else(missing)?.0,
            parent: order.parent_id.map(|parent| parent.0),
            incremental: order.incremental.is_some_and(|bit| bit.0),
        })
    }
}

/// Take a backup of an instance
///
/// The instance's status is BACKUP meanwhile, and what would restart or change its host is refused; databases and accounts can
/// be changed. An increment holds what has changed since another backup, which a restore of it needs, too.
#[utoipa::path(post, path = "/backups", tag = "backups", operation_id = "create_backup",
    responses(Fault<404>, Fault<409>, Fault<422>, Fault<501>))]
pub(in crate::api) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Json(order): Json<BackupOrder>,
) -> Result<WithOperation<Begun<BackupBody>>> {
    authorized.may("backup:create")?;
    let order = backups::NewBackup::try_from(order)?;
    let (backup, accepted) = state.app.create_backup(&authorized.caller, &authorized.request_id, order).await?;
    Ok(WithOperation(Begun(BackupBody { backup: view(&backup) }), accepted.operation))
}

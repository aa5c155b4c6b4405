//! Verifies a backup: restores it to a scratch instance, whose row is written when this is asked for, and has the engine's own
//! check run there. The scratch instance is gone afterwards.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `choose_address` to `await_healthy` | as in `restore_instance` | as there | as there |
//! | `check` | the engine checks its data; that it has passed is written on the backup | - | 6 h, 3 attempts |
//! | `remove_host` | the host is deleted, and all about its agent | - | none: what a driver calls transient is tried for ever |
//!
//! In the end the scratch instance is marked deleted. It is so too when a step fails, after the undos; then the backup says why,
//! unless the check had passed. The backup itself stays as it is, and is not deleted meanwhile: the store looks for active
//! operations of this kind whose state names it.

use std::time::Duration;

use async_trait::async_trait;
use trove_proto::v1;

use super::create_instance::{self, delete_host};
use super::delete_instance::deleted;
use super::restore_instance::{Params, RestoreInstance, check_complete, check_memory, data_bytes, least_volume_gib};
use super::shared::Engine;
use super::steps::{Member, Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::{BackupId, InstanceId, OperationId};
use crate::model::backups::Backup;
use crate::model::{Access, Flavor, Purpose, Requirements};
use crate::store::Store;
use crate::store::instances::NewRow;
use crate::store::sql::Connection;

/// How long the engine has to look at all of its data, tries included.
const CHECK: Duration = Duration::from_secs(6 * 3600);
/// So often is a check begun that an engine did not end, for instance because it crashed.
const CHECKS: u32 = 3;

/// As many backups are verified at once by all controllers of a store: each is a whole engine beside those of tenants.
pub const AT_ONCE: u64 = 2;

pub struct VerifyBackup;

/// The operation that verifies the backup, which is complete, on the scratch instance whose row is written in the same
/// transaction.
pub fn new(origin: Origin, backup: BackupId) -> Result<NewOperation> {
    let params = Params { backup, first: create_instance::Params::default(), root_by: None, replay: None };
    let state = serde_json::to_value(params).map_err(|error| Error::internal("write the parameters", error))?;
    Ok(NewOperation::of::<VerifyBackup>(origin, state))
}

/// A verification to be begun: of which backup, and its scratch instance.
#[derive(Clone, Debug)]
pub struct Order {
    backup: Backup,
    scratch: NewRow,
}

impl Order {
    /// Reads what is needed to verify the last of a chain, the full one first. The scratch instance is as the source of the backup
    /// was, with room for its data.
    ///
    /// # Errors
    /// 404: it, or its version, is gone; 409: one of them is not complete; 403: it brings root along where that is not allowed; 422: no
    /// flavor has memory for its data.
    pub async fn of(store: &Store, config: &Config, chain: &[Backup], may_have_root: bool) -> Result<Self> {
        let backup = chain.last().ok_or_else(|| Error::NotFound("The backup cannot be found.".to_owned()))?.clone();
        chain.iter().try_for_each(check_complete)?;
        let (id, source) = (backup.id, &backup.source);
        if source.root_by.is_some() && !may_have_root {
            return Err(Error::Forbidden(format!(
                "Backup {id} brings root along, and root cannot be enabled here: process.allow_root is not set."
            )));
        }
        let missing = || Error::NotFound(format!("The datastore version {} of backup {id} is gone.", source.version));
        let manifest = store.get_manifest(source.version_id).await?.ok_or_else(missing)?;
        // The row stays when the source is deleted.
        let instance = store.get_instance(backup.instance).await?;
        let has_memory = |flavor: &&Flavor| check_memory(&backup, &manifest, flavor).is_ok();
        let flavor = flavor_like(&config.flavors, instance.as_ref().map(|instance| &instance.flavor), has_memory)?;
        check_memory(&backup, &manifest, flavor)?;
        let volume_gib = match source.volume_gib {
            0 => 0,
            size => size.max(least_volume_gib(data_bytes(chain))),
        };
        let scratch = NewRow {
            id: InstanceId::random(),
            project: backup.project.clone(),
            name: format!("verification of backup {id}"),
            purpose: Some(Purpose::Verification),
            flavor: flavor.clone(),
            volume_gib,
            version: source.version_id,
            region: config.region.clone(),
            port: manifest.identity.port,
            requirements: Requirements {
                access: Some(Access { is_public: false, allowed_cidrs: Some(Vec::new()) }),
                ..Requirements::default()
            },
            configuration: None,
            deletion_protection: false,
        };
        Ok(Self { backup, scratch })
    }
}

/// Writes a verification: its scratch instance, its operation, and that it runs. On an error the caller must roll back.
///
/// # Errors
/// 409: the backup is not complete any more, is being verified, or [`AT_ONCE`] others are.
pub async fn submit(
    store: &Store,
    conn: &mut Connection,
    order: Order,
    (user_id, request_id): (&str, &str),
) -> Result<OperationId> {
    let Order { backup, scratch } = order;
    // Looked at again: others may have been faster.
    let now = store.backup(conn, backup.id).await?;
    check_complete(&now.ok_or_else(|| Error::NotFound(format!("Backup {} cannot be found.", backup.id)))?)?;
    if store.backup_reader(conn, backup.id).await?.as_deref() == Some(VerifyBackup::KIND) {
        return Err(Error::Conflict(format!("Backup {} is being verified already.", backup.id)));
    }
    if store.count_verifications(conn).await? >= AT_ONCE {
        return Err(Error::Conflict(format!(
            "Backup {} cannot be verified now: {AT_ONCE} backups are being verified, and no more are at once.",
            backup.id
        )));
    }
    let origin = Origin {
        targets: vec![scratch.id],
        project: backup.project.clone(),
        request_id: request_id.to_owned(),
        user_id: user_id.to_owned(),
    };
    store.insert_instance(conn, &scratch).await?;
    let operation = store.enqueue(conn, new(origin, backup.id)?).await?;
    store.begin_verification(conn, &backup, operation).await?;
    Ok(operation)
}

/// The flavor that is there under the id, if it has memory for the data; else the smallest that has, and as much as the wanted one;
/// or the greatest.
fn flavor_like<'a>(
    all: &'a [Flavor],
    wanted: Option<&Flavor>,
    has_memory: impl Fn(&&Flavor) -> bool,
) -> Result<&'a Flavor> {
    let same = wanted.and_then(|wanted| all.iter().find(|flavor| flavor.id == wanted.id)).filter(&has_memory);
    let ram_mib = wanted.map_or(0, |wanted| wanted.ram_mib);
    let is_fit = |flavor: &&Flavor| flavor.ram_mib >= ram_mib && has_memory(flavor);
    let fits = || all.iter().filter(is_fit).min_by_key(|flavor| flavor.ram_mib);
    let greatest = || all.iter().max_by_key(|flavor| flavor.ram_mib);
    let none = || Error::Unprocessable("There is no flavor for the scratch instance.".to_owned());
    same.or_else(fits).or_else(greatest).ok_or_else(none)
}

#[async_trait]
impl Operation for VerifyBackup {
    const KIND: &'static str = "verify_backup";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = Params;
    type TargetState = Engine;

    fn steps() -> Steps<Params, Engine> {
        RestoreInstance::steps()
            .step("check", CHECK, check)
            .attempts(CHECKS)
            .step_without_deadline("remove_host", delete_host)
    }

    async fn finished(work: &Work, conn: &mut Connection, state: &Params, targets: &[Member<Engine>]) -> Result<()> {
        tracing::info!("backup {} is verified", state.backup);
        for Member { instance, .. } in targets {
            deleted(&work.context.store, conn, *instance).await?;
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        let store = &work.context.store;
        let fault = format!("The verification failed at {error}");
        store.end_verification(conn, work.lease.id, Some(&fault)).await?;
        for instance in targets {
            deleted(store, conn, *instance).await?;
        }
        Ok(())
    }
}

async fn check(work: &Work, target: &Target, _: &Params, _: &mut Engine) -> StepResult {
    target.run_job(work, v1::start::Work::Check(v1::Check {})).await?;
    let mut tx = work.begin().await?;
    work.context.store.end_verification(&mut tx, work.lease.id, None).await?;
    work.commit(tx).await
}

#[cfg(test)]
mod tests;

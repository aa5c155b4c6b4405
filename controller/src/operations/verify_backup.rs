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
use super::restore_instance::{Params, RestoreInstance};
use super::shared::Engine;
use super::steps::{Member, Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::{Error, Result};
use crate::ids::{BackupId, InstanceId};
use crate::store::sql::Connection;

/// How long the engine has to look at all of its data, tries included.
const CHECK: Duration = Duration::from_secs(6 * 3600);
/// So often is a check begun that an engine did not end, for instance because it crashed.
const CHECKS: u32 = 3;

pub struct VerifyBackup;

/// The operation that verifies the backup, which is complete, on the scratch instance whose row is written in the same
/// transaction.
pub fn new(origin: Origin, backup: BackupId) -> Result<NewOperation> {
    let params = Params { backup, first: create_instance::Params::default(), root_by: None, replay: None };
    let state = serde_json::to_value(params).map_err(|error| Error::internal("write the parameters", error))?;
    Ok(NewOperation::of::<VerifyBackup>(origin, state))
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

//! Gives an instance another version of its datastore, whose engine takes the data as they are. The use case sets the task
//! to upgrading when it asks for it.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `fetch_programs` | the driver has the version's programs where hosts are made | - | 600 s |
//! | `stop_host` | agent and engine end in an orderly way | a host of the old version is made | 150 s |
//! | `boot_host` | the driver starts the host with the new programs | - | 300 s |
//! | `await_agent` | none: waits for the agent's connection | - | 180 s |
//! | `await_healthy` | none: waits until the engine answers; 20 s from its first crash on | - | 600 s |
//!
//! In the end the row has the new version, the task is none and an earlier fault is cleared: until then the row has the old
//! one, and so has whatever starts the host if this is cancelled. When a step fails the instance has the old version, and a
//! fault that says why.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::shared::{await_agent, settle, stop_host};
use super::steps::{Member, Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work, parameters};
use crate::error::{Error, Result};
use crate::ids::{InstanceId, VersionId};
use crate::state::{HostState, Task};
use crate::store::sql::Connection;

/// An engine that does not answer so long after it first crashed is given up: the old one takes the data.
const AFTER_CRASH: Duration = Duration::from_secs(20);

pub struct UpgradeInstance;

/// What it becomes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    /// Of the same datastore and major version.
    pub to: VersionId,
}

/// The operation. The engine need not answer before: a host that hangs is made again by it.
pub fn new(origin: Origin, params: Params) -> Result<NewOperation> {
    let state = serde_json::to_value(params).map_err(|error| Error::internal("write the parameters", error))?;
    Ok(NewOperation::of::<UpgradeInstance>(origin, state))
}

#[async_trait]
impl Operation for UpgradeInstance {
    const KIND: &'static str = "upgrade_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = Params;
    type TargetState = ();

    fn steps() -> Steps<Params, ()> {
        Steps::default()
            .step("fetch_programs", Duration::from_secs(600), fetch_programs)
            .step("stop_host", Duration::from_secs(150), stop_host)
            .undo(boot_old_host)
            .step("boot_host", Duration::from_secs(300), boot_new_host)
            .step("await_agent", Duration::from_secs(180), await_agent)
            .step("await_healthy", Duration::from_secs(600), await_healthy)
    }

    async fn finished(work: &Work, conn: &mut Connection, state: &Params, targets: &[Member<()>]) -> Result<()> {
        for target in targets {
            work.context.store.set_version(conn, target.instance, state.to).await?;
            settle(work, conn, target.instance).await?;
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        let store = &work.context.store;
        let message = format!("Upgrading the instance failed, it keeps its version: {error}");
        for instance in targets {
            store.set_fault(conn, *instance, Some((&message, ""))).await?;
            store.set_task(conn, *instance, Task::None).await?;
        }
        Ok(())
    }
}

async fn fetch_programs(work: &Work, target: &Target, state: &Params, _: &mut ()) -> StepResult {
    let context = &work.context;
    let facts = context.facts(target.instance, Some(state.to)).await?;
    Ok(context.compute.fetch_programs(&facts.artifact).await?)
}

async fn boot_new_host(work: &Work, target: &Target, state: &Params, _: &mut ()) -> StepResult {
    work.context.ensure_host_of(target.instance, Some(state.to), work.fence()).await
}

async fn await_healthy(work: &Work, target: &Target, _: &Params, _: &mut ()) -> StepResult {
    target.await_engine(work, Some(AFTER_CRASH)).await?;
    parameters::take_stock(work, target).await
}

async fn boot_old_host(work: &Work, target: &Target, _: &Params, _: &mut ()) -> StepResult {
    target.stop_host(work).await?;
    work.context.ensure_host(target.instance, work.fence()).await?;
    let mut tx = work.begin().await?;
    work.context.store.set_host(&mut tx, target.instance, HostState::Active).await?;
    work.commit(tx).await
}

#[cfg(test)]
mod tests;

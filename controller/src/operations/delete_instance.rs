//! Deletes an instance with everything it has. The use case sets the task to deleting when it asks for it.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `stop_engine` | a connected agent stops the engine; what it says does not matter, the host goes in any case | - | 30 s |
//! | `delete_host` | the driver removes the host with its volume | - | none: what a driver calls transient is tried for ever |
//! | `forget` | the hub cuts the agent's connection | - | 30 s |
//!
//! In the end the rows of agent, tokens and assignment are gone, quota and address are given back and the instance is
//! marked deleted. When the driver says that the host cannot be deleted the task is error, with a fault.

use std::time::Duration;

use async_trait::async_trait;
use trove_proto::v1;

use super::steps::{Member, Operation, StepError, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::state::Task;
use crate::store::Store;
use crate::store::sql::Connection;

/// How long an engine may take to stop before its host goes.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// The same with what the agent takes to answer.
const STOP_VERDICT_LIMIT: Duration = Duration::from_secs(12);

pub struct DeleteInstance;

/// The operation that deletes the instance. In the same transaction the caller sets the task to deleting and cancels
/// what is queued on it (`Store::cancel_active`).
pub fn new(origin: Origin) -> NewOperation {
    NewOperation::of::<DeleteInstance>(origin, serde_json::Value::Null)
}

#[async_trait]
impl Operation for DeleteInstance {
    const KIND: &'static str = "delete_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = ();
    type TargetState = ();

    fn steps() -> Steps<(), ()> {
        Steps::default()
            .step("stop_engine", Duration::from_secs(30), stop_engine)
            .step_without_deadline("delete_host", delete_host)
            .step("forget", Duration::from_secs(30), forget)
    }

    async fn finished(work: &Work, conn: &mut Connection, _: &(), targets: &[Member<()>]) -> Result<()> {
        for Member { instance, .. } in targets {
            deleted(&work.context.store, conn, *instance).await?;
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        let store = &work.context.store;
        let message = format!("Deleting the instance failed at {error}");
        for instance in targets {
            store.set_fault(conn, *instance, Some((&message, ""))).await?;
            store.set_task(conn, *instance, Task::Error).await?;
        }
        Ok(())
    }
}

/// The instance is gone, and what was stored for its agent.
pub(crate) async fn deleted(store: &Store, conn: &mut Connection, instance: InstanceId) -> Result<()> {
    store.delete_agent(conn, instance).await?;
    store.delete_assignment(conn, instance).await?;
    store.mark_deleted(conn, instance).await
}

async fn stop_engine(work: &Work, target: &Target, _: &(), _: &mut ()) -> StepResult {
    if !work.context.agents.state(target.instance).borrow().connected {
        return Ok(());
    }
    let stop = target.run_job_within(work, STOP_LIMIT, v1::start::Work::Stop(v1::Stop {}));
    match tokio::time::timeout(STOP_VERDICT_LIMIT, stop).await {
        Ok(Err(StepError::Fenced)) => Err(StepError::Fenced),
        Ok(Err(error)) => {
            tracing::info!("the engine was not stopped before its host goes: {error}");
            Ok(())
        }
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

async fn delete_host(work: &Work, target: &Target, _: &(), _: &mut ()) -> StepResult {
    Ok(work.context.compute.delete_host(target.instance, work.fence()).await?)
}

async fn forget(work: &Work, target: &Target, _: &(), _: &mut ()) -> StepResult {
    work.context.agents.forget(target.instance);
    Ok(())
}

#[cfg(test)]
mod tests;

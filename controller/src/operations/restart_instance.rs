//! Restarts the engine of an instance. The use case sets the task to restarting when it asks for it.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `restart_engine` | the agent stops and starts the engine, which may have to recover | - | 900 s |
//! | `await_healthy` | none: waits until the engine answers the agent's probe | - | 60 s |
//!
//! In the end the task is none and an earlier fault is cleared. When a step fails the task is none too if the engine
//! answers nevertheless, or is stopped, so that what keeps it stopped (a volume that is over-full) can be mended; else it is
//! error, with a fault.

use std::time::Duration;

use async_trait::async_trait;
use trove_proto::v1;

use super::shared::{Engine, await_healthy, settle};
use super::steps::{Member, Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::state::{Service, Task};
use crate::store::sql::Connection;

pub struct RestartInstance;

/// The operation that restarts the engine. The caller sets the task to restarting in the same transaction.
pub fn new(origin: Origin) -> NewOperation {
    NewOperation::of::<RestartInstance>(origin, serde_json::Value::Null)
}

#[async_trait]
impl Operation for RestartInstance {
    const KIND: &'static str = "restart_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = ();
    type TargetState = Engine;

    fn steps() -> Steps<(), Engine> {
        Steps::default().step("restart_engine", Duration::from_secs(900), restart_engine).step(
            "await_healthy",
            Duration::from_secs(60),
            await_healthy,
        )
    }

    async fn finished(work: &Work, conn: &mut Connection, _state: &(), targets: &[Member<Engine>]) -> Result<()> {
        for target in targets {
            tracing::info!(instance_id = %target.instance, engine_version = target.state.version, "restarted");
            settle(work, conn, target.instance).await?;
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        for instance in targets {
            explain(work, conn, *instance, error).await?;
        }
        Ok(())
    }
}

async fn explain(work: &Work, conn: &mut Connection, instance: InstanceId, error: &str) -> Result<()> {
    let store = &work.context.store;
    let service = {
        let state = work.context.agents.state(instance);
        let state = state.borrow();
        state.connected.then_some(state.service)
    };
    if service == Some(Service::Healthy) {
        return store.set_task(conn, instance, Task::None).await;
    }
    let message = format!("Restarting the instance failed at {error}");
    store.set_fault(conn, instance, Some((&message, ""))).await?;
    let task = if service == Some(Service::Shutdown) { Task::None } else { Task::Error };
    store.set_task(conn, instance, task).await
}

async fn restart_engine(work: &Work, target: &Target, _: &(), engine: &mut Engine) -> StepResult {
    let outcome = target.run_job(work, v1::start::Work::Restart(v1::Restart {})).await?;
    if let Some(v1::result::Outcome::Restarted(restarted)) = outcome {
        engine.version = restarted.engine_version;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

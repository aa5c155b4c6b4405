//! Reboots the host of an instance. The use case sets the task to restarting when it asks for it.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `stop_host` | agent and engine end in an orderly way, or are killed | - | 150 s |
//! | `boot_host` | the driver starts the host | - | 300 s |
//! | `await_agent` | none: waits for the agent's connection | - | 180 s |
//! | `await_healthy` | none: waits until the engine answers, unless it was stopped before | - | 180 s |
//!
//! In the end the task is none and an earlier fault is cleared. When a step fails the task is error, with a fault.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::shared::{await_agent, boot_host, settle, stop_host};
use super::steps::{Member, Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::state::Task;
use crate::store::sql::Connection;

/// The operation.
pub struct RebootInstance;

/// What was before.
#[derive(Serialize, Deserialize)]
pub struct State {
    /// Whether the engine was stopped on purpose: then it stays so.
    stopped: bool,
}

/// The operation that reboots the host of an instance whose engine was `stopped` on purpose, or not.
pub fn new(origin: Origin, stopped: bool) -> NewOperation {
    NewOperation::of::<RebootInstance>(origin, serde_json::json!({"stopped": stopped}))
}

#[async_trait]
impl Operation for RebootInstance {
    const KIND: &'static str = "reboot_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = State;
    type TargetState = ();

    fn steps() -> Steps<State, ()> {
        Steps::default()
            .step("stop_host", Duration::from_secs(150), stop_host)
            .step("boot_host", Duration::from_secs(300), boot_host)
            .step("await_agent", Duration::from_secs(180), await_agent)
            .step("await_healthy", Duration::from_secs(180), await_healthy)
    }

    async fn finished(work: &Work, conn: &mut Connection, _: &State, targets: &[Member<()>]) -> Result<()> {
        for target in targets {
            settle(work, conn, target.instance).await?;
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        let store = &work.context.store;
        let message = format!("Rebooting the instance failed at {error}");
        for instance in targets {
            store.set_fault(conn, *instance, Some((&message, ""))).await?;
            store.set_task(conn, *instance, Task::Error).await?;
        }
        Ok(())
    }
}

async fn await_healthy(work: &Work, target: &Target, state: &State, _: &mut ()) -> StepResult {
    if state.stopped { Ok(()) } else { target.await_engine(work).await }
}

#[cfg(test)]
mod tests;

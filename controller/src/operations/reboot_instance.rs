//! Reboots the host of an instance. The use case sets the task to restarting when it asks for it.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `stop_host` | agent and engine end in an orderly way, or are killed | - | 150 s |
//! | `boot_host` | the driver starts the host | - | 300 s |
//! | `await_agent` | none: waits for the agent's connection | - | 180 s |
//! | `await_healthy` | none: waits until the engine answers; left out where it was stopped on purpose | - | 180 s |
//!
//! In the end the task is none and an earlier fault is cleared. When a step fails the task is error, with a fault.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::steps::{Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Work};
use crate::error::Result;
use crate::state::{HostState, Task};
use crate::store::sql::Connection;

/// The step that an engine which stays stopped has no use for.
const AWAIT_HEALTHY: &str = "await_healthy";

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
    let operation = NewOperation::of::<RebootInstance>(origin, serde_json::json!({"stopped": stopped}));
    if stopped { operation.without(AWAIT_HEALTHY) } else { operation }
}

#[async_trait]
impl Operation for RebootInstance {
    const KIND: &'static str = "reboot_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = State;

    fn steps() -> Steps<State> {
        Steps::default()
            .step("stop_host", Duration::from_secs(150), stop_host)
            .step("boot_host", Duration::from_secs(300), boot_host)
            .step("await_agent", Duration::from_secs(180), await_agent)
            .step(AWAIT_HEALTHY, Duration::from_secs(180), await_healthy)
    }

    async fn finished(work: &Work, conn: &mut Connection, _state: &State) -> Result<()> {
        let store = &work.context.store;
        store.set_fault(conn, work.instance, None).await?;
        store.set_host(conn, work.instance, HostState::Active).await?;
        store.set_task(conn, work.instance, Task::None).await
    }

    async fn failed(work: &Work, conn: &mut Connection, error: &str) -> Result<()> {
        let store = &work.context.store;
        let message = format!("Rebooting the instance failed at {error}");
        store.set_fault(conn, work.instance, Some((&message, ""))).await?;
        store.set_task(conn, work.instance, Task::Error).await
    }
}

async fn stop_host(work: &Work, _state: &mut State) -> StepResult {
    work.stop_host().await
}

async fn boot_host(work: &Work, _state: &mut State) -> StepResult {
    work.boot_host().await
}

async fn await_agent(work: &Work, _state: &mut State) -> StepResult {
    work.await_connected().await
}

async fn await_healthy(work: &Work, state: &mut State) -> StepResult {
    // An earlier controller may have written this step although the engine was stopped.
    if state.stopped { Ok(()) } else { work.await_engine().await }
}

#[cfg(test)]
mod tests;

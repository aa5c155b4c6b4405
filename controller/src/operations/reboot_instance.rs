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

use super::shared::{await_agent, await_healthy, boot_host, settle, stop_host};
use super::steps::{Member, Operation, Steps};
use super::{Lane, NewOperation, Origin, Work};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::state::Task;
use crate::store::sql::Connection;

/// The step that an engine which stays stopped has no use for.
const AWAIT_HEALTHY: &str = "await_healthy";

pub struct RebootInstance;

/// The operation that reboots the host of an instance whose engine was `stopped` on purpose, or not.
pub fn new(origin: Origin, stopped: bool) -> NewOperation {
    let operation = NewOperation::of::<RebootInstance>(origin, serde_json::Value::Null);
    if stopped { operation.without(AWAIT_HEALTHY) } else { operation }
}

#[async_trait]
impl Operation for RebootInstance {
    const KIND: &'static str = "reboot_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = ();
    type TargetState = ();

    fn steps() -> Steps<(), ()> {
        Steps::default()
            .step("stop_host", Duration::from_secs(150), stop_host)
            .step("boot_host", Duration::from_secs(300), boot_host)
            .step("await_agent", Duration::from_secs(180), await_agent)
            .step(AWAIT_HEALTHY, Duration::from_secs(180), await_healthy)
    }

    async fn finished(work: &Work, conn: &mut Connection, _: &(), targets: &[Member<()>]) -> Result<()> {
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

#[cfg(test)]
mod tests;

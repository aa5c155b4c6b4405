//! Gives an instance another flavor. The order has written the new flavor and its quota into the row, which says what is
//! wanted, and has set the task to resizing.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `stop_host` | agent and engine end in an orderly way | the row's flavor is the old one, and a host of that is made | 150 s |
//! | `boot_host` | the driver starts the host in its new size | - | 300 s |
//! | `await_agent` | none: waits for the agent's connection | - | 180 s |
//! | `await_healthy` | none: waits until the engine answers; left out where it was stopped on purpose | - | 180 s |
//!
//! In the end the task is none. When a step fails the instance has its old flavor, and a fault that says why.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::shared::{await_agent, await_healthy, boot_host, settle, stop_host};
use super::steps::{Member, Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::model::Flavor;
use crate::state::{HostState, Task};
use crate::store::sql::Connection;

/// The step that an engine which stays stopped has no use for.
const AWAIT_HEALTHY: &str = "await_healthy";

pub struct ResizeFlavor;

/// What is needed to go back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    /// The flavor until now.
    pub from: Flavor,
}

/// The operation for the row whose flavor is changed in the same transaction; `stopped`: its engine was stopped on purpose,
/// and stays so.
pub fn new(origin: Origin, params: Params, stopped: bool) -> Result<NewOperation> {
    let state = serde_json::to_value(params).map_err(|error| Error::internal("write the parameters", error))?;
    let operation = NewOperation::of::<ResizeFlavor>(origin, state);
    Ok(if stopped { operation.without(AWAIT_HEALTHY) } else { operation })
}

#[async_trait]
impl Operation for ResizeFlavor {
    const KIND: &'static str = "resize_flavor";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = Params;
    type TargetState = ();

    fn steps() -> Steps<Params, ()> {
        Steps::default()
            .step("stop_host", Duration::from_secs(150), stop_host)
            .undo(boot_old_host)
            .step("boot_host", Duration::from_secs(300), boot_host)
            .step("await_agent", Duration::from_secs(180), await_agent)
            .step(AWAIT_HEALTHY, Duration::from_secs(180), await_healthy)
    }

    async fn finished(work: &Work, conn: &mut Connection, _: &Params, targets: &[Member<()>]) -> Result<()> {
        for target in targets {
            settle(work, conn, target.instance).await?;
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        let store = &work.context.store;
        let message = format!("Resizing the instance failed, it keeps its flavor: {error}");
        for instance in targets {
            store.set_fault(conn, *instance, Some((&message, ""))).await?;
            store.set_task(conn, *instance, Task::None).await?;
        }
        Ok(())
    }
}

async fn boot_old_host(work: &Work, target: &Target, state: &Params, _: &mut ()) -> StepResult {
    let store = &work.context.store;
    let mut tx = work.begin().await?;
    if let Some((project, amounts)) = store.set_flavor(&mut tx, target.instance, &state.from).await? {
        store.count_use(&mut tx, &project, amounts).await?;
    }
    work.commit(tx).await?;
    target.stop_host(work).await?;
    work.context.ensure_host(target.instance, work.fence()).await?;
    let mut tx = work.begin().await?;
    store.set_host(&mut tx, target.instance, HostState::Active).await?;
    work.commit(tx).await
}

#[cfg(test)]
mod tests;

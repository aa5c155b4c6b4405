//! Gives an instance a greater volume. The order has written the new size and its quota into the row, which says what is
//! wanted, and has set the task to resizing. The engine runs on.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `grow_volume` | the driver makes the volume as large as the row says | the row's size is the old one | 600 s |
//! | `assign_size` | the agent, which watches the volume's use, knows the size | - | 60 s |
//!
//! In the end the task is none; so it is when the step fails, with a fault that says why.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::parameters::assign;
use super::shared::boot_host;
use super::steps::{Member, Operation, StepError, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::state::Task;
use crate::store::sql::Connection;

pub struct ResizeVolume;

/// What is needed to go back.
#[derive(Serialize, Deserialize)]
pub struct State {
    from_gib: u64,
}

/// The operation for the row whose volume, until now of `from_gib`, is changed in the same transaction.
pub fn new(origin: Origin, from_gib: u64) -> NewOperation {
    NewOperation::of::<ResizeVolume>(origin, serde_json::json!({"from_gib": from_gib}))
}

#[async_trait]
impl Operation for ResizeVolume {
    const KIND: &'static str = "resize_volume";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = State;
    type TargetState = ();

    fn steps() -> Steps<State, ()> {
        Steps::default().step("grow_volume", Duration::from_secs(600), boot_host).undo(keep_size).step(
            "assign_size",
            Duration::from_secs(60),
            assign_size,
        )
    }

    async fn finished(work: &Work, conn: &mut Connection, _: &State, targets: &[Member<()>]) -> Result<()> {
        let store = &work.context.store;
        for Member { instance, .. } in targets {
            store.set_fault(conn, *instance, None).await?;
            store.set_task(conn, *instance, Task::None).await?;
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        let store = &work.context.store;
        let message = format!("Resizing the volume failed, it keeps its size: {error}");
        for instance in targets {
            store.set_fault(conn, *instance, Some((&message, ""))).await?;
            store.set_task(conn, *instance, Task::None).await?;
        }
        Ok(())
    }
}

async fn assign_size(work: &Work, target: &Target, _: &State, _: &mut ()) -> StepResult {
    let volume_gib = target.facts(work).await?.size.volume_gib;
    match assign(work, target, |specification| specification.volume_gib = volume_gib).await {
        // The agent knows the size, and its engine does not answer yet, which has nothing to do with it.
        Ok(_) | Err(StepError::RetryNextAttempt(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn keep_size(work: &Work, target: &Target, state: &State, _: &mut ()) -> StepResult {
    let store = &work.context.store;
    let mut tx = work.begin().await?;
    if let Some((project, amounts)) = store.set_volume(&mut tx, target.instance, state.from_gib).await? {
        store.count_use(&mut tx, &project, amounts).await?;
    }
    work.commit(tx).await
}

#[cfg(test)]
mod tests;

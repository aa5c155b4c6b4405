//! Gives an instance a greater volume. The order has written the new size and its quota into the row, which says what is
//! wanted, and has set the task to resizing. The engine runs on.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `grow_volume` | the driver makes the volume as large as the row says | the row's size is the old one | 600 s |
//!
//! In the end the task is none; so it is when the step fails, with a fault that says why.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::steps::{Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Work};
use crate::error::Result;
use crate::state::Task;
use crate::store::sql::Connection;

/// The operation.
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

    fn steps() -> Steps<State> {
        Steps::default().step("grow_volume", Duration::from_secs(600), grow_volume).undo(keep_size)
    }

    async fn finished(work: &Work, conn: &mut Connection, _state: &State) -> Result<()> {
        let store = &work.context.store;
        store.set_fault(conn, work.instance, None).await?;
        store.set_task(conn, work.instance, Task::None).await
    }

    async fn failed(work: &Work, conn: &mut Connection, error: &str) -> Result<()> {
        let store = &work.context.store;
        let message = format!("Resizing the volume failed, it keeps its size: {error}");
        store.set_fault(conn, work.instance, Some((&message, ""))).await?;
        store.set_task(conn, work.instance, Task::None).await
    }
}

async fn grow_volume(work: &Work, _state: &mut State) -> StepResult {
    work.boot_host().await
}

async fn keep_size(work: &Work, state: &mut State) -> StepResult {
    let store = &work.context.store;
    let mut tx = work.begin().await?;
    if let Some((project, amounts)) = store.set_volume(&mut tx, work.instance, state.from_gib).await? {
        store.count_use(&mut tx, &project, amounts).await?;
    }
    work.commit(tx).await
}

#[cfg(test)]
mod tests;

//! Stops the engine of an instance and keeps it stopped, until it is restarted.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `stop_engine` | the agent stops the engine, also over restarts of its own | - | 180 s |
//!
//! The task is not touched: what the service is says it all.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use trove_proto::v1;

use super::steps::{Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Work};
use crate::error::Result;
use crate::store::sql::Connection;

/// The operation.
pub struct StopInstance;

/// Nothing is stored between the steps.
#[derive(Serialize, Deserialize)]
pub struct State {}

/// The operation that stops the engine.
pub fn new(origin: Origin) -> NewOperation {
    NewOperation::of::<StopInstance>(origin, serde_json::json!({}))
}

#[async_trait]
impl Operation for StopInstance {
    const KIND: &'static str = "stop_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = State;

    fn steps() -> Steps<State> {
        Steps::default().step("stop_engine", Duration::from_secs(180), stop_engine)
    }

    async fn finished(_work: &Work, _conn: &mut Connection, _state: &State) -> Result<()> {
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, error: &str) -> Result<()> {
        let message = format!("Stopping the database failed at {error}");
        work.context.store.set_fault(conn, work.instance, Some((&message, ""))).await
    }
}

async fn stop_engine(work: &Work, _state: &mut State) -> StepResult {
    work.run_job(v1::start::Work::Stop(v1::Stop {})).await
}

#[cfg(test)]
mod tests;

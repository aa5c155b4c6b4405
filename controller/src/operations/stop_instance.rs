//! Stops the engine of an instance and keeps it stopped, until it is restarted.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `stop_engine` | the agent stops the engine, also over restarts of its own | - | 180 s |
//!
//! The task is not touched: what the service is says it all.

use std::time::Duration;

use async_trait::async_trait;
use trove_proto::v1;

use super::steps::{Member, Operation, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::store::sql::Connection;

pub struct StopInstance;

/// The operation that stops the engine.
pub fn new(origin: Origin) -> NewOperation {
    NewOperation::of::<StopInstance>(origin, serde_json::Value::Null)
}

#[async_trait]
impl Operation for StopInstance {
    const KIND: &'static str = "stop_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = ();
    type TargetState = ();

    fn steps() -> Steps<(), ()> {
        Steps::default().step("stop_engine", Duration::from_secs(180), stop_engine)
    }

    async fn finished(_: &Work, _: &mut Connection, _: &(), _: &[Member<()>]) -> Result<()> {
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        let message = format!("Stopping the database failed at {error}");
        for instance in targets {
            work.context.store.set_fault(conn, *instance, Some((&message, ""))).await?;
        }
        Ok(())
    }
}

async fn stop_engine(work: &Work, target: &Target, _: &(), _: &mut ()) -> StepResult {
    target.run_job(work, v1::start::Work::Stop(v1::Stop {})).await.map(drop)
}

#[cfg(test)]
mod tests;

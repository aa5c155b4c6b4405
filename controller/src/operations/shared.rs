//! Steps that several operations have, and the end that most of them come to.

use serde::{Deserialize, Serialize};

use super::outcome::StepResult;
use super::parameters;
use super::target::Target;
use super::work::Work;
use crate::error::Result;
use crate::ids::InstanceId;
use crate::state::{HostState, Task};
use crate::store::sql::Connection;

/// What the agent said of the engine that it started.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Engine {
    /// The version that the engine reports.
    pub(super) version: String,
}

/// The driver ends agent and engine in an orderly way, or kills them.
pub(super) async fn stop_host<S: Sync, T: Send>(work: &Work, target: &Target, _: &S, _: &mut T) -> StepResult {
    target.stop_host(work).await
}

/// The driver makes or starts the host as the instance's row says.
pub(super) async fn boot_host<S: Sync, T: Send>(work: &Work, target: &Target, _: &S, _: &mut T) -> StepResult {
    work.context.ensure_host(target.instance, work.fence()).await
}

/// Waits for the agent's connection.
pub(super) async fn await_agent<S: Sync, T: Send>(work: &Work, target: &Target, _: &S, _: &mut T) -> StepResult {
    target.await_booted(work).await
}

/// Waits until the engine answers the agent's probe, and writes down what became of its parameters.
pub(super) async fn await_healthy<S: Sync, T: Send>(work: &Work, target: &Target, _: &S, _: &mut T) -> StepResult {
    target.await_engine(work, None).await?;
    parameters::take_stock(work, target).await
}

/// The instance is up, and nothing is being done with it. An earlier fault is cleared; one says which values of its
/// configuration group it runs without.
pub(super) async fn settle(work: &Work, conn: &mut Connection, instance: InstanceId) -> Result<()> {
    let store = &work.context.store;
    let results = store.parameter_results(&mut *conn, instance).await?;
    let fault = parameters::fault(&results);
    store.set_fault(conn, instance, fault.as_deref().map(|message| (message, ""))).await?;
    store.set_host(conn, instance, HostState::Active).await?;
    store.set_task(conn, instance, Task::None).await
}

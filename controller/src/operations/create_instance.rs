//! Creates an instance.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `choose_address` | an address of the driver's choice, under a unique row | the row's address is cleared | 60 s |
//! | `issue_certificate` | the engine's certificate, the server's number and the first assignment are made and stored | they are removed | 60 s |
//! | `boot_host` | the driver makes the host, with an enrolment token | the host is deleted, and all about its agent | 300 s |
//! | `await_agent` | none: waits for the agent's connection | - | 180 s |
//! | `install_engine` | the agent initialises and starts the engine, and makes the first accounts | - | 600 s |
//! | `await_healthy` | none: waits until the engine answers the agent's probe | - | 60 s |
//!
//! In the end the task is none and the host active. When a step fails the row stays, with task `building_error` and a
//! fault that names the step and the reason. A restore has the same steps around its own.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use trove_proto::v1;

use super::change_accounts::{Database, NewUser, open};
use super::shared::{Engine, await_agent, await_healthy, boot_host};
use super::steps::{Member, Operation, StepError, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Sealed, Target, Work};
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::state::{HostState, Task};
use crate::store::assignments::Specification;
use crate::store::controllers::GRACE;
use crate::store::sql::Connection;

/// How many addresses are tried when others were faster.
const ADDRESSES: usize = 8;

pub struct CreateInstance;

/// What the engine is to have from the beginning; the rest is in the instance's row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Params {
    /// First databases.
    pub databases: Vec<Database>,
    /// First accounts.
    pub users: Vec<NewUser>,
    /// Password of the all-powerful account, to enable it at once.
    pub root: Option<Sealed>,
}

impl AsRef<Self> for Params {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// The operation that creates the instance whose row is written in the same transaction.
pub fn new(origin: Origin, params: Params) -> Result<NewOperation> {
    let state = serde_json::to_value(params).map_err(|error| Error::internal("write the parameters", error))?;
    Ok(NewOperation::of::<CreateInstance>(origin, state))
}

#[async_trait]
impl Operation for CreateInstance {
    const KIND: &'static str = "create_instance";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = Params;
    type TargetState = Engine;

    fn steps() -> Steps<Params, Engine> {
        Steps::default()
            .step("choose_address", Duration::from_secs(60), choose_address)
            .undo(free_address)
            .step("issue_certificate", Duration::from_secs(60), issue_certificate)
            .undo(remove_certificate)
            .step("boot_host", Duration::from_secs(300), boot_host)
            .undo(delete_host)
            .step("await_agent", Duration::from_secs(180), await_agent)
            .step("install_engine", Duration::from_secs(600), install_engine)
            .step("await_healthy", Duration::from_secs(60), await_healthy)
    }

    async fn finished(work: &Work, conn: &mut Connection, state: &Params, targets: &[Member<Engine>]) -> Result<()> {
        created(work, conn, state, targets).await
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        not_created(work, conn, targets, format!("Creating the instance failed at {error}")).await
    }
}

/// The instance is there, with what it was ordered with.
pub(super) async fn created(
    work: &Work,
    conn: &mut Connection,
    params: &Params,
    targets: &[Member<Engine>],
) -> Result<()> {
    let store = &work.context.store;
    for Member { instance, state: engine } in targets {
        tracing::info!(instance_id = %instance, engine_version = engine.version, "created");
        if params.root.is_some() {
            store.set_root(conn, *instance, Some(&work.user_id)).await?;
        }
        store.set_host(conn, *instance, HostState::Active).await?;
        store.set_task(conn, *instance, Task::None).await?;
    }
    Ok(())
}

/// The row stays, and says why there is nothing behind it.
pub(super) async fn not_created(
    work: &Work,
    conn: &mut Connection,
    targets: &[InstanceId],
    message: String,
) -> Result<()> {
    let store = &work.context.store;
    for instance in targets {
        store.set_fault(conn, *instance, Some((&message, ""))).await?;
        store.set_task(conn, *instance, Task::BuildingError).await?;
    }
    Ok(())
}

pub(super) async fn choose_address<S: Sync>(work: &Work, target: &Target, _: &S, _: &mut Engine) -> StepResult {
    let facts = target.facts(work).await?;
    if facts.address.is_some() {
        return Ok(());
    }
    for _ in 0..ADDRESSES {
        let address = work.context.compute.choose_address(target.instance, &facts.project, facts.port).await?;
        let mut tx = work.begin().await?;
        if work.context.store.set_address(&mut tx, target.instance, address).await? {
            return work.commit(tx).await;
        }
    }
    Err(StepError::RetrySameKey(format!("{ADDRESSES} addresses were taken by others meanwhile")))
}

pub(super) async fn issue_certificate<S: Sync>(work: &Work, target: &Target, _: &S, _: &mut Engine) -> StepResult {
    let facts = target.facts(work).await?;
    let address = facts.address.ok_or_else(|| StepError::Fatal("the instance has no address".to_owned()))?;
    let context = &work.context;
    let certificate = context.authorities.issue_engine(target.instance, &[address])?;
    let controllers = context.store.agents_addresses(GRACE).await?;
    let wanted = context.store.wanted_parameters(target.instance).await?;
    let mut tx = work.begin().await?;
    let server_id = context.store.ensure_server_id(&mut tx, target.instance).await?;
    let specification = Specification {
        // The engine starts with the values of the instance's configuration group from the first.
        parameters: wanted.into_iter().map(|(name, value)| (name, value.to_string())).collect(),
        volume_gib: facts.size.volume_gib,
        server_id,
        log: None,
        ..Specification::of(&context.config, controllers)
    };
    context.store.insert_assignment(&mut tx, target.instance, &specification, &certificate).await?;
    work.commit(tx).await
}

pub(super) async fn install_engine<S: AsRef<Params> + Sync>(
    work: &Work,
    target: &Target,
    state: &S,
    engine: &mut Engine,
) -> StepResult {
    let state = state.as_ref();
    let store = &work.context.store;
    let assignment = store.get_assignment(target.instance).await?;
    let assignment = assignment.ok_or_else(|| StepError::Fatal("the instance has no assignment".to_owned()))?;
    let users = state.users.iter().map(|user| user.to_proto(&store.seal)).collect::<Result<Vec<_>>>()?;
    let job = v1::start::Work::Prepare(v1::Prepare {
        generation: assignment.generation,
        specification: Some(assignment.to_proto()),
        databases: state.databases.iter().map(Database::to_proto).collect(),
        users,
        root_password: state.root.as_ref().map(|password| open(password, &store.seal)).transpose()?,
    });
    if let Some(v1::result::Outcome::Prepared(prepared)) = target.run_job(work, job).await? {
        engine.version = prepared.engine_version;
    }
    Ok(())
}

pub(super) async fn delete_host<S: Sync>(work: &Work, target: &Target, _: &S, _: &mut Engine) -> StepResult {
    let context = &work.context;
    context.compute.delete_host(target.instance, work.fence()).await?;
    context.agents.forget(target.instance);
    let mut tx = work.begin().await?;
    context.store.delete_agent(&mut tx, target.instance).await?;
    context.store.clear_placement(&mut tx, target.instance, work.fence()).await?;
    context.store.set_host(&mut tx, target.instance, HostState::Absent).await?;
    work.commit(tx).await
}

pub(super) async fn remove_certificate<S: Sync>(work: &Work, target: &Target, _: &S, _: &mut Engine) -> StepResult {
    let mut tx = work.begin().await?;
    work.context.store.delete_assignment(&mut tx, target.instance).await?;
    work.commit(tx).await
}

pub(super) async fn free_address<S: Sync>(work: &Work, target: &Target, _: &S, _: &mut Engine) -> StepResult {
    let mut tx = work.begin().await?;
    work.context.store.clear_address(&mut tx, target.instance).await?;
    // Also when no host was ever made.
    work.context.store.set_host(&mut tx, target.instance, HostState::Absent).await?;
    work.commit(tx).await
}

#[cfg(test)]
mod tests;

//! Gives an instance the values of its configuration group: those that it has when the step runs, so that of several changes
//! the last one wins, and none where it was detached. Leaves the instance's status alone.
//!
//! | step | effect | undo | deadline |
//! |---|---|---|---|
//! | `check` | none: the agent, once it is connected (300 s), asks the engine whether it would start with the values | - | 900 s |
//! | `assign` | the values are assigned; the engine has those that it takes while it runs, and the instance's row says what became of each; an engine that recovers is waited for | - | 900 s |
//!
//! What the check refuses is not assigned: the instance goes on as it was. What the running engine refuses fails the operation,
//! and the others stay. A value that waits for a restart is no failure. The row says of each, with the engine's words.

use std::time::Duration;

use async_trait::async_trait;

use super::parameters::{WITHOUT, assign as assign_specification, refusals, results, stored, wanted};
use super::steps::{Member, Operation, StepError, StepResult, Steps};
use super::{Lane, NewOperation, Origin, Target, Work};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::model::configurations::{ParameterResult, ParameterState};
use crate::store::sql::Connection;

pub struct ApplyConfiguration;

/// The operation for an instance whose group, or the values of whose group, are changed in the same transaction.
pub fn new(origin: Origin) -> Result<NewOperation> {
    Ok(NewOperation::of::<ApplyConfiguration>(origin, serde_json::Value::Null))
}

#[async_trait]
impl Operation for ApplyConfiguration {
    const KIND: &'static str = "apply_configuration";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Accounts;
    type State = ();
    type TargetState = ();

    fn steps() -> Steps<(), ()> {
        Steps::default().step("check", Duration::from_secs(900), check).step("assign", Duration::from_secs(900), assign)
    }

    async fn finished(work: &Work, conn: &mut Connection, _: &(), targets: &[Member<()>]) -> Result<()> {
        for target in targets {
            work.context.store.clear_fault_of(conn, target.instance, WITHOUT).await?;
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        for instance in targets {
            explain(work, conn, *instance, error).await?;
        }
        Ok(())
    }
}

/// What was not assigned is said to be refused, with the reason; what was, became what its step has written.
async fn explain(work: &Work, conn: &mut Connection, instance: InstanceId, error: &str) -> Result<()> {
    let store = &work.context.store;
    let wanted = wanted(&work.context, instance).await?;
    let assigned = store.get_assignment(instance).await?;
    let assigned = assigned.map(|assignment| assignment.specification.parameters).unwrap_or_default();
    let names = wanted.keys().chain(assigned.keys().filter(|name| !wanted.contains_key(*name)));
    let mut all = store.parameter_results(&mut *conn, instance).await?;
    let before = all.clone();
    for name in names.filter(|name| wanted.get(*name) != assigned.get(*name)) {
        all.insert(name.clone(), ParameterResult { state: ParameterState::Refused, reason: error.to_owned() });
    }
    if all != before {
        store.set_parameter_results(conn, instance, &all).await?;
    }
    Ok(())
}

async fn check(work: &Work, target: &Target, _: &(), _: &mut ()) -> StepResult {
    target.facts(work).await?;
    // One whose creation failed has no agent that could be waited for.
    stored(work, target.instance).await?;
    let wanted = wanted(&work.context, target.instance).await?;
    if wanted.is_empty() {
        return Ok(());
    }
    target.await_connected(work).await?;
    match work.context.agents.check_parameters(target.instance, wanted).await? {
        None => Ok(()),
        Some(refusal) => Err(StepError::Fatal(refusal)),
    }
}

async fn assign(work: &Work, target: &Target, _: &(), _: &mut ()) -> StepResult {
    let wanted = wanted(&work.context, target.instance).await?;
    let values = wanted.clone();
    let reply = assign_specification(work, target, |specification| specification.parameters = values).await?;
    let became = results(&wanted, reply);
    let mut tx = work.begin().await?;
    work.context.store.set_parameter_results(&mut tx, target.instance, &became).await?;
    work.commit(tx).await?;
    refusals(&became).map_or(Ok(()), |refused| Err(StepError::Fatal(refused)))
}

#[cfg(test)]
mod tests;

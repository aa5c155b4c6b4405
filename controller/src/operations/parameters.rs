//! What operations do about the parameters of an engine: the assignment that carries them, and what became of each.

use std::collections::BTreeMap;

use trove_proto::v1;

use super::outcome::{StepError, StepResult};
use super::target::Target;
use super::work::{RunnerContext, Work};
use crate::agents::AgentError;
use crate::error::Result;
use crate::ids::InstanceId;
use crate::model::configurations::{ParameterResult, ParameterState};
use crate::store::assignments::{Assignment, Specification};

/// By name.
pub(crate) type Results = BTreeMap<String, ParameterResult>;

/// How a fault begins that says so.
pub(super) const WITHOUT: &str = "The engine runs without values of its configuration group: ";

/// The values of the instance's group now, each a JSON scalar as text.
pub(super) async fn wanted(context: &RunnerContext, instance: InstanceId) -> Result<BTreeMap<String, String>> {
    let wanted = context.store.wanted_parameters(instance).await?;
    Ok(wanted.into_iter().map(|(name, value)| (name, value.to_string())).collect())
}

/// What is assigned.
pub(super) async fn stored(work: &Work, instance: InstanceId) -> StepResult<Assignment> {
    let assignment = work.context.store.get_assignment(instance).await?;
    assignment.ok_or_else(|| StepError::Fatal("the instance has no assignment".to_owned()))
}

fn request(work: &Work, assignment: &Assignment) -> v1::AssignRequest {
    let specification = Some(assignment.to_proto());
    v1::AssignRequest { fence: work.fence(), generation: assignment.generation, specification }
}

/// Changes what is assigned, where it is not so already, and has the agent take it up.
pub(super) async fn assign(
    work: &Work,
    target: &Target,
    change: impl FnOnce(&mut Specification),
) -> StepResult<v1::AssignReply> {
    let (store, instance) = (&work.context.store, target.instance);
    let mut assignment = stored(work, instance).await?;
    let mut specification = assignment.specification.clone();
    change(&mut specification);
    if assignment.specification != specification {
        let mut tx = work.begin().await?;
        let replaced = store.replace_assignment(&mut tx, instance, assignment.generation, &specification, None).await?;
        work.commit(tx).await?;
        if !replaced {
            return Err(StepError::RetrySameKey("the assignment was changed meanwhile".to_owned()));
        }
        assignment = stored(work, instance).await?;
    }
    target.await_connected(work).await?;
    Ok(work.context.agents.assign(instance, request(work, &assignment)).await?)
}

/// What an agent answered about these parameters. What it does not name waits for the start of an engine that is stopped.
pub(crate) fn results(assigned: &BTreeMap<String, String>, reply: v1::AssignReply) -> Results {
    let waits = ParameterResult { state: ParameterState::NeedsRestart, reason: String::new() };
    let mut all: Results = assigned.keys().map(|name| (name.clone(), waits.clone())).collect();
    for v1::AppliedParameter { name, state, reason } in reply.parameters {
        let state = match v1::AppliedState::try_from(state) {
            Ok(v1::AppliedState::Live) => ParameterState::Live,
            Ok(v1::AppliedState::Refused) => ParameterState::Refused,
            _ => ParameterState::NeedsRestart,
        };
        all.insert(name, ParameterResult { state, reason });
    }
    all
}

/// Those that were refused, for a person; `None` when there are none.
pub(crate) fn refusals(results: &Results) -> Option<String> {
    let refused = results.iter().filter(|(_, result)| result.state == ParameterState::Refused);
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, result) in refused {
        by_reason.entry(&result.reason).or_default().push(name);
    }
    let said = |(reason, names): (&str, Vec<&str>)| format!("{}: {reason}", names.join(", "));
    let said: Vec<String> = by_reason.into_iter().map(said).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Writes down what became of the parameters in an engine that was started. That the agent cannot say is no failure of what
/// started it.
pub(super) async fn take_stock(work: &Work, target: &Target) -> StepResult {
    let (store, instance) = (&work.context.store, target.instance);
    let assignment = stored(work, instance).await?;
    let parameters = &assignment.specification.parameters;
    let before = store.parameter_results(&store.read, instance).await?;
    if parameters.is_empty() && before.is_empty() {
        return Ok(());
    }
    let now = match work.context.agents.assign(instance, request(work, &assignment)).await {
        Ok(reply) => results(parameters, reply),
        Err(AgentError::Refused { kind: v1::ErrorKind::Invalid | v1::ErrorKind::Fatal, message }) => {
            tracing::warn!(instance_id = %instance, "it is not known what became of the parameters of {instance}: {message}");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if now == before {
        return Ok(());
    }
    let mut tx = work.begin().await?;
    store.set_parameter_results(&mut tx, instance, &now).await?;
    work.commit(tx).await
}

/// The fault of an instance whose engine runs without some values.
pub(crate) fn fault(results: &Results) -> Option<String> {
    refusals(results).map(|refused| format!("{WITHOUT}{refused}"))
}

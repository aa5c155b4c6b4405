//! Tests of calls to agents over connections that break.

use std::sync::Mutex;

use trove_proto::v1;

use super::fake::{Brain, Script};
use super::links::connect;
use super::{Controller, SOON, until};
use crate::agents::{AgentError, Agents as _, NoObjects};
use crate::ids::{InstanceId, OperationId};

fn start(deadline_s: u32) -> v1::Start {
    let key = v1::JobKey { operation: "o".to_owned(), step: "s".to_owned(), target: "t".to_owned(), attempt: 1 };
    v1::Start { key: Some(key), fence: 1, deadline_s, work: Some(v1::start::Work::Restart(v1::Restart {})) }
}

fn failure(kind: v1::ErrorKind) -> Script {
    Script::Answer(Some(v1::Error { kind: kind.into(), message: "why".to_owned() }))
}

#[tokio::test]
async fn a_job_waits_for_its_agent_and_is_attached_to_again_until_it_has_a_result() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let brain = Brain::default();
    *brain.script.lock().unwrap() =
        vec![Script::Die, failure(v1::ErrorKind::Interrupted), failure(v1::ErrorKind::Busy)];
    let stages = Mutex::new(Vec::new());
    let progress = |step: v1::Progress| stages.lock().unwrap().push(step.stage);
    let run = controller.hub.run(instance, start(30), &progress, &NoObjects);
    let agent = async {
        let first = connect(&controller, instance, &brain).await;
        first.connection.await.unwrap();
        connect(&controller, instance, &brain).await
    };
    let (result, _agent) = tokio::join!(run, agent);
    assert!(matches!(result, Err(AgentError::Refused { kind: v1::ErrorKind::Busy, .. })), "{result:?}");
    // The progress sent right before the connection broke may be lost.
    assert!(stages.lock().unwrap().len() >= 2);
    let jobs = brain.jobs.lock().unwrap().clone();
    assert_eq!(jobs, vec![start(30); 3], "always under the same key");
    controller.stop().await;
}

#[tokio::test]
async fn a_job_that_ends_well_is_a_success() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let brain = Brain::default();
    *brain.script.lock().unwrap() = vec![Script::Answer(None)];
    let _agent = connect(&controller, instance, &brain).await;
    let outcome = controller.hub.run(instance, start(30), &|_| {}, &NoObjects).await.unwrap();
    assert_eq!(outcome, Some(v1::result::Outcome::Restarted(v1::Restarted::default())));
    controller.stop().await;
}

#[tokio::test]
async fn an_agent_that_never_comes_is_unreachable() {
    let controller = Controller::start().await;
    let instance = InstanceId::random();
    let (run, question) =
        tokio::join!(controller.hub.run(instance, start(0), &|_| {}, &NoObjects), controller.hub.list_users(instance));
    assert!(matches!(run, Err(AgentError::Unreachable(id)) if id == instance), "{run:?}");
    assert!(matches!(question, Err(AgentError::Unreachable(_))), "{question:?}");
    controller.stop().await;
}

#[tokio::test]
async fn a_job_goes_on_over_the_connection_that_took_the_place_of_its_own() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let brain = Brain::default();
    *brain.script.lock().unwrap() = vec![Script::Hang, Script::Answer(None)];
    let first = connect(&controller, instance, &brain).await;
    let replaced = async {
        until("the job has begun", || async { brain.jobs.lock().unwrap().len() == 1 }).await;
        let second = connect(&controller, instance, &brain).await;
        tokio::time::timeout(SOON, first.connection).await.expect("the older one is cut").unwrap();
        second
    };
    let run = controller.hub.run(instance, start(30), &|_| {}, &NoObjects);
    let (result, _second) = tokio::join!(tokio::time::timeout(SOON, run), replaced);
    result.expect("no keepalive has to find out").unwrap();
    controller.stop().await;
}

#[tokio::test]
async fn an_agent_is_told_of_a_cancelled_operation_now_or_when_it_comes() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let brain = Brain::default();
    let (first, second) = (OperationId::random(), OperationId::random());
    controller.hub.cancel(instance, first);
    let agent = connect(&controller, instance, &brain).await;
    let cancelled = &brain.cancelled;
    let told =
        |count: usize| until("the agent was told", move || async move { cancelled.lock().unwrap().len() == count });
    told(1).await;
    controller.hub.cancel(instance, second);
    told(2).await;
    assert_eq!(*brain.cancelled.lock().unwrap(), [first.to_string(), second.to_string()]);
    assert!(brain.jobs.lock().unwrap().is_empty(), "nothing was started");
    // One that breaks the connection over it is told again.
    agent.connection.abort();
    controller.hub.cancel(instance, first);
    let _agent = connect(&controller, instance, &brain).await;
    told(3).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_job_without_a_result_is_late() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let brain = Brain::default();
    *brain.script.lock().unwrap() = vec![Script::Hang];
    let _agent = connect(&controller, instance, &brain).await;
    let result = controller.hub.run(instance, start(0), &|_| {}, &NoObjects).await;
    assert!(matches!(result, Err(AgentError::Late(_, 0))), "{result:?}");
    controller.stop().await;
}

#[tokio::test]
async fn what_an_agent_answers_becomes_what_is_to_be_done_about_it() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let _agent = connect(&controller, instance, &Brain::default()).await;
    let hub = &controller.hub;
    assert_eq!(hub.list_users(instance).await.unwrap().len(), 1);
    assert_eq!(hub.get_user(instance, v1::Account::default()).await.unwrap(), None);
    hub.ping(instance).await.unwrap();
    let down = hub.diagnose(instance).await;
    assert!(matches!(down, Err(AgentError::Refused { kind: v1::ErrorKind::Transient, .. })), "{down:?}");
    let not_served = hub.list_databases(instance).await;
    assert!(matches!(not_served, Err(AgentError::Refused { kind: v1::ErrorKind::Invalid, .. })), "{not_served:?}");
    let request = |fence| v1::AssignRequest { fence, generation: 3, specification: None };
    assert_eq!(hub.assign(instance, request(10)).await.unwrap().generation, 3);
    let fenced = hub.assign(instance, request(9)).await;
    assert!(matches!(fenced, Err(AgentError::Refused { kind: v1::ErrorKind::Fenced, .. })), "{fenced:?}");
    controller.stop().await;
}

#[tokio::test]
async fn a_call_whose_connection_breaks_has_an_unknown_outcome() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let brain = Brain::default();
    let agent = connect(&controller, instance, &brain).await;
    controller.hub.list_users(instance).await.unwrap();
    agent.connection.abort();
    until("the loss is known", || async { !controller.hub.state(instance).borrow().connected }).await;
    let lost = controller.hub.get_user(instance, v1::Account::default()).await;
    assert!(matches!(lost, Err(AgentError::Unreachable(_))), "{lost:?}");
    controller.stop().await;
}

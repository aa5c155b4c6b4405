use std::sync::Arc;

use tokio::sync::Notify;
use trove_proto::v1;

use super::*;
use crate::agents::AgentError;
use crate::compute::{Compute as _, ComputeError};
use crate::config::Config;
use crate::ids::InstanceId;
use crate::model::EngineCertificate;
use crate::model::configurations::ParameterState;
use crate::operations::steps::StepError;
use crate::operations::{apply_configuration, delete_instance, reboot_instance, restart_instance};
use crate::state::{HostState, Service, Task};
use crate::store::agents::{AgentRow, ReportSequence};
use crate::store::assignments::Specification;
use crate::testing::operations::Stage;

/// Stores that this generation is in force, as the hub does when an agent reports it.
async fn in_force(stage: &Stage, generation: u64) {
    let agent = AgentRow {
        service: Service::Healthy,
        detail: String::new(),
        engine_version: "15".to_owned(),
        volume_used_bytes: 1,
        assignment_generation: generation,
    };
    stage.context.store.put_agent(stage.instance, &agent, &ReportSequence::default()).await.unwrap();
}

fn assigned(stage: &Stage) -> Vec<u64> {
    stage.agents.assigned.lock().unwrap().iter().map(|request| request.generation).collect()
}

#[tokio::test]
async fn a_host_of_a_deleted_instance_is_removed_and_no_other() {
    let stage = Stage::created().await;
    let foreign = InstanceId::random();
    let deleted = stage.fixture.insert("p").await;
    let mut tx = stage.context.store.begin().await.unwrap();
    stage.context.store.mark_deleted(&mut tx, deleted).await.unwrap();
    tx.commit().await.unwrap();
    stage.compute.hosts.lock().unwrap().extend([foreign, deleted]);

    hosts::reconcile(&stage.context).await.unwrap();
    let left = stage.compute.hosts.lock().unwrap().clone();
    assert!(!left.contains(&deleted));
    assert!(left.contains(&stage.instance) && left.contains(&foreign), "{left:?}");
}

#[tokio::test]
async fn a_host_that_a_failed_create_left_is_removed_though_the_first_try_fails() {
    let stage = Stage::created().await;
    let store = &stage.context.store;
    let mut tx = store.begin().await.unwrap();
    store.set_task(&mut tx, stage.instance, Task::BuildingError).await.unwrap();
    store.set_host(&mut tx, stage.instance, HostState::Absent).await.unwrap();
    tx.commit().await.unwrap();

    stage.compute.fail_next("delete_host", ComputeError::Transient("the request was lost".to_owned()));
    hosts::reconcile(&stage.context).await.unwrap();
    assert!(stage.compute.hosts.lock().unwrap().contains(&stage.instance));
    assert_eq!(stage.row().await.host, HostState::Absent, "else it would be taken for a host that is to be");
    hosts::reconcile(&stage.context).await.unwrap();
    assert!(!stage.compute.hosts.lock().unwrap().contains(&stage.instance));
}

#[tokio::test]
async fn a_host_that_was_left_stopped_is_started_unless_its_operation_failed() {
    let stage = Stage::created().await;
    stage.stop_host().await;
    hosts::reconcile(&stage.context).await.unwrap();
    assert_eq!(stage.compute.describe(stage.instance).await.unwrap(), HostState::Active);
    assert_eq!(stage.row().await.host, HostState::Active);

    let mut tx = stage.context.store.begin().await.unwrap();
    stage.context.store.set_task(&mut tx, stage.instance, Task::Error).await.unwrap();
    tx.commit().await.unwrap();
    stage.stop_host().await;
    hosts::reconcile(&stage.context).await.unwrap();
    assert_eq!(stage.compute.describe(stage.instance).await.unwrap(), HostState::Dead);
    assert_eq!(stage.row().await.host, HostState::Dead);
}

#[tokio::test]
async fn what_a_reconciler_asks_of_a_driver_is_older_than_an_operation_that_begins_later() {
    let stage = Stage::created().await;
    stage.stop_host().await;
    let (there, go_on) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    *stage.compute.late.lock().unwrap() = Some((there.clone(), go_on.clone()));
    let context = stage.context.clone();
    let reconciler = tokio::spawn(async move { hosts::reconcile(&context).await });
    there.notified().await;
    stage.complete(reboot_instance::new(stage.origin(), false)).await.unwrap();
    let specs = stage.compute.specs.lock().unwrap().len();
    go_on.notify_one();
    reconciler.await.unwrap().unwrap();
    assert_eq!(stage.compute.specs.lock().unwrap().len(), specs, "it came late");
    // The next run may start the host.
    stage.stop_host().await;
    hosts::reconcile(&stage.context).await.unwrap();
    assert_eq!(stage.compute.specs.lock().unwrap().len(), specs + 1);
}

#[tokio::test]
async fn a_host_that_is_gone_is_shown_as_gone_and_one_that_is_back_is_not_deleted() {
    let stage = Stage::created().await;
    stage.compute.hosts.lock().unwrap().clear();
    hosts::reconcile(&stage.context).await.unwrap();
    assert_eq!(stage.row().await.host, HostState::Absent);
    stage.compute.hosts.lock().unwrap().insert(stage.instance);
    hosts::reconcile(&stage.context).await.unwrap();
    assert_eq!(stage.row().await.host, HostState::Active);
    assert!(stage.compute.hosts.lock().unwrap().contains(&stage.instance));
}

#[tokio::test]
async fn what_an_operation_is_active_on_is_left_alone() {
    let stage = Stage::created().await;
    in_force(&stage, 0).await;
    stage.submit(delete_instance::new(stage.origin())).await.unwrap();
    stage.compute.hosts.lock().unwrap().clear();
    hosts::reconcile(&stage.context).await.unwrap();
    assignments::reconcile(&stage.context).await.unwrap();
    assert_eq!(stage.row().await.host, HostState::Active);
    assert!(assigned(&stage).is_empty());
}

#[tokio::test]
async fn an_agent_that_has_lost_its_assignment_is_sent_it_again() {
    let stage = Stage::created().await;
    in_force(&stage, 0).await;
    stage.agents.connect(stage.instance, true);
    assignments::reconcile(&stage.context).await.unwrap();
    assert_eq!(assigned(&stage), [1]);
}

#[tokio::test]
async fn an_agent_that_is_behind_is_assigned_once_it_is_connected() {
    let stage = Stage::created().await;
    in_force(&stage, 1).await;
    assignments::reconcile(&stage.context).await.unwrap();
    assert!(assigned(&stage).is_empty(), "what is in force is not assigned again");

    let mut config = Config::default();
    config.agents.probe_interval = Duration::from_secs(7);
    let mut context = stage.context.clone();
    context.config = Arc::new(config);
    stage.agents.connect(stage.instance, false);
    assignments::reconcile(&context).await.unwrap();
    assert!(assigned(&stage).is_empty(), "it is away");
    stage.agents.connect(stage.instance, true);
    assignments::reconcile(&context).await.unwrap();
    assert_eq!(assigned(&stage), [2]);
    {
        let requests = stage.agents.assigned.lock().unwrap();
        let specification = requests[0].specification.as_ref().unwrap();
        assert_eq!(specification.probe_interval_s, 7);
        assert!(specification.certificate.as_ref().unwrap().key_pem.contains("PRIVATE KEY"), "the one that is there");
    }
    in_force(&stage, 2).await;
    assignments::reconcile(&context).await.unwrap();
    assert_eq!(assigned(&stage), [2]);
    // The fence of the next operation is greater than the reconciler's, so the agent accepts its calls.
    let fence = stage.agents.assigned.lock().unwrap()[0].fence;
    stage.complete(restart_instance::new(stage.origin())).await.unwrap();
    assert!(stage.agents.starts.lock().unwrap()[0].fence > fence);
}

#[tokio::test]
async fn a_certificate_is_replaced_before_it_expires() {
    let stage = Stage::created().await;
    in_force(&stage, 1).await;
    let store = &stage.context.store;
    let first = store.get_assignment(stage.instance).await.unwrap().unwrap();
    let soon = EngineCertificate {
        certificate_pem: first.certificate_pem.clone(),
        key_pem: first.key_pem.clone(),
        authority_pem: first.authority_pem.clone(),
        not_after: time::OffsetDateTime::now_utc() + Duration::from_secs(3600),
    };
    let wanted = Specification::of(&stage.context.config, vec!["127.0.0.1:1".to_owned()]);
    let mut tx = store.begin().await.unwrap();
    assert!(store.replace_assignment(&mut tx, stage.instance, 1, &wanted, Some(&soon)).await.unwrap());
    tx.commit().await.unwrap();

    assignments::reconcile(&stage.context).await.unwrap();
    assert_eq!(assigned(&stage), [3]);
    let second = store.get_assignment(stage.instance).await.unwrap().unwrap();
    assert_ne!(second.certificate_pem, first.certificate_pem);
    assert!(second.not_after > time::OffsetDateTime::now_utc() + Duration::from_secs(300 * 24 * 3600));
    in_force(&stage, 3).await;
    assignments::reconcile(&stage.context).await.unwrap();
    assert_eq!(assigned(&stage), [3], "once");
}

#[tokio::test]
async fn an_engine_that_answers_after_its_restart_failed_is_in_error_no_more() {
    let stage = Stage::created().await;
    stage.agents.connect(stage.instance, true);
    let fails = || AgentError::Refused { kind: v1::ErrorKind::Fatal, message: "the address is in use".to_owned() };
    stage.agents.fail_next("restart", fails());
    stage.agents.change(stage.instance, |state| state.service = Service::Failed);
    stage.complete(restart_instance::new(stage.origin())).await.unwrap_err();
    restarts::reconcile(&stage.context).await.unwrap();
    assert_eq!(stage.row().await.task, Task::Error);
    stage.agents.change(stage.instance, |state| state.service = Service::Healthy);
    restarts::reconcile(&stage.context).await.unwrap();
    let row = stage.row().await;
    assert_eq!((row.task, row.fault), (Task::None, None));

    // Other errors are not cleared by an engine that answers.
    stage.compute.fail_next("delete_host", ComputeError::Fatal("the volume is locked".to_owned()));
    stage.complete(delete_instance::new(stage.origin())).await.unwrap_err();
    stage.agents.change(stage.instance, |state| state.service = Service::Healthy);
    restarts::reconcile(&stage.context).await.unwrap();
    let row = stage.row().await;
    assert!(row.task == Task::Error && row.fault.is_some());
}

#[tokio::test]
async fn what_the_driver_said_to_a_controller_that_stalled_is_not_written_over_what_a_later_one_was_told() {
    let stage = Stage::created().await;
    let store = &stage.context.store;
    let old = draw_fence(&stage.context, stage.instance).await.unwrap().unwrap();
    let mut tx = store.begin().await.unwrap();
    store.clear_placement(&mut tx, stage.instance, old).await.unwrap();
    tx.commit().await.unwrap();
    let (there, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    *stage.compute.late_answer.lock().unwrap() = Some((there.clone(), go_on.clone()));
    let (context, instance) = (stage.context.clone(), stage.instance);
    let stalled = tokio::spawn(async move { context.ensure_host(instance, old).await });
    there.notified().await;

    let new = draw_fence(&stage.context, stage.instance).await.unwrap().unwrap();
    let told = serde_json::json!({"server": "another"});
    let mut tx = store.begin().await.unwrap();
    assert!(store.set_driver_state(&mut tx, stage.instance, new, &told).await.unwrap());
    tx.commit().await.unwrap();
    go_on.notify_one();
    let late = stalled.await.unwrap();
    assert!(matches!(late, Err(StepError::Fenced)), "{late:?}");
    assert_eq!(store.host_facts(stage.instance, None).await.unwrap().unwrap().driver_state, told);

    // A reserved account is not released, either.
    let mut tx = store.begin().await.unwrap();
    assert!(!store.set_engine_uid(&mut tx, stage.instance, old, 7).await.unwrap());
    assert!(store.set_engine_uid(&mut tx, stage.instance, new, 7).await.unwrap());
}

#[tokio::test]
async fn a_host_that_was_left_stopped_is_started_for_the_change_that_waits_for_its_agent() {
    let stage = Stage::created().await;
    stage.stop_host().await;
    let running = stage.start(None);
    let change = stage.submit(apply_configuration::new(stage.origin()).unwrap()).await.unwrap();
    hosts::reconcile(&stage.context).await.unwrap();
    assert_eq!(stage.compute.describe(stage.instance).await.unwrap(), HostState::Active);
    stage.end(change).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn parameters_that_waited_are_looked_at_once_the_agent_has_started_the_engine_by_itself() {
    let stage = Stage::created().await;
    stage.configure(serde_json::json!({"cold": 1})).await;
    stage.complete(apply_configuration::new(stage.origin()).unwrap()).await.unwrap();
    let state = async || stage.row().await.parameter_results["cold"].state;
    parameters::reconcile(&stage.context).await.unwrap();
    assert_eq!(state().await, ParameterState::NeedsRestart);
    stage.stop_host().await;
    hosts::reconcile(&stage.context).await.unwrap();
    parameters::reconcile(&stage.context).await.unwrap();
    assert_eq!(state().await, ParameterState::Live);
}

#[tokio::test]
async fn the_reconciler_of_assignments_keeps_the_values_of_the_group() {
    let stage = Stage::created().await;
    stage.configure(serde_json::json!({"warm": 1})).await;
    stage.complete(apply_configuration::new(stage.origin()).unwrap()).await.unwrap();
    let before = stage.context.store.get_assignment(stage.instance).await.unwrap().unwrap();
    in_force(&stage, 0).await;
    assignments::reconcile(&stage.context).await.unwrap();
    let now = stage.context.store.get_assignment(stage.instance).await.unwrap().unwrap();
    assert_eq!(now.specification.parameters, before.specification.parameters);
    let sent = stage.agents.assigned.lock().unwrap().last().cloned().unwrap();
    assert_eq!(
        (sent.generation, sent.specification.unwrap().parameters),
        (before.generation, before.specification.parameters)
    );
}

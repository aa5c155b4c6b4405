use std::sync::Arc;

use tokio::sync::Notify;

use super::*;
use crate::compute::{Compute as _, ComputeError};
use crate::operations::timing::Timing;
use crate::operations::{RunnerContext, registry};
use crate::state::Service;
use crate::testing::operations::{QUICK, Stage, failed_anywhere, killed_anywhere};

/// As the use case does: the row has the new flavor already.
async fn make() -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    let from = stage.row().await.flavor;
    let to = Flavor { id: "9".to_owned(), name: "large".to_owned(), ram_mib: from.ram_mib * 4, vcpus: 3 };
    let mut tx = stage.context.store.begin().await.unwrap();
    stage.context.store.set_flavor(&mut tx, stage.instance, &to).await.unwrap();
    tx.commit().await.unwrap();
    let operation = new(stage.origin(), Params { from }, false).unwrap();
    (stage, operation)
}

#[tokio::test]
async fn a_kill_between_any_two_steps_ends_in_the_new_size() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!((row.task, row.host, row.flavor.id.as_str()), (Task::None, HostState::Active, "9"), "{what}");
        let specs = stage.compute.specs.lock().unwrap().clone();
        assert_eq!(specs.last().unwrap().size.memory_mib, row.flavor.ram_mib, "{what}");
        assert!(*stage.compute.stopped.lock().unwrap() >= 1, "{what}");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn a_failure_at_any_step_ends_in_the_old_size() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!((row.task, row.host), (Task::None, HostState::Active), "{what}");
        let specs = stage.compute.specs.lock().unwrap().clone();
        assert_eq!(row.flavor.ram_mib, specs[0].size.memory_mib, "{what}");
        assert_eq!(specs.last().unwrap().size, specs[0].size, "{what}");
        assert!(
            row.fault.unwrap().message.starts_with("Resizing the instance failed, it keeps its flavor: "),
            "{what}"
        );
        stage.assert_settled().await;
    };
    failed_anywhere(make, check).await;
    let (stage, operation) = make().await;
    stage.compute.fail_next("ensure_host", ComputeError::Fatal("no host is large enough".to_owned()));
    stage.complete(operation).await.unwrap_err();
    check(&stage, "refused by the driver").await;
}

#[tokio::test]
async fn going_back_gives_the_quota_back_once() {
    let (stage, operation) = make().await;
    let usage = "select cast(coalesce(sum(in_use), 0) as bigint) from usage where resource = 'ram'";
    let before = stage.context.store.number(usage).await;
    stage.compute.fail_next("ensure_host", ComputeError::Fatal("no host is large enough".to_owned()));
    stage.complete(operation).await.unwrap_err();
    let old = i64::try_from(stage.row().await.flavor.ram_mib).unwrap();
    assert_eq!(stage.context.store.number(usage).await - before, old - old * 4);
}

#[tokio::test]
async fn nobody_takes_the_engine_of_a_host_that_was_stopped_for_healthy() {
    let (stage, operation) = make().await;
    let healthy = crate::store::agents::AgentRow {
        service: Service::Healthy,
        detail: String::new(),
        engine_version: String::new(),
        volume_used_bytes: 0,
        assignment_generation: 1,
    };
    stage
        .context
        .store
        .put_agent(stage.instance, &healthy, &crate::store::agents::ReportSequence::default())
        .await
        .unwrap();
    stage.compute.fail_next("ensure_host", ComputeError::Fatal("no host is large enough".to_owned()));
    stage.complete(operation).await.unwrap_err();
    // The old host is booted and its agent has said nothing yet.
    let row = stage.row().await;
    assert_eq!((row.host, row.service), (HostState::Active, Service::Shutdown));
}

/// Does it, with the engine stopped, and says which steps are shown.
async fn steps_of_a_stopped_one(stage: &Stage, operation: NewOperation) -> Vec<String> {
    *stage.agents.service.lock().unwrap() = Some(Service::Shutdown);
    stage.complete(operation).await.unwrap();
    assert_eq!(stage.row().await.task, Task::None);
    let shown = stage.operations().await.swap_remove(0);
    assert!(shown.steps.iter().all(|step| step.status == "done"), "{shown:?}");
    shown.steps.into_iter().map(|step| step.name).collect()
}

#[tokio::test]
async fn an_engine_that_was_stopped_stays_so_and_no_step_claims_to_have_waited_for_it() {
    let (stage, operation) = make().await;
    let params: Params = serde_json::from_value(operation.state).unwrap();
    let operation = new(stage.origin(), params, true).unwrap();
    assert_eq!(steps_of_a_stopped_one(&stage, operation).await, ["stop_host", "boot_host", "await_agent"]);
}

#[tokio::test]
async fn a_late_request_of_a_controller_that_stalled_changes_nothing() {
    let (stage, operation) = make().await;
    let (there, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    *stage.compute.late.lock().unwrap() = Some((there.clone(), go_on.clone()));
    let stalled = Timing { lease: Duration::from_millis(100), renew: Duration::from_secs(60), ..QUICK };
    let one = stage.start_as(stage.context.clone(), registry(), stalled, None);
    let id = stage.submit(operation).await.unwrap();
    there.notified().await;

    let other = RunnerContext { controller_id: "two".to_owned(), ..stage.context.clone() };
    let two = stage.start_as(other, registry(), QUICK, None);
    stage.end(id).await.unwrap();
    let last = stage.compute.specs.lock().unwrap().last().unwrap().clone();
    let (_, version) = stage.context.store.list_operations(stage.instance).await.unwrap();
    let specs = stage.compute.specs.lock().unwrap().len();
    go_on.notify_one();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stage.compute.specs.lock().unwrap().len(), specs, "the host is as the other has made it");
    let (_, later) = stage.context.store.list_operations(stage.instance).await.unwrap();
    assert_eq!((later, stage.row().await.fault), (version, None), "it is no failure of the instance");
    one.stop().await;
    two.stop().await;

    // And so is what the second one asked for, once there is a third.
    let from = stage.row().await.flavor;
    stage.complete(new(stage.origin(), Params { from }, false).unwrap()).await.unwrap();
    let late = stage.compute.ensure_host(&last).await;
    assert!(matches!(late, Err(ComputeError::Fenced { .. })), "{late:?}");
}

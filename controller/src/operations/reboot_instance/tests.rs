use std::time::Duration;

use super::*;
use crate::compute::ComputeError;
use crate::state::{HostState, Service};
use crate::testing::operations::{Stage, failed_anywhere, killed_anywhere};

async fn make() -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    let operation = new(stage.origin(), false);
    (stage, operation)
}

#[tokio::test]
async fn a_kill_between_any_two_steps_ends_with_one_host_that_runs() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!((row.task, row.host), (Task::None, HostState::Active), "{what}");
        assert!(*stage.compute.stopped.lock().unwrap() >= 1, "{what}");
        assert_eq!(stage.compute.hosts.lock().unwrap().len(), 1, "{what}");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn a_failure_is_an_error_of_the_instance_and_another_reboot_clears_it() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!(row.task, Task::Error, "{what}");
        assert!(row.fault.unwrap().message.starts_with("Rebooting the instance failed at "), "{what}");
        stage.complete(new(stage.origin(), false)).await.unwrap();
        let row = stage.row().await;
        assert_eq!((row.task, row.host, row.fault), (Task::None, HostState::Active, None), "{what}");
        stage.assert_settled().await;
    };
    failed_anywhere(make, check).await;
}

#[tokio::test]
async fn what_the_driver_cannot_do_now_is_tried_again() {
    let (stage, operation) = make().await;
    stage.compute.fail_next("stop_host", ComputeError::Transient("a lock is held".to_owned()));
    stage.compute.fail_next("ensure_host", ComputeError::Transient("no space".to_owned()));
    stage.complete(operation).await.unwrap();
    assert_eq!(*stage.compute.stopped.lock().unwrap(), 1);
}

#[tokio::test]
async fn an_engine_that_was_stopped_stays_so_and_no_step_claims_to_have_waited_for_it() {
    let stage = Stage::created().await;
    *stage.agents.service.lock().unwrap() = Some(Service::Shutdown);
    stage.complete(new(stage.origin(), true)).await.unwrap();
    assert_eq!(stage.row().await.task, Task::None);
    let shown = stage.operations().await.swap_remove(0);
    let steps: Vec<_> = shown.steps.iter().map(|step| (step.name.as_str(), step.status.as_str())).collect();
    assert_eq!(steps, [("stop_host", "done"), ("boot_host", "done"), ("await_agent", "done")]);
}

#[tokio::test]
async fn a_step_that_waits_says_what_for() {
    let (stage, operation) = make().await;
    *stage.agents.service.lock().unwrap() = Some(Service::Starting);
    let running = stage.start(None);
    let mut changes = stage.context.changes.subscribe();
    stage.submit(operation).await.unwrap();
    let shown = async {
        loop {
            let step = stage.operations().await.remove(0).steps.pop().unwrap();
            if let Some((_, _, what)) = step.progress {
                return what;
            }
            if step.status == "running" {
                stage.agents.change(stage.instance, |state| state.detail = "its address is taken".to_owned());
            }
            changes.changed().await.unwrap();
        }
    };
    let shown = tokio::time::timeout(Duration::from_secs(10), shown).await.unwrap();
    assert_eq!(shown, "waits for the engine, which is starting: its address is taken");
    running.kill().await;
}

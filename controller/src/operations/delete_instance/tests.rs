use super::*;
use crate::agents::AgentError;
use crate::compute::ComputeError;
use crate::testing::operations::{Stage, killed_anywhere};

async fn make() -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    let operation = new(stage.origin());
    (stage, operation)
}

async fn assert_gone(stage: &Stage, what: &str) {
    assert!(stage.row().await.deleted.is_some(), "{what}");
    assert_eq!(*stage.compute.removed.lock().unwrap(), 1, "{what}");
    stage.assert_nothing_left().await;
    let free = stage.fixture.insert("p").await;
    let mut tx = stage.context.store.begin().await.unwrap();
    assert!(stage.context.store.set_address(&mut tx, free, "127.0.7.1".parse().unwrap()).await.unwrap(), "{what}");
}

#[tokio::test]
async fn a_kill_between_any_two_steps_leaves_nothing_behind() {
    let check = async |stage: &Stage, what: &str| {
        assert!(stage.agents.count("stop") <= 1, "{what}");
        assert_gone(stage, what).await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn an_engine_that_does_not_stop_goes_with_its_host() {
    let (stage, operation) = make().await;
    let kind = v1::ErrorKind::Fatal;
    stage.agents.fail_next("stop", AgentError::Refused { kind, message: "it hangs".to_owned() });
    stage.complete(operation).await.unwrap();
    assert_gone(&stage, "hanging engine").await;
}

#[tokio::test]
async fn an_agent_that_is_away_is_not_waited_for() {
    let (stage, operation) = make().await;
    stage.agents.connect(stage.instance, false);
    stage.complete(operation).await.unwrap();
    assert!(stage.agents.starts.lock().unwrap().is_empty());
    assert_gone(&stage, "silent agent").await;
}

#[tokio::test]
async fn a_driver_that_is_busy_is_asked_until_it_is_not() {
    let (stage, operation) = make().await;
    for _ in 0..12 {
        stage.compute.fail_next("delete_host", ComputeError::Transient("the cloud is busy".to_owned()));
    }
    stage.complete(operation).await.unwrap();
    assert_gone(&stage, "busy cloud").await;
}

#[tokio::test]
async fn a_host_that_cannot_be_deleted_is_a_fault_and_another_delete_goes_on() {
    let (stage, operation) = make().await;
    stage.compute.fail_next("delete_host", ComputeError::Fatal("the volume is locked".to_owned()));
    stage.complete(operation).await.unwrap_err();
    let row = stage.row().await;
    assert_eq!(row.task, Task::Error);
    assert_eq!(row.fault.unwrap().message, "Deleting the instance failed at delete_host: the volume is locked");
    assert!(row.deleted.is_none());
    stage.complete(new(stage.origin())).await.unwrap();
    assert_gone(&stage, "second delete").await;
}

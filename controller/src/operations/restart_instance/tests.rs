use super::*;
use crate::agents::AgentError;
use crate::testing::operations::{Stage, failed_anywhere, killed_anywhere};

async fn make() -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    let operation = new(stage.origin());
    (stage, operation)
}

#[tokio::test]
async fn a_kill_between_any_two_steps_restarts_once() {
    let check = async |stage: &Stage, what: &str| {
        assert_eq!(stage.row().await.task, Task::None, "{what}");
        assert_eq!(stage.agents.count("restart"), 1, "{what}");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn a_failure_while_the_engine_answers_is_no_error_of_the_instance() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!(row.task, Task::None, "{what}");
        assert!(row.fault.is_none() && row.address.is_some(), "{what}");
        assert_eq!(stage.compute.hosts.lock().unwrap().len(), 1, "{what}");
        stage.assert_settled().await;
    };
    failed_anywhere(make, check).await;
}

#[tokio::test]
async fn an_engine_that_does_not_start_is_a_fault_and_another_restart_clears_it() {
    let (stage, operation) = make().await;
    let kind = v1::ErrorKind::Fatal;
    stage.agents.fail_next("restart", AgentError::Refused { kind, message: "line 3: syntax error".to_owned() });
    stage.agents.change(stage.instance, |state| state.service = Service::Failed);
    stage.complete(operation).await.unwrap_err();
    let row = stage.row().await;
    assert_eq!(row.task, Task::Error);
    assert_eq!(row.fault.unwrap().message, "Restarting the instance failed at restart_engine: line 3: syntax error");
    stage.complete(new(stage.origin())).await.unwrap();
    let row = stage.row().await;
    assert_eq!(row.task, Task::None);
    assert!(row.fault.is_none());
}

use super::*;
use crate::state::{Service, Task};
use crate::testing::operations::{Stage, failed_anywhere, killed_anywhere};

async fn make() -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    let operation = new(stage.origin());
    (stage, operation)
}

#[tokio::test]
async fn a_kill_between_any_two_steps_stops_once() {
    let check = async |stage: &Stage, what: &str| {
        assert_eq!(stage.agents.count("stop"), 1, "{what}");
        assert_eq!(stage.row().await.task, Task::None, "{what}");
        assert_eq!(stage.context.agents.state(stage.instance).borrow().service, Service::Shutdown, "{what}");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn a_failure_is_a_fault() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!(row.task, Task::None, "{what}");
        assert!(row.fault.unwrap().message.starts_with("Stopping the database failed at stop_engine"), "{what}");
        stage.assert_settled().await;
    };
    failed_anywhere(make, check).await;
}

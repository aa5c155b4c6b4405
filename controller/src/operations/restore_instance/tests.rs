use super::*;
use crate::agents::AgentError;
use crate::state::{HostState, Task};
use crate::testing::operations::{Stage, failed_anywhere, killed_anywhere};

async fn make() -> (Stage, NewOperation) {
    let stage = Stage::ordered().await;
    let backup = stage.stored_backup().await.id;
    let params =
        Params { backup, first: create_instance::Params::default(), root_by: Some("user".to_owned()), replay: None };
    let operation = new(stage.origin(), params).unwrap();
    (stage, operation)
}

async fn assert_clean(stage: &Stage, what: &str) {
    let row = stage.row().await;
    assert_eq!((row.task, row.host), (Task::BuildingError, HostState::Absent), "{what}");
    assert!(row.fault.unwrap().message.starts_with("Creating the instance from its backup failed at "), "{what}");
    assert!(row.address.is_none() && row.root_enabled.is_none(), "{what}");
    stage.assert_nothing_left().await;
}

#[tokio::test]
async fn a_kill_between_any_two_steps_restores_once() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!((row.task, row.host), (Task::None, HostState::Active), "{what}");
        assert!(row.fault.is_none() && row.address.is_some(), "{what}");
        assert_eq!(row.root_enabled.map(|(_, by)| by).as_deref(), Some("user"), "{what}");
        assert_eq!((stage.agents.count("restore"), stage.agents.count("prepare")), (1, 1), "{what}");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_nothing_behind() {
    failed_anywhere(make, assert_clean).await;
}

#[tokio::test]
async fn the_agent_gets_the_key_at_the_moment_of_the_step_and_the_state_never_has_it() {
    let (stage, operation) = make().await;
    let state = operation.state.to_string();
    stage.complete(operation).await.unwrap();
    let starts = stage.agents.starts.lock().unwrap();
    let Some(v1::start::Work::Restore(restore)) = &starts[0].work else { panic!("{starts:?}") };
    let [full] = restore.chain.as_slice() else { panic!("{restore:?}") };
    assert!(full.identity.starts_with("AGE-SECRET-KEY-1"));
    assert!(!state.contains(&full.identity) && state.contains(&full.backup), "{state}");
    assert_eq!((restore.generation, full.manifest_sum.as_str()), (1, "00"));
    assert!(restore.specification.as_ref().unwrap().certificate.is_some());
    let Some(v1::start::Work::Prepare(prepare)) = &starts[1].work else { panic!("{starts:?}") };
    assert_eq!(prepare.generation, 1);
}

#[tokio::test]
async fn the_agents_message_becomes_the_fault() {
    let (stage, operation) = make().await;
    let kind = v1::ErrorKind::Fatal;
    stage.agents.fail_next("restore", AgentError::Refused { kind, message: "object 00000003 is damaged".to_owned() });
    assert_eq!(stage.complete(operation).await.unwrap_err(), "restore: object 00000003 is damaged");
    assert_clean(&stage, "damaged").await;
}

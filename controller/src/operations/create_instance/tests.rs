use secrecy::SecretString;

use super::*;
use crate::agents::AgentError;
use crate::compute::ComputeError;
use crate::model::{Locality, Requirements};
use crate::state::Service;
use crate::store::sql::query;
use crate::testing::operations::{Stage, failed_anywhere, killed_anywhere};

fn order(stage: &Stage) -> NewOperation {
    let seal = &stage.context.store.seal;
    let account = super::super::change_accounts::Account { name: "ann".to_owned(), host: "%".to_owned() };
    let password = Sealed::new(seal, &SecretString::from("sesame")).unwrap();
    let params = Params {
        databases: vec![Database { name: "shop".to_owned(), character_set: None, collation: None }],
        users: vec![NewUser { account, password, databases: vec!["shop".to_owned()] }],
        root: Some(Sealed::new(seal, &SecretString::from("toor")).unwrap()),
    };
    new(stage.origin(), params).unwrap()
}

async fn make() -> (Stage, NewOperation) {
    let stage = Stage::ordered().await;
    let operation = order(&stage);
    (stage, operation)
}

async fn assert_created(stage: &Stage, what: &str) {
    let row = stage.row().await;
    assert_eq!((row.task, row.host), (Task::None, HostState::Active), "{what}");
    assert!(row.fault.is_none() && row.address.is_some(), "{what}");
    assert_eq!(row.root_enabled.as_ref().map(|(_, by)| by.as_str()), Some("user"), "{what}");
    assert_eq!(*stage.compute.made.lock().unwrap(), 1, "{what}");
    assert_eq!(*stage.compute.removed.lock().unwrap(), 0, "{what}");
    assert_eq!(*stage.compute.address.lock().unwrap(), 1, "{what}");
    assert_eq!(stage.agents.count("prepare"), 1, "{what}");
    assert_eq!(stage.context.store.get_assignment(stage.instance).await.unwrap().unwrap().generation, 1, "{what}");
    stage.assert_settled().await;
    let operations = stage.operations().await;
    assert!(operations[0].steps.iter().all(|step| step.status == "done" && step.error.is_none()), "{what}");
}

async fn assert_clean(stage: &Stage, what: &str) {
    let row = stage.row().await;
    assert_eq!((row.task, row.host), (Task::BuildingError, HostState::Absent), "{what}");
    assert!(row.address.is_none(), "{what}");
    assert!(row.fault.unwrap().message.starts_with("Creating the instance failed at "), "{what}");
    assert!(row.root_enabled.is_none() && row.deleted.is_none(), "{what}");
    stage.assert_nothing_left().await;
}

#[tokio::test]
async fn the_agent_is_told_what_was_ordered() {
    let (stage, operation) = make().await;
    assert!(!operation.state.to_string().contains("sesame"), "passwords are sealed");
    let sql = "update instance set availability_zone = 'a', volume_type = 'ssd', locality = 'affinity' where id = $1";
    query(sql).bind(stage.instance.to_string()).execute(&stage.context.store.write).await.unwrap();
    stage.complete(operation).await.unwrap();
    assert_created(&stage, "run").await;
    let starts = stage.agents.starts.lock().unwrap();
    let Some(v1::start::Work::Prepare(prepare)) = &starts[0].work else { panic!("{starts:?}") };
    assert_eq!(prepare.generation, 1);
    assert_eq!(prepare.databases[0].name, "shop");
    assert_eq!(prepare.users[0].password, "sesame");
    assert_eq!(prepare.root_password.as_deref(), Some("toor"));
    let specification = prepare.specification.as_ref().unwrap();
    assert_eq!(specification.heartbeat_interval_s, 10);
    assert!(specification.certificate.as_ref().unwrap().key_pem.contains("PRIVATE KEY"));
    let key = starts[0].key.as_ref().unwrap();
    assert_eq!((key.step.as_str(), key.attempt), ("install_engine", 1));
    assert_eq!(key.target, stage.instance.to_string());
    let specs = stage.compute.specs.lock().unwrap();
    assert_eq!(
        specs[0].requirements,
        Requirements {
            availability_zone: Some("a".to_owned()),
            volume_type: Some("ssd".to_owned()),
            locality: Some(Locality::Affinity),
            ..Requirements::default()
        }
    );
    assert!(specs[0].bootstrap.token.is_some());
    assert_eq!(specs[0].bootstrap.controllers, ["127.0.0.1:8778"]);
}

#[tokio::test]
async fn a_kill_between_any_two_steps_does_nothing_twice() {
    killed_anywhere(make, assert_created).await;
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_nothing_behind() {
    failed_anywhere(make, assert_clean).await;
}

#[tokio::test]
async fn the_drivers_sentence_becomes_the_fault() {
    let (stage, operation) = make().await;
    stage.compute.fail_next("choose_address", ComputeError::Fatal("port 5432 is taken everywhere".to_owned()));
    let error = stage.complete(operation).await.unwrap_err();
    assert_eq!(error, "choose_address: port 5432 is taken everywhere");
    assert_eq!(
        stage.row().await.fault.unwrap().message,
        "Creating the instance failed at choose_address: port 5432 is taken everywhere"
    );
    assert_clean(&stage, "no address").await;
}

#[tokio::test]
async fn an_address_that_another_has_is_not_taken() {
    let (stage, operation) = make().await;
    let other = stage.fixture.insert("q").await;
    let mut tx = stage.context.store.begin().await.unwrap();
    assert!(stage.context.store.set_address(&mut tx, other, "127.0.7.1".parse().unwrap()).await.unwrap());
    tx.commit().await.unwrap();
    stage.complete(operation).await.unwrap();
    assert_eq!(stage.row().await.address, Some("127.0.7.2".parse().unwrap()));
}

#[tokio::test]
async fn what_may_pass_is_tried_again_as_the_next_attempt() {
    let (stage, operation) = make().await;
    stage.compute.fail_next("ensure_host", ComputeError::Transient("the cloud is busy".to_owned()));
    let refused = |kind, message: &str| AgentError::Refused { kind, message: message.to_owned() };
    stage.agents.fail_next("prepare", AgentError::Unreachable(stage.instance));
    stage.agents.fail_next("prepare", refused(v1::ErrorKind::Interrupted, "the agent died"));
    stage.agents.fail_next("prepare", refused(v1::ErrorKind::Transient, "disk hiccup"));
    stage.complete(operation).await.unwrap();
    assert_created(&stage, "after retries").await;
    let starts = stage.agents.starts.lock().unwrap();
    let attempts: Vec<u32> = starts.iter().map(|start| start.key.as_ref().unwrap().attempt).collect();
    assert_eq!(attempts, [1, 1, 1, 2], "an unknown outcome is asked under the same key");
}

#[tokio::test]
async fn the_engines_message_becomes_the_fault() {
    let (stage, operation) = make().await;
    let kind = v1::ErrorKind::Fatal;
    stage.agents.fail_next("prepare", AgentError::Refused { kind, message: "initdb: no space".to_owned() });
    assert_eq!(stage.complete(operation).await.unwrap_err(), "install_engine: initdb: no space");
    assert_clean(&stage, "no engine").await;
    let operations = stage.operations().await;
    let statuses: Vec<&str> = operations[0].steps.iter().map(|step| step.status.as_str()).collect();
    assert_eq!(statuses, ["undone", "undone", "undone", "undone", "failed", "pending"]);
    assert_eq!(operations[0].step.as_deref(), Some("install_engine"));
}

#[tokio::test]
async fn an_engine_that_fails_after_its_installation_is_no_instance() {
    let (stage, operation) = make().await;
    *stage.agents.service.lock().unwrap() = Some(Service::Failed);
    let error = stage.complete(operation).await.unwrap_err();
    assert_eq!(error, "await_healthy: the engine does not answer, it is failed");
    assert_clean(&stage, "no engine").await;
}

#[tokio::test]
async fn an_undo_that_does_not_succeed_is_shown_and_never_dropped() {
    let (stage, operation) = make().await;
    stage.agents.fail_next("prepare", AgentError::Refused { kind: v1::ErrorKind::Fatal, message: "no".to_owned() });
    for _ in 0..1000 {
        stage.compute.fail_next("delete_host", ComputeError::Fatal("volume is locked".to_owned()));
    }
    let running = stage.start(None);
    let id = stage.submit(operation).await.unwrap();
    let mut changes = stage.context.changes.subscribe();
    loop {
        let operation = stage.operations().await.remove(0);
        if operation.status == "stuck" {
            assert_eq!(operation.step.as_deref(), Some("boot_host"));
            assert_eq!(operation.steps[2].error.as_deref(), Some("undo: volume is locked"));
            stage.compute.failures.lock().unwrap().clear();
            break;
        }
        changes.changed().await.unwrap();
    }
    assert_eq!(stage.end(id).await.unwrap_err(), "install_engine: no");
    running.stop().await;
    assert_clean(&stage, "after a stuck undo").await;
}

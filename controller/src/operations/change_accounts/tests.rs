use secrecy::SecretString;

use super::*;
use crate::agents::AgentError;
use crate::compute::Compute as _;
use crate::state::Task;
use crate::testing::operations::{Stage, killed_anywhere};

fn create_database(name: &str) -> AccountChange {
    AccountChange::CreateDatabase(Database { name: name.to_owned(), character_set: None, collation: None })
}

async fn make() -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    let operation = new(stage.origin(), vec![create_database("shop")]).unwrap();
    (stage, operation)
}

#[tokio::test]
async fn a_kill_between_any_two_steps_changes_once() {
    let check = async |stage: &Stage, what: &str| {
        assert_eq!(stage.agents.count("change_accounts"), 1, "{what}");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn changes_are_done_in_the_order_of_asking() {
    let stage = Stage::created().await;
    let mut last = None;
    for name in ["a", "b", "c"] {
        let operation = new(stage.origin(), vec![create_database(name)]).unwrap();
        last = Some(stage.submit(operation).await.unwrap());
    }
    let running = stage.start(None);
    stage.end(last.unwrap()).await.unwrap();
    running.stop().await;
    let starts = stage.agents.starts.lock().unwrap();
    let names: Vec<String> = starts.iter().map(|start| format!("{:?}", start.work)).collect();
    assert_eq!(names.len(), 3);
    for (name, text) in ["a", "b", "c"].iter().zip(names) {
        assert!(text.contains(&format!("name: \"{name}\"")), "{text}");
    }
}

#[tokio::test]
async fn a_failure_is_shown_in_the_operation_only() {
    let (stage, operation) = make().await;
    let kind = v1::ErrorKind::Invalid;
    stage.agents.fail_next("change_accounts", AgentError::Refused { kind, message: "shop exists".to_owned() });
    assert_eq!(stage.complete(operation).await.unwrap_err(), "apply: shop exists");
    let row = stage.row().await;
    assert_eq!(row.task, Task::None);
    assert!(row.fault.is_none());
    stage.assert_settled().await;
}

#[tokio::test]
async fn a_host_that_is_gone_is_not_waited_for() {
    let (stage, operation) = make().await;
    stage.compute.delete_host(stage.instance, u64::MAX).await.unwrap();
    assert_eq!(stage.complete(operation).await.unwrap_err(), "apply: the host is gone");
    assert_eq!(stage.agents.count("change_accounts"), 0);
}

#[tokio::test]
async fn root_is_recorded_when_it_is_enabled_and_when_it_is_disabled() {
    let stage = Stage::created().await;
    let password = Sealed::new(&stage.context.store.seal, &SecretString::from("toor")).unwrap();
    let enable = new(stage.origin(), vec![AccountChange::EnableRoot { password }]).unwrap();
    assert!(!enable.state.to_string().contains("toor"));
    stage.complete(enable).await.unwrap();
    assert_eq!(stage.row().await.root_enabled.unwrap().1, "user");
    stage.complete(new(stage.origin(), vec![AccountChange::DisableRoot]).unwrap()).await.unwrap();
    assert!(stage.row().await.root_enabled.is_none());
}

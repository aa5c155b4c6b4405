use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use trove_proto::v1::ErrorKind;

use super::*;
use crate::agents::AgentError;
use crate::state::{HostState, Service, Task};
use crate::testing::app::{admin, caller, code, database, world};
use crate::testing::store::{manifest, register};

fn page(limit: u32, marker: Option<&str>) -> PageRequest {
    PageRequest { limit, marker: marker.map(str::to_owned) }
}

#[tokio::test]
async fn databases_are_listed_by_name_in_pages_without_reserved_ones() {
    let world = world().await;
    let id = world.healthy("demo").await;
    world.agent.has_databases(&["b", "os_admin", "c", "sys_x", "a"]);
    let first = world.app.list_databases(&caller("demo"), id, page(2, None)).await.unwrap();
    assert_eq!(first.items, ["a", "b"]);
    for marker in [first.next.as_deref().unwrap(), "b", "bb"] {
        let rest = world.app.list_databases(&caller("demo"), id, page(2, Some(marker))).await.unwrap();
        assert_eq!((rest.items, rest.next), (vec!["c".to_owned()], None), "{marker}");
    }
    assert_eq!(*world.agent.calls.lock().unwrap(), 4, "one question a page");
    assert!(world.app.list_databases(&admin(), id, page(0, None)).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn creation_is_queued_once_the_agent_does_not_have_it() {
    let world = world().await;
    let id = world.healthy("demo").await;
    world.agent.has_databases(&["old"]);
    let demo = caller("demo");
    let before = world.rows().await;
    for (databases, status) in [
        (vec![], 400),
        (vec![database("old")], 400),
        (vec![database("new"), database("new")], 400),
        (vec![database("os_admin")], 400),
        (vec![database("")], 400),
        (vec![NewDatabase { collation: Some("'; --".to_owned()), ..database("new") }], 400),
    ] {
        let result = world.app.create_databases(&demo, "r", id, databases.clone()).await;
        assert_eq!(code(&result), status, "{databases:?}: {result:?}");
        assert_eq!(world.rows().await, before);
    }
    let collated = NewDatabase { collation: Some("C.UTF-8".to_owned()), ..database("new") };
    let accepted = world.app.create_databases(&demo, "r", id, vec![collated]).await.unwrap();
    let (kind, status, state) = world.operation(accepted.operation).await;
    assert_eq!((kind.as_str(), status.as_str()), ("change_accounts", "queued"));
    assert!(state.contains("C.UTF-8"), "{state}");
    let instance = world.app.get_instance(&demo, id).await.unwrap();
    assert_eq!(instance.task, Task::None, "changes leave the task alone");
}

#[tokio::test]
async fn only_a_database_that_is_there_can_be_deleted() {
    let world = world().await;
    let id = world.healthy("demo").await;
    world.agent.has_databases(&["d.1"]);
    let demo = caller("demo");
    assert_eq!(code(&world.app.delete_database(&demo, "r", id, "nope").await), 404);
    assert_eq!(code(&world.app.delete_database(&demo, "r", id, "system").await), 400);
    let accepted = world.app.delete_database(&demo, "r", id, "d.1").await.unwrap();
    assert_eq!(world.operation(accepted.operation).await.0, "change_accounts");
}

#[tokio::test]
async fn an_instance_that_is_not_ready_refuses_with_its_status() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let demo = caller("demo");
    for (task, host, service, status) in [
        (Task::Building, HostState::Building, Service::New, "BUILD"),
        (Task::Restarting, HostState::Active, Service::Healthy, "REBOOT"),
        (Task::None, HostState::Dead, Service::Healthy, "SHUTDOWN"),
        (Task::None, HostState::Active, Service::Blocked, "BLOCKED"),
        (Task::None, HostState::Active, Service::Unknown, "ERROR"),
    ] {
        world.set(id, task, host).await;
        world.says(id, service).await;
        let message = format!("Instance {id} is not ready, status: {status}.");
        let refused = world.app.list_databases(&demo, id, page(9, None)).await.unwrap_err();
        assert_eq!(refused.to_string(), message);
        let refused = world.app.create_databases(&demo, "r", id, vec![database("d")]).await.unwrap_err();
        assert_eq!(refused.to_string(), message);
    }
    assert_eq!(*world.agent.calls.lock().unwrap(), 0);
    world.set(id, Task::RestartRequired, HostState::Active).await;
    world.says(id, Service::Healthy).await;
    assert!(world.app.list_databases(&demo, id, page(9, None)).await.is_ok());
    world.run("update agent_link set lost_at = 1 where instance_id = $1", id).await;
    assert_eq!(code(&world.app.list_databases(&demo, id, page(9, None)).await), 422, "a silent agent");
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_a_422_that_changes_nothing() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let before = world.rows().await;
    let answers: [(fn() -> AgentError, u16); 5] = [
        (|| AgentError::Unreachable(InstanceId::random()), 422),
        (|| AgentError::Late(InstanceId::random(), 5), 422),
        (|| AgentError::Refused { kind: ErrorKind::Transient, message: "starting".to_owned() }, 422),
        (|| AgentError::Refused { kind: ErrorKind::Fatal, message: "broken".to_owned() }, 422),
        (|| AgentError::Refused { kind: ErrorKind::Invalid, message: "wrong".to_owned() }, 400),
    ];
    for (error, status) in answers {
        *world.agent.error.lock().unwrap() = Some(error);
        let result = world.app.create_databases(&caller("demo"), "r", id, vec![database("d")]).await;
        assert_eq!(code(&result), status, "{result:?}");
        assert_eq!(world.rows().await, before);
    }
}

#[tokio::test]
async fn strangers_and_datastores_without_databases_are_refused() {
    let mut world = world().await;
    let id = world.healthy("demo").await;
    assert_eq!(code(&world.app.list_databases(&caller("other"), id, page(9, None)).await), 404);
    assert_eq!(code(&world.app.create_databases(&caller("other"), "r", id, vec![database("d")]).await), 404);
    assert_eq!(code(&world.app.delete_database(&caller("other"), "r", id, "d").await), 404);
    let mut plain = manifest();
    plain.identity.name = "plain".to_owned();
    plain.capabilities.clear();
    world.fixture.version = register(&world.app.store, &plain).await;
    let id = world.healthy("demo").await;
    let refused = world.app.list_databases(&caller("demo"), id, page(9, None)).await.unwrap_err();
    assert_eq!(refused.to_string(), "Operation not supported for datastore plain: it has no databases.");
}

#[tokio::test]
async fn a_call_waits_for_the_change_before_it() {
    let world = Arc::new(world().await);
    let id = world.healthy("demo").await;
    let first = world.app.create_databases(&caller("demo"), "r", id, vec![database("d")]).await.unwrap();
    let second = {
        let world = world.clone();
        tokio::spawn(async move { world.app.delete_database(&caller("demo"), "r", id, "d").await })
    };
    // The second call is under way and has asked nothing yet, however often it is woken.
    for _ in 0..20 {
        world.app.changes.bump();
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished());
    world.agent.has_databases(&["d"]);
    world.end(first.operation, "done", None).await;
    let second = second.await.unwrap().unwrap();
    assert_eq!(world.operation(second.operation).await.1, "queued");
}

#[tokio::test]
async fn a_change_that_lasts_too_long_is_not_waited_for() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let first = world.app.create_databases(&caller("demo"), "r", id, vec![database("d")]).await.unwrap();
    let begun = std::time::Instant::now();
    let refused = world.app.list_databases(&caller("demo"), id, page(9, None)).await.unwrap_err();
    assert!(refused.to_string().contains("earlier changes"), "{refused}");
    assert!((5..7).contains(&begun.elapsed().as_secs()));
    // A change that failed is over too: what it did not do is not there.
    world.end(first.operation, "failed", Some("no space")).await;
    let demo = caller("demo");
    let answer = world.app.list_databases(&demo, id, page(9, None));
    assert!(tokio::time::timeout(Duration::from_secs(4), answer).await.unwrap().unwrap().items.is_empty());
}

#[tokio::test]
async fn nothing_is_queued_behind_a_delete() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let subject = world.app.open(&caller("demo"), id, CAPABILITY).await.unwrap();
    world.app.delete_instance(&caller("demo"), "r", id).await.unwrap();
    let before = world.rows().await;
    let change = vec![AccountChange::DeleteDatabase("d".to_owned())];
    assert_eq!(code(&world.app.queue(&caller("demo"), "r", &subject, change).await), 422);
    assert_eq!(world.rows().await, before);
}

#[test]
fn no_name_is_an_internal_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(world());
    let id = runtime.block_on(world.healthy("demo"));
    let name = prop_oneof![any::<String>(), "[a-z\"';\u{0}-\u{2}%$é😀]{0,40}", Just("x".repeat(65_536))];
    let cases = Cases { cases: 64, failure_persistence: None, ..Cases::default() };
    TestRunner::new(cases)
        .run(&name, |name| {
            let demo = caller("demo");
            let deleted = runtime.block_on(world.app.delete_database(&demo, "r", id, &name));
            prop_assert!([400, 404].contains(&code(&deleted)), "{:?}", deleted);
            let listed = runtime.block_on(world.app.list_databases(&demo, id, page(9, Some(&name))));
            prop_assert_eq!(code(&listed), 200);
            let created = runtime.block_on(world.app.create_databases(&demo, "r", id, vec![database(&name)]));
            prop_assert!([200, 400].contains(&code(&created)), "{:?}", created);
            if let Ok(accepted) = created {
                runtime.block_on(world.end(accepted.operation, "done", None));
            }
            Ok(())
        })
        .unwrap();
}

use std::sync::Arc;

use secrecy::ExposeSecret;

use super::*;
use crate::ids::OperationId;
use crate::state::{HostState, Task};
use crate::testing::app::{World, caller, code, world};

#[tokio::test]
async fn an_ordinary_user_must_allow_root() {
    // Its driver does not keep hosts apart.
    let refusal = world().await.app.check_root_allowed();
    assert!(matches!(refusal, Err(Error::Forbidden(text)) if text.contains("(there is no wall)")));
    assert!(allowed().await.app.check_root_allowed().is_ok());
    let apart = crate::testing::operations::Stage::ordered().await.context;
    assert!(!apart.config.process.allow_root && apart.compute.may_have_root(&apart.config));
}

/// An application in which root may be enabled, whoever runs the test.
async fn allowed() -> Arc<World> {
    Arc::new(crate::testing::app::world_with(|config| config.process.allow_root = true).await)
}

/// Begins to enable root, and waits until that is queued.
async fn begin(
    world: &Arc<World>,
    id: InstanceId,
    password: Option<&'static str>,
) -> (tokio::task::JoinHandle<Result<RootAccount>>, OperationId) {
    let mut changes = world.app.changes.subscribe();
    let enabling = {
        let world = world.clone();
        tokio::spawn(async move { world.app.enable_root(&caller("demo"), "r", id, password.map(Into::into)).await })
    };
    changes.changed().await.unwrap();
    (enabling, world.app.store.last_active(id).await.unwrap().unwrap())
}

#[tokio::test]
async fn enabling_answers_when_it_is_so() {
    let world = allowed().await;
    let id = world.healthy("demo").await;
    let (enabling, operation) = begin(&world, id, None).await;
    assert!(!enabling.is_finished());
    world.end(operation, "done", None).await;
    let account = enabling.await.unwrap().unwrap();
    assert_eq!((account.name.as_str(), account.operation), ("root", operation));
    assert!(account.password.expose_secret().len() >= 24);
    assert!(!world.operation(operation).await.2.contains(account.password.expose_secret()));

    let (enabling, operation) = begin(&world, id, Some("sesame-open")).await;
    world.end(operation, "done", None).await;
    assert_eq!(enabling.await.unwrap().unwrap().password.expose_secret(), "sesame-open");
}

#[tokio::test]
async fn a_failure_is_told_with_its_reason() {
    let world = allowed().await;
    let id = world.healthy("demo").await;
    let (enabling, operation) = begin(&world, id, None).await;
    world.end(operation, "failed", Some("step apply: the engine refused")).await;
    let refused = enabling.await.unwrap();
    assert_eq!(code(&refused), 422);
    assert!(refused.unwrap_err().to_string().ends_with("step apply: the engine refused"));
}

#[tokio::test]
async fn bad_passwords_strangers_and_busy_instances_are_refused() {
    let world = allowed().await;
    let id = world.healthy("demo").await;
    let before = world.rows().await;
    for bad in ["short77", "eight\0888", &"x".repeat(256)] {
        assert_eq!(code(&world.app.enable_root(&caller("demo"), "r", id, Some(bad.into())).await), 400);
    }
    assert_eq!(code(&world.app.enable_root(&caller("other"), "r", id, None).await), 404);
    assert_eq!(code(&world.app.root_enabled(&caller("other"), id).await), 404);
    world.set(id, Task::Restarting, HostState::Active).await;
    assert_eq!(code(&world.app.enable_root(&caller("demo"), "r", id, None).await), 422);
    assert_eq!(world.rows().await, before);
}

#[tokio::test]
async fn root_that_was_never_enabled_cannot_be_disabled() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let demo = caller("demo");
    assert!(!world.app.root_enabled(&demo, id).await.unwrap());
    assert_eq!(code(&world.app.disable_root(&demo, "r", id).await), 404);
    let mut tx = world.app.store.begin().await.unwrap();
    world.app.store.set_root(&mut tx, id, Some("user")).await.unwrap();
    tx.commit().await.unwrap();
    assert!(world.app.root_enabled(&demo, id).await.unwrap());
    let accepted = world.app.disable_root(&demo, "r", id).await.unwrap();
    assert!(world.operation(accepted.operation).await.2.contains("disable_root"));
}

use super::*;
use crate::testing::app::{admin, code, world};

#[tokio::test]
async fn a_stop_needs_a_free_instance_and_leaves_the_task() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let accepted = world.app.stop_instance(&admin(), "r", id).await.unwrap();
    assert_eq!(world.app.get_any_instance(id, false).await.unwrap().task, Task::None);
    assert_eq!(code(&world.app.stop_instance(&admin(), "r", id).await), 422, "one at a time");
    assert_eq!(code(&world.app.restart_instance(&admin(), "r", id).await), 422, "and no restart beside it");
    world.end(accepted.operation, "done", None).await;
    world.set(id, Task::Restarting, HostState::Active).await;
    assert_eq!(code(&world.app.stop_instance(&admin(), "r", id).await), 422);
    assert_eq!(code(&world.app.stop_instance(&admin(), "r", InstanceId::random()).await), 404);
}

#[tokio::test]
async fn a_reboot_asks_neither_agent_nor_engine() {
    let world = world().await;
    let id = world.healthy("demo").await;
    for (task, host, service) in [
        (Task::Error, HostState::Active, Service::Failed),
        (Task::None, HostState::Dead, Service::Unknown),
        (Task::RestartRequired, HostState::Active, Service::Blocked),
    ] {
        world.set(id, task, host).await;
        world.says(id, service).await;
        let accepted = world.app.reboot_instance(&admin(), "r", id).await.unwrap();
        let instance = world.app.get_any_instance(id, false).await.unwrap();
        assert_eq!(instance.status().0, "REBOOT");
        world.end(accepted.operation, "done", None).await;
    }
    for (task, host) in [
        (Task::Building, HostState::Building),
        (Task::Resizing, HostState::Active),
        (Task::Upgrading, HostState::Active),
        (Task::Deleting, HostState::Active),
        (Task::BuildingError, HostState::Absent),
    ] {
        world.set(id, task, host).await;
        let before = world.rows().await;
        assert_eq!(code(&world.app.reboot_instance(&admin(), "r", id).await), 422, "{task:?}");
        assert_eq!(world.rows().await, before);
    }
}

#[tokio::test]
async fn a_reset_of_the_task_leaves_the_service() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let accepted = world.app.reboot_instance(&admin(), "r", id).await.unwrap();
    world.app.reset_task_status(id).await.unwrap();
    assert_eq!(world.operation(accepted.operation).await.1, "cancelled");
    let instance = world.app.get_any_instance(id, false).await.unwrap();
    assert_eq!((instance.task, instance.service), (Task::None, Service::Healthy));
    assert_eq!(instance.host, HostState::Absent, "the driver was asked: it knows of none");
    assert_eq!(code(&world.app.reset_task_status(InstanceId::random()).await), 404);
}

#[tokio::test]
async fn the_history_of_root_outlives_a_disable() {
    let world = world().await;
    let id = world.healthy("demo").await;
    assert_eq!(world.app.root_history(id).await.unwrap(), None);
    for user in [Some("somebody"), None] {
        let mut tx = world.app.store.begin().await.unwrap();
        world.app.store.set_root(&mut tx, id, user).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert!(world.app.get_any_instance(id, false).await.unwrap().root_enabled.is_none());
    assert_eq!(world.app.root_history(id).await.unwrap().unwrap().1, "somebody");
    assert_eq!(code(&world.app.root_history(InstanceId::random()).await), 404);
}

#[tokio::test]
async fn an_agent_is_asked_whatever_its_engine_does() {
    let world = world().await;
    let id = world.healthy("demo").await;
    world.says(id, Service::Failed).await;
    world.app.ping_agent(id).await.unwrap();
    assert_eq!(world.app.diagnose(id).await.unwrap().version, "1.2.3");
    *world.agent.error.lock().unwrap() = Some(|| crate::agents::AgentError::Unreachable(InstanceId::random()));
    assert_eq!(code(&world.app.ping_agent(id).await), 422);
    assert_eq!(code(&world.app.diagnose(id).await), 422);
    assert_eq!(code(&world.app.ping_agent(InstanceId::random()).await), 404);
}

use super::*;
use crate::testing::app::{World, admin, caller, code, database, order, world};

async fn shown(world: &World, id: InstanceId) -> Instance {
    world.app.get_any_instance(id, true).await.unwrap()
}

fn status(instance: &Instance) -> (&'static str, &'static str) {
    instance.status()
}

#[tokio::test]
async fn another_projects_instance_is_not_found_and_an_admin_finds_any() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let (app, other) = (&world.app, caller("other"));
    let before = world.rows().await;
    for stranger in [id, InstanceId::random()] {
        assert_eq!(code(&app.get_instance(&other, stranger).await), 404);
        assert_eq!(
            code(&app.edit_instance(&other, stranger, Edit { name: Some("mine"), ..Edit::default() }).await),
            404
        );
        assert_eq!(code(&app.restart_instance(&other, "r", stranger).await), 404);
        assert_eq!(code(&app.reset_status(&other, stranger).await), 404);
        assert_eq!(code(&app.delete_instance(&other, "r", stranger).await), 404);
    }
    assert_eq!(world.rows().await, before);
    let instance = shown(&world, id).await;
    assert_eq!((instance.name.as_str(), status(&instance)), ("first", ("ACTIVE", "HEALTHY")));
    assert_eq!(app.get_instance(&admin(), id).await.unwrap().id, id);
    app.edit_instance(&admin(), id, Edit { name: Some("renamed"), ..Edit::default() }).await.unwrap();
    assert_eq!(app.get_instance(&caller("demo"), id).await.unwrap().name, "renamed");
}

#[tokio::test]
async fn a_deleted_instance_is_shown_to_the_management_only() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let mut tx = world.app.store.begin().await.unwrap();
    world.app.store.mark_deleted(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(code(&world.app.get_instance(&caller("demo"), id).await), 404);
    assert_eq!(code(&world.app.get_any_instance(id, false).await), 404);
    assert!(world.app.get_any_instance(id, true).await.unwrap().deleted.is_some());
    assert_eq!(code(&world.app.delete_instance(&caller("demo"), "r", id).await), 404);
    assert_eq!(world.app.list_all_instances(None, Deleted::Only, 0, 10).await.unwrap().len(), 1);
    assert_eq!(world.app.list_all_instances(None, Deleted::Excluded, 0, 10).await.unwrap().len(), 0);
}

#[tokio::test]
async fn pages_follow_each_other_from_the_newest_on() {
    let world = world().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.fixture.insert("demo").await);
    }
    let demo = ProjectId("demo".to_owned());
    let mut seen = Vec::new();
    let mut marker = None;
    loop {
        let page = world.app.list_instances(&demo, PageRequest { limit: 2, marker }).await.unwrap();
        seen.extend(page.items.iter().map(|instance| (instance.created, instance.id)));
        let Some(next) = page.next else { break };
        assert_eq!(Some(next.clone()), page.items.last().map(|instance| instance.id.to_string()));
        // What is deleted between two pages leaves its place behind.
        let last: InstanceId = next.parse().unwrap();
        world.run("update instance set deleted = 1 where id = $1", last).await;
        marker = Some(next);
    }
    assert!(seen.is_sorted_by_key(|seen| std::cmp::Reverse(*seen)));
    let mut seen: Vec<InstanceId> = seen.into_iter().map(|(_, id)| id).collect();
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids);
    let beyond = PageRequest { limit: 2, marker: Some("zzz'; --".to_owned()) };
    assert!(world.app.list_instances(&demo, beyond).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_restart_is_refused_where_the_agent_would_not_start_the_engine() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let before = world.rows().await;
    // Of 2 GiB, 110 % are 2252.8 MiB.
    world.run("update agent set volume_used_bytes = cast(2253 as bigint) * 1048576 where instance_id = $1", id).await;
    let error = world.app.restart_instance(&caller("demo"), "r", id).await.unwrap_err();
    assert!(matches!(error, Error::Unprocessable(_)), "{error:?}");
    assert!(error.to_string().contains("2253 MiB of its volume of 2 GiB"), "{error}");
    assert_eq!(world.rows().await, before, "nothing has changed");
    world.run("update agent set volume_used_bytes = cast(2252 as bigint) * 1048576 where instance_id = $1", id).await;
    world.app.restart_instance(&caller("demo"), "r", id).await.unwrap();
}

#[tokio::test]
async fn a_restart_needs_a_free_instance() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let demo = caller("demo");
    for (task, host, service) in [
        (Task::Building, HostState::Active, Service::Healthy),
        (Task::Deleting, HostState::Active, Service::Healthy),
        (Task::Error, HostState::Active, Service::Healthy),
        (Task::None, HostState::Dead, Service::Healthy),
        (Task::None, HostState::Active, Service::New),
        (Task::None, HostState::Active, Service::Unknown),
        (Task::None, HostState::Active, Service::Failed),
    ] {
        world.set(id, task, host).await;
        world.says(id, service).await;
        let before = world.rows().await;
        let refused = world.app.restart_instance(&demo, "r", id).await;
        assert_eq!(code(&refused), 422, "{task:?} {host:?} {service:?}");
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("is not currently available for an action to be performed ("), "{message}");
        assert_eq!(world.rows().await, before);
    }
    for service in [Service::Healthy, Service::Blocked, Service::Shutdown, Service::Crashed] {
        world.set(id, Task::RestartRequired, HostState::Active).await;
        world.says(id, service).await;
        let accepted = world.app.restart_instance(&demo, "r", id).await.unwrap();
        assert_eq!(status(&shown(&world, id).await), ("REBOOT", ""));
        assert_eq!(code(&world.app.restart_instance(&demo, "r", id).await), 422, "one restart at a time");
        world.end(accepted.operation, "done", None).await;
    }
}

#[tokio::test]
async fn an_instance_that_is_built_cannot_be_deleted_until_it_is_reset() {
    let world = world().await;
    let demo = caller("demo");
    let (instance, _, accepted) = world.app.create_instance(&demo, "r", order()).await.unwrap();
    let before = world.rows().await;
    let refused = world.app.delete_instance(&demo, "r", instance.id).await.unwrap_err();
    assert!(refused.to_string().ends_with("(task status was BUILDING)."), "{refused}");
    assert_eq!(world.rows().await, before);

    world.app.reset_status(&admin(), instance.id).await.unwrap();
    assert_eq!(world.operation(accepted.operation).await.1, "cancelled");
    assert_eq!(shown(&world, instance.id).await.task, Task::None);
    let deleted = world.app.delete_instance(&demo, "r", instance.id).await.unwrap();
    assert_eq!(world.operation(deleted.operation).await.0, "delete_instance");
    assert_eq!(status(&shown(&world, instance.id).await), ("SHUTDOWN", ""));
}

#[tokio::test]
async fn a_failed_instance_can_be_deleted_though_its_operation_is_stuck() {
    let world = world().await;
    let demo = caller("demo");
    let (instance, _, accepted) = world.app.create_instance(&demo, "r", order()).await.unwrap();
    world.run("update operation set status = 'stuck' where id = $1", accepted.operation).await;
    world.set(instance.id, Task::BuildingError, HostState::Building).await;
    assert_eq!(status(&shown(&world, instance.id).await), ("ERROR", ""));
    world.app.delete_instance(&demo, "r", instance.id).await.unwrap();
}

#[tokio::test]
async fn deleting_twice_is_one_operation_and_ends_what_is_queued() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let demo = caller("demo");
    let queued = world.app.create_databases(&demo, "r", id, vec![database("d")]).await.unwrap();
    let first = world.app.delete_instance(&demo, "r", id).await.unwrap();
    let again = world.app.delete_instance(&demo, "r", id).await.unwrap();
    assert_eq!(first.operation, again.operation);
    assert_eq!(world.operation(queued.operation).await.1, "cancelled");
    assert_eq!(code(&world.app.restart_instance(&demo, "r", id).await), 422);
}

#[tokio::test]
async fn what_is_protected_is_deleted_by_nobody_until_it_is_not() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let demo = caller("demo");
    let protect = |protected| Edit { deletion_protection: Some(protected), ..Edit::default() };
    assert_eq!(code(&world.app.edit_instance(&caller("other"), id, protect(true)).await), 404);
    world.app.edit_instance(&demo, id, protect(true)).await.unwrap();
    let before = world.rows().await;
    for who in [&demo, &admin()] {
        let refused = world.app.delete_instance(who, "r", id).await;
        assert_eq!(code(&refused), 409);
        assert!(refused.unwrap_err().to_string().contains("deletion_protection"));
    }
    assert_eq!(world.rows().await, before);
    world.app.edit_instance(&demo, id, Edit { name: Some("renamed"), ..Edit::default() }).await.unwrap();
    assert!(shown(&world, id).await.deletion_protection, "a new name says nothing about it");
    world.app.edit_instance(&demo, id, protect(false)).await.unwrap();
    world.app.delete_instance(&demo, "r", id).await.unwrap();
    assert_eq!(code(&world.app.edit_instance(&demo, id, protect(true)).await), 422, "it is too late");
    world.app.edit_instance(&demo, id, Edit { name: Some("late"), ..Edit::default() }).await.unwrap();
}

#[tokio::test]
async fn an_order_can_be_protected_from_the_start() {
    let world = world().await;
    let demo = caller("demo");
    let wanted = NewInstance { deletion_protection: true, ..order() };
    let (instance, _, _) = world.app.create_instance(&demo, "r", wanted).await.unwrap();
    assert!(instance.deletion_protection && shown(&world, instance.id).await.deletion_protection);
    assert_eq!(code(&world.app.delete_instance(&demo, "r", instance.id).await), 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_deletes_are_one_operation() {
    let world = std::sync::Arc::new(world().await);
    let id = world.healthy("demo").await;
    let deletes = (0..10).map(|_| {
        let world = world.clone();
        tokio::spawn(async move { world.app.delete_instance(&caller("demo"), "r", id).await.unwrap().operation })
    });
    let operations = futures::future::join_all(deletes).await;
    let operations: std::collections::HashSet<_> = operations.into_iter().map(std::result::Result::unwrap).collect();
    assert_eq!(operations.len(), 1);
}

#[tokio::test]
async fn reset_clears_task_and_fault_and_asks_the_driver() {
    let world = world().await;
    let id = world.healthy("demo").await;
    world.set(id, Task::Error, HostState::Active).await;
    let mut tx = world.app.store.begin().await.unwrap();
    world.app.store.set_fault(&mut tx, id, Some(("it broke", ""))).await.unwrap();
    tx.commit().await.unwrap();
    world.app.reset_status(&caller("demo"), id).await.unwrap();
    let instance = shown(&world, id).await;
    assert_eq!((instance.task, instance.service), (Task::None, Service::Unknown));
    assert_eq!(instance.host, HostState::Absent, "the driver knows of none");
    assert!(instance.fault.is_none());
}

#[tokio::test]
async fn strange_names_are_refused_or_kept_as_they_are() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let demo = caller("demo");
    for bad in ["", "a\0b", "a\nb", &"x".repeat(256)] {
        assert_eq!(code(&world.app.edit_instance(&demo, id, Edit { name: Some(bad), ..Edit::default() }).await), 400);
    }
    for good in ["'; drop table instance; --", "\"é😀\u{202e}\"", &"é".repeat(255)] {
        world.app.edit_instance(&demo, id, Edit { name: Some(good), ..Edit::default() }).await.unwrap();
        assert_eq!(shown(&world, id).await.name, good);
    }
}

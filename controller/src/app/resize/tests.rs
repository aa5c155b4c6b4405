use super::*;
use crate::agents::AgentError;
use crate::app::quotas::Resource;
use crate::state::HostState;
use crate::testing::app::{World, caller, code, world};
use crate::testing::store::{manifest, register};

async fn shown(world: &World, id: InstanceId) -> Instance {
    world.app.get_any_instance(id, true).await.unwrap()
}

async fn in_use(world: &World, resource: Resource) -> i64 {
    let demo = caller("demo");
    let quotas = world.app.quotas(&demo, &demo.project).await.unwrap();
    quotas.iter().find(|quota| quota.resource == resource).unwrap().in_use
}

#[tokio::test]
async fn a_resize_changes_the_row_and_what_is_used_and_is_alone() {
    let world = world().await;
    let (id, demo) = (world.healthy("demo").await, caller("demo"));
    let before = (in_use(&world, Resource::Ram).await, in_use(&world, Resource::Volumes).await);
    let old = shown(&world, id).await;
    let accepted = world.app.resize_flavor(&demo, "r", id, "3").await.unwrap();
    let instance = shown(&world, id).await;
    assert_eq!((instance.flavor.id.as_str(), instance.status()), ("3", ("RESIZE", "")));
    let growth = i64::try_from(instance.flavor.ram_mib).unwrap() - i64::try_from(old.flavor.ram_mib).unwrap();
    assert_eq!(in_use(&world, Resource::Ram).await, before.0 + growth);
    for refused in [
        world.app.resize_flavor(&demo, "r", id, "2").await,
        world.app.resize_volume(&demo, "r", id, 9).await,
        world.app.restart_instance(&demo, "r", id).await,
        world.app.delete_instance(&demo, "r", id).await,
    ] {
        assert_eq!(code(&refused), 422);
    }
    world.end(accepted.operation, "done", None).await;
    world.set(id, Task::None, HostState::Active).await;
    world.app.resize_volume(&demo, "r", id, old.volume_gib + 2).await.unwrap();
    assert_eq!(shown(&world, id).await.volume_gib, old.volume_gib + 2);
    assert_eq!(in_use(&world, Resource::Volumes).await, before.1 + 2);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let world = world().await;
    let (id, demo) = (world.healthy("demo").await, caller("demo"));
    let size = shown(&world, id).await.volume_gib;
    let before = world.rows().await;
    let app = &world.app;
    for (refused, status, word) in [
        (app.resize_flavor(&demo, "r", id, "1").await, 400, "has the flavor"),
        (app.resize_flavor(&demo, "r", id, "77").await, 400, "Flavor \"77\" cannot be found"),
        (app.resize_volume(&demo, "r", id, size).await, 400, "must be larger than the current"),
        (app.resize_volume(&demo, "r", id, 11).await, 413, "cannot exceed maximum of 10 GB"),
        (app.resize_flavor(&caller("other"), "r", id, "2").await, 404, "cannot be found"),
        (app.resize_volume(&caller("other"), "r", id, 5).await, 404, "cannot be found"),
    ] {
        assert_eq!(code(&refused), status, "{word}");
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    app.set_quotas(&demo.project, &[(Resource::Ram, 600), (Resource::Volumes, 0)]).await.unwrap();
    let over = app.resize_flavor(&demo, "r", id, "4").await.unwrap_err();
    assert_eq!(over.to_string(), "Quota exceeded for resources: ['ram'].");
    let over = app.resize_volume(&demo, "r", id, size + 1).await.unwrap_err();
    assert_eq!(over.to_string(), "Quota exceeded for resources: ['volumes'].");
    world.set(id, Task::None, HostState::Dead).await;
    assert_eq!(code(&app.resize_flavor(&demo, "r", id, "2").await), 422);
    world.set(id, Task::None, HostState::Active).await;
    assert_eq!(world.rows().await, before);
}

#[tokio::test]
async fn less_memory_than_the_data_needs_is_refused_with_the_figures() {
    let world = world().await;
    let (id, demo) = (world.healthy("demo").await, caller("demo"));
    let greater = world.app.resize_flavor(&demo, "r", id, "3").await.unwrap();
    world.end(greater.operation, "done", None).await;
    world.set(id, Task::None, HostState::Active).await;
    let before = world.rows().await;
    *world.agent.size_refusal.lock().unwrap() = Some("1100 MiB are in use, 307 MiB would be there".to_owned());
    let refused = world.app.resize_flavor(&demo, "r", id, "1").await;
    assert_eq!(code(&refused), 422);
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("1100 MiB are in use, 307 MiB would be there"), "{message}");
    *world.agent.error.lock().unwrap() = Some(|| AgentError::Late(InstanceId::random(), 5));
    assert_eq!(code(&world.app.resize_flavor(&demo, "r", id, "1").await), 422);
    assert_eq!(world.rows().await, before);
    *world.agent.error.lock().unwrap() = None;
    world.app.resize_flavor(&demo, "r", id, "4").await.unwrap();
}

#[tokio::test]
async fn a_stopped_engine_with_its_data_in_memory_gets_no_less_of_it() {
    let world = world().await;
    let (id, demo) = (world.healthy("demo").await, caller("demo"));
    let greater = world.app.resize_flavor(&demo, "r", id, "3").await.unwrap();
    world.end(greater.operation, "done", None).await;
    world.set(id, Task::None, HostState::Active).await;
    world.says(id, Service::Shutdown).await;
    let mut engine = manifest();
    engine.identity.data_memory_percent = Some(60);
    register(&world.app.store, &engine).await;
    let before = world.rows().await;
    let refused = world.app.resize_flavor(&demo, "r", id, "1").await;
    assert_eq!(code(&refused), 422);
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("is stopped") && said.contains("restart it first"), "{said}");
    assert_eq!(world.rows().await, before);
    let greater = world.app.resize_flavor(&demo, "r", id, "4").await.unwrap();
    world.end(greater.operation, "done", None).await;
    world.set(id, Task::None, HostState::Active).await;
    engine.identity.data_memory_percent = None;
    register(&world.app.store, &engine).await;
    world.app.resize_flavor(&demo, "r", id, "1").await.expect("memory is no bound of its data");
}

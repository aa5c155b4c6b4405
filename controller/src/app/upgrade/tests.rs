use serde_json::json;
use trove_strategy::Installation;

use super::*;
use crate::ids::{ConfigurationId, VersionId};
use crate::model::Source;
use crate::state::HostState;
use crate::store::configurations::NewRow as NewGroup;
use crate::store::datastores::VersionChange;
use crate::testing::app::{World, admin, caller, code, world};
use crate::testing::store::{manifest, register};

/// Registers a version of the same datastore, and names it after its number.
async fn version(world: &World, number: &str, major: &str) -> VersionId {
    let mut newer = manifest();
    newer.installation = Installation::new(number, major, format!("/opt/engine/{number}/bin"));
    let id = register(&world.app.store, &newer).await;
    world.app.change_version(id, VersionChange { name: Some(number.to_owned()), ..Default::default() }).await.unwrap();
    id
}

/// Attaches a configuration group.
async fn attach(world: &World, id: InstanceId) -> ConfigurationId {
    let group = NewGroup {
        id: ConfigurationId::random(),
        project: caller("demo").project,
        name: "tuned".to_owned(),
        description: None,
        version: world.fixture.version,
        values: serde_json::Map::new().into_iter().collect(),
    };
    let mut tx = world.app.store.begin().await.unwrap();
    world.app.store.insert_configuration(&mut tx, &group).await.unwrap();
    world.app.store.set_configuration(&mut tx, id, Some(group.id)).await.unwrap();
    tx.commit().await.unwrap();
    group.id
}

#[tokio::test]
async fn an_upgrade_is_an_operation_that_is_alone_and_the_row_keeps_its_version_meanwhile() {
    let world = world().await;
    let (id, demo) = (world.healthy("demo").await, caller("demo"));
    let to = version(&world, "15.19", "15").await;
    let accepted = world.app.upgrade_instance(&demo, "r", id, "15.19").await.unwrap();
    let (kind, status, state) = world.operation(accepted.operation).await;
    assert_eq!((kind.as_str(), status.as_str()), ("upgrade_instance", "queued"));
    assert_eq!(state, json!({"to": to.to_string()}).to_string());
    let shown = world.app.get_instance(&demo, id).await.unwrap();
    assert_eq!((shown.status(), shown.version_number.as_str()), (("UPGRADE", ""), "15.18"));
    for refused in [
        world.app.upgrade_instance(&demo, "r", id, "15.19").await,
        world.app.resize_flavor(&demo, "r", id, "2").await,
        world.app.restart_instance(&demo, "r", id).await,
        world.app.delete_instance(&demo, "r", id).await,
    ] {
        assert_eq!(code(&refused), 422);
    }
    world.end(accepted.operation, "done", None).await;
    world.set(id, Task::RestartRequired, HostState::Active).await;
    world.app.upgrade_instance(&demo, "r", id, &to.to_string()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_upgrade_is_refused_and_changes_nothing() {
    let world = world().await;
    let (id, demo) = (world.healthy("demo").await, caller("demo"));
    let newer = version(&world, "15.19", "15").await;
    version(&world, "16.1", "16").await;
    let inactive = version(&world, "15.20", "15").await;
    let off = VersionChange { active: Some(false), ..VersionChange::default() };
    world.app.change_version(inactive, off).await.unwrap();
    let app = &world.app;
    let before = world.rows().await;
    for (refused, status, word) in [
        (app.upgrade_instance(&demo, "r", id, "15").await, 400, "has the datastore version \"15\" already"),
        (app.upgrade_instance(&demo, "r", id, "14").await, 400, "Datastore version \"14\" cannot be found"),
        (app.upgrade_instance(&demo, "r", id, "15.20").await, 400, "is not active"),
        (app.upgrade_instance(&demo, "r", id, "16.1").await, 422, "from enginedb 15 to 16"),
        (app.upgrade_instance(&caller("other"), "r", id, "15.19").await, 404, "cannot be found"),
    ] {
        let message = refused.as_ref().unwrap_err().to_string();
        assert_eq!(code(&refused), status, "{message}");
        assert!(message.contains(word), "{message}");
    }
    world.says(id, Service::Shutdown).await;
    let stopped = app.upgrade_instance(&demo, "r", id, "15.19").await;
    assert!(code(&stopped) == 422 && stopped.unwrap_err().to_string().contains("is stopped: restart it first"));
    world.says(id, Service::Healthy).await;
    world.set(id, Task::None, HostState::Dead).await;
    assert_eq!(code(&app.upgrade_instance(&demo, "r", id, "15.19").await), 422);
    world.set(id, Task::None, HostState::Active).await;
    assert_eq!(world.rows().await, before);

    let group = attach(&world, id).await;
    let held = app.upgrade_instance(&demo, "r", id, &newer.to_string()).await;
    assert_eq!(code(&held), 400);
    assert!(held.unwrap_err().to_string().contains(&format!("configuration group {group}")));
    assert_eq!(app.get_instance(&demo, id).await.unwrap().task, Task::None);
}

fn image(bindir: &str) -> Uuid {
    Source::Installed(bindir.into()).image_id()
}

#[tokio::test]
async fn a_rebuild_takes_the_version_of_the_image_also_where_the_engine_failed() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let newer = version(&world, "15.19", "15").await;
    let off = VersionChange { active: Some(false), ..VersionChange::default() };
    world.app.change_version(newer, off).await.unwrap();
    for (task, host, service) in [
        (Task::Error, HostState::Dead, Service::Failed),
        (Task::RestartRequired, HostState::Active, Service::Blocked),
        (Task::None, HostState::Active, Service::Healthy),
    ] {
        world.set(id, task, host).await;
        world.says(id, service).await;
        let accepted = world.app.rebuild_instance(&admin(), "r", id, image("/opt/engine/15.19/bin")).await.unwrap();
        let (kind, _, state) = world.operation(accepted.operation).await;
        assert_eq!((kind.as_str(), state), ("upgrade_instance", json!({"to": newer.to_string()}).to_string()));
        assert_eq!(world.app.get_any_instance(id, false).await.unwrap().status().0, "UPGRADE");
        world.end(accepted.operation, "done", None).await;
    }
    world.set(id, Task::None, HostState::Active).await;
    attach(&world, id).await;
    let held = world.app.rebuild_instance(&admin(), "r", id, image("/opt/engine/15.19/bin")).await;
    assert!(code(&held) == 400 && held.unwrap_err().to_string().contains("configuration group"));
    let own = world.app.rebuild_instance(&admin(), "r", id, image("/opt/engine/15/bin")).await.unwrap();
    let (_, _, state) = world.operation(own.operation).await;
    assert_eq!(state, json!({"to": world.fixture.version.to_string()}).to_string());
}

#[tokio::test]
async fn a_rebuild_from_what_is_no_image_of_the_data_or_of_what_is_busy_is_refused() {
    let world = world().await;
    let id = world.healthy("demo").await;
    version(&world, "16.1", "16").await;
    let before = world.rows().await;
    let rebuild = async |image| world.app.rebuild_instance(&admin(), "r", id, image).await;
    for (bindir, status, word) in [
        ("/opt/engine/14/bin", 400, "rebuild.image_id: no datastore version"),
        ("/opt/engine/16.1/bin", 422, "15 to 16"),
    ] {
        let refused = rebuild(image(bindir)).await;
        assert_eq!(code(&refused), status);
        assert!(refused.unwrap_err().to_string().contains(word));
    }
    let own = image("/opt/engine/15/bin");
    world.says(id, Service::Shutdown).await;
    assert_eq!(code(&rebuild(own).await), 422);
    world.says(id, Service::Healthy).await;
    for (task, host) in [
        (Task::Building, HostState::Building),
        (Task::Upgrading, HostState::Active),
        (Task::Deleting, HostState::Active),
        (Task::BuildingError, HostState::Absent),
    ] {
        world.set(id, task, host).await;
        assert_eq!(code(&rebuild(own).await), 422, "{task:?}");
    }
    world.set(id, Task::None, HostState::Active).await;
    assert_eq!(world.rows().await, before);
    assert_eq!(code(&world.app.rebuild_instance(&admin(), "r", InstanceId::random(), own).await), 404);
}

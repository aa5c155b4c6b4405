use std::path::{Path, PathBuf};

use super::*;
use crate::app::instances::NewInstance;
use crate::store::datastores::Registration;
use crate::testing::app::{FakeHost, World, caller, code, order, world, world_with};
use crate::testing::store::{manifest, register};

/// Another version of the one datastore.
async fn add_version(world: &World, name: &str, number: &str, active: bool) -> VersionId {
    let mut manifest = manifest();
    manifest.installation.major = name.to_owned();
    manifest.installation.version = number.to_owned();
    manifest.installation.bindir = PathBuf::from("/opt/engine").join(number);
    let mut tx = world.app.store.begin().await.unwrap();
    let registration = Registration {
        manifest: &manifest,
        name,
        image: None,
        agent_program: Some(Path::new("/opt/agent")),
        agent_print: "agent",
        active,
        default: false,
    };
    let id = world.app.store.upsert_version(&mut tx, registration).await.unwrap();
    tx.commit().await.unwrap();
    id
}

fn wanted<'a>(datastore: Option<&'a str>, version: Option<&'a str>, number: Option<&'a str>) -> Wanted<'a> {
    Wanted { datastore, version, number }
}

#[tokio::test]
async fn inactive_versions_are_an_admins_matter() {
    let world = world().await;
    let hidden = add_version(&world, "16", "16.2", false).await;
    let app = &world.app;
    assert_eq!(app.list_datastores(true).await.unwrap()[0].versions.len(), 2);
    let seen = app.list_datastores(false).await.unwrap();
    assert_eq!(seen[0].versions.len(), 1);
    assert_eq!(seen[0].default_version, Some(world.fixture.version));
    assert_eq!(code(&app.get_version_by_id(false, hidden).await), 404);
    assert_eq!(app.get_version_by_id(true, hidden).await.unwrap().1.name, "16");
    assert_eq!(code(&app.get_version(false, "enginedb", "16").await), 400);
    assert_eq!(app.get_version(true, "enginedb", "16").await.unwrap().1.id, hidden);

    let inactive = VersionChange { active: Some(false), ..VersionChange::default() };
    app.change_version(world.fixture.version, inactive).await.unwrap();
    assert!(app.list_datastores(false).await.unwrap().is_empty());
}

#[tokio::test]
async fn names_and_ids_are_found_and_others_answer_as_upstream() {
    let world = world().await;
    let app = &world.app;
    let datastore = app.get_datastore(false, "enginedb").await.unwrap();
    let id = datastore.id.to_string();
    assert_eq!(app.get_datastore(false, &id).await.unwrap().name, "enginedb");
    assert_eq!(app.get_version(false, &id, "15").await.unwrap().1.number, "15.18");
    assert_eq!(app.get_version(false, "enginedb", &world.fixture.version.to_string()).await.unwrap().1.name, "15");
    assert_eq!(code(&app.get_datastore(false, "nope").await), 404);
    assert_eq!(code(&app.get_version(false, "nope", "15").await), 404);
    assert_eq!(code(&app.get_version(false, "enginedb", "nope").await), 400);
    assert_eq!(code(&app.get_version_by_id(true, VersionId::random()).await), 404);
}

#[tokio::test]
async fn an_order_means_the_only_datastore_and_its_default_version() {
    let world = world().await;
    let app = &world.app;
    let version = world.fixture.version;
    assert_eq!(app.resolve_version(&Wanted::default()).await.unwrap().1.id, version);
    assert_eq!(app.resolve_version(&wanted(Some("enginedb"), None, None)).await.unwrap().1.id, version);
    assert_eq!(app.resolve_version(&wanted(None, Some("15"), Some("15.18"))).await.unwrap().1.id, version);
    assert_eq!(code(&app.resolve_version(&wanted(Some("nope"), None, None)).await), 404);
    assert_eq!(code(&app.resolve_version(&wanted(None, Some("nope"), None)).await), 400);
    assert_eq!(code(&app.resolve_version(&wanted(None, Some("15"), Some("15.1"))).await), 400);
    assert_eq!(code(&app.resolve_version(&wanted(None, None, Some("15.1"))).await), 400);

    let other = add_version(&world, "15", "15.19", true).await;
    assert_eq!(code(&app.resolve_version(&wanted(None, Some("15"), None)).await), 400, "two have the name");
    assert_eq!(app.resolve_version(&wanted(None, Some("15"), Some("15.19"))).await.unwrap().1.id, other);
    add_version(&world, "16", "16.2", false).await;
    assert_eq!(code(&app.resolve_version(&wanted(None, Some("16"), None)).await), 400, "inactive");

    let mut another = manifest();
    another.identity.name = "another".to_owned();
    register(&app.store, &another).await;
    assert_eq!(code(&app.resolve_version(&Wanted::default()).await), 400, "two datastores, no default");
}

#[tokio::test]
async fn the_configured_datastore_is_the_default() {
    let world = world_with(|config| config.default_datastore = Some("another".to_owned())).await;
    let mut another = manifest();
    another.identity.name = "another".to_owned();
    let version = register(&world.app.store, &another).await;
    assert_eq!(world.app.resolve_version(&Wanted::default()).await.unwrap().1.id, version);
}

#[tokio::test]
async fn an_order_waits_for_the_registration_of_what_is_installed() {
    let mut world = world().await;
    let (looked, registered) = tokio::sync::watch::channel(false);
    world.app.registered = registered;
    let app = world.app.clone();
    let ordering = tokio::spawn(async move {
        let order = NewInstance { datastore: Some("otherdb".to_owned()), ..order() };
        app.create_instance(&caller("demo"), "r", order).await
    });
    let mut manifest = manifest();
    manifest.identity.name = "otherdb".to_owned();
    register(&world.app.store, &manifest).await;
    looked.send_replace(true);
    let ordered = ordering.await.unwrap();
    assert_eq!(ordered.unwrap().0.datastore, "otherdb");
    let order = NewInstance { datastore: Some("nothing".to_owned()), ..order() };
    assert_eq!(code(&world.app.create_instance(&caller("demo"), "r", order).await), 404);
}

#[tokio::test]
async fn an_order_of_what_the_driver_does_not_run_is_refused() {
    let mut world = world().await;
    world.app.compute = Arc::new(FakeHost(ArtifactKind::Image));
    let app = &world.app;
    let refused = app.create_instance(&caller("demo"), "r", order()).await;
    assert_eq!(code(&refused), 400);
    let text = refused.err().unwrap().to_string();
    assert!(text.starts_with("datastore.version \"15\" cannot be run: this service runs images"), "{text}");
    let order = NewVersion {
        datastore: "enginedb".to_owned(),
        name: "16".to_owned(),
        number: None,
        image: uuid::Uuid::new_v4(),
        active: true,
        default: false,
    };
    let refused = app.create_version(order).await.unwrap_err();
    assert!(matches!(&refused, Error::BadRequest(text) if text.starts_with("image: no image")), "{refused}");
}

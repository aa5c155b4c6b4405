use std::path::PathBuf;

use super::*;
use crate::testing::store::{fixture, manifest, register};

async fn change(store: &Store, id: VersionId, change: VersionChange) -> bool {
    let mut tx = store.begin().await.unwrap();
    let done = store.change_version(&mut tx, id, &change).await.unwrap();
    tx.commit().await.unwrap();
    done
}

#[tokio::test]
async fn a_version_that_was_taken_away_keeps_its_row_and_comes_back_under_its_id() {
    let fixture = fixture().await;
    let (store, id) = (&fixture.store, fixture.version);
    let mut tx = store.begin().await.unwrap();
    assert!(store.remove_version(&mut tx, id).await.unwrap());
    assert!(!store.remove_version(&mut tx, id).await.unwrap());
    tx.commit().await.unwrap();
    assert!(store.list_datastores().await.unwrap().is_empty());
    assert!(store.get_datastore_of_version(id).await.unwrap().is_none());
    assert!(store.registered().await.unwrap()[0].removed);
    assert!(!change(store, id, VersionChange { active: Some(true), ..VersionChange::default() }).await);
    let mut tx = store.begin().await.unwrap();
    assert!(store.remove_datastore(&mut tx, "enginedb").await.unwrap());
    assert!(!store.remove_datastore(&mut tx, "enginedb").await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(register(store, &manifest()).await, id);
    let datastore = store.get_datastore("enginedb").await.unwrap().unwrap();
    assert_eq!(datastore.default_version, Some(id));
    let mut tx = store.begin().await.unwrap();
    assert!(store.remove_datastore(&mut tx, "enginedb").await.unwrap_err().to_string().contains("has versions"));
}

#[tokio::test]
async fn a_version_is_renamed_and_made_the_default_or_not() {
    let fixture = fixture().await;
    let (store, id) = (&fixture.store, fixture.version);
    let shown = async || store.get_datastore("enginedb").await.unwrap().unwrap();
    assert!(
        change(store, id, VersionChange { name: Some("old".to_owned()), default: Some(false), active: None }).await
    );
    let datastore = shown().await;
    assert_eq!((datastore.versions[0].name.as_str(), datastore.default_version), ("old", None));
    assert!(change(store, id, VersionChange { default: Some(true), ..VersionChange::default() }).await);
    assert_eq!(shown().await.default_version, Some(id));
    let mut patched = manifest();
    patched.installation.version = "15.19".to_owned();
    assert_eq!(register(store, &patched).await, id, "a patched engine keeps its version");
    assert_eq!(shown().await.versions[0].name, "old");
}

#[tokio::test]
async fn registering_again_brings_the_version_up_to_date() {
    let fixture = fixture().await;
    change(&fixture.store, fixture.version, VersionChange { active: Some(false), ..VersionChange::default() }).await;
    let mut patched = manifest();
    patched.installation.version = "15.19".to_owned();
    assert_eq!(register(&fixture.store, &patched).await, fixture.version);
    let datastore = fixture.store.get_datastore("enginedb").await.unwrap().unwrap();
    assert_eq!(datastore.default_version, Some(fixture.version));
    assert_eq!(datastore.versions.len(), 1);
    assert_eq!(datastore.versions[0].number, "15.19");
    assert_eq!(fixture.store.get_manifest(fixture.version).await.unwrap(), Some(patched.into()));
    assert!(!datastore.versions[0].active, "what an operator has deactivated stays so");
}

#[tokio::test]
async fn a_datastore_has_all_of_its_versions_and_one_default() {
    let fixture = fixture().await;
    let mut newer = manifest();
    newer.installation.version = "16.2".to_owned();
    newer.installation.major = "16".to_owned();
    newer.installation.bindir = PathBuf::from("/opt/engine/16/bin");
    let mut tx = fixture.store.begin().await.unwrap();
    let registration = Registration {
        manifest: &newer,
        name: "16",
        image: None,
        agent_program: Some(Path::new("/opt/agent")),
        agent_print: "agent",
        active: false,
        default: true,
    };
    let second = fixture.store.upsert_version(&mut tx, registration).await.unwrap();
    tx.commit().await.unwrap();
    let mut other = manifest();
    other.identity.name = "another".to_owned();
    register(&fixture.store, &other).await;

    let datastores = fixture.store.list_datastores().await.unwrap();
    let names: Vec<_> =
        datastores.iter().map(|datastore| (datastore.name.as_str(), datastore.versions.len())).collect();
    assert_eq!(names, [("another", 1), ("enginedb", 2)]);
    assert_eq!(datastores[1].default_version, Some(second));
    assert!(!datastores[1].versions[1].active);

    let by_id = fixture.store.get_datastore(&datastores[1].id.to_string()).await.unwrap().unwrap();
    assert_eq!(by_id.name, "enginedb");
    let of_version = fixture.store.get_datastore_of_version(second).await.unwrap().unwrap();
    assert_eq!(of_version.id, datastores[1].id);
    assert!(fixture.store.get_datastore("' or 1 = 1 --").await.unwrap().is_none());
}

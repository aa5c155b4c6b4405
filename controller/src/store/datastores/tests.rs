use std::path::PathBuf;

use super::*;
use crate::store::harness::{fixture, manifest, register};

#[tokio::test]
async fn registering_again_brings_the_version_up_to_date() {
    let fixture = fixture().await;
    assert!(fixture.store.set_version_active(fixture.version, false).await.unwrap());
    let mut patched = manifest();
    patched.installation.version = "15.19".to_owned();
    assert_eq!(register(&fixture.store, &patched).await, fixture.version);
    let datastore = fixture.store.get_datastore("enginedb").await.unwrap().unwrap();
    assert_eq!(datastore.default_version, Some(fixture.version));
    assert_eq!(datastore.versions.len(), 1);
    assert_eq!(datastore.versions[0].number, "15.19");
    assert_eq!(datastore.versions[0].manifest, patched);
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
    let registration =
        Registration { manifest: &newer, agent_program: Some(Path::new("/opt/agent")), active: false, default: true };
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

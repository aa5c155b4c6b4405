//! Tests with an agent program that is a shell script.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::store::datastores::VersionChange;
use crate::testing::store::{manifest, open};

/// An agent program that reports engines with these names in one directory. `broken` yields no manifest.
fn agent(directory: &Path, names: &[&str]) -> Config {
    let installation = manifest().installation;
    let all: Vec<_> = names.iter().map(|name| json!({"name": name, "installations": [installation]})).collect();
    std::fs::write(directory.join("datastores"), json!(all).to_string()).unwrap();
    for name in names.iter().filter(|name| **name != "broken") {
        let mut manifest = manifest();
        (*name).clone_into(&mut manifest.identity.name);
        std::fs::write(directory.join(name), serde_json::to_string(&manifest).unwrap()).unwrap();
    }
    let program = directory.join("agent");
    // The names are in the script, so that each call makes a different program.
    let script = format!("#!/bin/sh\n# {}\ncat \"{}/${{2:-$1}}\"\n", names.join(" "), directory.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = Config::default();
    config.process.agent_program = Some(program);
    config
}

async fn names(store: &Store) -> Vec<String> {
    store.list_datastores().await.unwrap().iter().map(|datastore| datastore.name.clone()).collect()
}

#[tokio::test]
async fn each_datastore_in_a_directory_is_registered_and_what_fails_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 1).await;
    let config = agent(directory.path(), &["enginedb"]);
    register_installed(&store, &config).await.unwrap();
    assert_eq!(names(&store).await, ["enginedb"]);
    let config = agent(directory.path(), &["broken", "enginedb", "otherdb"]);
    register_installed(&store, &config).await.unwrap();
    assert_eq!(names(&store).await, ["enginedb", "otherdb"], "the second one in the same directory too");
    let left = store.unregistered().await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].datastore == "broken" && left[0].reason.contains("No such file"), "{left:?}");
    let config = agent(directory.path(), &["enginedb", "otherdb"]);
    register_installed(&store, &config).await.unwrap();
    assert!(store.unregistered().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_an_administrator_did_lasts() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 1).await;
    register_installed(&store, &agent(directory.path(), &["enginedb", "otherdb"])).await.unwrap();
    let version = |name: &'static str| {
        let store = store.clone();
        async move { store.get_datastore(name).await.unwrap().unwrap().versions[0].clone() }
    };
    let (deactivated, taken) = (version("enginedb").await, version("otherdb").await);
    let mut tx = store.begin().await.unwrap();
    let change = VersionChange { active: Some(false), ..VersionChange::default() };
    assert!(store.change_version(&mut tx, deactivated.id, &change).await.unwrap());
    assert!(store.remove_version(&mut tx, taken.id).await.unwrap());
    tx.commit().await.unwrap();
    // With another agent program all manifests are made again.
    register_installed(&store, &agent(directory.path(), &["enginedb", "otherdb", "third"])).await.unwrap();
    assert!(!version("enginedb").await.active);
    assert_eq!(names(&store).await, ["enginedb", "third"]);
    let left = store.unregistered().await.unwrap();
    assert!(left.len() == 1 && left[0].datastore == "otherdb" && left[0].reason.contains("taken it away"), "{left:?}");
}

#[tokio::test]
async fn an_agent_program_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 1).await;
    let mut config = Config::default();
    config.process.agent_program = Some(directory.path().join("agent"));
    register_installed(&store, &config).await.unwrap_err();
    let left = store.unregistered().await.unwrap();
    assert!(left.len() == 1 && left[0].datastore.is_empty() && left[0].reason.contains("agent"), "{left:?}");
}

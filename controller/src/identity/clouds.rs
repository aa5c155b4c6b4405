//! Creates the first users, and the file clouds.yaml with their passwords for clients.

#![allow(clippy::disallowed_methods, reason = "the state directory is the controller's alone")]

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use trove_strategy::beneath::{self, Dir};
use uuid::Uuid;

use super::passwords::matches;
use super::{generate_password, hash_password};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::identity::User;

/// Users made at the first start: name of the cloud, name of user and project, role.
const FIRST: [(&str, &str, &str); 2] = [("trove", "demo", "member"), ("trove-admin", "admin", "admin")];

const FILE: &str = "clouds.yaml";
/// Name of the file until its users are stored.
const BESIDE: &str = "clouds.yaml.new";

fn hex_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Stores the configured users, and deletes users that are no longer configured. If none are configured and none are
/// stored, makes `demo` and `admin` with random passwords, which are written to the clouds file only.
///
/// # Errors
/// Internal: the file cannot be written.
pub(super) async fn ensure_users(store: &Store, config: &Config, state: &Path) -> Result<()> {
    let known = store.list_users().await?;
    let configured = &config.identity.users;
    for user in &known {
        if !configured.is_empty() && !configured.iter().any(|kept| kept.name == user.name) {
            store.delete_user(&user.id).await?;
        }
    }
    for user in &config.identity.users {
        let project = known.iter().find(|other| other.project_name == user.project);
        let project_id = project.map_or_else(|| project_id(&user.project), |other| other.project_id.clone());
        store
            .put_user(&User {
                id: hex_id(),
                name: user.name.clone(),
                password_hash: user.password_hash.clone(),
                project_id,
                project_name: user.project.clone(),
                roles: user.roles.clone(),
            })
            .await?;
    }
    let path = state.join(FILE);
    if !config.identity.users.is_empty() {
        return Ok(());
    }
    let beside = state.join(BESIDE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) if FIRST.iter().all(|(_, name, _)| known.iter().any(|user| user.name == *name)) => Some(text),
        // Another controller made the users and has their passwords in its file; or this one made them and was killed
        // before it renamed the file.
        _ if store.is_shared() && !known.is_empty() => match std::fs::read_to_string(&beside) {
            Ok(text) if opens(&text, &known).await? => Some(text),
            Ok(_) => return remove(&beside),
            Err(_) => return Ok(()),
        },
        _ => None,
    };
    if let Some(text) = text {
        write(&beside, &moved(&text, &config.public_url(), &config.region))?;
        return name(state);
    }
    let (users, text) = first(config).await?;
    // Write the file before the users are stored. Otherwise the passwords would be lost if this process was killed in
    // between.
    write(&beside, &text)?;
    if store.is_shared() {
        if !store.insert_users(&users).await? {
            // Another controller has just made them and has their passwords.
            return remove(&beside);
        }
    } else {
        for user in &users {
            store.put_user(user).await?;
        }
    }
    name(state)
}

/// Whether the file has the right password of its first user.
async fn opens(text: &str, known: &[User]) -> Result<bool> {
    let (cloud, name, _) = FIRST[0];
    let file: serde_json::Value = serde_yaml_ng::from_str(text).unwrap_or_default();
    let password = file["clouds"][cloud]["auth"]["password"].as_str().map(str::to_owned);
    let user = known.iter().find(|user| user.name == name);
    let (Some(password), Some(user)) = (password, user) else { return Ok(false) };
    let hash = user.password_hash.clone();
    let checked = tokio::task::spawn_blocking(move || matches(&hash, &password)).await;
    checked.map_err(|error| Error::internal("check a password", error))
}

/// Derives the id from the name, so that two configured users with the same project name share the project.
fn project_id(name: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).simple().to_string()
}

/// Makes the first users, and the text of the clouds file.
async fn first(config: &Config) -> Result<(Vec<User>, String)> {
    let mut users = Vec::new();
    let mut text =
        String::from("# Made by trove-controller at its first start. Whoever can read it can log in.\nclouds:\n");
    for (cloud, name, role) in FIRST {
        let password: SecretString = generate_password();
        let hashed = password.clone();
        let hash = tokio::task::spawn_blocking(move || hash_password(&hashed)).await;
        let password_hash = hash.map_err(|error| Error::internal("hash a password", error))??;
        let roles = vec![role.to_owned()];
        let (project_id, project_name) = (project_id(name), name.to_owned());
        users.push(User { id: hex_id(), name: name.to_owned(), password_hash, project_id, project_name, roles });
        text.push_str(&format!(
            "  {cloud}:\n    auth:\n      auth_url: {}/identity/v3\n      username: {name}\n      password: {}\n      \
             project_name: {name}\n      user_domain_name: Default\n      project_domain_name: Default\n    \
             region_name: {}\n    identity_api_version: '3'\n",
            config.public_url(),
            password.expose_secret(),
            config.region,
        ));
    }
    Ok((users, text))
}

/// The text of the clouds file with the present address and region; everything else stays.
fn moved(text: &str, url: &str, region: &str) -> String {
    let line = |line: &str| {
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        match line.trim_start().split(':').next() {
            Some("auth_url") => format!("{indent}auth_url: {url}/identity/v3"),
            Some("region_name") => format!("{indent}region_name: {region}"),
            _ => line.to_owned(),
        }
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

fn name(state: &Path) -> Result<()> {
    let renamed = Dir::open(state, &[]).and_then(|state| state.rename(Path::new(BESIDE), Path::new(FILE)));
    renamed.map_err(|error| Error::internal(format!("rename {} to {FILE}", state.join(BESIDE).display()), error))
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(|error| Error::internal(format!("remove {}", path.display()), error))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written = beneath::replace(path, text.as_bytes());
    written.map_err(|error| Error::internal(format!("write {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_service_keeps_its_passwords() {
        let text = "clouds:\n  trove:\n    auth:\n      auth_url: http://a/identity/v3\n      password: x\n    region_name: R\n";
        let moved = moved(text, "https://b:1", "S");
        assert!(moved.contains("      auth_url: https://b:1/identity/v3\n") && moved.contains("      password: x\n"));
        assert!(moved.contains("    region_name: S\n"));
    }

    async fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = crate::testing::store::open(directory.path(), 1).await;
        (directory, store)
    }

    #[tokio::test]
    async fn a_second_start_changes_nothing_and_a_lost_file_is_made_again() {
        let (directory, store) = store().await;
        let config = Config::default();
        ensure_users(&store, &config, directory.path()).await.unwrap();
        let file = directory.path().join(FILE);
        let (text, users) = (std::fs::read_to_string(&file).unwrap(), store.list_users().await.unwrap());
        ensure_users(&store, &config, directory.path()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        assert_eq!(store.list_users().await.unwrap(), users);
        std::fs::remove_file(&file).unwrap();
        if store.is_shared() {
            ensure_users(&store, &config, directory.path()).await.unwrap();
            assert!(
                !file.exists() && store.list_users().await.unwrap() == users,
                "another controller has the passwords"
            );
            return;
        }
        ensure_users(&store, &config, directory.path()).await.unwrap();
        let again = store.list_users().await.unwrap();
        assert_ne!(std::fs::read_to_string(&file).unwrap(), text, "with other passwords");
        assert!(again.iter().zip(&users).all(|(a, b)| a.id == b.id && a.project_id == b.project_id));
    }

    #[tokio::test]
    async fn a_life_that_ended_before_the_file_had_its_name_loses_no_password() {
        let (directory, store) = store().await;
        let config = Config::default();
        let (file, beside) = (directory.path().join(FILE), directory.path().join(BESIDE));
        ensure_users(&store, &config, directory.path()).await.unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::rename(&file, &beside).unwrap();
        ensure_users(&store, &config, directory.path()).await.unwrap();
        let known = store.list_users().await.unwrap();
        let now = std::fs::read_to_string(&file).unwrap();
        assert!(opens(&now, &known).await.unwrap());
        assert!(!store.is_shared() || now == text);
        // A file that was written for other users is not used for those that another controller made.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&beside, text.replace("password: ", "password: x")).unwrap();
        ensure_users(&store, &config, directory.path()).await.unwrap();
        assert_eq!(file.exists(), !store.is_shared());
    }

    #[tokio::test]
    async fn users_follow_the_configuration() {
        let (directory, store) = store().await;
        let mut config = Config::default();
        let user = |name: &str| crate::config::User {
            name: name.to_owned(),
            password_hash: "$argon2id$".to_owned(),
            project: "p".to_owned(),
            roles: vec!["member".to_owned()],
        };
        ensure_users(&store, &config, directory.path()).await.unwrap();
        config.identity.users = vec![user("ann"), user("bob")];
        ensure_users(&store, &config, directory.path()).await.unwrap();
        config.identity.users.remove(0);
        ensure_users(&store, &config, directory.path()).await.unwrap();
        let names: Vec<String> = store.list_users().await.unwrap().into_iter().map(|user| user.name).collect();
        assert_eq!(names, ["bob"]);
    }
}

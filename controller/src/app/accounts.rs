//! What databases and accounts of an instance are, and the checks of them that need no engine. The use cases are in
//! `databases.rs`, `users.rs` and `root.rs`.

use std::collections::HashSet;

use secrecy::SecretString;
use trove_strategy::{Capability, Identity, Manifest, UserTraits};

use super::locales;
use super::names::{self, shown};
use crate::error::{Error, Result};
use crate::operations::{Sealed, change_accounts};
use crate::store::Store;

/// The host pattern of an account that may come from anywhere.
pub const ANY_HOST: &str = "%";

/// Longest host pattern, bytes.
pub(super) const MAX_HOST_BYTES: usize = 255;

/// A database to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDatabase {
    pub name: String,
    /// The engine's name of a character set.
    pub character_set: Option<String>,
    /// The engine's name of a collation.
    pub collation: Option<String>,
}

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewUser {
    pub name: String,
    /// The hosts it may come from, `%` for any.
    pub host: String,
    pub password: SecretString,
    /// The databases it may enter.
    pub databases: Vec<String>,
}

/// An account, as the agent lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// The hosts it may come from.
    pub host: String,
    /// The databases it may enter.
    pub databases: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRef {
    pub name: String,
    /// Its host, `%` where none was given.
    pub host: String,
}

/// What is to become of an account.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    pub name: Option<String>,
    /// New hosts.
    pub host: Option<String>,
    pub password: Option<SecretString>,
}

/// The password of root, as it is shown once.
#[derive(Clone, Debug)]
pub struct RootAccount {
    /// The account's name.
    pub name: String,
    pub password: SecretString,
    /// The operation that makes it so has ended by the time of the answer.
    pub operation: crate::ids::OperationId,
}

impl From<NewDatabase> for change_accounts::Database {
    fn from(new: NewDatabase) -> Self {
        Self { name: new.name, character_set: new.character_set, collation: new.collation }
    }
}

impl NewUser {
    /// As it is stored.
    pub(super) fn sealed(self, store: &Store) -> Result<change_accounts::NewUser> {
        let password = Sealed::new(&store.seal, &self.password)?;
        let account = change_accounts::Account { name: self.name, host: self.host };
        Ok(change_accounts::NewUser { account, password, databases: self.databases })
    }
}

impl From<UserRef> for change_accounts::Account {
    fn from(user: UserRef) -> Self {
        Self { name: user.name, host: user.host }
    }
}

impl From<User> for change_accounts::Account {
    fn from(user: User) -> Self {
        Self { name: user.name, host: user.host }
    }
}

/// What a datastore without this capability answers.
pub(super) fn unsupported(datastore: &str, capability: Capability) -> Error {
    Error::Unprocessable(format!("Operation not supported for datastore {datastore}: it has no {capability}."))
}

/// Refuses databases that the engine would refuse, and those given twice; writes character sets and collations as the
/// engine does, and chooses a collation that fits where only the character set is given.
///
/// # Errors
/// 400.
pub(super) fn check_databases(manifest: &Manifest, databases: &mut [NewDatabase]) -> Result<()> {
    for database in &mut *databases {
        names::check(&manifest.identity.databases, "Database", &database.name)?;
        locales::fit(&manifest.character_sets, &mut database.character_set, &mut database.collation)?;
    }
    names::check_unique("Database", databases.iter().map(|database| database.name.as_str()))
}

/// Refuses accounts that the engine would refuse, and those given twice.
///
/// # Errors
/// 400.
pub(super) fn check_users(manifest: &Manifest, users: &[NewUser]) -> Result<()> {
    let identity = &manifest.identity;
    let has_databases = manifest.has(Capability::Databases);
    check_number(identity, users.len())?;
    let mut seen = HashSet::new();
    for user in users {
        check_account(identity, &user.name, &user.host)?;
        refuse_root(identity, &user.name)?;
        let whose = shown(&user.name);
        names::check_password(&identity.users.passwords, &format!("user {whose}"), &user.password, 1)?;
        if !has_databases && !user.databases.is_empty() {
            let datastore = &identity.name;
            return Err(Error::BadRequest(format!(
                "Datastore {datastore} has no databases by name: user {whose} cannot be given any."
            )));
        }
        for database in &user.databases {
            names::check(&identity.databases, "Database", database)?;
        }
        if !seen.insert((&user.name, &user.host)) {
            return Err(Error::BadRequest(format!("User {whose} is given twice.")));
        }
    }
    Ok(())
}

/// Refuses more accounts than the engine can have.
///
/// # Errors
/// 400.
pub(super) fn check_number(identity: &Identity, number: usize) -> Result<()> {
    match identity.users.max_accounts {
        Some(max) if number > max => {
            let datastore = &identity.name;
            Err(Error::BadRequest(format!("users: an instance of {datastore} can have {max} accounts at most.")))
        }
        _ => Ok(()),
    }
}

/// Refuses to make, rename or remove the all-powerful account as a user: under another name it would outlive its being
/// disabled.
///
/// # Errors
/// 400.
pub(super) fn refuse_root(identity: &Identity, name: &str) -> Result<()> {
    if name == identity.root_user {
        return Err(Error::BadRequest(format!("User {} can only be enabled and disabled, as root.", shown(name))));
    }
    Ok(())
}

/// Refuses the name or the host of an account that the engine would refuse.
///
/// # Errors
/// 400.
pub(super) fn check_account(identity: &Identity, name: &str, host: &str) -> Result<()> {
    let traits = &identity.users;
    names::check(&traits.names, "User", name)?;
    let datastore = &identity.name;
    if traits.hosts && name.contains('@') {
        return Err(Error::BadRequest(format!(
            "User {} contains the character '@', behind which accounts of {datastore} have their host.",
            shown(name)
        )));
    }
    if traits.qualified {
        let whole =
            |(database, user): &(&str, &str)| !database.is_empty() && !user.is_empty() && !user.starts_with('.');
        let Some((database, _)) = name.split_once('.').filter(whole) else {
            let reason = format!("User {} of {datastore} is to be written database.name.", shown(name));
            return Err(Error::BadRequest(reason));
        };
        names::check(&identity.databases, "Database", database)?;
    }
    check_host(identity, name, host)
}

/// Refuses the host of an account that the engine would refuse.
///
/// # Errors
/// 400.
pub(super) fn check_host(identity: &Identity, name: &str, host: &str) -> Result<()> {
    if host == ANY_HOST {
        return Ok(());
    }
    if !identity.users.hosts {
        return Err(Error::BadRequest(format!(
            "User {} cannot be bound to a host: accounts of {} may come from any.",
            shown(name),
            identity.name
        )));
    }
    let known = |c: char| c.is_ascii_alphanumeric() || "_(-).:%/".contains(c);
    if host.is_empty() || host.len() > MAX_HOST_BYTES || !host.chars().all(known) {
        return Err(Error::BadRequest(format!("Host {} of user {} is not a host pattern.", shown(host), shown(name))));
    }
    Ok(())
}

/// The account that a path means: `name` or `name@host` where accounts have hosts, else the name alone, whatever is in it.
pub(super) fn account(traits: &UserTraits, text: &str) -> UserRef {
    let (name, host) = split(traits, text);
    UserRef { name: name.to_owned(), host: host.unwrap_or(ANY_HOST).to_owned() }
}

/// A name, and the host where accounts have one and it is given: it follows the last `@`, since no host has one.
pub(super) fn split<'a>(traits: &UserTraits, text: &'a str) -> (&'a str, Option<&'a str>) {
    match text.rsplit_once('@') {
        Some((name, host)) if traits.hosts && !host.is_empty() => (name, Some(host)),
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::store::manifest;

    fn user(name: &str, host: &str) -> UserRef {
        UserRef { name: name.to_owned(), host: host.to_owned() }
    }

    #[test]
    fn whether_a_name_ends_at_an_at_sign_is_the_engines_trait() {
        let mut traits = manifest().identity.users;
        for text in ["ann", "ann@", "bob@%", "a@b", "@", "o'neil \"x\""] {
            assert_eq!(account(&traits, text), user(text, "%"));
        }
        traits.hosts = true;
        for (text, name, host) in [
            ("ann", "ann", "%"),
            ("ann@", "ann@", "%"),
            ("bob@%", "bob", "%"),
            ("a@1.2.3.4", "a", "1.2.3.4"),
            ("a@b@10.0.%", "a@b", "10.0.%"),
        ] {
            assert_eq!(account(&traits, text), user(name, host));
        }
    }

    #[test]
    fn what_a_path_could_not_tell_apart_is_refused() {
        let mut identity = manifest().identity;
        for name in ["ann@", "bob@%", "a@b"] {
            assert!(check_account(&identity, name, "%").is_ok());
        }
        identity.users.hosts = true;
        for name in ["ann@", "bob@%", "a@b"] {
            let refused = check_account(&identity, name, "%").unwrap_err().to_string();
            assert!(refused.contains("'@'") && refused.contains(name), "{refused}");
        }
    }

    #[test]
    fn hosts_are_refused_where_accounts_have_none() {
        let mut identity = manifest().identity;
        assert!(check_account(&identity, "a", "%").is_ok());
        assert!(check_account(&identity, "a", "10.0.0.%").is_err());
        identity.users.hosts = true;
        assert!(check_account(&identity, "a", "10.0.0.%").is_ok());
        assert!(check_account(&identity, "a", "' or 1=1").is_err());
        identity.users.qualified = true;
        assert!(check_account(&identity, "a", "%").is_err());
        assert!(check_account(&identity, "db.a", "%").is_ok());
        identity.databases.forbidden_characters = " ".to_owned();
        for name in ["d b.a", "db.", ".a", "db..a"] {
            assert!(check_account(&identity, name, "%").is_err(), "{name}");
        }
    }

    #[test]
    fn root_is_not_made_as_a_user() {
        let mut manifest = manifest();
        manifest.identity.root_user = "chief".to_owned();
        assert!(refuse_root(&manifest.identity, "chief").is_err() && refuse_root(&manifest.identity, "ann").is_ok());
        let password = SecretString::from("secret");
        let chief = NewUser { name: "chief".to_owned(), host: "%".to_owned(), password, databases: Vec::new() };
        assert!(check_users(&manifest, &[chief]).is_err());
    }

    #[test]
    fn more_accounts_than_the_engine_can_have_are_refused() {
        let mut identity = manifest().identity;
        assert!(check_number(&identity, 1000).is_ok());
        identity.users.max_accounts = Some(7);
        assert!(check_number(&identity, 7).is_ok());
        let refused = check_number(&identity, 8).unwrap_err().to_string();
        assert_eq!(refused, "users: an instance of enginedb can have 7 accounts at most.");
    }

    #[test]
    fn an_account_may_occur_once_for_each_host() {
        let mut manifest = manifest();
        manifest.identity.users.hosts = true;
        let new = |host: &str| NewUser {
            name: "a".to_owned(),
            host: host.to_owned(),
            password: SecretString::from("secret"),
            databases: Vec::new(),
        };
        assert!(check_users(&manifest, &[new("%"), new("10.0.0.1")]).is_ok());
        assert!(check_users(&manifest, &[new("%"), new("%")]).is_err());
    }

    proptest! {
        #[test]
        fn any_order_is_fine_or_answers_400(name in any::<String>(), other in any::<String>()) {
            let manifest = manifest();
            let database = NewDatabase { name: name.clone(), character_set: Some(other.clone()), collation: None };
            let new = NewUser {
                name: name.clone(),
                host: other.clone(),
                password: SecretString::from(other.clone()),
                databases: vec![name.clone()],
            };
            for result in [check_databases(&manifest, &mut [database]), check_users(&manifest, &[new])] {
                prop_assert!(matches!(result, Ok(()) | Err(Error::BadRequest(_))));
            }
        }
    }
}

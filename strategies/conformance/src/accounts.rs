//! Databases, accounts, grants and root, with names that break things.

use anyhow::{Context, Result, bail, ensure};
use secrecy::SecretString;
use trove_strategy::{Database, Databases, Grantee, NewUser, UserChange};

use crate::bench::Bench;
use crate::{Login, Tenant};

/// Names that are allowed and break what does not quote them.
const NAMES: &[&str] =
    &["plain", "it's", "two words", "a\"b", "drop table x; --", "ünïcode", "per%cent_", "back\\slash"];

fn plain(error: trove_strategy::EngineError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}

fn database(name: &str) -> Database {
    Database { name: name.to_owned(), character_set: None, collation: None }
}

/// Whether the rules of the datastore allow a name.
fn allowed(rules: &trove_strategy::NameRules, name: &str) -> bool {
    name.len() <= rules.max_bytes && !name.chars().any(|c| rules.forbidden_characters.contains(c))
}

/// Made, listed, made again, removed, removed again.
pub(crate) async fn databases(bench: &Bench<'_>) -> Result<()> {
    let Some(databases) = bench.datastore.databases() else { bail!("announced, but not there") };
    let rules = bench.datastore.identity().databases;
    let names: Vec<&str> = NAMES.iter().copied().filter(|name| allowed(&rules, name)).collect();
    for name in &names {
        databases.create(&bench.site, &database(name)).await.map_err(plain)?;
        databases.create(&bench.site, &database(name)).await.map_err(plain)?;
    }
    let listed: Vec<String> =
        databases.list(&bench.site).await.map_err(plain)?.into_iter().map(|database| database.name).collect();
    let mut expected: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    expected.sort();
    ensure!(listed == expected, "listed {listed:?}, expected {expected:?}");
    for reserved in &rules.reserved {
        ensure!(databases.create(&bench.site, &database(reserved)).await.is_err(), "{reserved} was made");
        ensure!(databases.delete(&bench.site, reserved).await.is_err(), "{reserved} was removed");
    }
    let long = "x".repeat(rules.max_bytes + 1);
    ensure!(databases.create(&bench.site, &database(&long)).await.is_err(), "a name that is too long was accepted");
    for name in &names {
        databases.delete(&bench.site, name).await.map_err(plain)?;
        databases.delete(&bench.site, name).await.map_err(plain)?;
    }
    character_sets_can_be_had(bench, databases).await?;
    ensure!(databases.list(&bench.site).await.map_err(plain)?.is_empty(), "some are left");
    Ok(())
}

/// What the engine announces can be made, listed and removed, since the API accepts it unseen: tried with some six of them,
/// the first included.
async fn character_sets_can_be_had(bench: &Bench<'_>, databases: &dyn Databases) -> Result<()> {
    let sets = databases.character_sets(&bench.site).await.map_err(plain)?;
    for set in sets.iter().step_by(sets.len().div_ceil(6).max(1)) {
        let (name, collation) = ("in another", Some(set.default_collation.clone()));
        ensure!(set.collations.contains(&set.default_collation), "the default of {} does not fit it", set.name);
        let wanted = Database { name: name.to_owned(), character_set: Some(set.name.clone()), collation };
        databases.create(&bench.site, &wanted).await.map_err(plain).with_context(|| format!("make {wanted:?}"))?;
        let made = databases.list(&bench.site).await.map_err(plain)?.pop().context("it is not listed")?;
        ensure!(made.character_set == wanted.character_set, "{wanted:?} was made as {made:?}");
        databases.delete(&bench.site, name).await.map_err(plain)?;
    }
    Ok(())
}

fn grantee(name: &str) -> Grantee {
    Grantee { name: name.to_owned(), host: "%".to_owned() }
}

fn login(user: &str, password: &str, database: &str) -> Login {
    Login { user: user.to_owned(), password: SecretString::from(password), database: database.to_owned() }
}

async fn enters(bench: &Bench<'_>, tenant: &dyn Tenant, login: &Login) -> bool {
    tenant.write(&bench.site, login, "x").await.is_ok()
}

/// Accounts log in with their passwords where they were let in, and nowhere else.
pub(crate) async fn users(bench: &Bench<'_>, tenant: &dyn Tenant) -> Result<()> {
    let Some(users) = bench.datastore.users() else { bail!("announced, but not there") };
    let site = &bench.site;
    let mut entered = Vec::new();
    if let Some(databases) = bench.datastore.databases() {
        for name in ["one", "two"] {
            databases.create(site, &database(name)).await.map_err(plain)?;
        }
        entered.push("one".to_owned());
    }
    let new = |name: &str, password: &str, databases: &[String]| NewUser {
        id: grantee(name),
        password: SecretString::from(password),
        databases: databases.to_vec(),
    };
    let rules = bench.datastore.identity().users;
    for name in NAMES.iter().filter(|name| allowed(&rules.names, name)) {
        users.create(site, &new(name, "pass 'word' 1", &entered)).await.map_err(plain)?;
        ensure!(enters(bench, tenant, &login(name, "pass 'word' 1", "one")).await, "{name:?} cannot log in");
        ensure!(!enters(bench, tenant, &login(name, "pass 'word' 2", "one")).await, "{name:?}: a wrong password");
        ensure!(!enters(bench, tenant, &login(name, "", "one")).await, "{name:?}: no password");
        if !entered.is_empty() {
            let other = login(name, "pass 'word' 1", "two");
            ensure!(!enters(bench, tenant, &other).await, "{name:?} enters another database");
        }
        let found = users.get(site, &grantee(name)).await.map_err(plain)?;
        ensure!(found.is_some_and(|user| user.databases == entered), "{name:?} is not shown as it is");
    }
    // What one writes the others of the database read.
    let seen = tenant.read(site, &login("plain", "pass 'word' 1", "one")).await?;
    ensure!(seen.len() == NAMES.iter().filter(|name| allowed(&rules.names, name)).count(), "{seen:?}");
    for name in NAMES.iter().filter(|name| allowed(&rules.names, name) && **name != "plain") {
        users.delete(site, &grantee(name)).await.map_err(plain)?;
        users.delete(site, &grantee(name)).await.map_err(plain)?;
        ensure!(
            !enters(bench, tenant, &login(name, "pass 'word' 1", "one")).await,
            "{name:?} logs in after its removal"
        );
    }
    ensure!(
        tenant.read(site, &login("plain", "pass 'word' 1", "one")).await?.len() == seen.len(),
        "what they wrote is gone"
    );

    if let Some(databases) = bench.datastore.databases() {
        grants(bench, tenant, databases).await?;
    }
    changes(bench, tenant).await?;
    for name in rules.names.reserved.iter().filter(|name| !name.is_empty()) {
        ensure!(users.create(site, &new(name, "x", &[])).await.is_err(), "{name} was made");
        ensure!(users.delete(site, &grantee(name)).await.is_err(), "{name} was removed");
    }
    let listed = users.list(site).await.map_err(plain)?;
    ensure!(!listed.iter().any(|user| rules.names.reserved.contains(&user.id.name)), "reserved accounts are listed");
    Ok(())
}

/// Grants and revocations act on what can be done afterwards. Each is done twice.
async fn grants(bench: &Bench<'_>, tenant: &dyn Tenant, databases: &dyn Databases) -> Result<()> {
    let (site, id) = (&bench.site, grantee("plain"));
    for _ in 0..2 {
        databases.grant(site, &id, &["two".to_owned()]).await.map_err(plain)?;
    }
    ensure!(enters(bench, tenant, &login("plain", "pass 'word' 1", "two")).await, "a grant does not act");
    for _ in 0..2 {
        databases.revoke(site, &id, "two").await.map_err(plain)?;
    }
    ensure!(!enters(bench, tenant, &login("plain", "pass 'word' 1", "two")).await, "a revocation does not act");
    Ok(())
}

/// Renames and new passwords act on what can be done afterwards. Each is done twice.
async fn changes(bench: &Bench<'_>, tenant: &dyn Tenant) -> Result<()> {
    let Some(users) = bench.datastore.users() else { bail!("announced, but not there") };
    let (site, id) = (&bench.site, grantee("plain"));
    let renames = bench.datastore.identity().users.rename;
    let change = UserChange {
        name: renames.then(|| "renamed".to_owned()),
        host: None,
        password: Some(SecretString::from("another-2")),
    };
    for _ in 0..2 {
        users.change(site, &id, &change).await.map_err(plain)?;
    }
    let name = if renames { "renamed" } else { "plain" };
    ensure!(enters(bench, tenant, &login(name, "another-2", "one")).await, "a changed account cannot log in");
    ensure!(!enters(bench, tenant, &login("plain", "pass 'word' 1", "one")).await, "the old password still acts");
    Ok(())
}

/// Root comes and goes.
pub(crate) async fn root(bench: &Bench<'_>, tenant: &dyn Tenant) -> Result<()> {
    let Some(root) = bench.datastore.root() else { bail!("announced, but not there") };
    let (site, name) = (&bench.site, bench.datastore.identity().root_user);
    ensure!(!root.is_enabled(site).await.map_err(plain)?, "root is there before it was asked for");
    for password in ["Root-secret-1", "Root-secret-2", "Root-secret-2"] {
        root.enable(site, &SecretString::from(password)).await.map_err(plain)?;
    }
    ensure!(root.is_enabled(site).await.map_err(plain)?, "root is not there");
    ensure!(enters(bench, tenant, &login(&name, "Root-secret-2", "one")).await, "root cannot log in");
    ensure!(!enters(bench, tenant, &login(&name, "Root-secret-1", "one")).await, "root's old password still acts");
    for _ in 0..2 {
        root.disable(site).await.map_err(plain)?;
    }
    ensure!(!root.is_enabled(site).await.map_err(plain)?, "root is still there");
    ensure!(!enters(bench, tenant, &login(&name, "Root-secret-2", "one")).await, "root still logs in");
    Ok(())
}

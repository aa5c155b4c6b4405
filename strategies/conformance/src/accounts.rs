//! Databases, accounts, grants and root, with names that break things.

use anyhow::{Context, Result, bail, ensure};
use secrecy::SecretString;
use trove_strategy::{Database, Databases, Grantee, Kind, NameRules, NewUser, UserChange, UserTraits, Users};

use crate::access::{MARK, account_name, enters, is_cut};
use crate::bench::Bench;
use crate::{Login, Tenant, plain};

/// Names that are allowed and break what does not quote them.
const NAMES: &[&str] =
    &["plain", "it's", "two words", "a\"b", "drop table x; --", "ünïcode", "per%cent_", "back\\slash"];

/// What passwords can be made of, behind the mark.
const PASSWORDS: &[&str] =
    &["", " 'quoted' \"", "\\ back `tick` $HOME", "%s {} ; -- #", "-ünï 密码", " ends in a space ", ":/?@&=+"];

/// Those that the rules of the datastore allow, one of the greatest length among them.
fn passwords(bench: &Bench<'_>) -> Vec<String> {
    let rules = bench.datastore.identity().users.passwords;
    let longest = rules.max_bytes.unwrap_or(255).min(255);
    let long = "x".repeat(longest - MARK.len());
    let all = PASSWORDS.iter().copied().chain([long.as_str()]).map(|end| format!("{MARK}{end}"));
    all.filter(|password| rules.refusal(password).is_none()).collect()
}

/// Those that the rules of the datastore allow.
fn names(rules: &NameRules) -> Vec<&'static str> {
    NAMES.iter().copied().filter(|name| rules.refusal(name).is_none()).collect()
}

/// The same for accounts, and which of them is the plain one.
fn account_names(traits: &UserTraits) -> Vec<String> {
    let whole = NAMES.iter().map(|name| account_name(traits, "one", name));
    whole.filter(|name| traits.names.refusal(name).is_none()).collect()
}

fn database(name: &str) -> Database {
    Database::named(name)
}

/// Made, listed, made again, removed, removed again.
pub(crate) async fn databases(bench: &Bench<'_>) -> Result<()> {
    let Some(databases) = bench.datastore.databases() else { bail!("announced, but not there") };
    let rules = bench.datastore.identity().databases;
    let names = names(&rules);
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

fn new_user(name: &str, password: &str, databases: &[String]) -> NewUser {
    NewUser { id: Grantee::named(name), password: password.into(), databases: databases.to_vec() }
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
    let rules = bench.datastore.identity().users;
    let (mut names, passwords) = (account_names(&rules), passwords(bench));
    let plain_name = account_name(&rules, "one", "plain");
    names.truncate(rules.max_accounts.unwrap_or(usize::MAX));
    let password = |n: usize| passwords[n % passwords.len()].as_str();
    for (n, name) in names.iter().enumerate() {
        users.create(site, &new_user(name, password(n), &entered)).await.map_err(plain)?;
        let login = Login::new(name, password(n), "one");
        ensure!(enters(bench, tenant, &login).await, "{name:?} cannot log in with {:?}", password(n));
        for wrong in ["", MARK, "wrong"].into_iter().filter(|wrong| *wrong != password(n)) {
            let login = Login::new(name, wrong, "one");
            ensure!(!enters(bench, tenant, &login).await, "{name:?} logs in with the wrong password {wrong:?}");
        }
        if !entered.is_empty() {
            let other = Login::new(name, password(n), "two");
            ensure!(!enters(bench, tenant, &other).await, "{name:?} enters a database that was not granted");
        }
        let found = users.get(site, &Grantee::named(name)).await.map_err(plain)?;
        ensure!(found.is_some_and(|user| user.databases == entered), "{name:?} is not shown as it is");
        if let Some(durability) = tenant.durability() {
            durability.write(site, &login, "x").await.with_context(|| format!("{name:?} cannot write"))?;
        }
    }
    refusals(bench, users).await?;
    let first = Login::new(&plain_name, password(0), "one");
    let read = async || match tenant.durability() {
        Some(durability) => durability.read(site, &first).await.map(|texts| texts.len()),
        None => Ok(names.len()),
    };
    ensure!(read().await? == names.len(), "what one writes the others of the database do not read");
    for (n, name) in names.iter().enumerate().filter(|(_, name)| **name != plain_name) {
        let login = Login::new(name, password(n), "one");
        let session = tenant.connect(site, &login).await?;
        users.delete(site, &Grantee::named(name)).await.map_err(plain)?;
        users.delete(site, &Grantee::named(name)).await.map_err(plain)?;
        ensure!(!enters(bench, tenant, &login).await, "{name:?} logs in after its removal");
        ensure!(is_cut(session).await, "a session of {name:?} outlives its removal");
    }
    ensure!(read().await? == names.len(), "what they wrote is gone");
    if let Some(databases) = bench.datastore.databases() {
        grants(bench, tenant, databases, &first).await?;
    }
    changes(bench, tenant, users, &first).await?;
    let listed = users.list(site).await.map_err(plain)?;
    ensure!(!listed.iter().any(|user| rules.names.is_reserved(&user.id.name)), "reserved accounts are listed");
    Ok(())
}

/// What the rules forbid the engine's strategy refuses too, and no error shows a password.
async fn refusals(bench: &Bench<'_>, users: &dyn Users) -> Result<()> {
    let (site, rules) = (&bench.site, bench.datastore.identity().users);
    let secret = format!("{MARK}-refused");
    for name in rules.names.reserved.iter().filter(|name| !name.is_empty()) {
        let refused = users.create(site, &new_user(name, &secret, &[])).await.err();
        let refused = refused.with_context(|| format!("the reserved account {name} was made"))?;
        ensure!(!format!("{refused:?} {}", refused.chain()).contains(MARK), "an error shows a password");
        ensure!(users.delete(site, &Grantee::named(name)).await.is_err(), "the reserved account {name} was removed");
    }
    let more = |n: usize| account_name(&rules, "one", &format!("more{n}"));
    if let Some(max) = rules.max_accounts {
        for n in users.list(site).await.map_err(plain)?.len()..max {
            users.create(site, &new_user(&more(n), &secret, &[])).await.map_err(plain)?;
        }
        let one_more = users.create(site, &new_user(&more(max), &secret, &[])).await;
        ensure!(one_more.is_err_and(|error| error.kind() == Kind::Invalid), "there are more than {max} accounts");
        for n in 0..max {
            users.delete(site, &Grantee::named(&more(n))).await.map_err(plain)?;
        }
    }
    let change = UserChange { password: Some(SecretString::from(secret.as_str())), ..UserChange::default() };
    let refused = users.change(site, &Grantee::named(&account_name(&rules, "one", "nobody")), &change).await.err();
    let refused = refused.context("an account that is not there was changed")?;
    ensure!(!format!("{refused:?} {}", refused.chain()).contains(MARK), "an error shows a password");
    Ok(())
}

/// Grants and revocations act on what can be done afterwards. Each is done twice.
async fn grants(bench: &Bench<'_>, tenant: &dyn Tenant, databases: &dyn Databases, login: &Login) -> Result<()> {
    let (site, id) = (&bench.site, Grantee::named(&login.user));
    let there = Login { database: "two".to_owned(), ..login.clone() };
    for _ in 0..2 {
        databases.grant(site, &id, &["two".to_owned()]).await.map_err(plain)?;
    }
    ensure!(enters(bench, tenant, &there).await, "a grant does not act");
    for _ in 0..2 {
        databases.revoke(site, &id, "two").await.map_err(plain)?;
    }
    ensure!(!enters(bench, tenant, &there).await, "a revocation does not act");
    Ok(())
}

/// Renames and new passwords act on what can be done afterwards. Each is done twice.
async fn changes(bench: &Bench<'_>, tenant: &dyn Tenant, users: &dyn Users, login: &Login) -> Result<()> {
    let (site, id) = (&bench.site, Grantee::named(&login.user));
    let traits = bench.datastore.identity().users;
    let (renames, renamed) = (traits.rename, account_name(&traits, "one", "renamed"));
    let another = format!("{MARK}-another");
    let change = UserChange {
        name: renames.then(|| renamed.clone()),
        host: None,
        password: Some(SecretString::from(another.as_str())),
    };
    for _ in 0..2 {
        users.change(site, &id, &change).await.map_err(plain)?;
    }
    let name = if renames { &renamed } else { &login.user };
    ensure!(enters(bench, tenant, &Login::new(name, &another, "one")).await, "a changed account cannot log in");
    ensure!(!enters(bench, tenant, login).await, "the old password or name still acts");
    Ok(())
}

/// Root comes and goes.
pub(crate) async fn root(bench: &Bench<'_>, tenant: &dyn Tenant) -> Result<()> {
    let Some(root) = bench.datastore.root() else { bail!("announced, but not there") };
    let (site, name) = (&bench.site, bench.datastore.identity().root_user);
    ensure!(!root.is_enabled(site).await.map_err(plain)?, "root is there before it was asked for");
    let passwords = passwords(bench);
    for password in passwords.iter().chain(passwords.last()) {
        root.enable(site, &SecretString::from(password.as_str())).await.map_err(plain)?;
        ensure!(enters(bench, tenant, &Login::new(&name, password, "one")).await, "root cannot log in: {password:?}");
    }
    ensure!(root.is_enabled(site).await.map_err(plain)?, "root is not there");
    if let Some(users) = bench.datastore.users() {
        let listed = users.list(site).await.map_err(plain)?;
        ensure!(listed.iter().all(|user| user.id.name != name), "root is listed among the users: {listed:?}");
    }
    let last = Login::new(&name, passwords.last().map_or("", String::as_str), "one");
    let old = Login::new(&name, MARK, "one");
    ensure!(!enters(bench, tenant, &old).await, "root's old password still acts");
    let session = tenant.connect(site, &last).await?;
    for _ in 0..2 {
        root.disable(site).await.map_err(plain)?;
    }
    ensure!(!root.is_enabled(site).await.map_err(plain)?, "root is still there");
    ensure!(!enters(bench, tenant, &last).await, "root still logs in");
    ensure!(is_cut(session).await, "a session of root outlives its being disabled");
    Ok(())
}

//! Names and passwords: what is accepted logs in, what is refused changes nothing.

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use trove_strategy::{Database, Datastore, Grantee, Kind, NewUser, UserChange};

use crate::{MONGODB, bench, client, databases, insert, make_database, plain, run, users};

/// As many names and passwords are drawn at most, of which as many are tried as are accepted.
const CASES: usize = 200;
const ACCEPTED: usize = 8;

/// Texts of all kinds, most of them such as people write.
fn text(longest: usize) -> impl Strategy<Value = String> {
    let people = "abcxyzABC019_.@:/%=,'\"{}$ -".chars().collect::<Vec<char>>();
    let plain = proptest::collection::vec(proptest::sample::select(people), 1..=longest);
    let plain = plain.prop_map(|all| all.into_iter().collect());
    let any = proptest::collection::vec(any::<char>(), 1..longest).prop_map(|all| all.into_iter().collect());
    prop_oneof![3 => plain, 1 => any]
}

#[tokio::test]
async fn accounts_whose_name_and_password_are_accepted_log_in() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let site = &bench.site;
    make_database(site, "one").await?;
    let rules = MONGODB.identity().users;
    let mut runner = TestRunner::default();
    let mut draw = |longest| -> Result<String> {
        Ok(text(longest).new_tree(&mut runner).map_err(|error| anyhow::anyhow!("{error}"))?.current())
    };
    let mut accepted = 0;
    for case in 0..CASES {
        if accepted == ACCEPTED {
            break;
        }
        let own = if case == 0 { "x".repeat(251) } else { draw(30)? };
        let name = format!("one.{own}");
        let (password, next) = (draw(60)?, draw(60)?);
        // The API refuses a name that is not written database.name too, which is no rule of characters.
        if rules.names.refusal(&name).is_some() || own.is_empty() || own.starts_with('.') {
            let refused = users().create(site, &user(&name, "Secret-1")).await;
            ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name:?} is made");
            continue;
        }
        // The API refuses such a password before an agent hears of it.
        if [&password, &next].into_iter().any(|password| rules.passwords.refusal(password).is_some()) {
            continue;
        }
        accepted += 1;
        users().create(site, &user(&name, &password)).await.map_err(plain).with_context(|| format!("{name:?}"))?;
        let enters = async |password: &str| {
            let client = client(site, Some((&name, password)))?;
            Ok::<_, anyhow::Error>(run(&client, "one", insert("x")).await)
        };
        enters(&password).await?.with_context(|| format!("{name:?} does not log in with {password:?}"))?;
        let change = UserChange { password: Some(next.as_str().into()), ..UserChange::default() };
        users().change(site, &Grantee::named(&name), &change).await.map_err(plain)?;
        enters(&next).await?.with_context(|| format!("{name:?} does not log in with {next:?}"))?;
        let listed = users().list(site).await.map_err(plain)?;
        ensure!(listed.iter().any(|user| user.id.name == name && user.databases == ["one"]), "{name:?} is not listed");
        users().delete(site, &Grantee::named(&name)).await.map_err(plain)?;
    }
    ensure!(accepted >= ACCEPTED, "only {accepted} of {CASES} were accepted");
    ensure!(users().list(site).await.map_err(plain)?.is_empty());

    for name in ["app", "admin.app", "one.", ".app", "a b.app", "LOCAL.app"] {
        let refused = users().create(site, &user(name, "Secret-1")).await;
        ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name:?} is made");
    }
    users().create(site, &user("one.app", "Secret-1")).await.map_err(plain)?;
    for (name, host) in [(Some("one.other"), None), (None, Some("10.0.0.1"))] {
        let (name, host) = (name.map(str::to_owned), host.map(str::to_owned));
        let change = UserChange { name, host, password: Some("Secret-2".into()) };
        let refused = users().change(site, &Grantee::named("one.app"), &change).await;
        ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "{change:?} was done");
    }
    run(&client(site, Some(("one.app", "Secret-1")))?, "one", insert("x")).await?;
    running.stop(&bench).await
}

fn user(name: &str, password: &str) -> NewUser {
    NewUser { id: Grantee::named(name), password: password.into(), databases: vec!["one".to_owned()] }
}

#[tokio::test]
async fn databases_whose_name_is_accepted_can_be_written_to() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let site = &bench.site;
    let rules = MONGODB.identity().databases;
    let root = crate::as_root(site).await?;
    let mut runner = TestRunner::default();
    let mut accepted = 0;
    for case in 0..20 {
        let drawn = text(20).new_tree(&mut runner).map_err(|error| anyhow::anyhow!("{error}"))?.current();
        let name = if case == 0 { "x".repeat(63) } else { drawn };
        let made = databases().create(site, &Database::named(&name)).await;
        if rules.refusal(&name).is_some() {
            ensure!(made.is_err_and(|error| error.kind() == Kind::Invalid), "{name:?} is made");
            ensure!(databases().list(site).await.map_err(plain)?.is_empty());
            continue;
        }
        accepted += 1;
        made.map_err(plain).with_context(|| format!("{name:?}"))?;
        run(&root, &name, insert("x")).await.with_context(|| format!("{name:?} cannot be written to"))?;
        run(&root, &name, doc! {"find": "t"}).await?;
        let listed = databases().list(site).await.map_err(plain)?;
        ensure!(listed.iter().map(|database| &database.name).eq([&name]), "{name:?}: {listed:?}");
        databases().delete(site, &name).await.map_err(plain)?;
    }
    ensure!(accepted >= 3 && databases().list(site).await.map_err(plain)?.is_empty(), "{accepted}");
    running.stop(&bench).await
}

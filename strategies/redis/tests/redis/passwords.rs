//! What is taken as a password or as a name works: with redis-cli, and with a client library.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use trove_conformance::Bench;
use trove_strategy::{Datastore, Grantee, Settings, StartMode, UserChange};

use crate::{REDIS, login, make_user, plain, users};

/// Longest password that the service takes, characters.
const CHARACTERS: usize = 255;

/// Any that the service takes: 1 to 255 characters, none of them NUL.
fn password() -> impl Strategy<Value = String> {
    let any = prop::char::any().prop_filter("NUL", |c| *c != '\0');
    let odd = prop::sample::select(
        " \t\r\n\\\"'$%#>~&@+-:/?⅐ₙ\u{1}\u{7f}\u{ad}\u{301}\u{200b}\u{feff}\u{10ffff}".chars().collect::<Vec<_>>(),
    );
    prop_oneof![
        prop::collection::vec(any.clone(), 1..20),
        prop::collection::vec(odd, 1..20),
        prop::collection::vec(any, CHARACTERS..=CHARACTERS)
    ]
    .prop_map(|characters| characters.into_iter().collect())
}

/// Any name that the manifest lets pass.
fn name() -> impl Strategy<Value = String> {
    let rules = REDIS.identity().users.names;
    let forbidden = rules.forbidden_characters.clone();
    let any = prop::char::any().prop_filter("forbidden", move |c| *c != '\0' && !forbidden.contains(*c));
    let odd = prop::sample::select(
        "\\\"'$%#>~&@+-:/?(){}*⅐ₙ\u{1}\u{7f}\u{85}\u{a0}\u{301}\u{2028}\u{feff}".chars().collect::<Vec<_>>(),
    );
    prop_oneof![prop::collection::vec(any, 1..20), prop::collection::vec(odd, 1..20)]
        .prop_map(|characters| characters.into_iter().collect::<String>())
        .prop_filter("reserved", move |name| !rules.reserved.contains(name))
}

fn drawn<T>(strategy: &impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let mut runner = TestRunner::default();
    (0..count).filter_map(|_| strategy.new_tree(&mut runner).ok()).map(|tree| tree.current()).collect()
}

/// redis-cli, with the password in its environment.
fn cli_says(bench: &Bench<'_>, user: &str, password: &str) -> Result<String> {
    let mut command = Command::new("redis-cli");
    command.args(["--no-auth-warning", "-h", &bench.site.address.to_string(), "--user", user, "PING"]);
    let output = command.env("REDISCLI_AUTH", password).stdin(Stdio::null()).output().context("redis-cli")?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned())
}

async fn works(bench: &Bench<'_>, user: &str, password: &str) -> Result<()> {
    let said = cli_says(bench, user, password)?;
    ensure!(said == "PONG", "redis-cli as {user:?} with {password:?}: {said}");
    let mut connection = login(bench, user, password).await.with_context(|| format!("{user:?}, {password:?}"))?;
    let said: String = redis::cmd("ACL").arg("WHOAMI").query_async(&mut connection).await?;
    ensure!(said == user, "{said:?} is not {user:?}");
    Ok(())
}

#[tokio::test]
async fn every_password_that_is_taken_lets_in_by_redis_cli_and_by_a_library() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    let root = REDIS.root().expect("announced");
    let long = "\u{10ffff}".repeat(CHARACTERS);
    let known =
        ["⅐ cup", "xₙ", " ", "  two  ", "a\nb", "line\n", "\r\n", "#hash", ">x", "nopass", "\\x00", "\"", &long];
    let all = known.into_iter().map(str::to_owned).chain(drawn(&password(), 40));
    for (number, password) in all.enumerate() {
        let id = Grantee { name: "app".into(), host: "%".into() };
        if number % 2 == 0 {
            make_user(&bench, "app", &password).await?;
        } else {
            let change = UserChange { password: Some(password.clone().into()), ..UserChange::default() };
            users().change(&bench.site, &id, &change).await.map_err(plain)?;
        }
        works(&bench, "app", &password).await?;
        ensure!(cli_says(&bench, "app", &format!("{password}x"))?.contains("WRONGPASS"), "{password:?} and more");
        if number % 5 == 0 {
            root.enable(&bench.site, &password.clone().into()).await.map_err(plain)?;
            works(&bench, "default", &password).await?;
        }
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn every_name_that_is_taken_can_be_made_renamed_used_after_a_start_and_removed() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let mut running = bench.start().await?;
    let host = || "%".to_owned();
    let known =
        ["-x", "on", "off", "user", "(a", "a)", "a (b".split(' ').next().unwrap_or_default(), "%s", "\u{85}", "\u{a0}"];
    let mut all: Vec<String> = known.into_iter().map(str::to_owned).chain(drawn(&name(), 60)).collect();
    all.push("n".repeat(255));
    all.sort();
    all.dedup();
    for name in &all {
        make_user(&bench, name, "Secret-1").await.with_context(|| format!("{name:?}"))?;
    }
    let listed = async || -> Result<Vec<String>> {
        let found = users().list(&bench.site).await.map_err(plain)?;
        Ok(found.into_iter().map(|user| user.id.name).collect())
    };
    ensure!(listed().await? == all, "{:?}", listed().await?);
    // The file of accounts is read, put right and read by the server.
    for round in 1..=2 {
        running.stop(&bench).await?;
        REDIS.engine().configure(&bench.site, &Settings::default()).await.map_err(plain)?;
        running = bench.spawn(StartMode::Normal)?;
        bench.await_answer(&mut running).await?;
        ensure!(listed().await? == all, "round {round}: {:?}", listed().await?);
        for name in &all {
            works(&bench, name, "Secret-1").await?;
        }
    }
    for name in &all {
        let (id, new) =
            (Grantee { name: name.clone(), host: host() }, format!("{}x", &name.chars().take(60).collect::<String>()));
        if !all.contains(&new) {
            let change = UserChange { name: Some(new.clone()), ..UserChange::default() };
            users().change(&bench.site, &id, &change).await.map_err(plain)?;
            works(&bench, &new, "Secret-1").await?;
            users().delete(&bench.site, &Grantee { name: new, host: host() }).await.map_err(plain)?;
        }
        users().delete(&bench.site, &id).await.map_err(plain)?;
    }
    ensure!(listed().await?.is_empty(), "{:?}", listed().await?);
    running.stop(&bench).await
}

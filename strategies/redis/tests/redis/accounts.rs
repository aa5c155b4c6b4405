//! Who may come in and do what: from the first start on, after a crash, and when root has worked against it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use trove_conformance::Bench;
use trove_strategy::{Datastore, Grantee, Settings, StartMode, UserChange};

use crate::{REDIS, cli, ends_by_itself, make_user, plain, users};
#[tokio::test]
async fn nobody_comes_in_without_a_password_from_the_first_instant() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let engine = REDIS.engine();
    engine.initialise(&bench.site).await.map_err(plain)?;
    engine.configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    let accounts = bench.site.data.join("users.acl");
    let first = std::fs::read_to_string(&accounts)?;
    ensure!(first.starts_with("user default off ~* &* +@all -acl "), "{first}");
    let password = std::fs::read_to_string(bench.site.secrets.join("os_admin"))?;
    ensure!(password.len() == 64 && !first.contains(&password), "the password is on the disk twice");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(bench.site.secrets.join("os_admin"))?.permissions());
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let spec = engine.start_spec(&bench.site, &Settings::default(), StartMode::Normal);
    ensure!(!format!("{spec:?}").contains(&password), "{spec:?}");

    // Without the file of accounts there is no start at all.
    std::fs::rename(&accounts, bench.scratch().join("aside"))?;
    ends_by_itself(&bench, bench.spawn(StartMode::Normal)?).await?;
    std::fs::rename(bench.scratch().join("aside"), &accounts)?;

    let running = bench.start().await?;
    for (login, expected) in [
        (None, "NOAUTH"),
        (Some(("default", "")), "NOAUTH"),
        (Some(("default", "x")), "WRONGPASS"),
        (Some(("os_admin", "x")), "WRONGPASS"),
        (Some(("os_admin", "")), "NOAUTH"),
    ] {
        let said = cli(&bench, login).run(&["PING"])?;
        ensure!(said.contains(expected) && !said.contains("PONG"), "{login:?}: {said}");
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn a_tenant_works_with_data_and_not_with_the_server() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let app = cli(&bench, Some(("app", "Secret-1")));
    for words in [
        &["SET", "k", "v"] as &[&str],
        &["EVAL", "return redis.call('GET', KEYS[1])", "1", "k"],
        &["KEYS", "*"],
        &["INFO", "server"],
        &["SELECT", "3"],
        &["PUBLISH", "c", "m"],
        &["FLUSHALL"],
    ] {
        let said = app.run(words)?;
        ensure!(!said.contains("NOPERM") && !said.starts_with("ERR"), "{words:?}: {said}");
    }
    for words in [
        &["CONFIG", "GET", "*"] as &[&str],
        &["CONFIG", "SET", "dir", "/tmp"],
        &["ACL", "LIST"],
        &["ACL", "SETUSER", "x", "on", "nopass"],
        &["SHUTDOWN"],
        &["DEBUG", "SLEEP", "1"],
        &["REPLICAOF", "127.0.0.1", "1"],
        &["MODULE", "LIST"],
        &["SAVE"],
        &["BGREWRITEAOF"],
        &["MONITOR"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["MIGRATE", "127.0.0.1", "1", "k", "0", "1"],
        &["EVAL", "return redis.call('CONFIG', 'GET', '*')", "0"],
    ] {
        let said = app.run(words)?;
        ensure!(said.contains("NOPERM") || said.contains("not allowed"), "{words:?}: {said}");
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn of_what_is_dangerous_a_tenant_may_do_only_what_works_on_data() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let password = std::fs::read_to_string(bench.site.secrets.join("os_admin"))?;
    let admin = cli(&bench, Some(("os_admin", &password)));
    let mut allowed = std::collections::BTreeSet::new();
    let mut asked = 0;
    for category in ["admin", "dangerous"] {
        for command in admin.run(&["COMMAND", "LIST", "FILTERBY", "ACLCAT", category])?.lines() {
            // As many words as it takes; those of a command within another stand in one word here.
            let facts = admin.run(&["COMMAND", "INFO", command])?;
            let arity: i64 = facts.lines().nth(1).context("an arity")?.trim().parse()?;
            let mut words: Vec<&str> = command.split('|').collect();
            words.resize(usize::try_from(arity.unsigned_abs())?.max(words.len()), "1");
            let said = admin.run(&[&["ACL", "DRYRUN", "app"], words.as_slice()].concat())?;
            asked += 1;
            if !said.contains("has no permissions to run the") {
                ensure!(said == "OK", "{command}: {said}");
                allowed.insert(command.to_owned());
            }
        }
    }
    ensure!(asked > 80, "{asked} commands");
    let expected = ["flushall", "flushdb", "info", "keys", "role", "sort", "sort_ro", "swapdb"];
    ensure!(allowed.iter().eq(expected), "{allowed:?}");
    running.stop(&bench).await
}

#[tokio::test]
async fn a_change_that_was_cut_off_before_it_was_on_the_disk_is_made_again() -> Result<()> {
    // A crash in the middle of the first start: the agent has a password and there are no accounts; then the reverse.
    let bench = Bench::new(&REDIS).await?;
    let engine = REDIS.engine();
    engine.initialise(&bench.site).await.map_err(plain)?;
    let accounts = bench.site.data.join("users.acl");
    std::fs::remove_file(&accounts)?;
    engine.initialise(&bench.site).await.map_err(plain)?;
    std::fs::remove_file(bench.site.secrets.join("os_admin"))?;
    engine.initialise(&bench.site).await.map_err(plain)?;
    let mut running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    make_user(&bench, "other", "Secret-1").await?;

    // The server is killed when it has made a change, and before that is in its file. The agent asks again.
    let (old, new) = (
        Grantee { name: "app".into(), host: "%".into() },
        UserChange { name: Some("renamed".into()), ..UserChange::default() },
    );
    let verifier = format!("#{}", "a".repeat(64));
    for words in [
        &["ACL", "SETUSER", "fresh", "on", &verifier] as &[&str],
        &["ACL", "DELUSER", "other"],
        &["ACL", "DELUSER", "app"],
    ] {
        let password = std::fs::read_to_string(bench.site.secrets.join("os_admin"))?;
        let said = cli(&bench, Some(("os_admin", &password))).run(words)?;
        ensure!(said == "OK" || said == "1", "{words:?}: {said}");
    }
    running.kill()?;
    engine.configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    let listed = async || -> Result<Vec<String>> {
        let all = users().list(&bench.site).await.map_err(plain)?;
        Ok(all.into_iter().map(|user| user.id.name).collect())
    };
    ensure!(listed().await? == ["app", "other"], "{:?}", listed().await?);
    make_user(&bench, "fresh", "Secret-2").await?;
    users().delete(&bench.site, &Grantee { name: "other".into(), host: "%".into() }).await.map_err(plain)?;
    users().change(&bench.site, &old, &new).await.map_err(plain)?;

    // Killed right after each was acknowledged, all are there; and asked again, which the agent does when it does not
    // know that, they change nothing.
    running.kill()?;
    running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    make_user(&bench, "fresh", "Secret-2").await?;
    users().delete(&bench.site, &Grantee { name: "other".into(), host: "%".into() }).await.map_err(plain)?;
    users().change(&bench.site, &old, &new).await.map_err(plain)?;
    ensure!(listed().await? == ["fresh", "renamed"], "{:?}", listed().await?);
    assert_eq!(cli(&bench, Some(("fresh", "Secret-2"))).run(&["PING"])?, "PONG");
    assert_eq!(cli(&bench, Some(("renamed", "Secret-1"))).run(&["PING"])?, "PONG");
    running.stop(&bench).await
}

#[tokio::test]
async fn accounts_and_root_outlive_a_kill() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let root = REDIS.root().expect("announced");
    root.enable(&bench.site, &"Root-secret-1".into()).await.map_err(plain)?;
    running.kill()?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    assert_eq!(cli(&bench, Some(("app", "Secret-1"))).run(&["PING"])?, "PONG");
    // Root is whoever names no account.
    let output = Command::new("redis-cli")
        .args(["-h", &bench.site.address.to_string(), "ACL", "WHOAMI"])
        .env("REDISCLI_AUTH", "Root-secret-1")
        .output()?;
    ensure!(String::from_utf8_lossy(&output.stdout).trim() == "default", "{output:?}");
    root.disable(&bench.site).await.map_err(plain)?;
    running.kill()?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    ensure!(!root.is_enabled(&bench.site).await.map_err(plain)?, "root is back after a kill");
    let file = std::fs::read_to_string(bench.site.data.join("users.acl"))?;
    ensure!(!file.contains("Secret") && !file.contains("Root-secret"), "a password in clear: {file}");
    running.stop(&bench).await
}

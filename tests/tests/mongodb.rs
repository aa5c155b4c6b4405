//! MongoDB's peculiarities through the whole service, with `openstack` and trovectl.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use trove_tests::{Api, Clients, Engine, MongoDb, Stack, leftovers, poll, program};

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|entry| entry["Name"].as_str()).collect()
}

fn insert(text: &str) -> Document {
    doc! {"insert": "kept", "documents": [{"text": text}]}
}

const ALICE: (&str, &str) = ("shop.alice", "Alice-secret-1");

#[tokio::test(flavor = "multi_thread")]
async fn an_order_becomes_a_mongodb_that_can_be_used_and_survives() -> Result<()> {
    if !Engine::MongoDb.is_installed() {
        return Ok(());
    }
    let stack = Stack::of(Engine::MongoDb).await?;
    let api = stack.login("trove").await?;
    let user = Clients::new(&stack.clouds_yaml(), "trove")?;
    let version = user.json(&["datastore", "version", "list", "mongodb"])?;
    let version = version[0]["Name"].as_str().context("a version")?.to_owned();
    let mut create = vec!["database", "instance", "create", "docs", "--flavor", "1", "--size", "1"];
    create.extend(["--nic", "net-id=7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"]);
    create.extend(["--datastore", "mongodb", "--datastore-version", &version, "--databases", "shop"]);
    for unqualified in ["alice", ".alice", "admin.alice", "sh op.alice"] {
        let wrong = format!("{unqualified}:Alice-secret-1");
        let (made, said) = user.try_openstack(&[&create[..], &["--users", &wrong]].concat())?;
        ensure!(!made && said.contains("400"), "{unqualified}: {said}");
    }
    let created = user.json(&[&create[..], &["--users", &format!("{}:{}", ALICE.0, ALICE.1)]].concat())?;
    let id = created["id"].as_str().with_context(|| format!("an id in {created}"))?.to_owned();
    let view = api.await_active(&id).await?;
    ensure!(view["datastore"]["type"] == "mongodb" && view["fault"].is_null(), "{view}");
    let (plain, tls) = (MongoDb::plain(&view)?, MongoDb::tls(&view, &stack.authority(&api, &id).await?)?);
    for way in [&plain, &tls] {
        way.run(ALICE.0, ALICE.1, "shop", insert("alice's")).await?;
        ensure!(way.run(ALICE.0, "wrong", "shop", insert("x")).await.is_err(), "a wrong password is accepted");
        ensure!(way.run(ALICE.0, ALICE.1, "other", insert("x")).await.is_err(), "any database is open");
    }

    let (made, said) = user.try_openstack(&["database", "db", "create", &id, "admin"])?;
    ensure!(!made && said.contains("reserved"), "{said}");
    let enabled = user.json(&["database", "root", "enable", &id])?;
    let password = enabled["password"].as_str().with_context(|| format!("a password in {enabled}"))?;
    ensure!(enabled["name"] == "admin.root", "{enabled}");
    plain.run("admin.root", password, "theirs", insert("root's")).await?;
    ensure!(plain.run("admin.root", password, "admin", doc! {"dropUser": "os_admin"}).await.is_err());
    assert_eq!(names(&user.json(&["database", "db", "list", &id])?), ["shop", "theirs"]);

    survives(&api, &user, &id, &plain).await?;
    connects(&stack, &api, &id).await?;
    let pids = leftovers::processes(&id);
    user.openstack(&["database", "instance", "delete", &id])?;
    api.await_gone(&id).await?;
    leftovers::assert_nothing_of(&id, &stack.host(&id), &pids)
}

/// Killed and restarted, it has what was acknowledged.
async fn survives(api: &Api, user: &Clients, id: &str, plain: &MongoDb) -> Result<()> {
    let engines = leftovers::engines(id);
    ensure!(engines.len() == 1, "{engines:?}");
    kill(Pid::from_raw(engines[0]), Signal::SIGKILL)?;
    let another = |pids: &Vec<i32>| pids.len() == 1 && pids[0] != engines[0];
    poll("another engine", Duration::from_secs(30), async || Ok(leftovers::engines(id)), another).await?;
    let count = async || Ok(plain.run(ALICE.0, ALICE.1, "shop", doc! {"count": "kept"}).await.ok());
    let counted = poll("the data", Duration::from_secs(60), count, Option::is_some).await?.context("a count")?;
    ensure!(counted.get_i32("n")? == 2, "{counted}");
    user.openstack(&["database", "instance", "restart", id])?;
    api.await_operations(id).await?;
    api.await_active(id).await?;
    let counted = plain.run(ALICE.0, ALICE.1, "shop", doc! {"count": "kept"}).await?;
    ensure!(counted.get_i32("n")? == 2, "{counted}");
    Ok(())
}

/// trovectl hands names and the password to mongosh as data, none of them as an argument, and says which package brings it
/// where it is not installed.
async fn connects(stack: &Stack, api: &Api, id: &str) -> Result<()> {
    let secret = stack.directory().join("password");
    std::fs::write(&secret, format!("{}\n", ALICE.1))?;
    let programs = stack.directory().join("bin");
    let trovectl = |path: &Path| -> Result<String> {
        let mut command = Command::new(program("trovectl")?);
        command.args(["connect", id, "--user", ALICE.0, "--database", "shop", "--password-file"]).arg(&secret);
        command.env("OS_CLIENT_CONFIG_FILE", stack.clouds_yaml()).env("OS_CLOUD", "trove").env("PATH", path);
        command.env("XDG_CACHE_HOME", stack.directory().join("cache")).env_remove("XDG_RUNTIME_DIR");
        let output = command.stdin(Stdio::null()).output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let missing = trovectl(&programs)?;
    ensure!(missing.contains("Could not start mongosh") && missing.contains("package mongodb-mongosh"), "{missing}");
    std::fs::create_dir(&programs)?;
    let mongosh = programs.join("mongosh");
    std::fs::write(&mongosh, "#!/bin/sh\necho \"$@\"\nexec /usr/bin/env\n")?;
    std::fs::set_permissions(&mongosh, std::fs::Permissions::from_mode(0o755))?;
    let said = trovectl(&programs)?;
    let (args, env) = said.split_once("\nTROVE_").with_context(|| said.clone())?;
    ensure!(!args.contains(ALICE.1) && !args.contains("alice"), "{args}");
    let env = format!("TROVE_{env}");
    let address = api.instance(id).await?["ip"][0].as_str().context("an address")?.to_owned();
    for (name, value) in
        [("USER", ALICE.0), ("PASSWORD", ALICE.1), ("DATABASE", "shop"), ("HOST", &format!("{address}:27017"))]
    {
        ensure!(env.lines().any(|line| line == format!("TROVE_{name}={value}")), "{name} in {said}");
    }
    Ok(())
}

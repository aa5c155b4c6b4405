//! MongoDB through the whole service: ordered, used, administered and broken, over the API, `openstack` and trovectl.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use trove_tests::{Api, Clients, MongoDb, Stack, StackOptions, leftovers, poll, program};

/// A service that offers MongoDB, where that is installed; else it says why there is none.
async fn stack() -> Result<Option<Stack>> {
    use std::io::Write;
    let places = ["/usr/local/lib/trove-rs/mongodb/bin/mongod", "/usr/local/bin/mongod", "/usr/bin/mongod"];
    if !places.iter().any(|place| Path::new(place).exists()) {
        writeln!(std::io::stdout(), "skipped: mongod is not installed (make setup fetches it where it can be had)")?;
        return Ok(None);
    }
    let only = ("TROVE_DATASTORES__ONLY".to_owned(), "[\"mongodb\", \"redis\"]".to_owned());
    Stack::start_with(StackOptions { environment: vec![only], ..StackOptions::default() }).await.map(Some)
}

/// The authority of an instance in a file, for clients that speak TLS.
async fn authority(stack: &Stack, api: &Api, id: &str) -> Result<PathBuf> {
    let connection = api.get(&format!("/instances/{id}/connection")).await?.body;
    let pem = connection["connection"]["ca_pem"].as_str().with_context(|| format!("ca_pem in {connection}"))?;
    let path = stack.directory().join("authority.pem");
    std::fs::write(&path, pem)?;
    Ok(path)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|entry| entry["Name"].as_str()).collect()
}

fn insert(text: &str) -> Document {
    doc! {"insert": "kept", "documents": [{"text": text}]}
}

const ALICE: (&str, &str) = ("shop.alice", "Alice-secret-1");

#[tokio::test(flavor = "multi_thread")]
async fn openstack_orders_and_administers_a_mongodb_and_each_step_acts_in_the_engine() -> Result<()> {
    let Some(stack) = stack().await? else { return Ok(()) };
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
    let (plain, tls) = (MongoDb::plain(&view)?, MongoDb::tls(&view, &authority(&stack, &api, &id).await?)?);
    for way in [&plain, &tls] {
        way.run(ALICE.0, ALICE.1, "shop", insert("alice's")).await?;
        ensure!(way.run(ALICE.0, "wrong", "shop", insert("x")).await.is_err(), "a wrong password is accepted");
        ensure!(way.run(ALICE.0, ALICE.1, "other", insert("x")).await.is_err(), "any database is open");
    }

    let settled = async || anyhow::Ok(api.await_operations(&id).await?);
    user.openstack(&["database", "db", "create", &id, "archive"])?;
    settled().await?;
    assert_eq!(names(&user.json(&["database", "db", "list", &id])?), ["archive", "shop"]);
    let (made, said) = user.try_openstack(&["database", "db", "create", &id, "admin"])?;
    ensure!(!made && said.contains("reserved"), "{said}");
    let bob = ("archive.bob", "Bob 'secret' 1");
    user.openstack(&["database", "user", "create", &id, bob.0, bob.1, "--databases", "archive"])?;
    settled().await?;
    assert_eq!(names(&user.json(&["database", "user", "list", &id])?), [bob.0, ALICE.0]);
    ensure!(user.openstack(&["database", "user", "show", &id, bob.0])?.contains("archive"));
    plain.run(bob.0, bob.1, "archive", insert("bob's")).await?;
    ensure!(plain.run(bob.0, bob.1, "shop", insert("x")).await.is_err(), "bob is in shop");
    user.openstack(&["database", "user", "grant", "access", &id, bob.0, "shop"])?;
    settled().await?;
    plain.run(bob.0, bob.1, "shop", insert("bob's")).await?;
    assert_eq!(names(&user.json(&["database", "user", "show", "access", &id, bob.0])?), ["archive", "shop"]);
    user.openstack(&["database", "user", "revoke", "access", &id, bob.0, "shop"])?;
    settled().await?;
    ensure!(plain.run(bob.0, bob.1, "shop", insert("x")).await.is_err(), "a revocation does not act");
    let renamed = ["database", "user", "update", "attributes", &id, bob.0, "--new_name", "archive.robert"];
    ensure!(!user.try_openstack(&renamed)?.0, "an account is renamed");
    user.openstack(&["database", "user", "update", "attributes", &id, bob.0, "--new_password", "Bob-secret-2"])?;
    settled().await?;
    plain.run(bob.0, "Bob-secret-2", "archive", insert("again")).await?;
    ensure!(plain.run(bob.0, bob.1, "archive", insert("x")).await.is_err(), "the old password still acts");
    user.openstack(&["database", "user", "delete", &id, bob.0])?;
    user.openstack(&["database", "db", "delete", &id, "archive"])?;
    settled().await?;
    assert_eq!(names(&user.json(&["database", "db", "list", &id])?), ["shop"]);
    ensure!(plain.run(bob.0, "Bob-secret-2", "archive", insert("x")).await.is_err(), "a deleted account logs in");

    let enabled = user.json(&["database", "root", "enable", &id])?;
    let password = enabled["password"].as_str().with_context(|| format!("a password in {enabled}"))?;
    ensure!(enabled["name"] == "admin.root", "{enabled}");
    plain.run("admin.root", password, "theirs", insert("root's")).await?;
    ensure!(plain.run("admin.root", password, "admin", doc! {"dropUser": "os_admin"}).await.is_err());
    assert_eq!(names(&user.json(&["database", "db", "list", &id])?), ["shop", "theirs"]);
    ensure!(user.openstack(&["database", "root", "show", &id])?.contains("True"));
    user.openstack(&["database", "root", "disable", &id])?;
    settled().await?;
    ensure!(plain.run("admin.root", password, "theirs", insert("x")).await.is_err(), "root comes in afterwards");

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
    ensure!(counted.get_i32("n")? == 3, "{counted}");
    user.openstack(&["database", "instance", "restart", id])?;
    api.await_operations(id).await?;
    api.await_active(id).await?;
    let counted = plain.run(ALICE.0, ALICE.1, "shop", doc! {"count": "kept"}).await?;
    ensure!(counted.get_i32("n")? == 3, "{counted}");
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

#[tokio::test]
async fn clear_connections_are_refused_when_the_configuration_says_so() -> Result<()> {
    let Some(mut stack) = stack().await? else { return Ok(()) };
    let api = stack.login("trove").await?;
    let order = json!({"instance": {"name": "private", "flavorRef": "1", "volume": {"size": 1},
        "datastore": {"type": "mongodb"}, "databases": [{"name": "shop"}],
        "users": [{"name": ALICE.0, "password": ALICE.1, "databases": [{"name": "shop"}]}]}});
    let answer = api.post("/instances", &order).await?;
    let id = answer.body["instance"]["id"].as_str().with_context(|| format!("{answer:?}"))?.to_owned();
    let view = api.await_active(&id).await?;
    let (plain, tls) = (MongoDb::plain(&view)?, MongoDb::tls(&view, &authority(&stack, &api, &id).await?)?);
    plain.run(ALICE.0, ALICE.1, "shop", insert("in clear")).await?;
    let told = std::fs::read_to_string(stack.config())?;
    std::fs::write(stack.config(), format!("{told}\n[datastores]\ntls = \"enforced\"\n"))?;
    stack.kill_and_run()?;
    let entered = async || Ok(plain.run(ALICE.0, ALICE.1, "shop", insert("x")).await.is_ok());
    poll("the engine demands TLS", Duration::from_secs(90), entered, |entered| !*entered).await?;
    tls.run(ALICE.0, ALICE.1, "shop", insert("encrypted")).await?;
    // The agent speaks TLS too.
    api.await_active(&id).await?;
    ensure!(api.get(&format!("/instances/{id}/users")).await?.status == 200);
    Ok(())
}

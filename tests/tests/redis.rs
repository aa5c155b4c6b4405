//! Redis through the whole service: created, used, managed and broken by tenants, with the API, `openstack` and
//! trovectl.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{APP, Api, Clients, Engine, Redis, Stack, leftovers, poll, program};

async fn order(api: &Api, name: &str) -> Result<String> {
    let answer = api.post("/instances", &Engine::Redis.order(name)).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let id = answer.body["instance"]["id"].as_str().context("an id")?.to_owned();
    api.await_active(&id).await?;
    Ok(id)
}

async fn change(api: &Api, method: Method, path: &str, body: Option<Value>) -> Result<()> {
    let answer = api.send(method, path, body.as_ref()).await?;
    ensure!(answer.status == 202, "{path}: {answer:?}");
    let id = path.split('/').nth(2).context("an instance")?;
    let ended = api.await_operations(id).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    Ok(())
}

/// Writes the authority of an instance to a file, for TLS clients.
async fn authority(stack: &Stack, api: &Api, id: &str) -> Result<PathBuf> {
    let connection = api.get(&format!("/instances/{id}/connection")).await?.body;
    let pem = connection["connection"]["ca_pem"].as_str().with_context(|| format!("ca_pem in {connection}"))?;
    let path = stack.directory().join("authority.pem");
    std::fs::write(&path, pem)?;
    Ok(path)
}

#[tokio::test]
async fn an_order_becomes_a_redis_that_can_be_used() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let wrong = json!({"instance": {"name": "no", "flavorRef": "1", "volume": {"size": 1},
        "datastore": {"type": "redis"}, "databases": [{"name": "one"}]}});
    let refused = api.post("/instances", &wrong).await?;
    ensure!([400, 422].contains(&refused.status) && refused.message().contains("database"), "{refused:?}");
    let id = order(&api, "cache").await?;
    let view = api.instance(&id).await?;
    ensure!(view["datastore"]["type"] == "redis" && view["fault"].is_null(), "{view}");

    let (plain, tls) = (Redis::plain(&view)?, Redis::tls(&view, &authority(&stack, &api, &id).await?)?);
    for port in [&plain, &tls] {
        port.run(APP.0, APP.1, &["SET", "k", "v"])?;
        assert_eq!(port.run(APP.0, APP.1, &["GET", "k"])?, "v");
        for (user, password) in [(APP.0, "wrong"), ("default", APP.1), ("default", ""), ("os_admin", "")] {
            let refused = port.run(user, password, &["GET", "k"]).err().with_context(|| format!("{user} is let in"))?;
            ensure!(refused.to_string().contains("NOAUTH") || refused.to_string().contains("WRONGPASS"), "{refused}");
        }
    }
    let path = format!("/instances/{id}");
    change(&api, Method::POST, &format!("{path}/action"), Some(json!({"restart": {}}))).await?;
    api.await_active(&id).await?;
    assert_eq!(plain.run(APP.0, APP.1, &["GET", "k"])?, "v");

    assert_eq!(memory(&plain)?, (512 * 6 / 10) << 20);
    change(&api, Method::POST, &format!("{path}/action"), Some(json!({"resize": {"flavorRef": "2"}}))).await?;
    let view = api.await_active(&id).await?;
    assert_eq!((memory(&plain)?, &view["flavor"]["id"]), ((1024 * 6 / 10) << 20, &json!("2")));
    change(&api, Method::POST, &format!("{path}/action"), Some(json!({"resize": {"volume": {"size": 3}}}))).await?;
    let view = api.await_active(&id).await?;
    assert_eq!(view["volume"]["size"], 3, "{view}");
    assert_eq!(plain.run(APP.0, APP.1, &["GET", "k"])?, "v");

    let pids = leftovers::processes(&id);
    assert_eq!(api.delete(&path).await?.status, 202);
    api.await_gone(&id).await?;
    leftovers::assert_nothing_of(&id, &stack.host(&id), &pids)
}

#[tokio::test]
async fn clear_connections_are_refused_when_the_configuration_says_so_and_only_then() -> Result<()> {
    let mut stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = order(&api, "private").await?;
    let view = api.instance(&id).await?;
    let (clear, tls) = (Redis::plain(&view)?, Redis::tls(&view, &authority(&stack, &api, &id).await?)?);
    let told = std::fs::read_to_string(stack.config())?;
    for (mode, open) in [("enforced", false), ("basic", true)] {
        std::fs::write(stack.config(), format!("{told}\n[datastores]\ntls = \"{mode}\"\n"))?;
        stack.kill_and_run()?;
        let what = format!("the engine takes up {mode}");
        let entered = async || Ok(clear.run(APP.0, APP.1, &["PING"]).is_ok());
        poll(&what, Duration::from_secs(90), entered, |entered| *entered == open).await?;
        assert_eq!(tls.run(APP.0, APP.1, &["PING"])?, "PONG");
    }
    Ok(())
}

/// `maxmemory` of the engine, bytes.
fn memory(redis: &Redis) -> Result<u64> {
    let said = redis.run(APP.0, APP.1, &["INFO", "memory"])?;
    let value = said.lines().find_map(|line| line.strip_prefix("maxmemory:")).context("maxmemory")?;
    Ok(value.trim().parse()?)
}

#[tokio::test]
async fn accounts_and_root_do_what_they_say_and_databases_say_that_there_are_none() -> Result<()> {
    let stack = Stack::start().await?;
    let (api, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
    let id = order(&api, "accounts").await?;
    let view = api.instance(&id).await?;
    let (redis, path) = (Redis::plain(&view)?, format!("/instances/{id}"));

    for (method, what, body) in [
        (Method::GET, "databases", None),
        (Method::POST, "databases", Some(json!({"databases": [{"name": "one"}]}))),
        (Method::DELETE, "databases/one", None),
        (Method::PUT, "users/app/databases", Some(json!({"databases": [{"name": "one"}]}))),
        (Method::POST, "users", Some(json!({"users": [{"name": "x", "password": "y", "databases": [{"name": "z"}]}]}))),
    ] {
        let refused = api.send(method, &format!("{path}/{what}"), body.as_ref()).await?;
        let clear = refused.message().contains("redis") && refused.message().contains("database");
        ensure!([400, 422].contains(&refused.status) && clear, "{what}: {refused:?}");
    }
    for name in ["two words", "default", "os_admin", ""] {
        let body = json!({"users": [{"name": name, "password": "secret-1"}]});
        let refused = api.post(&format!("{path}/users"), &body).await?;
        ensure!(refused.status == 400, "{name:?}: {refused:?}");
    }
    let odd = [("o'neil\"x\"", "pass word 'q' \"z\""), (">gr#eater~", "#hash>nopass"), ("ünï-코드", "пароль \\ %s")];
    for (name, password) in odd {
        let body = json!({"users": [{"name": name, "password": password}]});
        change(&api, Method::POST, &format!("{path}/users"), Some(body)).await?;
        assert_eq!(redis.run(name, password, &["PING"])?, "PONG", "{name}");
    }
    let listed = api.get(&format!("{path}/users")).await?.body;
    let names: Vec<&str> =
        listed["users"].as_array().into_iter().flatten().filter_map(|u| u["name"].as_str()).collect();
    assert_eq!(names, [">gr#eater~", "app", "o'neil\"x\"", "ünï-코드"]);
    let encoded = "%C3%BCn%C3%AF-%EC%BD%94%EB%93%9C";
    let renamed = json!({"user": {"name": "plain", "password": "secret-2"}});
    change(&api, Method::PUT, &format!("{path}/users/{encoded}"), Some(renamed)).await?;
    assert_eq!(redis.run("plain", "secret-2", &["PING"])?, "PONG");
    ensure!(redis.run(odd[2].0, odd[2].1, &["PING"]).is_err(), "the old name still acts");
    change(&api, Method::DELETE, &format!("{path}/users/plain"), None).await?;
    ensure!(redis.run("plain", "secret-2", &["PING"]).is_err(), "a deleted account still acts");

    let history = async || anyhow::Ok(admin.get(&format!("/mgmt{path}/root")).await?.body["root_history"].clone());
    assert_eq!(history().await?["enabled"], "Never");
    let enabled = api.post(&format!("{path}/root"), &json!({})).await?;
    ensure!(enabled.status == 200 && enabled.body["user"]["name"] == "default", "{enabled:?}");
    let password = enabled.body["user"]["password"].as_str().context("a password")?;
    assert_eq!(redis.run("default", password, &["ACL", "WHOAMI"])?, "default");
    ensure!(redis.run("default", password, &["CONFIG", "GET", "maxmemory"])?.contains("maxmemory"));
    assert_eq!(api.get(&format!("{path}/root")).await?.body["rootEnabled"], true);
    // Root can neither lock the agent out nor disable authentication, and cannot set parameters itself.
    for words in [
        &["CONFIG", "SET", "maxmemory", "64mb"] as &[&str],
        &["CONFIG", "REWRITE"],
        &["ACL", "SETUSER", "open", "on", "nopass", "+@all", "~*"],
        &["ACL", "DELUSER", "os_admin"],
        &["ACL", "SAVE"],
    ] {
        let refused = redis.run("default", password, words).err().with_context(|| format!("{words:?} is done"))?;
        ensure!(refused.to_string().contains("NOPERM"), "{refused}");
    }
    change(&api, Method::POST, &format!("{path}/action"), Some(json!({"restart": {}}))).await?;
    api.await_active(&id).await?;
    assert_eq!(memory(&redis)?, (512 * 6 / 10) << 20);
    assert_eq!(api.delete(&format!("{path}/root")).await?.status, 204);
    api.await_operations(&id).await?;
    ensure!(redis.run("default", password, &["PING"]).is_err(), "root came in after it was disabled");
    assert_eq!(api.get(&format!("{path}/root")).await?.body["rootEnabled"], false);
    ensure!(history().await?["enabled"] != "Never");
    let listed = api.get(&format!("{path}/users")).await?.body.to_string();
    ensure!(!listed.contains("\"open\"") && !listed.contains("os_admin"), "{listed}");
    Ok(())
}

#[tokio::test]
async fn parameters_are_the_engines_own() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let version = api.get("/datastores/redis").await?.body["datastore"]["default_version"].clone();
    let of = format!("/datastores/redis/versions/{}/parameters", version.as_str().context("a version")?);
    let all = api.get(&of).await?.body;
    let count = all["configuration-parameters"].as_array().map_or(0, Vec::len);
    ensure!(count > 80, "{count} in {all}");
    let one = async |name: &str| anyhow::Ok(api.get(&format!("{of}/{name}")).await?);
    let policy = one("maxmemory-policy").await?.body;
    ensure!(policy["type"] == "string" && policy["allowed_values"].to_string().contains("allkeys-lru"), "{policy}");
    ensure!(one("databases").await?.body["restart_required"] == true);
    ensure!(one("hz").await?.body["type"] == "integer");
    for owned in ["aclfile", "dir", "requirepass", "port", "tls-port", "appendonly"] {
        ensure!(one(owned).await?.status == 404, "{owned} is offered");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_outlives_the_servers_kill() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = order(&api, "killed").await?;
    let view = api.instance(&id).await?;
    let redis = Redis::plain(&view)?;
    for round in 1..=3 {
        let engines = leftovers::engines(&id);
        ensure!(engines.len() == 1, "{engines:?}");
        // A client writes as fast as it can. Its last answer is the last acknowledged write.
        let mut client = redis.client(APP.0, APP.1);
        let writer = client.args(["-r", "-1", "INCR", "counter"]).stdout(std::process::Stdio::piped());
        let writer = writer.stderr(std::process::Stdio::null()).spawn()?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        kill(Pid::from_raw(engines[0]), Signal::SIGKILL)?;
        // redis-cli would reconnect forever.
        kill(Pid::from_raw(i32::try_from(writer.id())?), Signal::SIGTERM)?;
        let output = writer.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let acknowledged = text.lines().filter_map(|line| line.trim().parse::<u64>().ok()).max().unwrap_or_default();
        ensure!(acknowledged > 100, "only {acknowledged} writes: {text}");
        let another = |pids: &Vec<i32>| pids.len() == 1 && pids[0] != engines[0];
        poll("another engine", Duration::from_secs(30), async || Ok(leftovers::engines(&id)), another).await?;
        api.await_active(&id).await?;
        let ask = async || redis.run(APP.0, APP.1, &["GET", "counter"]);
        let there = poll("the data", Duration::from_secs(20), ask, |said| said.parse::<u64>().is_ok()).await?;
        let there: u64 = there.parse()?;
        ensure!(there >= acknowledged && there <= acknowledged + 1, "round {round}: {acknowledged}, then {there}");
    }
    Ok(())
}

#[tokio::test]
async fn what_the_engine_keeps_is_its_accounts_alone_and_holds_no_secret() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let mut body = Engine::Redis.order("secrets");
    body["instance"]["users"][0]["password"] = json!("Needle-4711-haystack");
    let id = api.post("/instances", &body).await?.body["instance"]["id"].as_str().context("an id")?.to_owned();
    let view = api.await_active(&id).await?;
    let root = api.post(&format!("/instances/{id}/root"), &json!({"password": "Needle-4712-haystack"})).await?;
    assert_eq!(root.status, 200, "{root:?}");
    let new = json!({"users": [{"name": "app", "password": "Needle-4713-haystack"}]});
    change(&api, Method::PUT, &format!("/instances/{id}/users"), Some(new)).await?;
    Redis::plain(&view)?.run("app", "Needle-4713-haystack", &["SET", "k", "v"])?;

    let mut files = 0;
    let host = stack.host(&id);
    for (path, mode) in everything_in(&host)? {
        if path.starts_with(host.join("volume")) {
            files += 1;
            ensure!(mode & 0o077 == 0 || path == host.join("volume"), "{} has the mode {mode:o}", path.display());
        }
        if path.is_file() {
            ensure!(!has_needle(&std::fs::read(&path)?), "a password stands in {}", path.display());
        }
    }
    ensure!(files >= 6, "{files} files in the volume");
    ensure!(!has_needle(&std::fs::read(stack.log())?), "a password stands in the controller's log");
    for pid in leftovers::processes(&id) {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join(file)).unwrap_or_default();
            ensure!(!has_needle(&bytes), "a password stands in {file} of {pid}");
        }
    }
    Ok(())
}

fn has_needle(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains("Needle-471")
}

/// All files and directories below a directory, with their modes.
fn everything_in(directory: &Path) -> Result<Vec<(PathBuf, u32)>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let facts = std::fs::symlink_metadata(&path)?;
            found.push((path.clone(), facts.permissions().mode() & 0o777));
            if facts.is_dir() {
                open.push(path);
            }
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn openstack_commands_work() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let user = Clients::new(&stack.clouds_yaml(), "trove")?;
    let version = user.json(&["datastore", "version", "list", "redis"])?;
    let version = version[0]["Name"].as_str().context("a version")?.to_owned();
    let mut create = vec!["database", "instance", "create", "cache", "--flavor", "1", "--size", "1"];
    create.extend(["--nic", "net-id=7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"]);
    create.extend(["--datastore", "redis", "--datastore-version", &version, "--users", "alice:Alice-secret-1"]);
    let (refused, said) = user.try_openstack(&[&create[..], &["--databases", "one"]].concat())?;
    ensure!(!refused && said.contains("database"), "{said}");
    let created = user.json(&create)?;
    let id = created["id"].as_str().with_context(|| format!("an id in {created}"))?.to_owned();
    let view = api.await_active(&id).await?;
    let redis = Redis::plain(&view)?;
    assert_eq!(redis.run("alice", "Alice-secret-1", &["PING"])?, "PONG");
    let settled = async || anyhow::Ok(api.await_operations(&id).await?);
    user.openstack(&["database", "user", "create", &id, "bob", "Bob-secret-1"])?;
    settled().await?;
    ensure!(user.openstack(&["database", "user", "list", &id])?.contains("bob"));
    let renamed = ["--new_name", "robert", "--new_password", "New-secret-1"];
    user.openstack(&[&["database", "user", "update", "attributes", &id, "bob"], &renamed[..]].concat())?;
    settled().await?;
    assert_eq!(redis.run("robert", "New-secret-1", &["PING"])?, "PONG");
    user.openstack(&["database", "user", "delete", &id, "robert"])?;
    settled().await?;
    ensure!(redis.run("robert", "New-secret-1", &["PING"]).is_err(), "robert comes in after his deletion");
    let (made, said) = user.try_openstack(&["database", "db", "create", &id, "one"])?;
    ensure!(!made && said.contains("redis") && said.contains("no databases"), "{said}");
    let enabled = user.json(&["database", "root", "enable", &id])?;
    let password = enabled["password"].as_str().with_context(|| format!("a password in {enabled}"))?;
    assert_eq!(redis.run("default", password, &["PING"])?, "PONG");
    user.openstack(&["database", "root", "disable", &id])?;
    settled().await?;
    ensure!(redis.run("default", password, &["PING"]).is_err(), "root comes in after it was disabled");
    user.openstack(&["database", "instance", "delete", "cache"])?;
    api.await_gone(&id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn trovectl_orders_administers_and_connects() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let try_run = |args: &[&str]| -> Result<(bool, String)> {
        let mut command = Command::new(program("trovectl")?);
        command.args(args).env("OS_CLIENT_CONFIG_FILE", stack.clouds_yaml()).env("OS_CLOUD", "trove");
        command.env("XDG_CACHE_HOME", stack.directory().join("cache")).env_remove("XDG_RUNTIME_DIR");
        let output = command.stdin(std::process::Stdio::null()).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).trim().to_owned()))
    };
    let run = |args: &[&str]| -> Result<String> {
        let (ok, said) = try_run(args)?;
        ensure!(ok, "trovectl {args:?}: {said}");
        Ok(said)
    };
    let create = ["instance", "create", "ctl", "--flavor", "1", "--size", "1", "--datastore", "redis"];
    let begun = Instant::now();
    run(&[&create[..], &["--wait"]].concat())?;
    println!("a Redis in {:?}", begun.elapsed());
    let secret = stack.directory().join("password");
    std::fs::write(&secret, "Ctl 'secret' 1\n")?;
    let file = secret.to_string_lossy().into_owned();
    run(&["user", "create", "ctl", "carol", "--password-file", &file, "--wait"])?;
    let connect = ["connect", "ctl", "--user", "carol", "--password-file", &file, "--"];
    let said = run(&[&connect[..], &["SET", "by", "trovectl"]].concat())?;
    ensure!(said.ends_with("OK"), "{said}");
    let (ok, said) = try_run(&["db", "create", "ctl", "one"])?;
    ensure!(!ok && said.contains("redis"), "{said}");
    run(&["instance", "resize", "ctl", "--flavor", "2", "--wait"])?;
    run(&["instance", "restart", "ctl", "--wait"])?;
    // Without --user the first account is used.
    let first = ["connect", "ctl", "--password-file", &file, "--", "GET", "by"];
    ensure!(run(&first)?.ends_with("trovectl"));
    ensure!(run(&["parameter", "show", "redis", "maxmemory-policy"])?.contains("allkeys-lru"));
    run(&["instance", "delete", "ctl", "--wait"])?;
    let list = api.get("/instances").await?.body;
    assert_eq!(list["instances"], json!([]));
    Ok(())
}

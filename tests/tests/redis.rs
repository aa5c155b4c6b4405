//! Redis through the whole service: created, used, managed and broken by tenants, with the API and trovectl.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{APP, Api, Engine, Redis, Stack, leftovers, program};

async fn order(api: &Api, name: &str) -> Result<String> {
    let id = api.create(&Engine::Redis.order(name)).await?;
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

    let (plain, tls) = (Redis::plain(&view)?, Redis::tls(&view, &stack.authority(&api, &id).await?)?);
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

#[tokio::test]
async fn what_the_engine_keeps_is_its_accounts_alone_and_holds_no_secret() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let mut body = Engine::Redis.order("secrets");
    body["instance"]["users"][0]["password"] = json!("Needle-4711-haystack");
    let id = api.create(&body).await?;
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

//! Names with a meaning in a shell, URL, connection string or template are treated as plain names by the API, the
//! unmodified clients, trovectl, and the engines' client programs.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{Api, Clients, Engine, Stack, connect, program, rows};

const PASSWORD: &str = "Names-secret-1";

fn segment(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|item| item["name"].as_str()).collect()
}

async fn change(api: &Api, method: Method, path: &str, body: Option<Value>) -> Result<()> {
    let answer = api.send(method.clone(), path, body.as_ref()).await?;
    ensure!(answer.status == 202, "{method} {path}: {answer:?}");
    let id = path.split('/').nth(2).context("an instance")?;
    let ended = api.await_operations(id).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    Ok(())
}

fn user(name: &str, databases: &[String]) -> Value {
    let databases: Vec<Value> = databases.iter().map(|name| json!({"name": name})).collect();
    json!({"users": [{"name": name, "password": PASSWORD, "databases": databases}]})
}

/// Runs `trovectl connect` for an instance, and returns the client program's output.
struct Shop<'a> {
    stack: &'a Stack,
    password: PathBuf,
    /// Environment variables that a user may have set for other servers.
    environment: Vec<(&'static str, String)>,
}

impl Shop<'_> {
    fn connect(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program("trovectl")?);
        command.args(["connect", "shop", "--password-file"]).arg(&self.password).args(args);
        command.env("OS_CLIENT_CONFIG_FILE", self.stack.clouds_yaml()).env("OS_CLOUD", "trove");
        command.env("XDG_RUNTIME_DIR", self.stack.directory()).env("XDG_CACHE_HOME", self.stack.directory());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned();
        ensure!(output.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trovectl_enters_the_database_of_this_name_and_calls_nobody_else() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("shop").await?;
    let elsewhere = TcpListener::bind(("127.0.0.1", 0))?;
    elsewhere.set_nonblocking(true)?;
    let port = elsewhere.local_addr()?.port();
    let nasty: Vec<String> = [
        "a=b",
        "dbname=app",
        "-x",
        "--version",
        "{ca_file}",
        "{password}{user}",
        "it's \"quoted\" \\ $(id)",
        "a/b?c#d%41&e+f",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([
        format!("host=127.0.0.1 port={port} sslmode=disable"),
        format!("postgres://127.0.0.1:{port}/x"),
        format!("postgresql://app@127.0.0.1:{port}"),
        "service=elsewhere".to_owned(),
    ])
    .collect();
    let databases: Vec<Value> = nasty.iter().map(|name| json!({"name": name})).collect();
    let path = format!("/instances/{id}");
    change(&api, Method::POST, &format!("{path}/databases"), Some(json!({"databases": databases}))).await?;
    let users = ["-x", "u=1 host=x", "{database}", "ann@", "bob@%"];
    for name in users {
        change(&api, Method::POST, &format!("{path}/users"), Some(user(name, &nasty))).await?;
    }

    let password = stack.directory().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n"))?;
    let services = stack.directory().join("services.conf");
    std::fs::write(&services, format!("[elsewhere]\nhostaddr=127.0.0.1\nport={port}\nsslmode=disable\ndbname=evil\n"))?;
    let mut shop = Shop { stack: &stack, password, environment: Vec::new() };
    let sql = ["--", "-X", "-A", "-t", "-c", "select current_user || '|' || current_database()"];
    let enter = |shop: &Shop<'_>, user: &str, database: &str| {
        let (user, database) = (format!("--user={user}"), format!("--database={database}"));
        shop.connect(&[&[user.as_str(), database.as_str()], &sql[..]].concat())
    };
    for database in &nasty {
        assert_eq!(enter(&shop, "ann@", database)?, format!("ann@|{database}"));
    }
    for name in users {
        assert_eq!(enter(&shop, name, &nasty[0])?, format!("{name}|a=b"));
    }
    shop.environment = vec![
        ("PGHOSTADDR", "127.0.0.1".to_owned()),
        ("PGPORT", port.to_string()),
        ("PGSERVICE", "elsewhere".to_owned()),
        ("PGSERVICEFILE", services.to_string_lossy().into_owned()),
        ("PGDATABASE", "evil".to_owned()),
        ("PGSSLMODE", "disable".to_owned()),
    ];
    assert_eq!(enter(&shop, "bob@%", &nasty[8])?, format!("bob@%|{}", nasty[8]));
    let called = elsewhere.accept();
    ensure!(called.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "somebody else was called");
    for database in &nasty {
        change(&api, Method::DELETE, &format!("{path}/databases/{}", segment(database)), None).await?;
    }
    assert_eq!(names(&api.get(&format!("{path}/databases")).await?.body["databases"]), ["app"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn trovectl_enters_redis_as_an_account_of_any_name() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.create(&Engine::Redis.order("shop")).await?;
    api.await_active(&id).await?;
    let password = stack.directory().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n"))?;
    let shop = Shop { stack: &stack, password, environment: Vec::new() };
    for name in ["-x", "--tls", "{ca_file}", "ann@", "it's\"$(id)\""] {
        change(&api, Method::POST, &format!("/instances/{id}/users"), Some(user(name, &[]))).await?;
        assert_eq!(shop.connect(&[&format!("--user={name}"), "--", "--no-raw", "ACL", "WHOAMI"])?, format!("{name:?}"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn real_clients_list_every_name_once_and_touch_the_account_that_they_name() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let clients = Clients::new(&stack.clouds_yaml(), "trove")?;
    let id = api.order_and_await("shop").await?;
    let path = format!("/instances/{id}");
    let databases: Vec<String> = (1..=21).map(|n| format!("r&d{n:02}")).collect();
    let bodies: Vec<Value> = databases.iter().map(|name| json!({"name": name})).collect();
    change(&api, Method::POST, &format!("{path}/databases"), Some(json!({"databases": bodies}))).await?;
    let mut accounts: Vec<String> =
        (1..=22).map(|n| format!("u{}+x{n:02}", if n % 2 == 0 { "b" } else { "c" })).collect();
    accounts.extend(["ann", "ann@", "bob@%"].map(str::to_owned));
    let bodies: Vec<Value> = accounts.iter().map(|name| json!({"name": name, "password": PASSWORD})).collect();
    change(&api, Method::POST, &format!("{path}/users"), Some(json!({"users": bodies}))).await?;

    let said = clients.json(&["database", "db", "list", &id])?;
    let listed: Vec<&str> = said.as_array().into_iter().flatten().filter_map(|row| row["Name"].as_str()).collect();
    assert_eq!(listed[0], "app");
    assert_eq!(listed[1..], databases.iter().map(String::as_str).collect::<Vec<_>>());
    let said = clients.json(&["database", "user", "list", &id])?;
    let mut listed: Vec<&str> = said.as_array().into_iter().flatten().filter_map(|row| row["Name"].as_str()).collect();
    listed.retain(|name| *name != "app");
    accounts.sort();
    assert_eq!(listed, accounts);
    let said = clients.python("pages.py", &[&id])?;
    ensure!(said.contains("done"), "{said}");

    clients.openstack(&["database", "user", "grant", "access", &id, "ann@", "app"])?;
    let view = api.instance(&id).await?;
    ensure!(connect(&view, "ann", PASSWORD, "app").await.is_err(), "ann was let in");
    let inside = connect(&view, "ann@", PASSWORD, "app").await.context("the answer came before the grant acts")?;
    assert_eq!(rows(&inside, "select current_user").await?, ["ann@"]);
    drop(inside);
    clients.openstack(&["database", "user", "revoke", "access", &id, "ann@", "app"])?;
    ensure!(connect(&view, "ann@", PASSWORD, "app").await.is_err(), "the answer came before the revocation acts");
    clients.openstack(&["database", "user", "delete", &id, "ann@"])?;
    clients.openstack(&["database", "user", "delete", &id, "bob@%"])?;
    api.await_operations(&id).await?;
    let all = api.get(&format!("{path}/users?limit=3")).await?.body;
    assert_eq!(names(&all["users"])[..2], ["ann", "app"]);

    // Clients resolve `/instances/I/users/..` to `/instances/I/`.
    let (deleted, said) = clients.try_openstack(&["database", "user", "delete", &id, ".."])?;
    ensure!(!deleted, "{said}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(api.instance(&id).await?["status"], "ACTIVE");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_acts() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("shop").await?;
    let view = api.instance(&id).await?;
    let path = format!("/instances/{id}");
    let enters = async |user: &str, password: &str| connect(&view, user, password, "app").await.is_ok();
    let put = async |rest: &str, body: Value| {
        let answer = api.send(Method::PUT, &format!("{path}{rest}"), Some(&body)).await?;
        ensure!(answer.status == 202 && answer.body == Value::Null && answer.operation.is_some(), "{answer:?}");
        anyhow::Ok(())
    };
    for round in 0..5 {
        let revoked = api.delete(&format!("{path}/users/app/databases/app")).await?;
        ensure!(revoked.status == 202 && revoked.operation.is_some(), "{revoked:?}");
        ensure!(!enters("app", "secret-app-1").await, "round {round}: it was answered that access is revoked");
        put("/users/app/databases", json!({"databases": [{"name": "app"}]})).await?;
        ensure!(enters("app", "secret-app-1").await, "round {round}: it was answered that access is granted");
        put("/users", json!({"users": [{"name": "app", "password": "another-1"}]})).await?;
        ensure!(enters("app", "another-1").await && !enters("app", "secret-app-1").await, "round {round}");
        put("/users/app", json!({"user": {"name": "shop"}})).await?;
        ensure!(enters("shop", "another-1").await && !enters("app", "another-1").await, "round {round}");
        put("/users/shop", json!({"user": {"name": "app", "password": "secret-app-1"}})).await?;
    }
    Ok(())
}

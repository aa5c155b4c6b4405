//! Names with a meaning in a shell, URL, connection string or template are treated as plain names by the API, the
//! unmodified clients, trovectl, and the engines' client programs.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Bson, doc};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{Api, Clients, Engine, Stack, connect, program, rows, skipped};

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

impl<'a> Shop<'a> {
    fn new(stack: &'a Stack) -> Result<Self> {
        let password = stack.directory().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n"))?;
        Ok(Self { stack, password, environment: Vec::new() })
    }

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

/// A server to which nothing may lead.
struct Elsewhere(TcpListener);

impl Elsewhere {
    fn listen() -> Result<(Self, u16)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok((Self(listener), port))
    }

    fn assert_not_called(&self) -> Result<()> {
        let called = self.0.accept();
        ensure!(called.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "somebody else was called");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trovectl_enters_the_database_of_this_name_and_calls_nobody_else() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("shop").await?;
    let (elsewhere, port) = Elsewhere::listen()?;
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

    let services = stack.directory().join("services.conf");
    std::fs::write(&services, format!("[elsewhere]\nhostaddr=127.0.0.1\nport={port}\nsslmode=disable\ndbname=evil\n"))?;
    let mut shop = Shop::new(&stack)?;
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
    elsewhere.assert_not_called()?;
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
    let shop = Shop::new(&stack)?;
    for name in ["-x", "--tls", "{ca_file}", "ann@", "it's\"$(id)\""] {
        change(&api, Method::POST, &format!("/instances/{id}/users"), Some(user(name, &[]))).await?;
        assert_eq!(shop.connect(&[&format!("--user={name}"), "--", "--no-raw", "ACL", "WHOAMI"])?, format!("{name:?}"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn trovectl_enters_mariadb_by_any_name_and_calls_nobody_else() -> Result<()> {
    let stack = Stack::of(Engine::MariaDb).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&Engine::MariaDb.order("shop")).await?;
    api.await_active(&id).await?;
    let (elsewhere, port) = Elsewhere::listen()?;
    let host = format!("--host=127.0.0.1 --port={port}");
    let databases =
        ["-x", "--version", "a=b", "{ca_file}", "{password}{user}", "`it's` \"\\ $(id)", "a/b?c#d%41&e+f", &host];
    let databases = databases.map(str::to_owned);
    let bodies: Vec<Value> = databases.iter().map(|name| json!({"name": name})).collect();
    let path = format!("/instances/{id}");
    change(&api, Method::POST, &format!("{path}/databases"), Some(json!({"databases": bodies}))).await?;
    let users = ["-x", "--help", "{database}", "u=1 host=x", "it's\"$(id)\\"];
    for name in users {
        change(&api, Method::POST, &format!("{path}/users"), Some(user(name, &databases))).await?;
    }

    let mut shop = Shop::new(&stack)?;
    let sql = "--execute=select concat(current_user(), '|', database())";
    let enter = |shop: &Shop<'_>, user: &str, database: &str| {
        let (user, database) = (format!("--user={user}"), format!("--database={database}"));
        shop.connect(&[&user, &database, "--", "--batch", "--raw", "--skip-column-names", sql])
    };
    for database in &databases {
        assert_eq!(enter(&shop, users[0], database)?, format!("-x@%|{database}"));
    }
    for name in users {
        assert_eq!(enter(&shop, name, &databases[0])?, format!("{name}@%|-x"));
    }
    let home = stack.directory().to_string_lossy().into_owned();
    for name in ["my.cnf", ".my.cnf"] {
        let options = format!("[client]\nhost=127.0.0.1\nport={port}\nskip-ssl\n[mysql]\ndatabase=evil\n");
        std::fs::write(stack.directory().join(name), options)?;
    }
    shop.environment = vec![
        ("HOME", home.clone()),
        ("MYSQL_HOME", home),
        ("MYSQL_HOST", "127.0.0.1".to_owned()),
        ("MYSQL_TCP_PORT", port.to_string()),
        ("MYSQL_PWD", "another".to_owned()),
        ("MARIADB_HOST", "127.0.0.1".to_owned()),
    ];
    assert_eq!(enter(&shop, users[1], &host)?, format!("--help@%|{host}"));
    elsewhere.assert_not_called()
}

/// A stand-in for mongosh, which is not in Debian. It prints its arguments and its environment.
const MONGOSH: &str = "#!/bin/sh\nprintf '%s\\0' \"$@\"\nexec /usr/bin/env -0\n";

#[tokio::test(flavor = "multi_thread")]
async fn trovectl_hands_names_to_mongosh_as_values_that_lead_into_mongodb() -> Result<()> {
    if !Engine::MongoDb.is_installed() {
        return Ok(());
    }
    let stack = Stack::of(Engine::MongoDb).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&Engine::MongoDb.order("shop")).await?;
    api.await_active(&id).await?;
    let programs = stack.directory().join("bin");
    std::fs::create_dir(&programs)?;
    std::fs::write(programs.join("mongosh"), MONGOSH)?;
    std::fs::set_permissions(programs.join("mongosh"), Permissions::from_mode(0o755))?;
    let mut shop = Shop::new(&stack)?;
    shop.environment = vec![("PATH", programs.to_string_lossy().into_owned())];

    let databases =
        ["app", "-x", "--version", "a=b", "{password}{user}", "it's`{id}`", "a?b#c%41&e+f:@h"].map(str::to_owned);
    let users =
        ["app.plain", "app.-x", "app.{database}", "app.u:p@127.0.0.1:1/?tls#y%41&z", "app.it's\"`$(id)\\", "app.a.b"];
    let path = format!("/instances/{id}");
    let bodies: Vec<Value> = databases[1..].iter().map(|name| json!({"name": name})).collect();
    change(&api, Method::POST, &format!("{path}/databases"), Some(json!({"databases": bodies}))).await?;
    for name in users {
        change(&api, Method::POST, &format!("{path}/users"), Some(user(name, &databases))).await?;
    }
    let all = users.iter().map(|name| (*name, &databases[0])).chain(databases.iter().map(|name| (users[0], name)));
    let mut arguments = None;
    for (name, database) in all {
        let said = shop.connect(&[&format!("--user={name}"), &format!("--database={database}")])?;
        let said: Vec<&str> = said.split_terminator('\0').collect();
        ensure!(said[..4] == ["--nodb", "--quiet", "--shell", "--eval"], "{said:?}");
        ensure!(*arguments.get_or_insert(said[4].to_owned()) == said[4], "a name changes the program: {said:?}");
        for (variable, value) in [("USER", name), ("DATABASE", database), ("PASSWORD", PASSWORD)] {
            ensure!(said[5..].contains(&format!("TROVE_{variable}={value}").as_str()), "{variable} in {said:?}");
        }
        enters_mongodb(&said, name, database).await?;
    }
    Ok(())
}

/// Runs what mongosh was given by the JavaScript of another program, and logs in at the URL that it makes.
async fn enters_mongodb(said: &[&str], user: &str, database: &str) -> Result<()> {
    let mut node = Command::new("node");
    node.args(["--eval", &format!("let db; const connect = url => console.log(url); {}", said[4])]);
    node.envs(said[5..].iter().filter_map(|pair| pair.split_once('='))).env("PATH", std::env::var("PATH")?);
    let Ok(output) = node.output() else {
        skipped("node is not installed, so the URL of MongoDB is not tried");
        return Ok(());
    };
    let url = String::from_utf8(output.stdout)?;
    let client = mongodb::Client::with_uri_str(url.trim()).await.with_context(|| url.clone())?;
    let entered = client.default_database().with_context(|| url.clone())?;
    assert_eq!(entered.name(), database);
    let status = entered.run_command(doc! {"connectionStatus": 1}).await.with_context(|| url.clone())?;
    let who = status.get_document("authInfo")?.get_array("authenticatedUsers")?;
    let (source, name) = user.split_once('.').context("database.name")?;
    assert_eq!(who, &vec![Bson::Document(doc! {"user": name, "db": source})]);
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

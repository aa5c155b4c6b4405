//! Attacks by a superuser of PostgreSQL, and hostile names, through the whole service.

use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{APP, Api, Stack, connect, has_root_or_skips, leftovers, order_body, poll, root, rows};

const WAIT: Duration = Duration::from_secs(90);

/// Whether root can be enabled: the service refuses it if an ordinary user runs it.
pub(super) fn has_root() -> bool {
    nix::unistd::getuid().is_root()
}

async fn restart(api: &Api, id: &str) -> Result<Value> {
    let restarted = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
    ensure!(restarted.status == 202, "{restarted:?}");
    Ok(api.await_operations(id).await?[0].clone())
}

async fn make_database(api: &Api, id: &str, name: &str) -> Result<()> {
    let made = api.post(&format!("/instances/{id}/databases"), &json!({"databases": [{"name": name}]})).await?;
    ensure!(made.status == 202, "{made:?}");
    let ended = api.await_operations(id).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    Ok(())
}

#[tokio::test]
async fn a_superuser_neither_moves_its_engine_nor_keeps_the_agent_out() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out the superuser") {
        return Ok(());
    }
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("moved").await?;
    let client = root(&api, &id, "app").await?;
    for setting in [
        "port = 54998",
        "listen_addresses = '*'",
        "hba_file = '/nonexistent'",
        "unix_socket_directories = '/tmp'",
        "ssl = off",
        "session_preload_libraries = 'nothing'",
        "shared_preload_libraries = 'nothing'",
        // The server does not start with this value.
        "max_connections = 2",
    ] {
        rows(&client, &format!("alter system set {setting}")).await.context(setting)?;
    }
    rows(&client, "select pg_reload_conf()").await?;
    drop(client);
    let ended = restart(&api, &id).await?;
    ensure!(ended["status"] == "done", "{ended}");
    let view = api.await_active(&id).await?;
    let address: IpAddr = view["ip"][0].as_str().context("an address")?.parse()?;
    for elsewhere in [(address, 54998), (IpAddr::from([127, 0, 0, 1]), 54998)] {
        let found = TcpStream::connect_timeout(&elsewhere.into(), Duration::from_secs(1));
        ensure!(found.is_err(), "something listens at {elsewhere:?}");
    }
    connect(&view, APP.0, APP.1, "app").await?;
    let log = stack.host(&id).join("log/agent.log");
    let said = std::fs::read_to_string(&log)?;
    ensure!(said.contains("max_connections"), "the agent does not say what it set aside");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_shut_out_lets_itself_in_again() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out the superuser") {
        return Ok(());
    }
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("shut").await?;
    let client = root(&api, &id, "app").await?;
    rows(&client, "alter database postgres allow_connections false").await?;
    rows(&client, "alter role os_admin rename to mine").await?;
    rows(&client, "create role os_admin login").await?;
    drop(client);
    let log = stack.host(&id).join("log/agent.log");
    let read = async || Ok(std::fs::read_to_string(&log)?);
    poll("a repair", WAIT, read, |text| text.contains("restored: the account os_admin, the database postgres")).await?;
    let well = |view: &Value| view["operating_status"] == "HEALTHY";
    poll("an engine that is well", WAIT, async || api.instance(&id).await, well).await?;
    make_database(&api, &id, "after").await?;
    // The agent repairs at most once in ten minutes, also one that is started anew; the second time it only reports what is wrong.
    let client = root(&api, &id, "app").await?;
    rows(&client, "alter role os_admin nologin").await?;
    let refusal = "role \"os_admin\" is not permitted to log in";
    let told = |view: &Value| {
        let fault = view["fault"]["message"].as_str().unwrap_or_default();
        view["operating_status"] == "BLOCKED" && fault.contains(refusal)
    };
    poll("a fault that names the account", WAIT, async || api.instance(&id).await, told).await?;
    let (agent, engine) = (leftovers::agents(&id)[0], leftovers::engines(&id)[0]);
    kill(Pid::from_raw(agent), Signal::SIGKILL)?;
    let lines = async || Ok(std::fs::read_to_string(&log)?);
    let blocked_again = |text: &String| text.matches("the engine runs and does not answer").count() >= 3;
    poll("another agent that is refused", WAIT, lines, blocked_again).await?;
    poll("the same fault", WAIT, async || api.instance(&id).await, told).await?;
    ensure!(leftovers::engines(&id)[0] == engine, "the engine was restarted once more");
    rows(&client, "alter role os_admin login").await?;
    poll("an engine that is well", WAIT, async || api.instance(&id).await, well).await?;
    Ok(())
}

#[tokio::test]
async fn passwords_that_would_let_nobody_in_are_refused_wherever_they_are_given() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let mut order = order_body("refused");
    order["instance"]["users"][0]["password"] = json!("⅐ cup");
    let refused = api.post("/instances", &order).await?;
    ensure!(refused.status == 400 && !refused.message().contains("cup"), "{refused:?}");
    let id = api.order_and_await("passwords").await?;
    let path = format!("/instances/{id}");
    let user = json!({"users": [{"name": "ann", "password": "xₙ", "databases": []}]});
    let changed = json!({"users": [{"name": APP.0, "password": "xₙ"}]});
    let renamed = json!({"user": {"password": "😀😀"}});
    for (method, path, body) in [
        (Method::POST, format!("{path}/users"), user),
        (Method::PUT, format!("{path}/users"), changed),
        (Method::PUT, format!("{path}/users/{}", APP.0), renamed),
        (Method::POST, format!("{path}/root"), json!({"password": "⅐ cup of sugar"})),
    ] {
        let refused = api.send(method, &path, Some(&body)).await?;
        let forbidden = refused.status == 403 && path.ends_with("/root") && !has_root();
        ensure!(refused.status == 400 || forbidden, "{path}: {refused:?}");
    }
    let new = json!({"users": [{"name": "ann", "password": "pässwörd ﬁ", "databases": [{"name": "app"}]}]});
    let made = api.post(&format!("{path}/users"), &new).await?;
    ensure!(made.status == 202, "{made:?}");
    api.await_operations(&id).await?;
    connect(&api.instance(&id).await?, "ann", "pässwörd ﬁ", "app").await?;
    Ok(())
}

#[tokio::test]
async fn what_tenants_set_on_theirs_is_listed_and_deleted() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out the superuser") {
        return Ok(());
    }
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("theirs").await?;
    let path = format!("/instances/{id}");
    let latin = json!({"databases": [{"name": "old", "character_set": "latin1"}, {"name": "shut"}]});
    ensure!(api.post(&format!("{path}/databases"), &latin).await?.status == 202);
    let user = json!({"users": [{"name": "jürgen2", "password": "Secret-1", "databases": [{"name": "old"}]}]});
    ensure!(api.post(&format!("{path}/users"), &user).await?.status == 202);
    let ended = api.await_operations(&id).await?;
    ensure!(ended.as_array().is_some_and(|all| all.iter().all(|one| one["status"] == "done")), "{ended}");
    let client = root(&api, &id, "app").await?;
    rows(&client, "alter database shut is_template true").await?;
    rows(&client, "alter database shut allow_connections false").await?;
    rows(&client, "create database hers owner \"jürgen2\"").await?;
    let listed = api.get(&format!("{path}/databases")).await?.body.to_string();
    ensure!(listed.contains("\"shut\"") && listed.contains("\"old\""), "{listed}");
    let again = api.post(&format!("{path}/databases"), &json!({"databases": [{"name": "shut"}]})).await?;
    ensure!(again.status == 400, "{again:?}");
    for gone in ["users/j%C3%BCrgen2", "databases/shut", "databases/old"] {
        let deleted = api.delete(&format!("{path}/{gone}")).await?;
        ensure!(deleted.status == 202, "{gone}: {deleted:?}");
        let ended = api.await_operations(&id).await?;
        ensure!(ended[0]["status"] == "done", "{gone}: {ended}");
    }
    let users = api.get(&format!("{path}/users")).await?.body.to_string();
    ensure!(!users.contains("rgen2"), "{users}");
    let owner = "select rolname from pg_database d join pg_roles r on r.oid = d.datdba where datname = 'hers'";
    ensure!(rows(&client, owner).await?[0].starts_with("trove_access_"));
    Ok(())
}

#[tokio::test]
async fn figures_that_a_superuser_made_up_are_a_fault_until_they_are_true_again() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out the superuser") {
        return Ok(());
    }
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("made-up").await?;
    let client = root(&api, &id, "postgres").await?;
    let replace = [
        "set allow_system_table_mods = on",
        "update pg_proc set proname = 'true_size' where proname = 'pg_database_size' and proargtypes = '26'",
        "create function pg_catalog.pg_database_size(oid) returns bigint language sql as 'select -1::bigint'",
    ];
    for statement in replace {
        rows(&client, statement).await.context(statement)?;
    }
    let wrong = |view: &Value| view["fault"]["message"].as_str().is_some_and(|it| it.contains("database_bytes"));
    let view = poll("a fault", WAIT, async || api.instance(&id).await, wrong).await?;
    ensure!(view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY", "{view}");
    make_database(&api, &id, "meanwhile").await?;
    rows(&client, "drop function pg_catalog.pg_database_size(oid)").await?;
    rows(&client, "update pg_proc set proname = 'pg_database_size' where proname = 'true_size'").await?;
    poll("no fault", WAIT, async || api.instance(&id).await, |view| view["fault"].is_null()).await?;
    Ok(())
}

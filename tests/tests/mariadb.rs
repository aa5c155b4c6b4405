//! MariaDB through the whole service, by `openstack`: each effect is looked at inside the engine.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trove_tests::{Clients, Engine, MariaDb, Stack, leftovers};

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|row| row["Name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn openstack_commands_act_inside_the_engine() -> Result<()> {
    let stack = Stack::of(Engine::MariaDb).await?;
    let api = stack.login("trove").await?;
    let user = Clients::new(&stack.clouds_yaml(), "trove")?;
    let version = user.json(&["datastore", "version", "list", "mariadb"])?;
    let version = version[0]["Name"].as_str().context("a version")?.to_owned();
    let mut create = vec!["database", "instance", "create", "shop", "--flavor", "1", "--size", "1"];
    create.extend(["--nic", "net-id=7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1", "--datastore", "mariadb"]);
    create.extend(["--datastore-version", &version, "--databases", "one", "x_y", "--users", "alice:Alice-secret-1"]);
    let created = user.json(&create)?;
    let id = created["id"].as_str().with_context(|| format!("an id in {created}"))?.to_owned();
    let id = id.as_str();
    let view = api.await_active(id).await?;
    let engine = MariaDb::tls(&view, &stack.authority(&api, id).await?)?;
    let settled = async || -> Result<()> {
        let ended = api.await_operations(id).await?;
        let done = |operation: &Value| operation["status"] == "done";
        ensure!(ended.as_array().is_some_and(|all| all.iter().all(done)), "{ended}");
        Ok(())
    };
    engine.run("alice", "Alice-secret-1", "create table one.t (a int primary key); insert into one.t values (1)")?;

    user.openstack(&["database", "db", "create", id, "xzy"])?;
    settled().await?;
    assert_eq!(names(&user.json(&["database", "db", "list", id])?), ["one", "x_y", "xzy"]);
    for (host, password) in [("%", "Any-secret-1"), ("10.0.0.%", "Ten-secret-1")] {
        user.openstack(&["database", "user", "create", id, "bob", password, "--host", host])?;
        settled().await?;
    }
    let listed = user.json(&["database", "user", "list", id])?;
    assert_eq!(names(&listed), ["alice", "bob", "bob"], "{listed}");
    ensure!(engine.run("bob", "Ten-secret-1", "select 1").is_err(), "an account of another network is let in");
    assert_eq!(engine.run("bob", "Any-secret-1", "show databases")?, "information_schema");
    user.openstack(&["database", "user", "grant", "access", id, "bob", "x_y"])?;
    settled().await?;
    assert_eq!(engine.run("bob", "Any-secret-1", "show databases")?, "information_schema\nx_y", "`_` means itself");
    assert_eq!(names(&user.json(&["database", "user", "show", "access", id, "bob"])?), ["x_y"]);
    user.openstack(&["database", "user", "revoke", "access", id, "bob", "x_y"])?;
    settled().await?;
    ensure!(engine.run("bob", "Any-secret-1", "use x_y").is_err(), "bob comes in after the revocation");
    let renamed = ["--new_name", "robert", "--new_password", "New-secret-1"];
    user.openstack(&[&["database", "user", "update", "attributes", id, "bob"], &renamed[..]].concat())?;
    settled().await?;
    assert_eq!(engine.run("robert", "New-secret-1", "select current_user()")?, "robert@%");
    user.openstack(&["database", "user", "delete", id, "robert"])?;
    settled().await?;
    ensure!(engine.run("robert", "New-secret-1", "select 1").is_err(), "robert comes in after his deletion");
    user.openstack(&["database", "db", "delete", id, "xzy"])?;
    settled().await?;

    let enabled = user.json(&["database", "root", "enable", id])?;
    let password = enabled["password"].as_str().with_context(|| format!("a password in {enabled}"))?;
    let accounts = "select concat(user, '@', host) from mysql.global_priv order by 1";
    let expected = "alice@%\nbob@10.0.0.%\nmariadb.sys@localhost\nos_admin@localhost\nroot@%";
    assert_eq!(engine.run("root", password, accounts)?, expected);
    assert_eq!(engine.run("root", password, "select @@server_id, @@log_bin")?, "1\t1");
    ensure!(engine.run("root", password, "shutdown").is_err(), "root ends the server");
    ensure!(user.openstack(&["database", "root", "show", id])?.contains("True"));
    user.openstack(&["database", "root", "disable", id])?;
    settled().await?;
    ensure!(engine.run("root", password, "select 1").is_err(), "root comes in after it was disabled");

    // Every row outlives a restart, and another size is taken.
    user.openstack(&["database", "instance", "restart", id])?;
    settled().await?;
    api.await_active(id).await?;
    user.openstack(&["database", "instance", "resize", "flavor", id, "2"])?;
    settled().await?;
    api.await_active(id).await?;
    let buffers = engine.run("alice", "Alice-secret-1", "select a, @@innodb_buffer_pool_size >> 20 from one.t")?;
    assert_eq!(buffers, "1\t460");
    let pids = leftovers::processes(id);
    user.openstack(&["database", "instance", "delete", "shop"])?;
    api.await_gone(id).await?;
    leftovers::assert_nothing_of(id, &stack.host(id), &pids)
}

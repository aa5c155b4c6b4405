//! What one who was root can do to the agent, and what one does who has got the agent's own rights.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use trove_conformance::{Bench, Running};
use trove_strategy::{Datastore, Kind, StartMode};

use crate::ENGINE;
use crate::shared::*;

async fn rooted(bench: &Bench<'_>) -> Result<mysql_async::Conn> {
    root().enable(&bench.site, &"Root-secret-1".into()).await.map_err(plain)?;
    login(bench, "root", "Root-secret-1", None).await
}

/// A statement of the agent's own account: over its socket, from the engine's account of the system.
fn as_agent(bench: &Bench<'_>, sql: &str) -> Result<()> {
    let own = std::process::Command::new("id").arg("--user").output()?.stdout;
    let mut command = std::process::Command::new("mysql");
    if own.trim_ascii() == b"0" {
        command = std::process::Command::new("setpriv");
        let account = &bench.site.engine_account;
        command.args([&format!("--reuid={account}"), &format!("--regid={account}"), "--clear-groups", "mysql"]);
    }
    command.arg("--no-defaults").arg(format!("--socket={}", bench.site.run.join("engine.sock").display()));
    let output = command.args(["--user=os_admin", "--execute", sql]).stdin(Stdio::null()).output().context("mysql")?;
    ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Root with all rights that there are, which it has no way to get.
pub(crate) async fn powerful(bench: &Bench<'_>) -> Result<mysql_async::Conn> {
    rooted(bench).await?;
    as_agent(bench, "grant all on *.* to root@'%' with grant option")?;
    login(bench, "root", "Root-secret-1", None).await
}

/// Refused, with the server's words.
async fn refused(session: &mut mysql_async::Conn, sql: &str) -> Result<String> {
    let done = session.query_drop(sql).await;
    Ok(done.err().with_context(|| format!("{sql} is done"))?.to_string())
}

#[tokio::test]
async fn root_reaches_no_files_no_programs_no_settings_and_no_account_of_the_servers() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    make_database(&bench, "one").await?;
    let mut session = rooted(&bench).await?;
    for sql in ["create table one.t (a text)", "create function one.f() returns int no sql return 1", "create role r"] {
        session.query_drop(sql).await.with_context(|| sql.to_owned())?;
    }
    for sql in [
        "select 'x' into outfile '/tmp/trove-x'",
        "load data infile '/etc/passwd' into table one.t",
        "install plugin mysql_no_login soname 'mysql_no_login.so'",
        "uninstall plugin auth_socket",
        "install component 'file://component_validate_password'",
        "create function sys_exec returns int soname 'lib_mysqludf_sys.so'",
        "set global general_log_file = '/tmp/trove-x'",
        "set global max_connections = 10",
        "set persist max_connections = 10",
        "set persist_only back_log = 10",
        "set global read_only = 1",
        "set global init_connect = 'drop database one'",
        "set global secure_file_priv = ''",
        "set global partial_revokes = 0",
        "set global mandatory_roles = 'r'",
        "shutdown",
        "restart",
        "purge binary logs before now()",
        "set sql_log_bin = 0",
        "change replication source to source_host = '127.0.0.1'",
        "clone local data directory = '/tmp/trove-x'",
        "create definer = nobody@localhost procedure one.p() select 1",
        "create definer = os_admin@localhost procedure one.p() select 1",
        "alter user os_admin@localhost identified by 'Own-1'",
        "rename user os_admin@localhost to x@'%'",
        "drop user os_admin@localhost",
        "revoke super on *.* from os_admin@localhost",
        "grant os_admin@localhost to root@'%'",
        "grant `mysql.session`@localhost to root@'%'",
        "alter user `mysql.session`@localhost identified by 'Sys-1' account unlock",
        "grant proxy on os_admin@localhost to root@'%'",
        "grant all on *.* to root@'%'",
        "grant system_user on *.* to root@'%'",
        "grant update on mysql.* to root@'%'",
        "grant update on mysql.user to root@'%'",
        "update mysql.user set plugin = 'mysql_native_password'",
        "insert into mysql.global_grants values ('root', '%', 'SYSTEM_USER', 'Y')",
        "delete from mysql.plugin",
        "create table mysql.x (a int)",
        "drop database mysql",
    ] {
        refused(&mut session, sql).await?;
    }
    assert_eq!(one(&mut session, "select load_file('/etc/passwd')").await?, "");
    // An account that root makes is held to what root is held to.
    session.query_drop("create user second@'%' identified by 'Second-1'").await?;
    session.query_drop("grant select, update, create on *.* to second@'%'").await?;
    let mut second = login(&bench, "second", "Second-1", None).await?;
    refused(&mut second, "update mysql.user set plugin = 'x'").await?;
    let health = ENGINE.engine().probe(&bench.site).await.map_err(plain)?;
    ensure!(health.position.is_some());
    running.stop(&bench).await
}

/// MySQL takes white space off both ends of a name.
#[tokio::test]
async fn no_account_of_the_services_is_reached_by_a_name_with_spaces() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    for name in [" root", "root ", "\troot", " os_admin", "os_admin\n", " app"] {
        let refused = make_user(&bench, &id(name, "%"), "Secret-1", &[]).await;
        ensure!(refused.is_err(), "{name:?} was made");
        ensure!(users().delete(&bench.site, &id(name, "%")).await.is_err(), "{name:?} was deleted");
    }
    ensure!(users().list(&bench.site).await.map_err(plain)?.is_empty());
    ensure!(!root().is_enabled(&bench.site).await.map_err(plain)?);
    running.stop(&bench).await
}

async fn mended(bench: &Bench<'_>, running: Running) -> Result<Running> {
    let locked = ENGINE.engine().probe(&bench.site).await.err().context("the agent is let in")?;
    ensure!(locked.kind() == Kind::LockedOut, "{:?} {}", locked.kind(), locked.chain());
    running.stop(bench).await?;
    let mended = ENGINE.engine().repair(&bench.site).await.map_err(plain)?;
    ensure!(mended.is_some_and(|what| what.contains("os_admin")), "nothing is mended");
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    Ok(running)
}

#[tokio::test]
async fn an_agent_that_was_locked_out_is_let_in_again() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let mut running = bench.start().await?;
    let position =
        async || -> Result<Option<String>> { Ok(ENGINE.engine().probe(&bench.site).await.map_err(plain)?.position) };
    for sql in [
        "rename user os_admin@localhost to taken@'%'",
        "alter user os_admin@localhost identified with caching_sha2_password by 'Own-1'",
        "alter user os_admin@localhost account lock",
        "revoke super, create user on *.* from os_admin@localhost",
        "alter user os_admin@localhost with max_connections_per_hour 1 max_queries_per_hour 1",
    ] {
        powerful(&bench).await?.query_drop(sql).await.with_context(|| sql.to_owned())?;
        // A session of the agent's may be open with what it had: it asks by a new one.
        let _ = ENGINE.engine().probe(&bench.site).await;
        running = mended(&bench, running).await.with_context(|| sql.to_owned())?;
        root().disable(&bench.site).await.map_err(plain)?;
        let left = users().list(&bench.site).await.map_err(plain)?;
        ensure!(left.iter().all(|user| user.databases.is_empty()), "{sql}: {left:?}");
    }
    let before = position().await?;
    running.stop(&bench).await?;
    ensure!(ENGINE.engine().repair(&bench.site).await.map_err(plain)?.is_none(), "it mends what is in order");
    running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    // The log of changes goes on, and has nothing of this.
    ensure!(position().await? == before, "{before:?}");
    make_database(&bench, "one").await?;
    ensure!(before.is_some() && position().await? != before, "{before:?}");
    running.stop(&bench).await
}

/// Accounts, roles and rights by which it could come back.
async fn ways_back(session: &mut mysql_async::Conn) -> Result<()> {
    for sql in [
        "create user second@'%' identified by 'Second-1'",
        "grant all on *.* to second@'%' with grant option",
        "create user third@'%' identified by 'Third-1'",
        "grant select on mysql.* to third@'%'",
        "create user fourth@'%' identified by 'Fourth-1'",
        "grant update on mysql.user to fourth@'%'",
        "create user root@'127.%' identified by 'Another-1'",
        "grant all on *.* to root@'127.%' with grant option",
        "create user fifth@'%' identified by 'Fifth-1'",
        "grant role_admin, system_user on *.* to fifth@'%'",
        "create role powers",
        "grant all on *.* to powers with grant option",
        "grant powers to app@'%' with admin option",
        "set default role powers to app@'%'",
        "grant os_admin@localhost to app@'%'",
        "create view one.harmless as select 1 as n",
        "grant select on one.* to app@'%' with grant option",
        "alter user `mysql.sys`@localhost identified by 'Sys-1' account unlock",
        "create definer = os_admin@localhost procedure one.back() grant all on *.* to app@'%' with grant option",
        "create definer = os_admin@localhost view one.accounts as select user from mysql.user",
        "create definer = os_admin@localhost event two.later on schedule every 1 second do grant all on *.* to app@'%'",
        "create table two.t (a int)",
        "create definer = os_admin@localhost trigger two.tr before insert on two.t for each row set new.a = 1",
    ] {
        session.query_drop(sql).await.with_context(|| sql.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn disabling_root_leaves_no_other_way_back() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    for name in ["one", "two"] {
        make_database(&bench, name).await?;
    }
    make_user(&bench, &id("app", "%"), "Secret-1", &["one"]).await?;
    let mut session = powerful(&bench).await?;
    ways_back(&mut session).await?;
    let mut app = login(&bench, "app", "Secret-1", Some("one")).await?;

    root().disable(&bench.site).await.map_err(plain)?;
    ensure!(!root().is_enabled(&bench.site).await.map_err(plain)?);
    ensure!(session.query_drop("select 1").await.is_err(), "root's session goes on");
    ensure!(app.query_drop("select 1").await.is_err(), "a session that could have all rights goes on");
    ENGINE.engine().secure(&bench.site).await.map_err(plain)?;
    for (user, password) in [("root", "Root-secret-1"), ("root", "Another-1"), ("mysql.sys", "Sys-1")] {
        ensure!(login(&bench, user, password, None).await.is_err(), "{user} is let in with {password}");
    }
    for (user, password) in [
        ("app", "Secret-1"),
        ("second", "Second-1"),
        ("third", "Third-1"),
        ("fourth", "Fourth-1"),
        ("fifth", "Fifth-1"),
    ] {
        let mut session = login(&bench, user, password, None).await.with_context(|| user.to_owned())?;
        for sql in [
            "select * from mysql.user",
            "create user x@'%'",
            "set global max_connections = 99",
            "use two",
            "set role os_admin@localhost",
            "grant os_admin@localhost to second@'%'",
        ] {
            refused(&mut session, sql).await.with_context(|| user.to_owned())?;
        }
        session.query_drop("set role all").await.with_context(|| user.to_owned())?;
        refused(&mut session, "select * from mysql.user").await.with_context(|| user.to_owned())?;
    }
    // The account of a tenant is as it was, and what root made for it works.
    let mut app = login(&bench, "app", "Secret-1", Some("one")).await?;
    assert_eq!(one(&mut app, "select n from harmless").await?, "1");
    for sql in ["call back()", "select * from accounts"] {
        refused(&mut app, sql).await?;
    }
    // And root comes back with another password.
    root().enable(&bench.site, &"Root-secret-2".into()).await.map_err(plain)?;
    ensure!(login(&bench, "root", "Root-secret-1", None).await.is_err(), "root's old password acts");
    let mut session = login(&bench, "root", "Root-secret-2", None).await?;
    session.query_drop("create user sixth@'%'").await?;
    assert_eq!(one(&mut session, "select count(*) from information_schema.events").await?, "0");
    running.stop(&bench).await
}

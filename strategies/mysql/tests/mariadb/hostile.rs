//! What one with all rights can do to the agent: it is put right, or does not work.

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use trove_conformance::{Bench, Running};
use trove_strategy::{Datastore, Kind, Settings, StartMode};

use crate::ENGINE;
use crate::shared::*;

pub(crate) async fn rooted(bench: &Bench<'_>) -> Result<mysql_async::Conn> {
    root().enable(&bench.site, &"Root-secret-1".into()).await.map_err(plain)?;
    login(bench, "root", "Root-secret-1", None).await
}

/// Root with the rights that it gives itself by the server's tables of accounts.
pub(crate) async fn almighty(bench: &Bench<'_>) -> Result<mysql_async::Conn> {
    let mut session = rooted(bench).await?;
    let all = "update mysql.global_priv set priv = json_set(priv, '$.access', 18446744073709551615) where user = 'root' \
               and host = '%'";
    session.query_drop(all).await?;
    session.query_drop("flush privileges").await?;
    login(bench, "root", "Root-secret-1", None).await
}

/// Refused, with the server's words.
async fn refused(session: &mut mysql_async::Conn, sql: &str) -> Result<String> {
    let done = session.query_drop(sql).await;
    Ok(done.err().with_context(|| format!("{sql} is done"))?.to_string())
}

async fn mended(bench: &Bench<'_>, running: Running) -> Result<Running> {
    let locked = ENGINE.engine().probe(&bench.site).await.err().context("the agent is let in")?;
    ensure!(locked.kind() == Kind::LockedOut, "{:?} {}", locked.kind(), locked.chain());
    running.stop(bench).await?;
    let mended = ENGINE.engine().repair(&bench.site).await.map_err(plain)?;
    ensure!(mended.is_some_and(|what| what.contains(&bench.site.engine_account)));
    ensure!(ENGINE.engine().repair(&bench.site).await.map_err(plain)?.is_none(), "it mends what is in order");
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    Ok(running)
}

#[tokio::test]
async fn root_reaches_no_files_no_programs_and_no_settings() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    make_database(&bench, "one").await?;
    let mut session = rooted(&bench).await?;
    session.query_drop("create table one.t (a text)").await?;
    session.query_drop("create function one.f() returns int return 1").await?;
    for sql in [
        "select 'x' into outfile '/tmp/trove-x'",
        "load data infile '/etc/passwd' into table one.t",
        "install soname 'server_audit'",
        "install soname 'handlersocket'",
        "create function sys_exec returns int soname 'lib_mysqludf_sys.so'",
        "set global general_log_file = '/tmp/trove-x'",
        "set global max_connections = 10",
        "set global read_only = 1",
        "set global init_connect = 'drop database one'",
        "set global secure_file_priv = ''",
        "shutdown",
        "purge binary logs before now()",
        "set sql_log_bin = 0",
        "change master to master_host = '127.0.0.1'",
        "create definer = nobody@localhost procedure one.p() select 1",
    ] {
        refused(&mut session, sql).await?;
    }
    assert_eq!(one(&mut session, "select load_file('/etc/passwd')").await?, "");
    let mut session = almighty(&bench).await?;
    for sql in [
        "select 'x' into outfile '/tmp/trove-x'",
        "load data infile '/etc/passwd' into table one.t",
        "install soname 'server_audit'",
        "install soname 'handlersocket'",
        "set global secure_file_priv = ''",
        "set global plugin_dir = '/tmp'",
    ] {
        refused(&mut session, sql).await?;
    }
    assert_eq!(one(&mut session, "select load_file('/etc/passwd')").await?, "");
    // What it sets is as it was after the next reload of the agent's.
    session.query_drop("set global init_connect = 'drop database one', global local_infile = 1").await?;
    session.query_drop("set global general_log_file = 'elsewhere'").await?;
    ENGINE.engine().reload(&bench.site, &Settings::default()).await.map_err(plain)?;
    assert_eq!(one(&mut session, "select concat(@@init_connect, @@local_infile)").await?, "OFF");
    ensure!(one(&mut session, "select @@general_log_file").await?.ends_with("/general.log"));
    running.stop(&bench).await
}

#[tokio::test]
async fn an_agent_that_was_locked_out_is_let_in_again() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let mut running = bench.start().await?;
    let own = format!("`{}`@localhost", bench.site.engine_account);
    for sql in [
        format!("rename user {own} to taken@'%'"),
        format!("alter user {own} identified via mysql_native_password using '*{}'", "0".repeat(40)),
        format!("revoke super, create user on *.* from {own}"),
        format!("grant usage on *.* to {own} with max_user_connections 1 max_queries_per_hour 1"),
    ] {
        let mut session = almighty(&bench).await?;
        session.query_drop(&sql).await.with_context(|| sql.clone())?;
        // A session of the agent's may be open with what it had: it asks by a new one.
        let _ = ENGINE.engine().probe(&bench.site).await;
        running = mended(&bench, running).await.with_context(|| sql.clone())?;
        root().disable(&bench.site).await.map_err(plain)?;
        let left = users().list(&bench.site).await.map_err(plain)?;
        ensure!(left.iter().all(|user| user.databases.is_empty()), "{sql}: {left:?}");
    }
    running.stop(&bench).await
}

/// Accounts, roles and rights by which it could come back.
async fn ways_back(session: &mut mysql_async::Conn) -> Result<()> {
    for sql in [
        "create user second@'%' identified by 'Second-1'",
        "grant all on *.* to second@'%' with grant option",
        "create user third@'%' identified by 'Third-1'",
        "grant all on mysql.* to third@'%'",
        "create user fourth@'%' identified by 'Fourth-1'",
        "grant update on mysql.global_priv to fourth@'%'",
        "create user root@'127.%' identified by 'Another-1'",
        "grant all on *.* to root@'127.%' with grant option",
        "create user fifth@'%' identified by 'Fifth-1'",
        "grant all on `%`.* to fifth@'%'",
        "create role powers",
        "grant all on *.* to powers with grant option",
        "grant powers to app@'%'",
        "alter user `mariadb.sys`@localhost identified by 'Sys-1' account unlock",
        "create view one.harmless as select 1 as n",
        "grant select on one.* to app@'%' with grant option",
        "insert into mysql.global_priv values ('%', 'hidden', json_object('access', 18446744073709551615, 'plugin', \
         'mysql_native_password', 'authentication_string', password('Hidden-1')))",
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
    let mut session = almighty(&bench).await?;
    let own = format!("`{}`@localhost", bench.site.engine_account);
    ways_back(&mut session).await?;
    // In the agent's name, and the agent's account with a password.
    let back = "grant all on *.* to app@'%' with grant option";
    for sql in [
        format!("create definer = {own} procedure one.back() {back}"),
        format!("create definer = {own} view one.accounts as select * from mysql.global_priv"),
        format!("create definer = {own} event two.later on schedule every 1 second do {back}"),
        "create table two.t (a int)".to_owned(),
        format!("create definer = {own} trigger two.tr before insert on two.t for each row set new.a = 1"),
        format!("alter user {own} identified via unix_socket or mysql_native_password using password('Own-1')"),
    ] {
        session.query_drop(&sql).await.with_context(|| sql.clone())?;
    }
    let mut app = login(&bench, "app", "Secret-1", Some("one")).await?;

    root().disable(&bench.site).await.map_err(plain)?;
    ensure!(!root().is_enabled(&bench.site).await.map_err(plain)?);
    ensure!(session.query_drop("select 1").await.is_err(), "root's session goes on");
    ensure!(app.query_drop("select 1").await.is_err(), "a session that could have all rights goes on");
    ENGINE.engine().secure(&bench.site).await.map_err(plain)?;
    let health = ENGINE.engine().probe(&bench.site).await.map_err(plain)?;
    ensure!(health.position.is_some());
    for (user, password) in [
        ("root", "Root-secret-1"),
        ("root", "Another-1"),
        ("mariadb.sys", "Sys-1"),
        (&bench.site.engine_account, "Own-1"),
    ] {
        ensure!(login(&bench, user, password, None).await.is_err(), "{user} is let in with {password}");
    }
    for (user, password) in [
        ("app", "Secret-1"),
        ("second", "Second-1"),
        ("third", "Third-1"),
        ("fourth", "Fourth-1"),
        ("fifth", "Fifth-1"),
        ("hidden", "Hidden-1"),
    ] {
        let mut session = login(&bench, user, password, None).await.with_context(|| user.to_owned())?;
        for sql in
            ["select * from mysql.global_priv", "create user x@'%'", "set global max_connections = 99", "use two"]
        {
            refused(&mut session, sql).await.with_context(|| user.to_owned())?;
        }
    }
    // The account of a tenant is as it was, and what root made for it works.
    let mut app = login(&bench, "app", "Secret-1", Some("one")).await?;
    assert_eq!(one(&mut app, "select n from harmless").await?, "1");
    for sql in ["call back()", "select * from accounts", "set role powers"] {
        refused(&mut app, sql).await?;
    }
    let events = client(&bench, "app", "Secret-1", "one", "select count(*) from information_schema.events")?;
    assert_eq!(events, "0");
    // And root comes back with another password.
    root().enable(&bench.site, &"Root-secret-2".into()).await.map_err(plain)?;
    ensure!(login(&bench, "root", "Root-secret-1", None).await.is_err(), "root's old password acts");
    let mut session = login(&bench, "root", "Root-secret-2", None).await?;
    session.query_drop("create user sixth@'%'").await?;
    running.stop(&bench).await
}

#[tokio::test]
async fn a_backup_writes_nothing_outside_of_the_data_directory() -> Result<()> {
    let bench = Bench::new(&ENGINE).await?;
    // Where the engine's account can write, so that nothing but the restore is in the way.
    let outside = bench.site.data.with_file_name("outside");
    let absolute = outside.to_string_lossy().into_owned();
    for name in [absolute.as_str(), "../outside", "mysql/../../outside"] {
        // The end of a file that was not begun, which the unpacking program makes.
        let length = u32::try_from(name.len())?.to_le_bytes();
        let stream = [b"XBSTCK01\0E", &length[..], name.as_bytes()].concat();
        let restored = ENGINE.backup().context("it has backups")?;
        let restored = restored.restore(&bench.site, &mut std::io::Cursor::new(stream)).await;
        let error = restored.err().context("it is taken")?;
        ensure!(!outside.exists(), "{name:?} was written");
        let said = error.chain();
        ensure!(error.kind() == Kind::Invalid && said.contains("leads out of the data directory"), "{said}");
    }
    Ok(())
}

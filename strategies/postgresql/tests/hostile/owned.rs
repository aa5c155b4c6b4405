//! What a tenant's superuser sets to keep the agent out, or to be heard where the instance is not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;
use trove_conformance::{Bench, Running};
use trove_strategy::{Datastore, Kind, Settings, StartMode};

use super::{POSTGRESQL, as_root, connect, id, make_database, make_user, plain, text, users};

async fn again(bench: &Bench<'_>) -> Result<Running> {
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    Ok(running)
}

async fn run_all(client: &Client, statements: &[&str]) -> Result<()> {
    for statement in statements {
        client.batch_execute(statement).await.with_context(|| (*statement).to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn what_the_agent_decides_is_not_altered_by_the_tenants_superuser() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let root = as_root(&bench.site, "postgres").await?;
    let names = "'port', 'listen_addresses', 'hba_file', 'ident_file', 'unix_socket_directories', 'ssl', 'ssl_cert_file', \
                 'logging_collector', 'log_destination', 'session_preload_libraries', 'shared_preload_libraries', \
                 'post_auth_delay', 'archive_mode', 'max_wal_senders', 'max_slot_wal_keep_size', 'superuser_reserved_connections'";
    let asked = format!(
        "select string_agg(name || '=' || setting, ' ' order by name) from pg_settings where name in ({names})"
    );
    let before = text(&root, &asked).await?;
    let settings = [
        "port = 54999",
        "listen_addresses = '*'",
        "hba_file = '/nonexistent'",
        "ident_file = '/nonexistent'",
        "unix_socket_directories = '/tmp'",
        "unix_socket_permissions = 511",
        "ssl = off",
        "ssl_cert_file = '/nonexistent'",
        "ssl_max_protocol_version = 'TLSv1'",
        "logging_collector = on",
        "log_destination = 'csvlog'",
        "log_directory = '/tmp'",
        "session_preload_libraries = 'nothing'",
        "local_preload_libraries = 'nothing'",
        "shared_preload_libraries = 'nothing'",
        "post_auth_delay = 1000",
        "pre_auth_delay = 60",
        "archive_mode = on",
        "max_wal_senders = 0",
        "max_slot_wal_keep_size = -1",
        "external_pid_file = '/tmp/pid'",
        "superuser_reserved_connections = 0",
        "password_encryption = 'md5'",
        "db_user_namespace = on",
    ];
    for setting in settings {
        root.batch_execute(&format!("alter system set {setting}")).await.context(setting)?;
    }
    POSTGRESQL.engine().reload(&bench.site, &Settings::default()).await.map_err(plain)?;
    running.stop(&bench).await?;
    let running = again(&bench).await?;
    let root = as_root(&bench.site, "postgres").await?;
    ensure!(text(&root, &asked).await? == before, "{} was {before}", text(&root, &asked).await?);
    let elsewhere = TcpStream::connect_timeout(&(bench.site.address, 54999).into(), Duration::from_secs(1));
    ensure!(elsewhere.is_err(), "it listens on the tenant's port");
    let host = std::net::SocketAddr::from(([127, 0, 0, 1], bench.site.port));
    ensure!(TcpStream::connect_timeout(&host, Duration::from_secs(1)).is_err(), "it listens on another address");
    make_user(&bench.site, "u", &[]).await?;
    running.stop(&bench).await
}

#[tokio::test]
async fn a_tenants_superuser_cannot_lock_the_agent_out_for_good() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let mut running = bench.start().await?;
    let tries: [&[&str]; 8] = [
        &["alter role os_admin nologin"],
        &["alter role os_admin nosuperuser"],
        &["alter role os_admin rename to somebody", "create role os_admin login"],
        &["alter database postgres allow_connections false"],
        &["alter database postgres rename to somewhere"],
        &["drop database postgres"],
        &["alter database postgres rename to elsewhere", "alter role os_admin nologin valid until 'yesterday'"],
        // The server would not start any more, which a repair finds out too.
        &["alter system set max_connections = 4", "alter role os_admin nologin"],
    ];
    for statements in tries {
        let root = as_root(&bench.site, "template1").await?;
        // A database with sessions is neither renamed nor removed: the one that the agent holds goes first.
        let agents = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'trove-agent'";
        run_all(&root, &[agents]).await?;
        run_all(&root, statements).await?;
        drop(root);
        let refused = POSTGRESQL.engine().probe(&bench.site).await;
        ensure!(refused.as_ref().is_err_and(|error| error.kind() == Kind::LockedOut), "{statements:?}: {refused:?}");
        running.stop(&bench).await?;
        let mended = POSTGRESQL.engine().repair(&bench.site).await.map_err(plain)?;
        ensure!(mended.is_some(), "{statements:?}: nothing was found");
        running = again(&bench).await?;
        make_user(&bench.site, "u", &[]).await.with_context(|| format!("after {statements:?}"))?;
        users().delete(&bench.site, &id("u")).await.map_err(plain)?;
    }
    running.stop(&bench).await?;
    ensure!(POSTGRESQL.engine().repair(&bench.site).await.map_err(plain)?.is_none(), "a sound one is left alone");
    again(&bench).await?.stop(&bench).await
}

#[tokio::test]
async fn settings_and_limits_of_a_superuser_do_not_bind_the_agent() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_database(&bench.site, "d").await?;
    let root = as_root(&bench.site, "d").await?;
    let statements = [
        "create role nobody_much",
        "alter role os_admin connection limit 0",
        "alter database postgres connection limit 0",
        "alter database d connection limit 0",
        "alter role all set role = 'nobody_much'",
        "alter role all set session_preload_libraries = 'nothing'",
        "alter role os_admin set local_preload_libraries = 'nothing'",
        "alter role all set search_path = 'evil'",
        "alter role all set statement_timeout = '1ms'",
        "alter database d set role = 'nobody_much'",
        "alter database postgres set default_transaction_read_only = on",
        "alter role all set plpgsql.extra_errors = 'all'",
        "alter role all set quote_all_identifiers = on",
        "alter role all set bytea_output = 'escape'",
    ];
    run_all(&root, &statements).await?;
    POSTGRESQL.engine().probe(&bench.site).await.map_err(plain)?;
    make_user(&bench.site, "u", &["d"]).await?;
    users().delete(&bench.site, &id("u")).await.map_err(plain)?;
    drop(root);
    running.stop(&bench).await
}

#[tokio::test]
async fn an_event_trigger_does_not_run_in_the_agents_sessions() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_database(&bench.site, "d").await?;
    let root = as_root(&bench.site, "d").await?;
    let statements = [
        "create table seen (who text)",
        "create function public.no() returns event_trigger language plpgsql as \
         $$ begin insert into public.seen values (session_user); raise exception 'no'; end $$",
        "create event trigger t on ddl_command_start execute function public.no()",
        "alter event trigger t enable always",
    ];
    run_all(&root, &statements).await?;
    let password = make_user(&bench.site, "u", &["d"]).await?;
    let tenant = connect(&bench.site, "u", &password, "d").await?;
    ensure!(tenant.batch_execute("create table t (n int)").await.is_err(), "the tenant's own trigger is still there");
    trove_strategy::Databases::revoke(&POSTGRESQL, &bench.site, &id("u"), "d").await.map_err(plain)?;
    users().delete(&bench.site, &id("u")).await.map_err(plain)?;
    ensure!(text(&root, "select count(*) from public.seen").await? == "0", "it ran in a session of the agent's");
    ensure!(text(&root, "select evtenabled from pg_event_trigger").await? == "A", "its state was changed");
    drop((root, tenant));
    running.stop(&bench).await
}

#[tokio::test]
async fn who_does_not_log_in_gives_the_place_back_and_who_vanished_too() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let mut stranger = TcpStream::connect((bench.site.address, bench.site.port))?;
    stranger.set_read_timeout(Some(Duration::from_secs(30)))?;
    let begun = Instant::now();
    ensure!(stranger.read(&mut [0; 64]).context("it is not closed within 30 s")? == 0, "it was answered");
    ensure!(begun.elapsed() > Duration::from_secs(10), "closed after {:?}", begun.elapsed());
    let root = as_root(&bench.site, "postgres").await?;
    ensure!(text(&root, "show tcp_keepalives_idle").await? == "300");
    running.stop(&bench).await
}

/// Strangers fill the server: half say nothing, half stop before the password.
#[tokio::test]
async fn the_agent_sees_its_server_while_strangers_have_taken_all_connections() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    POSTGRESQL.engine().probe(&bench.site).await.map_err(plain)?;
    let mut strangers = Vec::new();
    let mut refused = 0;
    // Who is refused was one too many; the server lets twice as many knock as may come in.
    for n in 0..400 {
        let mut stranger = TcpStream::connect((bench.site.address, bench.site.port))?;
        if n % 2 == 0 {
            // The first message of the protocol, version 3.0, with the name of an account.
            stranger.write_all(b"\0\0\0\x15\0\x03\0\0user\0nobody\0\0")?;
            stranger.set_read_timeout(Some(Duration::from_secs(10)))?;
            let mut answer = [0; 1];
            stranger.read_exact(&mut answer)?;
            refused += usize::from(answer == *b"E");
        }
        strangers.push(stranger);
    }
    ensure!(refused > 0, "400 connections are not too many");
    let late = users().list(&bench.site).await;
    ensure!(late.as_ref().is_err_and(|error| error.kind() == Kind::Transient), "{late:?}");
    for _ in 0..3 {
        POSTGRESQL.engine().probe(&bench.site).await.map_err(plain)?;
        POSTGRESQL.engine().metrics(&bench.site).await.map_err(plain)?;
    }
    drop(strangers);
    let until = Instant::now() + Duration::from_secs(30);
    while let Err(error) = users().list(&bench.site).await {
        ensure!(Instant::now() < until, "nobody comes in afterwards: {}", error.chain());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop(&bench).await
}

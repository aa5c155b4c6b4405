//! What is left of a tenant's superusers once root is disabled.

use anyhow::{Context, Result, ensure};
use secrecy::SecretString;
use trove_conformance::Bench;

use super::{POSTGRESQL, as_root, connect, id, make_database, make_user, plain, root, text, users};

#[tokio::test]
async fn no_account_has_more_rights_than_an_ordinary_one_once_root_is_disabled() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    make_database(site, "d").await?;
    let password = make_user(site, "ann", &["d"]).await?;
    make_user(site, "bob", &["d"]).await?;
    let superuser = as_root(site, "d").await?;
    let statements = [
        "create role boss superuser login password 'Secret-1'",
        "create role keeper createrole createdb replication bypassrls login password 'Secret-1'",
        "grant root to ann with admin option",
        "grant os_admin to bob",
        "grant pg_execute_server_program, pg_read_server_files, pg_write_server_files to ann with admin option",
        "grant pg_read_all_data to bob",
        "create schema s",
        "grant usage on schema s to public",
        "set role os_admin",
        "create function s.power() returns text language sql security definer as $$ select session_user || current_user $$",
        "create view s.secrets as select rolpassword from pg_authid",
        "grant select on s.secrets to public",
        "reset role",
        "create function s.own() returns text language sql security definer as $$ select current_user::text $$",
        "create function s.t() returns event_trigger language plpgsql as $$ begin end $$",
        "create event trigger t on ddl_command_start execute function s.t()",
        "alter database d set session_preload_libraries = 'plpgsql'",
        "create extension pg_trgm schema public",
    ];
    for statement in statements {
        superuser.batch_execute(statement).await.context(statement)?;
    }
    let boss = connect(site, "boss", &SecretString::from("Secret-1"), "d").await?;
    root().disable(site).await.map_err(plain)?;
    ensure!(boss.simple_query("select 1").await.is_err(), "the session of another superuser goes on");
    let ann = connect(site, "ann", &password, "d").await?;
    let powers = "select string_agg(rolname, ' ') from pg_roles where oid <> 10 and rolname !~ '^pg_' and \
                  (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)";
    ensure!(text(&ann, powers).await?.is_empty(), "{}", text(&ann, powers).await?);
    for attempt in [
        "set role root",
        "set role os_admin",
        "copy (select 1) to program 'true'",
        "copy (select 1) to '/tmp/x'",
        "select s.power()",
        "select * from s.secrets",
        "alter event trigger t enable",
    ] {
        ensure!(ann.batch_execute(attempt).await.is_err(), "ann may: {attempt}");
        let bob = connect(site, "bob", &password, "d").await?;
        ensure!(bob.batch_execute(attempt).await.is_err(), "bob may: {attempt}");
    }
    ensure!(text(&ann, "select s.own()").await? == "root", "what is harmless was touched");
    ensure!(text(&ann, "select similarity('abc', 'abd') > 0").await? == "t", "an extension was touched");
    ensure!(text(&ann, "select evtenabled from pg_event_trigger").await? == "D");
    ensure!(text(&ann, "select pg_has_role('bob', 'pg_read_all_data', 'member')").await? == "t");
    ensure!(text(&ann, "select count(*) from pg_db_role_setting").await? == "0", "a library is loaded for everybody");
    drop(boss);
    connect(site, "ann", &password, "d").await?.batch_execute("select 1").await?;
    let again = as_root(site, "d").await?;
    again.batch_execute("alter role root connection limit 0 valid until 'yesterday'").await?;
    let again = as_root(site, "d").await?;
    ensure!(text(&again, "select rolsuper from pg_roles where rolname = 'root'").await? == "t", "root comes back");
    running.stop(&bench).await
}

#[tokio::test]
async fn an_account_goes_though_it_has_what_only_a_superuser_may_own() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    make_database(site, "d").await?;
    let superuser = as_root(site, "d").await?;
    let statements = [
        "create role boss superuser login password 'Secret-1'",
        "set role boss",
        "create function public.t() returns event_trigger language plpgsql as $$ begin raise exception 'no'; end $$",
        "create event trigger t on ddl_command_end execute function public.t()",
        "create foreign data wrapper w",
        "create publication p for all tables",
        "create subscription s connection 'host=127.0.0.1 port=1' publication p with (connect = false)",
        "reset role",
    ];
    for statement in statements {
        let disabled = "set session_replication_role = replica";
        superuser.batch_execute(disabled).await?;
        superuser.batch_execute(statement).await.context(statement)?;
    }
    users().delete(site, &id("boss")).await.map_err(plain)?;
    ensure!(text(&superuser, "select evtenabled from pg_event_trigger").await? == "D", "it runs on");
    ensure!(text(&superuser, "select count(*) from pg_subscription where subenabled").await? == "0");
    trove_strategy::Databases::delete(&POSTGRESQL, site, "d").await.map_err(plain)?;
    drop(superuser);
    running.stop(&bench).await
}

/// What a superuser can plant so that it gets its rights back once root is disabled.
const PLANTED: &[&str] = &[
    "set allow_system_table_mods = on",
    "create role evil superuser login password 'Secret-1'",
    "update pg_authid set rolname = 'pg_evil' where rolname = 'evil'",
    "update pg_authid set rolsuper = true, rolcanlogin = true, rolpassword = (select rolpassword from pg_authid where rolname = 'pg_evil') where rolname = 'pg_monitor'",
    "update pg_authid set rolname = 'plain' where oid = 4571",
    "grant plain to ann",
    "create schema pg_evils",
    "grant usage on schema pg_evils to public",
    "create role trove_access_closed",
    "grant trove_access_closed to ann",
    "grant execute on function lo_import(text), lo_export(oid, text), pg_read_file(text) to ann",
    "grant execute on function pg_read_file(text, bigint, bigint, boolean) to public",
    "grant select on pg_authid to ann",
    "grant set on parameter session_preload_libraries to ann",
    "update pg_language set lanpltrusted = true where lanname = 'c'",
    "create function pg_evils.inside(text) returns oid language internal as 'be_lo_import'",
    "set role os_admin",
    "create view pg_evils.secrets as select rolpassword from pg_authid",
    "grant select on pg_evils.secrets to public",
    "create function pg_evils.power() returns text language plpgsql security definer as $$ begin \
         alter role ann superuser; return current_user; end $$",
    "create function public.later() returns void language plpgsql security definer as $$ begin \
         while exists (select from pg_catalog.pg_authid where rolname = 'root' and rolcanlogin) loop \
         perform pg_sleep(0.001); end loop; loop begin alter role ann superuser; exception when others then null; end; \
         perform pg_sleep(0.001); end loop; end $$",
    "reset role",
    "update pg_database set datallowconn = true where datname = 'template0'",
];

#[tokio::test]
async fn nothing_gives_a_superusers_rights_back_once_root_is_disabled() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    make_database(site, "d").await?;
    let password = make_user(site, "ann", &["d"]).await?;
    let superuser = as_root(site, "d").await?;
    let powerless = "select count(*) from pg_roles where oid <> 10 and (rolsuper or rolcreaterole or rolcreatedb)";
    for statement in PLANTED {
        superuser.batch_execute(statement).await.context(*statement)?;
    }
    let first = as_root(site, "template0").await?;
    first
        .batch_execute("set role os_admin; create table public.t (); create view public.v as select from pg_authid")
        .await?;
    drop(first);
    let prepared = superuser.batch_execute("begin; create role late superuser; prepare transaction 'late'").await;
    ensure!(prepared.is_err(), "a transaction is prepared, whose locks and rights outlive everything");
    superuser.batch_execute("rollback").await?;
    let waiting = connect(site, "ann", &password, "d").await?;
    let waiting = tokio::spawn(async move { waiting.batch_execute("select public.later()").await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    root().disable(site).await.map_err(plain)?;
    ensure!(waiting.await?.is_err(), "a session goes on with a superuser's function");
    ensure!(connect(site, "pg_evil", &SecretString::from("Secret-1"), "template0").await.is_err(), "template0 is open");
    ensure!(
        connect(site, "pg_monitor", &SecretString::from("Secret-1"), "d").await.is_err(),
        "a reserved role logs in"
    );
    let ann = connect(site, "ann", &password, "d").await?;
    ensure!(text(&ann, powerless).await? == "0", "{}", text(&ann, powerless).await?);
    for attempt in [
        "copy (select 1) to program 'true'",
        "select lo_import('/etc/hostname')",
        "select lo_export(1, '/tmp/x')",
        "select pg_read_file('/etc/hostname')",
        "select pg_read_file('/etc/hostname', 0, 10, true)",
        "select pg_evils.inside('/etc/hostname')",
        "select * from pg_evils.secrets",
        "select pg_evils.power()",
        "select public.later()",
        "select rolpassword from pg_authid",
        "set session_preload_libraries = 'x'",
        "alter role ann set session_preload_libraries = 'x'",
        "set role trove_access_closed",
        "create function public.c() returns int language c as 'libc', 'getpid'",
    ] {
        ensure!(ann.batch_execute(attempt).await.is_err(), "ann may: {attempt}");
    }
    ensure!(text(&ann, "select count(*) from pg_roles").await?.parse::<u32>()? > 10, "what is harmless was touched");
    drop(ann);
    // A session in a database is no hindrance to making another from it.
    make_database(site, "e").await?;
    let again = as_root(site, "d").await?;
    root().disable(site).await.map_err(plain)?;
    drop(again);
    running.stop(&bench).await
}

#[tokio::test]
async fn a_view_of_the_servers_that_a_superuser_replaced_is_not_asked_by_a_probe() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    let superuser = as_root(site, "postgres").await?;
    let definition = text(&superuser, "select pg_get_viewdef('pg_roles'::regclass)").await?;
    let definition = definition.replace("pg_authid.rolname,", "public.trap(pg_authid.rolname) as rolname,");
    ensure!(definition.contains("trap"), "{definition}");
    let statements = [
        "set allow_system_table_mods = on",
        "create table public.asked (by name)",
        "create function public.trap(name) returns name language plpgsql as $$ begin \
         insert into public.asked values (current_user); return $1; end $$",
        &format!("create or replace view pg_catalog.pg_roles as {definition}"),
    ];
    for statement in statements {
        superuser.batch_execute(statement).await.context(statement.to_owned())?;
    }
    trove_strategy::Engine::probe(&POSTGRESQL, site).await.map_err(plain)?;
    ensure!(root().is_enabled(site).await.map_err(plain)?);
    root().disable(site).await.map_err(plain)?;
    let again = as_root(site, "postgres").await?;
    ensure!(text(&again, "select count(*) from public.asked").await? == "0", "the agent ran a tenant's function");
    drop((again, superuser));
    running.stop(&bench).await
}

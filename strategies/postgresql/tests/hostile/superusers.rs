//! What is left of a tenant's superusers once root is disabled.

use anyhow::{Context, Result, ensure};
use secrecy::SecretString;
use trove_conformance::Bench;
use trove_postgresql::Postgresql;

use super::{as_root, connect, id, make_database, make_user, plain, root, text, users};

#[tokio::test]
async fn no_account_has_more_rights_than_an_ordinary_one_once_root_is_disabled() -> Result<()> {
    let bench = Bench::new(&Postgresql).await?;
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
    let bench = Bench::new(&Postgresql).await?;
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
    trove_strategy::Databases::delete(&Postgresql, site, "d").await.map_err(plain)?;
    drop(superuser);
    running.stop(&bench).await
}

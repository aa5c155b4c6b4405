//! Each verb touches what it names, and nothing else that somebody owns or was granted.

use anyhow::{Result, ensure};
use trove_conformance::Bench;
use trove_strategy::Databases;

use super::{POSTGRESQL, as_root, connect, id, make_database, make_user, plain, text, users};

fn databases() -> &'static dyn Databases {
    &POSTGRESQL
}

const OWNER: &str = "select rolname from pg_database d join pg_roles r on r.oid = d.datdba where datname = ";

#[tokio::test]
async fn revoking_in_one_database_leaves_what_an_account_has_elsewhere() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_database(&bench.site, "one").await?;
    let password = make_user(&bench.site, "ann", &["one"]).await?;
    make_database(&bench.site, "free").await?;
    let root = as_root(&bench.site, "postgres").await?;
    root.batch_execute("create database hers owner ann").await?;
    root.batch_execute("grant connect on database free to ann with grant option").await?;
    root.batch_execute("grant set on parameter log_statement to ann").await?;
    connect(&bench.site, "ann", &password, "one").await?.batch_execute("create table t (n int)").await?;
    databases().revoke(&bench.site, &id("ann"), "one").await.map_err(plain)?;
    ensure!(text(&root, &format!("{OWNER} 'hers'")).await? == "ann", "a database that was not named was given away");
    ensure!(text(&root, "select has_database_privilege('ann', 'free', 'connect with grant option')").await? == "t");
    ensure!(text(&root, "select has_parameter_privilege('ann', 'log_statement', 'set')").await? == "t");
    ensure!(text(&root, "select has_database_privilege('ann', 'one', 'connect')").await? == "f", "not revoked");
    databases().delete(&bench.site, "one").await.map_err(plain)?;
    let left = "select count(*) from pg_roles where rolname like 'trove\\_access\\_%'";
    ensure!(text(&root, left).await? == "1", "the role of a deleted database is left behind");
    running.stop(&bench).await
}

#[tokio::test]
async fn the_database_of_a_deleted_account_belongs_to_nobody_with_more_rights() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_user(&bench.site, "ann", &[]).await?;
    let root = as_root(&bench.site, "postgres").await?;
    root.batch_execute("create database hers owner ann").await?;
    // A function that runs with its owner's rights, where the account is a guest.
    root.batch_execute("create schema s authorization ann").await?;
    root.batch_execute(
        "set role ann; create function s.f() returns text language sql security definer as $$ select current_user $$; \
         reset role; grant connect on database hers to ann with grant option",
    )
    .await?;
    users().delete(&bench.site, &id("ann")).await.map_err(plain)?;
    let owner = text(&root, &format!("{OWNER} 'hers'")).await?;
    ensure!(owner.starts_with("trove_access_"), "it belongs to {owner}");
    let runs_as = text(&root, "select s.f()").await?;
    ensure!(runs_as.starts_with("trove_access_"), "what ann wrote runs as {runs_as}");
    make_user(&bench.site, "bob", &["hers"]).await?;
    databases().delete(&bench.site, "hers").await.map_err(plain)?;
    running.stop(&bench).await
}

#[tokio::test]
async fn a_database_goes_though_its_role_has_something_elsewhere() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_database(&bench.site, "one").await?;
    make_database(&bench.site, "two").await?;
    let password = make_user(&bench.site, "ann", &["one", "two"]).await?;
    let root = as_root(&bench.site, "two").await?;
    let group = text(&root, &format!("{OWNER} 'one'")).await?;
    root.batch_execute(&format!("create table t (n int); alter table t owner to {group}")).await?;
    root.batch_execute(&format!("create database third owner {group}")).await?;
    databases().delete(&bench.site, "one").await.map_err(plain)?;
    ensure!(text(&root, &format!("select count(*) from pg_roles where rolname = '{group}'")).await? == "0");
    let owner = text(&root, &format!("{OWNER} 'third'")).await?;
    ensure!(owner.starts_with("trove_access_"), "it belongs to {owner}");
    connect(&bench.site, "ann", &password, "two").await?.batch_execute("insert into t values (1)").await?;
    running.stop(&bench).await
}

#[tokio::test]
async fn a_renamed_database_keeps_its_accounts_and_one_of_the_old_name_has_none() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_database(&bench.site, "old").await?;
    let password = make_user(&bench.site, "ann", &["old"]).await?;
    let root = as_root(&bench.site, "postgres").await?;
    root.batch_execute("alter database old rename to renamed").await?;
    make_database(&bench.site, "old").await?;
    let ann = users().get(&bench.site, &id("ann")).await.map_err(plain)?;
    ensure!(ann.is_some_and(|ann| ann.databases == ["renamed"]));
    connect(&bench.site, "ann", &password, "renamed").await?;
    ensure!(connect(&bench.site, "ann", &password, "old").await.is_err(), "an account of another database gets in");
    databases().delete(&bench.site, "old").await.map_err(plain)?;
    databases().revoke(&bench.site, &id("ann"), "renamed").await.map_err(plain)?;
    ensure!(connect(&bench.site, "ann", &password, "renamed").await.is_err());
    running.stop(&bench).await
}

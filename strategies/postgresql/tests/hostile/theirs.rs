//! What tenants set on what is theirs: it stays listed and can be deleted, and is not taken for something else.

use anyhow::{Result, ensure};
use trove_conformance::Bench;
use trove_strategy::{Database, Databases, EngineError, Kind, Site};

use super::{POSTGRESQL, as_root, connect, id, make_database, make_user, plain, text, users};

fn databases() -> &'static dyn Databases {
    &POSTGRESQL
}

async fn names(site: &Site) -> Result<Vec<String>> {
    Ok(databases().list(site).await.map_err(plain)?.into_iter().map(|database| database.name).collect())
}

fn invalid(done: Result<(), EngineError>) -> bool {
    done.is_err_and(|error| error.kind() == Kind::Invalid)
}

#[tokio::test]
async fn databases_that_cannot_be_entered_or_are_templates_are_listed_and_deleted() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    for name in ["closed", "full", "template"] {
        make_database(site, name).await?;
    }
    make_user(site, "ann", &["closed", "full", "template"]).await?;
    let root = as_root(site, "postgres").await?;
    root.batch_execute("alter database closed allow_connections false").await?;
    root.batch_execute("alter database template is_template true").await?;
    root.batch_execute("alter database template allow_connections false").await?;
    root.batch_execute("alter database \"full\" connection limit 0").await?;
    ensure!(names(site).await? == ["closed", "full", "template"], "{:?}", names(site).await?);
    let new = |name: &str| Database { name: name.to_owned(), character_set: None, collation: None };
    ensure!(invalid(databases().create(site, &new("closed")).await), "a create of a closed one says done");
    ensure!(invalid(databases().create(site, &new("template")).await), "a create of a template says done");
    databases().revoke(site, &id("ann"), "closed").await.map_err(plain)?;
    databases().grant(site, &id("ann"), &["closed".to_owned()]).await.map_err(plain)?;
    ensure!(text(&root, "select datallowconn from pg_database where datname = 'closed'").await? == "f");
    users().delete(site, &id("ann")).await.map_err(plain)?;
    for name in ["closed", "full", "template"] {
        databases().delete(site, name).await.map_err(plain)?;
    }
    ensure!(names(site).await?.is_empty());
    running.stop(&bench).await
}

#[tokio::test]
async fn a_create_of_what_exists_with_another_meaning_is_refused() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    make_database(site, "d").await?;
    make_database(site, "d").await?;
    let latin = Database { name: "d".to_owned(), character_set: Some("LATIN1".to_owned()), collation: None };
    ensure!(invalid(databases().create(site, &latin).await), "another encoding");
    let same = Database { name: "d".to_owned(), character_set: Some("utf-8".to_owned()), collation: None };
    databases().create(site, &same).await.map_err(plain)?;
    let root = as_root(site, "postgres").await?;
    root.batch_execute("create database by_hand").await?;
    let by_hand = Database { name: "by_hand".to_owned(), character_set: None, collation: None };
    ensure!(invalid(databases().create(site, &by_hand).await), "another's database");
    root.batch_execute("create role team").await?;
    ensure!(make_user(site, "team", &[]).await.is_err(), "a role that is no account");
    running.stop(&bench).await
}

#[tokio::test]
async fn a_granted_account_is_whole_without_the_schema_public() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    for (name, change) in [("dropped", "drop schema public"), ("renamed", "alter schema public rename to mine")] {
        make_database(&bench.site, name).await?;
        as_root(&bench.site, name).await?.batch_execute(change).await?;
        let user = format!("u_{name}");
        let password = make_user(&bench.site, &user, &[name]).await?;
        let tenant = connect(&bench.site, &user, &password, name).await?;
        tenant.batch_execute("create schema s; create table s.t (n int)").await?;
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn a_deletion_that_fails_leaves_the_account_as_it_was_and_one_made_again_has_no_grants() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    make_database(site, "one").await?;
    make_database(site, "two").await?;
    let password = make_user(site, "ann", &["one", "two"]).await?;
    connect(site, "ann", &password, "two").await?.batch_execute("create table t (n int)").await?;
    make_user(site, "bob", &["two"]).await?;
    let holder = connect(site, "bob", &password, "two").await?;
    holder.batch_execute("begin; lock table t").await?;
    ensure!(users().delete(site, &id("ann")).await.is_err(), "it waits for a lock");
    ensure!(users().get(site, &id("ann")).await.map_err(plain)?.is_some(), "it has vanished");
    connect(site, "ann", &password, "two").await?;
    drop(holder);
    let root = as_root(site, "postgres").await?;
    root.batch_execute("alter role ann nologin").await?;
    ensure!(users().get(site, &id("ann")).await.map_err(plain)?.is_some(), "hidden, since it cannot log in");
    users().delete(site, &id("ann")).await.map_err(plain)?;
    make_user(site, "ann", &[]).await?;
    let ann = users().get(site, &id("ann")).await.map_err(plain)?;
    ensure!(ann.is_some_and(|ann| ann.databases.is_empty()), "the new one has the grants of the old one");
    ensure!(connect(site, "ann", &password, "one").await.is_err());
    running.stop(&bench).await
}

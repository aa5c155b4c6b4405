//! Databases of other encodings, in which a name is other bytes than in the one that the agent works in.

use anyhow::{Context, Result, ensure};
use trove_conformance::Bench;
use trove_strategy::{Database, Databases, Datastore};

use super::{POSTGRESQL, as_root, connect, id, make_user, plain, text, users};

const NAME: &str = "jürgen2";

#[tokio::test]
async fn accounts_work_in_databases_of_every_encoding() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    let databases: &dyn Databases = &POSTGRESQL;
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP", "WIN1252", "KOI8R"] {
        let name = format!("größe {encoding}");
        let database = Database { name: name.clone(), character_set: Some(encoding.to_owned()), collation: None };
        databases.create(site, &database).await.map_err(plain).context(encoding)?;
        let password = make_user(site, NAME, &[&name]).await.context(encoding)?;
        make_user(site, "ann", &[&name]).await.context(encoding)?;
        let granted = users().get(site, &id(NAME)).await.map_err(plain)?.map(|user| user.databases);
        ensure!(granted == Some(vec![name.clone()]), "{encoding}: {granted:?}");
        let tenant = connect(site, NAME, &password, &name).await.context(encoding)?;
        tenant.batch_execute("create table t (n int)").await.context(encoding)?;
        drop(tenant);
        let ann = connect(site, "ann", &password, &name).await?;
        ann.batch_execute("insert into t values (1)").await.with_context(|| format!("{encoding}: half granted"))?;
        databases.revoke(site, &id(NAME), &name).await.map_err(plain).context(encoding)?;
        databases.grant(site, &id(NAME), std::slice::from_ref(&name)).await.map_err(plain).context(encoding)?;
        users().delete(site, &id(NAME)).await.map_err(plain).context(encoding)?;
        users().delete(site, &id("ann")).await.map_err(plain).context(encoding)?;
        databases.delete(site, &name).await.map_err(plain).context(encoding)?;
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn names_that_were_stored_in_another_encoding_are_listed_and_deleted() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    let databases: &dyn Databases = &POSTGRESQL;
    let collation = Some("C".to_owned());
    let latin = Database { name: "latin".to_owned(), character_set: Some("LATIN1".to_owned()), collation };
    databases.create(site, &latin).await.map_err(plain)?;
    let root = as_root(site, "latin").await?;
    root.batch_execute("create role \"jörg\" login password 'x'").await?;
    root.batch_execute("create database \"größe\"").await?;
    ensure!(text(&root, "select count(*) from pg_roles where rolname = 'jörg'").await? == "1");
    let listed = users().list(site).await.map_err(plain)?;
    ensure!(listed.iter().any(|user| user.id.name == "jörg"), "{listed:?}");
    let names: Vec<String> = databases.list(site).await.map_err(plain)?.into_iter().map(|found| found.name).collect();
    ensure!(names == ["größe", "latin"], "{names:?}");
    // What is in no encoding is nothing to stumble over.
    let ascii = Database { name: "ascii".to_owned(), character_set: Some("SQL_ASCII".to_owned()), collation: None };
    databases.create(site, &ascii).await.map_err(plain)?;
    let raw = as_root(site, "ascii").await?;
    raw.batch_execute(r"do $$ begin execute format('alter role all set application_name = %L', E'a\377'); end $$")
        .await?;
    raw.batch_execute(r"do $$ begin execute format('create role %I', E'trove_access_\377'); end $$").await?;
    drop(raw);
    let parameters = POSTGRESQL.parameters().context("announced")?;
    ensure!(!parameters.values(site).await.map_err(plain)?.is_empty());
    databases.grant(site, &id("jörg"), &["größe".to_owned()]).await.map_err(plain)?;
    users().delete(site, &id("jörg")).await.map_err(plain)?;
    databases.delete(site, "größe").await.map_err(plain)?;
    databases.delete(site, "latin").await.map_err(plain)?;
    databases.delete(site, "ascii").await.map_err(plain)?;
    running.stop(&bench).await
}

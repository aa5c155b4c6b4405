//! The commands of databases, users and root.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trove_tests::{APP, Engine};

use crate::{ROOT, Story};

/// The commands that an engine without databases refuses.
const OF_DATABASES: [&str; 5] = [
    "database db create",
    "database db delete",
    "database db list",
    "database user grant access",
    "database user revoke access",
];

/// The commands that the engine cannot serve.
pub(crate) fn without(engine: Engine) -> &'static [&'static str] {
    if engine.has_databases() { &[] } else { &OF_DATABASES }
}

/// All of them, in the order of a life; root stays enabled.
pub(crate) async fn every_command(story: &Story) -> Result<()> {
    root(story).await?;
    if story.engine.has_databases() {
        databases(story).await?;
        access(story).await?;
    } else {
        no_databases(story)?;
    }
    users(story).await
}

async fn root(story: &Story) -> Result<()> {
    let (engine, id) = (story.engine, story.instance.as_str());
    let view = story.api.instance(id).await?;
    ensure!(story.database(&["root", "show", id])?.contains("False"));
    let enabled = story.shown(&["root", "enable", id])?;
    let password = enabled["password"].as_str().with_context(|| format!("a password in {enabled}"))?.to_owned();
    ensure!(enabled["name"] == engine.root(), "{enabled}");
    engine.inside(&view, &password).await.context("root comes in")?;
    ensure!(story.database(&["root", "show", id])?.contains("True"));
    story.database(&["root", "disable", id])?;
    story.settled().await?;
    ensure!(engine.inside(&view, &password).await.is_err(), "root comes in after it was disabled");
    ensure!(story.database(&["root", "show", id])?.contains("False"));
    let enabled = story.shown(&["root", "enable", "tuned", "--root_password", ROOT])?;
    ensure!(enabled["password"] == ROOT, "{enabled}");
    engine.inside(&view, ROOT).await.context("root comes in with the password that was chosen")?;
    Ok(())
}

/// Whether the engine itself has a database.
async fn has(story: &Story, view: &Value, database: &str) -> Result<bool> {
    let said = story.engine.inside(view, ROOT).await?;
    let is_it = |line: &String| line.split(['|', '\t', '"', ' ']).any(|word| word == database);
    Ok(said.iter().any(is_it))
}

async fn databases(story: &Story) -> Result<()> {
    let id = story.instance.as_str();
    let view = story.api.instance(id).await?;
    for name in ["one", "two"] {
        story.database(&["db", "create", id, name])?;
        story.settled().await?;
    }
    assert_eq!(story.names(&["db", "list", id])?, ["app", "one", "two"]);
    // MongoDB has no empty databases, see `access`.
    if story.engine != Engine::MongoDb {
        ensure!(has(story, &view, "one").await? && has(story, &view, "two").await?, "they are not inside");
    }
    story.database(&["db", "delete", id, "two"])?;
    story.settled().await?;
    assert_eq!(story.names(&["db", "list", id])?, ["app", "one"]);
    ensure!(!has(story, &view, "two").await?, "it is still inside");
    Ok(())
}

async fn access(story: &Story) -> Result<()> {
    let (engine, id) = (story.engine, story.instance.as_str());
    let view = story.api.instance(id).await?;
    let name = engine.account("carol");
    let enters = async |database: &str| engine.enter(&view, "carol", "Carol-secret-1", database).await.is_ok();
    story.database(&["user", "create", id, &name, "Carol-secret-1", "--databases", "app"])?;
    story.settled().await?;
    ensure!(enters("app").await && !enters("one").await, "carol's access is not what was ordered");
    story.database(&["user", "grant", "access", id, &name, "one"])?;
    story.settled().await?;
    ensure!(enters("app").await && enters("one").await, "the access that was granted does not act");
    assert_eq!(story.names(&["user", "show", "access", id, &name])?, ["app", "one"]);
    story.database(&["user", "revoke", "access", id, &name, "one"])?;
    story.settled().await?;
    ensure!(enters("app").await && !enters("one").await, "the access that was revoked acts on");
    assert_eq!(story.names(&["user", "show", "access", id, &name])?, ["app"]);
    story.database(&["user", "delete", id, &name])?;
    story.settled().await?;
    ensure!(!enters("app").await, "carol comes in after her deletion");
    Ok(())
}

fn no_databases(story: &Story) -> Result<()> {
    let id = story.instance.as_str();
    let app = story.engine.account(APP.0);
    for words in [
        &["db", "create", id, "one"] as &[&str],
        &["db", "list", id],
        &["db", "delete", id, "one"],
        &["user", "create", id, "x", "Secret-x-1", "--databases", "one"],
        &["user", "grant", "access", id, &app, "one"],
        &["user", "revoke", "access", id, &app, "one"],
    ] {
        let said = story.refused(words)?;
        ensure!(said.contains(story.engine.datastore()) && said.contains("database"), "{words:?}: {said}");
    }
    ensure!(story.names(&["user", "show", "access", id, &app])?.is_empty(), "there is something to enter");
    assert_eq!(story.names(&["user", "list", id])?, [app], "a refused user is there");
    Ok(())
}

async fn users(story: &Story) -> Result<()> {
    let (engine, id) = (story.engine, story.instance.as_str());
    let view = story.api.instance(id).await?;
    let enters = async |name: &str, password: &str| engine.log_in(&view, name, password).await.is_ok();
    let (app, bob, robert) = (engine.account(APP.0), engine.account("bob"), engine.account("robert"));
    ensure!(enters(APP.0, APP.1).await, "the user of the order does not come in");
    let mut create = vec!["user", "create", id, &bob, "Bob-secret-1"];
    if engine.has_databases() {
        create.extend(["--databases", "app"]);
    }
    story.database(&create)?;
    story.settled().await?;
    ensure!(enters("bob", "Bob-secret-1").await, "bob does not come in");
    ensure!(!enters("bob", "wrong").await, "a wrong password is let in");
    assert_eq!(story.names(&["user", "list", id])?, [app.clone(), bob.clone()]);
    let shown = story.shown(&["user", "show", id, &bob])?;
    ensure!(shown["name"] == *bob, "{shown}");

    let update = ["user", "update", "attributes", id, &bob, "--new_password", "Bob-secret-2"];
    let last = if engine.renames() {
        story.database(&[&update[..], &["--new_name", &robert]].concat())?;
        "robert"
    } else {
        story.refused(&[&update[..], &["--new_name", &robert]].concat())?;
        ensure!(enters("bob", "Bob-secret-1").await, "what was refused has changed the password");
        story.database(&update)?;
        "bob"
    };
    story.settled().await?;
    ensure!(enters(last, "Bob-secret-2").await, "the new password is not let in");
    ensure!(!enters("bob", "Bob-secret-1").await, "the old password is let in");
    story.database(&["user", "delete", id, &engine.account(last)])?;
    story.settled().await?;
    ensure!(!enters(last, "Bob-secret-2").await, "{last} comes in after the deletion");
    assert_eq!(story.names(&["user", "list", id])?, [app]);
    Ok(())
}

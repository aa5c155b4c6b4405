//! What a tenant with root does to the agent's account and to the server.

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use trove_strategy::Datastore;

use crate::{MONGODB, as_root, bench, client, insert, make_database, make_user, plain, run};

/// Commands that reach further than data, each refused for want of rights.
fn hostile() -> Vec<(&'static str, Document)> {
    let all = doc! {"role": "root", "db": "admin"};
    vec![
        ("admin", doc! {"dropUser": "os_admin"}),
        ("admin", doc! {"updateUser": "os_admin", "pwd": "x"}),
        ("admin", doc! {"revokeRolesFromUser": "os_admin", "roles": [all.clone()]}),
        ("admin", doc! {"grantRolesToUser": "root", "roles": [all.clone()]}),
        ("admin", doc! {"grantRolesToUser": "root", "roles": [{"role": "__system", "db": "admin"}]}),
        ("admin", doc! {"createUser": "z", "pwd": "z", "roles": [all.clone()]}),
        ("one", doc! {"createUser": "z", "pwd": "z", "roles": []}),
        ("admin", doc! {"dropAllUsersFromDatabase": 1}),
        ("one", doc! {"dropAllUsersFromDatabase": 1}),
        ("one", doc! {"createRole": "z", "privileges": [], "roles": []}),
        ("admin", doc! {"updateRole": "trove_root", "roles": [all.clone()]}),
        ("one", doc! {"updateRole": "trove_access", "roles": [all]}),
        ("one", doc! {"dropRole": "trove_access"}),
        ("admin", doc! {"dropAllRolesFromDatabase": 1}),
        ("admin", doc! {"find": "system.users"}),
        ("admin", doc! {"insert": "system.users", "documents": [{"_id": "x"}]}),
        ("admin", doc! {"update": "system.users", "updates": [{"q": {}, "u": {"$set": {"roles": []}}}]}),
        ("admin", doc! {"delete": "system.users", "deletes": [{"q": {}, "limit": 0}]}),
        ("admin", doc! {"delete": "system.roles", "deletes": [{"q": {}, "limit": 0}]}),
        ("admin", doc! {"drop": "system.users"}),
        ("admin", doc! {"drop": "system.roles"}),
        ("admin", doc! {"collMod": "system.users", "validator": {"x": 1}}),
        ("admin", doc! {"createIndexes": "system.users", "indexes": [{"key": {"q": 1}, "name": "q", "unique": true}]}),
        ("admin", doc! {"renameCollection": "one.t", "to": "admin.system.users", "dropTarget": true}),
        ("admin", doc! {"renameCollection": "admin.system.users", "to": "one.stolen"}),
        ("admin", doc! {"convertToCapped": "system.users", "size": 4096}),
        ("admin", doc! {"create": "v", "viewOn": "system.users", "pipeline": []}),
        ("one", doc! {"aggregate": "t", "cursor": {}, "pipeline": [{"$out": {"db": "admin", "coll": "system.users"}}]}),
        (
            "one",
            doc! {"aggregate": "t", "cursor": {}, "pipeline": [{"$merge": {"into": {"db": "admin", "coll": "system.roles"}}}]},
        ),
        (
            "one",
            doc! {"aggregate": "t", "cursor": {}, "pipeline": [{"$unionWith": "system.users"}, {"$out": "stolen"}]},
        ),
        ("admin", doc! {"applyOps": [{"op": "d", "ns": "admin.system.users", "o": {"_id": "admin.os_admin"}}]}),
        ("admin", doc! {"dropDatabase": 1}),
        ("config", doc! {"dropDatabase": 1}),
        ("local", doc! {"dropDatabase": 1}),
        ("local", doc! {"find": "oplog.rs"}),
        ("local", doc! {"delete": "system.replset", "deletes": [{"q": {}, "limit": 0}]}),
        ("config", doc! {"insert": "x", "documents": [{"x": 1}]}),
        ("admin", doc! {"shutdown": 1, "force": true}),
        ("admin", doc! {"fsync": 1, "lock": true}),
        ("admin", doc! {"setParameter": 1, "logLevel": 5}),
        ("admin", doc! {"setParameter": 1, "enableLocalhostAuthBypass": true}),
        ("admin", doc! {"setFeatureCompatibilityVersion": "5.0"}),
        ("admin", doc! {"replSetStepDown": 60, "force": true}),
        ("admin", doc! {"replSetFreeze": 60}),
        ("admin", doc! {"replSetReconfig": {"_id": "trove", "version": 9, "members": []}, "force": true}),
        ("admin", doc! {"replSetResizeOplog": 1, "size": 990.0}),
        ("admin", doc! {"setDefaultRWConcern": 1, "defaultWriteConcern": {"w": 5}}),
        ("admin", doc! {"setUserWriteBlockMode": 1, "global": true}),
        (
            "admin",
            doc! {"setClusterParameter": {"changeStreamOptions": {"preAndPostImages": {"expireAfterSeconds": 9}}}},
        ),
        ("admin", doc! {"killOp": 1, "op": 1}),
        ("admin", doc! {"killAllSessions": []}),
        ("admin", doc! {"killAllSessionsByPattern": [{"users": [{"user": "os_admin", "db": "admin"}]}]}),
        ("admin", doc! {"logRotate": 1}),
        ("admin", doc! {"rotateCertificates": 1}),
    ]
}

#[tokio::test]
async fn root_does_everything_with_data_and_nothing_with_the_server() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let site = &bench.site;
    make_database(site, "one").await?;
    let app = make_user(site, "one.app", &["one"]).await?;
    run(&app, "one", insert("mine")).await?;
    let root = as_root(site).await?;
    for (database, command) in [
        ("one", insert("root's")),
        ("another", insert("root's")),
        ("another", doc! {"createIndexes": "t", "indexes": [{"key": {"text": 1}, "name": "text"}]}),
        ("another", doc! {"collMod": "t", "validator": {"text": {"$type": "string"}}}),
        ("another", doc! {"aggregate": "t", "pipeline": [{"$out": "copy"}], "cursor": {}}),
        ("another", doc! {"renameCollection": "another.copy", "to": "another.renamed"}),
        ("another", doc! {"dropDatabase": 1}),
        ("admin", doc! {"listDatabases": 1}),
        ("admin", doc! {"serverStatus": 1}),
        ("admin", doc! {"currentOp": 1}),
        ("one", doc! {"profile": 1}),
    ] {
        let done =
            run(&root, if command.contains_key("renameCollection") { "admin" } else { database }, command.clone())
                .await;
        done.with_context(|| format!("root may not {command}"))?;
    }
    for (database, command) in hostile() {
        let refused = run(&root, database, command.clone()).await.err();
        let refused = refused.with_context(|| format!("root may {command} in {database}"))?.to_string();
        let expected = ["not authorized", "prohibited", "requires authentication", "(Unauthorized)"];
        ensure!(expected.iter().any(|words| refused.contains(words)), "{command} in {database}: {refused}");
    }
    MONGODB.engine().probe(site).await.map_err(plain)?;

    // Disabled while something of its runs.
    let watching = root.clone();
    let endless = tokio::spawn(async move {
        run(&watching, "one", doc! {"find": "t", "filter": {"$where": "while (true) {}"}}).await
    });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let root_of = MONGODB.root().expect("announced");
    root_of.disable(site).await.map_err(plain)?;
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), endless).await;
    ensure!(ended.context("what root runs goes on")??.is_err());
    ensure!(run(&root, "one", insert("late")).await.is_err(), "a session of root's goes on");
    ensure!(!root_of.is_enabled(site).await.map_err(plain)?);
    let again = client(site, Some(("admin.root", "Root-secret-1")))?;
    ensure!(run(&again, "one", insert("late")).await.is_err());
    running.stop(&bench).await
}

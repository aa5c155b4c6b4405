//! Backups while tenants write, define and rename; collections that are out of the ordinary; and what somebody has put among the
//! accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context as Waker, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, Timestamp, doc};
use mongodb::options::IndexOptions;
use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};
use trove_conformance::{Bench, Running};
use trove_strategy::{Backup, Datastore, Kind, Root, Settings, Site, StartMode};

use crate::{
    MONGODB, admin, as_root, await_that, bench, client, databases, make_database, make_user, plain, run, users,
};

fn backups() -> &'static dyn Backup {
    &MONGODB
}

/// A storage that takes its time for each piece, or stops for good at its first.
struct Slow {
    begun: Arc<AtomicBool>,
    bytes: Vec<u8>,
    pause: Duration,
    sleeping: Option<Pin<Box<Sleep>>>,
}

impl Slow {
    fn new(pause: Duration) -> Self {
        Self { begun: Arc::default(), bytes: Vec::new(), pause, sleeping: None }
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Waker<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.begun.store(true, Ordering::Relaxed);
        let pause = self.pause;
        let sleeping = self.sleeping.get_or_insert_with(|| Box::pin(sleep(pause)));
        if sleeping.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.sleeping = None;
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn taken(site: &Site) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let taken = backups().take(site, &mut bytes).await.map_err(plain)?;
    let position = taken.position.context("a position")?;
    ensure!(position.split(':').all(|part| part.parse::<u32>().is_ok()), "{position}");
    Ok(bytes.into_inner())
}

async fn restored(bench: &Bench<'_>, bytes: Vec<u8>) -> Result<Running> {
    backups().restore(&bench.site, &mut Cursor::new(bytes)).await.map_err(plain)?;
    let engine = MONGODB.engine();
    engine.initialise(&bench.site).await.map_err(plain)?;
    engine.configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    engine.forget_earlier_life(&bench.site).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    Ok(running)
}

async fn documents(client: &Client, database: &str, collection: &str) -> Result<Vec<Document>> {
    Ok(client.database(database).collection::<Document>(collection).find(doc! {}).await?.try_collect().await?)
}

/// What a collection is called, what it is, its indexes and its documents, by its database.
async fn everything(client: &Client) -> Result<BTreeMap<String, Vec<Document>>> {
    let mut all = BTreeMap::new();
    for database in client.list_database_names().await? {
        if matches!(database.as_str(), "admin" | "config" | "local") {
            continue;
        }
        let listed = run(client, &database, doc! {"listCollections": 1, "cursor": {"batchSize": 1000}}).await?;
        for collection in listed.get_document("cursor")?.get_array("firstBatch")? {
            let collection = collection.as_document().context("a collection")?;
            let name = collection.get_str("name")?;
            let mut found = vec![collection.clone()];
            if !name.starts_with("system.") {
                found.extend(documents(client, &database, name).await?);
            }
            if collection.get_str("type")? == "collection" && !name.starts_with("system.") {
                let list = doc! {"listIndexes": name, "cursor": {"batchSize": 1000}};
                let listed = run(client, &database, list).await?;
                let mut indexes: Vec<Document> = listed
                    .get_document("cursor")?
                    .get_array("firstBatch")?
                    .iter()
                    .filter_map(Bson::as_document)
                    .cloned()
                    .collect();
                indexes.sort_by_key(|index| index.get_str("name").unwrap_or_default().to_owned());
                found.extend(indexes);
            }
            all.insert(format!("{database}.{name}"), found);
        }
    }
    Ok(all)
}

fn compare(before: &BTreeMap<String, Vec<Document>>, after: &BTreeMap<String, Vec<Document>>) -> Result<()> {
    let names = |all: &BTreeMap<String, Vec<Document>>| all.keys().cloned().collect::<Vec<_>>();
    ensure!(names(before) == names(after), "{:?} became {:?}", names(before), names(after));
    for (name, before) in before {
        let after = &after[name];
        ensure!(before.len() == after.len(), "{name}: {} became {}", before.len(), after.len());
        for (before, after) in before.iter().zip(after) {
            let text = |document: &Document| document.to_string().chars().take(2000).collect::<String>();
            ensure!(before == after, "{name}: {}\nbecame\n{}", text(before), text(after));
        }
    }
    Ok(())
}

/// Collections of each kind, with each kind of index.
async fn make_odd(admin: &Client) -> Result<()> {
    let db = admin.database("odd");
    for command in [
        doc! {"create": "capped", "capped": true, "size": 4096, "max": 10},
        doc! {"create": "series", "timeseries": {"timeField": "t", "metaField": "m", "granularity": "minutes"},
        "expireAfterSeconds": 1_000_000_000_i64},
        doc! {"create": "clustered", "clusteredIndex": {"key": {"_id": 1}, "unique": true}, "expireAfterSeconds": 1_000_000_000_i64},
        doc! {"create": "french", "collation": {"locale": "fr", "strength": 1}},
        doc! {"create": "valid", "validator": {"x": {"$gt": 5}}, "changeStreamPreAndPostImages": {"enabled": true}},
        doc! {"create": "view", "viewOn": "french", "pipeline": [{"$match": {"_id": "a"}}], "collation": {"locale": "fr"}},
        doc! {"create": "empty"},
        doc! {"create": "ünï \"códe\" x"},
        doc! {"createIndexes": "french", "indexes": [
        {"key": {"x": 1}, "name": "x"}, {"key": {"y": 1}, "name": "y", "collation": {"locale": "simple"}}]},
        doc! {"createIndexes": "series", "indexes": [{"key": {"m.a": 1, "t": -1}, "name": "m"}]},
        doc! {"createIndexes": "indexes", "indexes": [
        {"key": {"x": 1}, "name": "x", "unique": true, "partialFilterExpression": {"x": {"$gt": 0}}},
        {"key": {"text": "text"}, "name": "text", "weights": {"text": 5}},
        {"key": {"place": "2dsphere"}, "name": "place"},
        {"key": {"$**": 1}, "name": "all"},
        {"key": {"h": "hashed"}, "name": "h"},
        {"key": {"at": 1}, "name": "at", "expireAfterSeconds": 1, "hidden": true},
        {"key": {"s": 1}, "name": "s", "sparse": true}]},
    ] {
        run(admin, "odd", command.clone()).await.with_context(|| command.to_string())?;
    }
    let all = |name: &str| db.collection::<Document>(name);
    for number in 0..30 {
        all("capped").insert_one(doc! {"_id": number}).await?;
        all("series").insert_one(doc! {"t": DateTime::now(), "m": {"a": number % 3}, "v": number}).await?;
        all("clustered").insert_one(doc! {"_id": DateTime::from_millis(number), "n": number}).await?;
    }
    all("french").insert_many([doc! {"_id": "a"}, doc! {"_id": "b", "x": 1}]).await?;
    all("valid").insert_one(doc! {"x": 6}).await?;
    run(admin, "odd", doc! {"insert": "valid", "documents": [{"x": 1}], "bypassDocumentValidation": true}).await?;
    let expired = DateTime::from_millis(0);
    all("indexes").insert_one(doc! {"x": 1, "text": "hello", "place": [1.0, 2.0], "at": expired}).await?;
    all("indexes").insert_one(doc! {"a.b": 1, "c": {"$d": 1}}).await?;
    all("ünï \"códe\" x").insert_one(doc! {"_id": Bson::MinKey}).await?;
    // The largest that there is, and a time that the server would replace in what is new.
    let large = Binary { subtype: BinarySubtype::Generic, bytes: vec![7; (16 << 20) - 40] };
    all("large").insert_one(doc! {"_id": 1, "x": large}).await?;
    all("time").insert_one(doc! {"_id": 1, "at": 1}).await?;
    let none = Timestamp { time: 0, increment: 0 };
    all("time").update_one(doc! {}, vec![doc! {"$set": {"at": none}}]).await?;
    run(admin, "odd", doc! {"insert": "system.js", "documents": [{"_id": "f", "value": "function() { return 1 }"}]})
        .await?;
    Ok(())
}

#[tokio::test]
async fn collections_of_each_kind_come_back_as_they_were() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let client = admin(&bench)?;
    // What has expired is there as long as nobody looks for it.
    run(&client, "admin", doc! {"setParameter": 1, "ttlMonitorEnabled": false}).await?;
    make_odd(&client).await?;
    let before = everything(&client).await?;
    ensure!(before.len() > 12, "{:?}", before.keys());
    let bytes = taken(&bench.site).await?;
    running.stop(&bench).await?;

    let other = bench2().await?;
    let running = restored(&other, bytes).await?;
    let client = admin(&other)?;
    compare(&before, &everything(&client).await?)?;
    let js = documents(&client, "odd", "system.js").await?;
    ensure!(js.len() == 1, "{js:?}");
    // It limits itself again.
    for number in 100..120 {
        client.database("odd").collection("capped").insert_one(doc! {"_id": number}).await?;
    }
    ensure!(documents(&client, "odd", "capped").await?.len() == 10);
    let refused = client.database("odd").collection("valid").insert_one(doc! {"x": 1}).await;
    ensure!(refused.is_err(), "its rules are not in force");
    client.database("odd").collection("series").insert_one(doc! {"t": DateTime::now(), "m": {"a": 1}}).await?;
    let left = run(&client, "local", doc! {"listCollections": 1, "nameOnly": true}).await?;
    ensure!(!left.to_string().contains("trove_restore"), "{left}");
    running.stop(&other).await
}

async fn bench2() -> Result<Bench<'static>> {
    bench().await?.context("it was installed a moment ago")
}

/// Takes numbers one after the other, each in a transaction that writes it to two collections.
async fn count(client: &Client, number: &AtomicI64, stop: &AtomicBool) -> Result<()> {
    let db = client.database("load");
    let mut session = client.start_session().await?;
    while !stop.load(Ordering::Relaxed) {
        session.start_transaction().await?;
        let done: mongodb::error::Result<i64> = async {
            let clock = db.collection::<Document>("clock");
            let now = clock.find_one_and_update(doc! {"_id": 1}, doc! {"$inc": {"n": 1}}).session(&mut session).await?;
            let next = now.and_then(|now| now.get_i64("n").ok()).unwrap_or_default() + 1;
            for name in ["left", "right"] {
                db.collection(name).insert_one(doc! {"_id": next, "x": "y".repeat(200)}).session(&mut session).await?;
            }
            session.commit_transaction().await?;
            Ok(next)
        }
        .await;
        match done {
            Ok(next) => drop(number.fetch_max(next, Ordering::Relaxed)),
            Err(error) if error.contains_label("TransientTransactionError") => {
                let _ = session.abort_transaction().await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Changes documents and definitions without end.
async fn unsettle(client: &Client, stop: &AtomicBool) -> Result<()> {
    let db = client.database("load");
    let all = |name: &str| db.collection::<Document>(name);
    let rename = async |from: &str, to: &str, over: bool| {
        let (from, to) = (format!("load.{from}"), format!("load.{to}"));
        run(client, "admin", doc! {"renameCollection": from, "to": to, "dropTarget": over}).await
    };
    for round in 0_i64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Of each value there is one, and they change places.
        let (one, other) = (round % 50, (round * 7 + 1) % 50);
        if one != other {
            let values =
                [all("unique").find_one(doc! {"_id": one}).await?, all("unique").find_one(doc! {"_id": other}).await?];
            let value =
                |index: usize| values[index].as_ref().and_then(|found| found.get_i64("v").ok()).unwrap_or_default();
            for (id, value) in [(one, -1), (other, value(0)), (one, value(1))] {
                all("unique").update_one(doc! {"_id": id}, doc! {"$set": {"v": value}}).await?;
            }
        }
        for _ in 0..5 {
            let last = all("capped").find_one(doc! {}).sort(doc! {"$natural": -1}).await?;
            let next = last.and_then(|last| last.get_i64("_id").ok()).unwrap_or_default() + 1;
            all("capped").insert_one(doc! {"_id": next, "x": "y".repeat(100)}).await?;
        }
        all("wandering").update_one(doc! {"_id": round % 3000}, doc! {"$push": {"list": round}}).await.ok();
        rename("wandering", "away", false).await?;
        all("away").insert_one(doc! {"_id": 1_000_000 + round}).await?;
        rename("away", "wandering", false).await?;
        all("short").insert_one(doc! {"_id": round, "x": 1}).await?;
        let index = mongodb::IndexModel::builder().keys(doc! {"x": 1});
        all("short").create_index(index.options(IndexOptions::builder().name("x".to_owned()).build()).build()).await?;
        rename("short", "over", true).await?;
        all("over").drop_index("x").await?;
        run(client, "load", doc! {"aggregate": "unique", "pipeline": [{"$out": "out"}], "cursor": {}}).await?;
        run(client, "load", doc! {"create": "view", "viewOn": "unique", "pipeline": [{"$match": {"v": round}}]})
            .await?;
        run(client, "load", doc! {"collMod": "view", "viewOn": "unique", "pipeline": [{"$match": {"v": -round}}]})
            .await?;
        run(client, "load", doc! {"drop": "view"}).await?;
        run(
            client,
            "load",
            doc! {"collMod": "unique", "index": {"name": "life", "expireAfterSeconds": 1_000_000 + round}},
        )
        .await?;
        if round % 5 == 0 {
            let series = doc! {"create": "series", "timeseries": {"timeField": "t", "metaField": "m"}};
            run(client, "passing", series).await?;
            run(client, "passing", doc! {"insert": "series", "documents": [{"t": DateTime::now(), "m": 1}]}).await?;
            run(client, "passing", doc! {"dropDatabase": 1}).await?;
        }
    }
    Ok(())
}

async fn prepare_load(client: &Client) -> Result<()> {
    let db = client.database("load");
    db.collection("clock").insert_one(doc! {"_id": 1, "n": 0_i64}).await?;
    for name in ["left", "right"] {
        run(client, "load", doc! {"create": name}).await?;
    }
    let filled = |count: i64, size: usize| (0..count).map(move |id| doc! {"_id": id, "v": id, "x": "z".repeat(size)});
    db.collection("bulk").insert_many(filled(12_000, 1000)).await?;
    db.collection("wandering").insert_many(filled(3000, 1000)).await?;
    db.collection("unique").insert_many(filled(50, 10)).await?;
    run(client, "load", doc! {"createIndexes": "unique", "indexes": [
        {"key": {"v": 1}, "name": "v", "unique": true}, {"key": {"at": 1}, "name": "life", "expireAfterSeconds": 1_000_000}]})
    .await?;
    run(client, "load", doc! {"create": "capped", "capped": true, "size": 100_000, "max": 40}).await?;
    Ok(())
}

/// What holds at each moment of the load.
async fn check_load(client: &Client, acknowledged: i64) -> Result<i64> {
    let numbers = async |name: &str| {
        let all = documents(client, "load", name).await?;
        all.iter().map(|document| Ok(document.get_i64("_id")?)).collect::<Result<BTreeSet<i64>>>()
    };
    let clock = documents(client, "load", "clock").await?[0].get_i64("n")?;
    let expected: BTreeSet<i64> = (1..=clock).collect();
    for name in ["left", "right"] {
        let found = numbers(name).await?;
        let (missing, more): (Vec<_>, Vec<_>) =
            (expected.difference(&found).collect(), found.difference(&expected).collect());
        ensure!(missing.is_empty() && more.is_empty(), "{name}: {missing:?} missing, {more:?} too many, of {clock}");
    }
    ensure!(clock >= acknowledged, "{acknowledged} was acknowledged before the backup began, and {clock} came back");
    let unique = documents(client, "load", "unique").await?;
    let values: BTreeSet<i64> = unique.iter().filter_map(|document| document.get_i64("v").ok()).collect();
    ensure!(unique.len() == 50 && values.len() == 50, "{values:?}");
    let capped: Vec<i64> =
        documents(client, "load", "capped").await?.iter().filter_map(|found| found.get_i64("_id").ok()).collect();
    let in_order = capped.windows(2).all(|pair| pair[1] == pair[0] + 1);
    ensure!(in_order && capped.len() <= 40 && !capped.is_empty(), "{capped:?}");
    ensure!(numbers("bulk").await?.len() == 12_000);
    let wandering = [numbers("wandering").await?, numbers("away").await?];
    let there = wandering.iter().find(|found| !found.is_empty()).context("it is nowhere")?;
    ensure!((0..3000).all(|id| there.contains(&id)), "{} of what wanders", there.len());
    let later: Vec<&i64> = there.range(1_000_000..).collect();
    ensure!(later.iter().zip(1_000_000..).all(|(found, expected)| **found == expected), "{later:?}");
    let names: Vec<String> = client.database("load").list_collection_names().await?;
    let odd = |name: &&String| name.ends_with(".create") || name.ends_with(".renameCollection");
    ensure!(!names.iter().any(|name| odd(&name)), "{names:?}");
    for name in &names {
        run(client, "load", doc! {"validate": name}).await.ok().map_or(Ok(()), |said| {
            if said.get_bool("valid").unwrap_or(false) { Ok(()) } else { Err(anyhow::anyhow!("{name}: {said}")) }
        })?;
    }
    let listed = run(client, "load", doc! {"listIndexes": "unique"}).await?.to_string();
    ensure!(listed.contains("\"v\"") && listed.contains("\"life\""), "{listed}");
    Ok(clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_restored_is_one_moment_under_writes_and_definitions() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let client = admin(&bench)?;
    prepare_load(&client).await?;
    let number: &'static AtomicI64 = Box::leak(Box::default());
    let stop: &'static AtomicBool = Box::leak(Box::default());
    let mut workers = Vec::new();
    for _ in 0..2 {
        let client = client.clone();
        workers.push(tokio::spawn(async move { count(&client, number, stop).await }));
    }
    let unsettled = client.clone();
    workers.push(tokio::spawn(async move { unsettle(&unsettled, stop).await }));
    await_that("writes", async || Ok(number.load(Ordering::Relaxed) > 3)).await?;
    let mut backups_of_it = Vec::new();
    for _ in 0..3 {
        let acknowledged = number.load(Ordering::Relaxed);
        let mut slow = Slow::new(Duration::from_millis(100));
        let taken = backups().take(&bench.site, &mut slow).await;
        let meanwhile = number.load(Ordering::Relaxed) - acknowledged;
        taken.map_err(plain)?;
        backups_of_it.push((slow.bytes, acknowledged));
        ensure!(meanwhile > 0, "nothing was written meanwhile");
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await??;
    }
    let last = number.load(Ordering::Relaxed);
    backups_of_it.push((taken(&bench.site).await?, last));
    let before = everything(&client).await?;
    running.stop(&bench).await?;

    let many = backups_of_it.len();
    for (index, (bytes, acknowledged)) in backups_of_it.into_iter().enumerate() {
        let other = bench2().await?;
        let running = restored(&other, bytes).await.with_context(|| format!("the backup {index}"))?;
        let client = admin(&other)?;
        let clock = check_load(&client, acknowledged).await.with_context(|| format!("the backup {index}"))?;
        ensure!(clock <= last, "{clock} is later than the last, {last}");
        if index + 1 == many {
            compare(&before, &everything(&client).await?)?;
        }
        running.stop(&other).await?;
    }
    Ok(())
}

#[tokio::test]
async fn accounts_come_back_with_their_passwords_and_nobody_gets_more_rights() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let site = &bench.site;
    make_database(site, "one").await?;
    make_database(site, "empty").await?;
    let app = make_user(site, "one.app", &["one"]).await?;
    run(&app, "one", doc! {"insert": "t", "documents": [{"text": "x"}]}).await?;
    let root = as_root(site).await?;
    // A tenant may write there, too.
    run(&root, "admin", doc! {"insert": "mine", "documents": [{"x": 1}]}).await?;
    run(&root, "System", doc! {"insert": "mine", "documents": [{"x": 1}]}).await?;
    let agents = admin(&bench)?;
    let all = doc! {"role": "root", "db": "admin"};
    // None of this could be done by a tenant; if one finds a way, a restore does not give him more.
    for command in [
        doc! {"createUser": "thief", "pwd": "Secret-1", "roles": [all.clone()], "mechanisms": ["SCRAM-SHA-256"]},
        doc! {"createRole": "all", "privileges": [{"resource": {"anyResource": true}, "actions": ["anyAction"]}], "roles": []},
        doc! {"grantRolesToUser": "root", "roles": [all.clone(), {"role": "all", "db": "admin"}]},
        doc! {"updateRole": "trove_root", "roles": [all.clone()]},
    ] {
        run(&agents, "admin", command).await?;
    }
    let owner = doc! {"role": "dbOwner", "db": "one"};
    run(&agents, "one", doc! {"updateRole": "trove_access", "roles": [owner]}).await?;
    run(&agents, "one", doc! {"grantRolesToUser": "app", "roles": [all.clone()]}).await?;
    run(
        &agents,
        "two",
        doc! {"createUser": "other", "pwd": "Secret-1", "roles": [all], "mechanisms": ["SCRAM-SHA-256"]},
    )
    .await?;
    let listed = databases().list(site).await.map_err(plain)?;
    let set = run(&agents, "admin", doc! {"replSetGetConfig": 1}).await?;
    let bytes = taken(site).await?;
    run(&agents, "one", doc! {"updateUser": "app", "pwd": "Later-1"}).await?;
    running.stop(&bench).await?;

    let other = bench2().await?;
    let running = restored(&other, bytes).await?;
    let site = &other.site;
    ensure!(databases().list(site).await.map_err(plain)? == listed, "other databases than {listed:?}");
    ensure!(MONGODB.is_enabled(site).await.map_err(plain)?, "root did not come back");
    let names: Vec<String> = users().list(site).await.map_err(plain)?.into_iter().map(|user| user.id.name).collect();
    ensure!(names == ["one.app", "two.other"], "{names:?}");
    let app = client(site, Some(("one.app", "Secret-1")))?;
    run(&app, "one", doc! {"find": "t"}).await.context("the password of then")?;
    run(&app, "one", doc! {"insert": "t", "documents": [{"text": "y"}]}).await?;
    let root = client(site, Some(("admin.root", "Root-secret-1")))?;
    run(&root, "one", doc! {"find": "t"}).await?;
    ensure!(
        documents(&root, "admin", "mine").await?.len() == 1 && documents(&root, "System", "mine").await?.len() == 1
    );
    let users = doc! {"find": "system.users"};
    for (name, tenant) in [
        ("root", root),
        ("app", app),
        ("two.other", client(site, Some(("two.other", "Secret-1")))?),
        ("thief", client(site, Some(("admin.thief", "Secret-1")))?),
    ] {
        ensure!(run(&tenant, "admin", users.clone()).await.is_err(), "{name} reads accounts");
        let make = doc! {"createUser": "z", "pwd": "z", "roles": []};
        ensure!(run(&tenant, "admin", make).await.is_err(), "{name} makes accounts");
    }
    let thief = client(site, Some(("admin.thief", "Secret-1")))?;
    let said = run(&thief, "admin", doc! {"ping": 1}).await.err().context("the thief logs in")?.to_string();
    ensure!(said.contains("Authentication failed"), "{said}");
    let agents = admin(&other)?;
    let set_now = run(&agents, "admin", doc! {"replSetGetConfig": 1}).await?;
    let id = |set: &Document| set.get_document("config")?.get_document("settings")?.get_object_id("replicaSetId");
    ensure!(id(&set)? != id(&set_now)?, "it is the same set");
    let roles = documents(&agents, "admin", "system.roles").await?;
    let roles: BTreeSet<&str> = roles.iter().filter_map(|role| role.get_str("_id").ok()).collect();
    ensure!(roles == ["admin.trove_root", "empty.trove_access", "one.trove_access"].into(), "{roles:?}");
    // Another one can be taken of it.
    taken(site).await?;
    running.stop(&other).await
}

async fn open_cursors(client: &Client) -> Result<usize> {
    let pipeline = vec![
        doc! {"$currentOp": {"allUsers": true, "idleCursors": true}},
        doc! {"$match": {"cursor.originatingCommand.comment": "trove_backup"}},
    ];
    let found = run(client, "admin", doc! {"aggregate": 1, "pipeline": pipeline, "cursor": {}}).await?;
    Ok(found.get_document("cursor")?.get_array("firstBatch")?.len())
}

#[tokio::test]
async fn a_backup_that_was_given_up_leaves_no_cursor() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let client = admin(&bench)?;
    // More than the server sends at once.
    client.database("one").collection("t").insert_many(random(0)).await?;
    let mut never = Slow::new(Duration::from_secs(3600));
    let begun = never.begun.clone();
    let reading = async {
        let is_open = async || Ok(begun.load(Ordering::Relaxed) && open_cursors(&client).await? > 0);
        await_that("a cursor", is_open).await
    };
    tokio::select! {
        taken = backups().take(&bench.site, &mut never) => bail!("it ends: {:?}", taken.map_err(|error| error.chain())),
        seen = reading => seen?,
    }
    await_that("no cursor", async || Ok(open_cursors(&client).await? == 0)).await?;
    // One of an agent that was killed.
    let find = doc! {"find": "t", "noCursorTimeout": true, "batchSize": 1, "comment": "trove_backup"};
    let left = client.database("one").run_command(find).await?;
    ensure!(open_cursors(&client).await? == 1, "{left}");
    taken(&bench.site).await?;
    await_that("it is closed", async || Ok(open_cursors(&client).await? == 0)).await?;
    running.stop(&bench).await
}

#[tokio::test]
async fn a_log_that_was_overwritten_ends_the_backup_and_says_why() -> Result<()> {
    if std::env::var_os("TROVE_TEST_DEPTH").is_none_or(|depth| depth != "full") {
        println!("skipped: it writes 800 MiB, which only TROVE_TEST_DEPTH=full asks for");
        return Ok(());
    }
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let client = admin(&bench)?;
    client.database("one").collection("t").insert_many(random(0)).await?;
    let mut slow = Slow::new(Duration::from_millis(1500));
    let write = async {
        for round in 1..20 {
            client.database("one").collection("other").insert_many(random(round * 40)).await?;
            client.database("one").collection::<Document>("other").drop().await?;
        }
        std::future::pending::<Result<()>>().await
    };
    let taken = tokio::select! {
        taken = backups().take(&bench.site, &mut slow) => taken,
        written = write => bail!("{written:?}"),
    };
    let error = taken.err().context("it is taken for whole")?;
    ensure!(error.kind() == Kind::Transient && error.chain().contains("overwritten"), "{}", error.chain());
    running.stop(&bench).await
}

/// Documents of 1 MiB that nothing compresses.
fn random(from: i64) -> impl Iterator<Item = Document> {
    let bytes = || (0..1 << 20).map(|_| rand::random()).collect::<Vec<u8>>();
    (from..from + 40).map(move |id| {
        doc! {"_id": id, "x": Binary { subtype: BinarySubtype::Generic, bytes: bytes() }}
    })
}

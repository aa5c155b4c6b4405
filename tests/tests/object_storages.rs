//! Backups in a real object storage: Swift by its own API (TempURL) and by S3's.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::{Value, json};
use trove_controller::agents::GrantObjects as _;
use trove_controller::config::Config;
use trove_controller::ids::{BackupId, InstanceId};
use trove_controller::objects::Objects;
use trove_controller::seal::Seal;
use trove_proto::v1;
use trove_tests::{
    APP, Api, Clients, Engine, Stack, StackOptions, Swift, connect, depth, leftovers, poll, rows, skipped,
};

const RUN: &str = "0123456789abcdef0123456789abcdef";
const OTHER_RUN: &str = "fedcba9876543210fedcba9876543210";
const SOON: Duration = Duration::from_secs(60);
/// A row of a tenant's, which is to be found in no object.
const ROW: &str = "a row that nobody reads in the storage";

/// By which of its APIs the storage is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    S3,
    TempUrl,
}

impl By {
    const ALL: [Self; 2] = [Self::S3, Self::TempUrl];

    async fn config(self, swift: &Swift) -> Result<String> {
        match self {
            Self::S3 => swift.s3_config(),
            Self::TempUrl => swift.swift_config().await,
        }
    }

    /// Of what an address is made that is not to be found in a log.
    fn signature(self) -> &'static str {
        match self {
            Self::S3 => "X-Amz-Signature",
            Self::TempUrl => "temp_url_sig",
        }
    }
}

/// A service that keeps its backups there.
async fn stack(swift: &Swift, by: By, engine: Engine) -> Result<Stack> {
    let config = by.config(swift).await?;
    // A shared store would bring a directory of backups along.
    Stack::start_with(StackOptions { config, sqlite: true, ..StackOptions::offering(&[engine]) }).await
}

/// Asserts that neither the service nor an agent has written down what lets its bearer in.
fn nothing_secret_is_logged(stack: &Stack, by: By) -> Result<()> {
    let mut logs = vec![stack.log()];
    logs.extend(stack.instances().iter().map(|id| stack.host(id).join("log/agent.log")));
    for log in logs.iter().filter(|log: &&PathBuf| log.exists()) {
        let text = std::fs::read_to_string(log)?;
        for secret in ["backups-secret", trove_tests::SIGNING_KEY, by.signature()] {
            ensure!(!text.contains(secret), "{secret} is in {}", log.display());
        }
    }
    Ok(())
}

async fn gone(api: &Api, backup: &str) -> Result<()> {
    let status = async || Ok(api.get(&format!("/backups/{backup}")).await?.status);
    poll("the end of the backup", SOON, status, |status| *status == 404).await.map(drop)
}

/// The unmodified client takes a backup, restores it to a new instance and deletes it.
async fn is_taken_and_comes_back(by: By, tls: bool) -> Result<()> {
    let Some(swift) = Swift::start(tls).await? else { return Ok(()) };
    let stack = stack(&swift, by, Engine::PostgreSql).await?;
    let api = stack.login("trove").await?;
    let user = Clients::new(&stack.clouds_yaml(), "trove")?;
    let id = api.order_and_await("db1").await?;
    let client = connect(&api.instance(&id).await?, APP.0, APP.1, "app").await?;
    let fill = format!(
        "create table t (n int primary key, word text);
         insert into t select n, md5(n::text) || md5((n + 1)::text) from generate_series(1, 20000) n;
         insert into t values (0, '{ROW}')"
    );
    rows(&client, &fill).await?;

    let ordered = user.json(&["database", "backup", "create", "nightly", "--instance", "db1"])?;
    let backup = ordered["id"].as_str().with_context(|| format!("{ordered}"))?.to_owned();
    let taken = api.await_backup(&backup).await?;
    ensure!(taken["status"] == "COMPLETED", "{taken}\n{}", stack.log_end());
    let objects = swift.objects(&format!("{backup}/")).await?;
    ensure!(objects.len() > 3 && objects.ends_with(&[format!("{backup}/sealed")]), "{objects:?}");
    for object in &objects {
        let bytes = swift.read(object).await?;
        ensure!(!bytes.windows(ROW.len()).any(|window| window == ROW.as_bytes()), "{object} can be read");
    }
    ensure!(stack.objects(&backup)?.is_empty(), "there are objects in the state directory");
    rows(&client, "insert into t values (-1, 'after the backup')").await?;
    api.await_active(&id).await?;

    if depth::is_full() {
        damaged_is_named(&swift, &stack, &api, &backup, &objects[1]).await?;
    }
    let new = api.create(&restored_from(&backup, "new")).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    let client = connect(&view, APP.0, APP.1, "app").await?;
    assert_eq!(rows(&client, "select count(*), min(n) from t").await?, ["20001|0"]);

    user.openstack(&["database", "backup", "delete", "nightly"])?;
    gone(&api, &backup).await?;
    // The instance's log is shipped there, too.
    assert_eq!(swift.objects(&backup).await?, [format!("{backup}.deleted")]);
    nothing_secret_is_logged(&stack, by)
}

/// The order of an instance from a backup.
fn restored_from(backup: &str, name: &str) -> Value {
    json!({"instance": {
        "name": name, "flavorRef": "1", "volume": {"size": 1}, "restorePoint": {"backupRef": backup}}})
}

async fn damaged_is_named(swift: &Swift, stack: &Stack, api: &Api, backup: &str, object: &str) -> Result<()> {
    let sound = swift.read(object).await?;
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    swift.write(object, damaged).await?;
    let new = api.create(&restored_from(backup, "damaged")).await?;
    let view = api.await_error(&new).await?;
    let fault = view["fault"]["message"].as_str().unwrap_or_default();
    let name = object.rsplit('/').next().unwrap_or_default();
    ensure!(fault.contains(&format!("segment {name}")) && fault.contains("restore"), "{fault}\n{}", stack.log_end());
    ensure!(leftovers::engines(&new).is_empty(), "an engine runs on what is damaged");
    assert_eq!(api.delete(&format!("/instances/{new}")).await?.status, 202);
    api.await_gone(&new).await?;
    swift.write(object, sound).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_a_container_of_swift_comes_back_and_leaves_nothing() -> Result<()> {
    is_taken_and_comes_back(By::TempUrl, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_a_bucket_of_s3_comes_back_and_leaves_nothing() -> Result<()> {
    is_taken_and_comes_back(By::S3, false).await
}

/// Objects as a controller has them.
async fn open(swift: &Swift, by: By, lifetime: &str) -> Result<Objects> {
    let file = swift.secret_file("trove.toml", "")?;
    let text = by.config(swift).await?.replace("segment_mib = 1", &format!("grant_lifetime = \"{lifetime}\""));
    std::fs::write(&file, text)?;
    Ok(Objects::open(PathBuf::new(), None, Seal::new(&[3; 32]), &Config::load(Some(&file))?).await?)
}

fn need(name: &str, access: v1::ObjectAccess, bytes: u64) -> v1::ObjectNeed {
    v1::ObjectNeed { name: name.to_owned(), access: access.into(), bytes }
}

/// What may be done with the backup `backup` by one agent.
struct Agent<'a> {
    swift: &'a Swift,
    objects: &'a Objects,
    backup: BackupId,
    instance: InstanceId,
}

impl Agent<'_> {
    async fn to_write(&self, run: &str, name: &str, bytes: u64) -> Result<v1::ObjectGrant> {
        let writer = self.objects.writer(self.backup, self.instance, 1 << 30);
        let granted = writer.grant(run, &[need(name, v1::ObjectAccess::Write, bytes)]).await;
        Ok(granted.map_err(|error| anyhow::anyhow!("{error:?}"))?.remove(0))
    }

    async fn to_read(&self, run: &str, name: &str) -> Result<v1::ObjectGrant> {
        let reader = self.objects.reader(HashMap::from([(run.to_owned(), self.backup)]), self.instance);
        let granted = reader.grant(run, &[need(name, v1::ObjectAccess::Read, 0)]).await;
        Ok(granted.map_err(|error| anyhow::anyhow!("{error:?}"))?.remove(0))
    }

    async fn put(&self, grant: &v1::ObjectGrant, bytes: &[u8]) -> Result<StatusCode> {
        let mut request = self.swift.client().put(&grant.url).header("content-length", bytes.len());
        for (name, value) in &grant.headers {
            request = request.header(name, value);
        }
        Ok(request.body(bytes.to_vec()).send().await?.status())
    }

    async fn get(&self, url: &str) -> Result<StatusCode> {
        Ok(self.swift.client().get(url).send().await?.status())
    }
}

fn is_refused(status: StatusCode) -> bool {
    matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)
}

/// What an agent is given lets it do one thing with one object for a while, and nothing else.
async fn one_thing_with_one_object(swift: &Swift, by: By) -> Result<()> {
    let objects = open(swift, by, "5m").await?;
    let agent = Agent { swift, objects: &objects, backup: BackupId::random(), instance: InstanceId::random() };
    let writing = agent.to_write(RUN, "00000000", 10).await?;
    ensure!(!writing.url.contains("secret"), "{}", writing.url);
    let without = v1::ObjectGrant { headers: Default::default(), ..writing.clone() };
    let larger = agent.put(&writing, b"0123456789x").await?;
    if by == By::S3 {
        ensure!(is_refused(larger), "an object of another size: {larger}");
        ensure!(is_refused(agent.put(&without, b"0123456789").await?), "without the field that keeps what is there");
        ensure!(agent.put(&writing, b"0123456789").await?.is_success());
    }
    let again = agent.put(&writing, b"ABCDEFGHIJ").await?;
    ensure!(again == StatusCode::PRECONDITION_FAILED, "an object is replaced: {again}");
    ensure!(is_refused(agent.get(&writing.url).await?), "what may be written is read");

    let reading = agent.to_read(RUN, "00000000").await?;
    ensure!(agent.get(&reading.url).await? == StatusCode::OK);
    ensure!(is_refused(agent.put(&reading, b"0123456789").await?), "what may be read is written");
    let removed = swift.client().delete(&reading.url).send().await?.status();
    ensure!(is_refused(removed), "what may be read is removed: {removed}");
    let victim = BackupId::random();
    swift.write(&format!("{victim}/{OTHER_RUN}/00000000"), b"of another's".to_vec()).await?;
    for (from, to) in [
        ("00000000?", "00000001?".to_owned()),
        (RUN, OTHER_RUN.to_owned()),
        (&agent.backup.to_string(), victim.to_string()),
        (&format!("{}/{RUN}", agent.backup), format!("{victim}/{OTHER_RUN}")),
        (&format!("{}/{RUN}", agent.backup), format!("{}/{RUN}/../../{victim}/{OTHER_RUN}", agent.backup)),
    ] {
        let (read, write) = (reading.url.replacen(from, &to, 1), writing.url.replacen(from, &to, 1));
        ensure!(read != reading.url && is_refused(agent.get(&read).await?), "another object is read: {to}");
        let written = agent.put(&v1::ObjectGrant { url: write, ..writing.clone() }, b"0123456789").await?;
        ensure!(is_refused(written), "another object is written: {to}: {written}");
    }
    swift.remove(&format!("{victim}/{OTHER_RUN}/00000000")).await?;

    let brief = open(swift, by, "1s").await?;
    let agent = Agent { objects: &brief, ..agent };
    let (writing, reading) = (agent.to_write(RUN, "00000009", 1).await?, agent.to_read(RUN, "00000000").await?);
    let status = async || agent.get(&reading.url).await;
    poll("the end of a grant", SOON, status, |status| is_refused(*status)).await?;
    ensure!(is_refused(agent.put(&writing, b"x").await?), "an expired grant writes");
    brief.delete_backup(agent.backup).await?;
    Ok(())
}

/// What the service does with the storage by itself.
async fn runs_are_kept_and_removed(swift: &Swift, by: By) -> Result<()> {
    let objects = open(swift, by, "5m").await?;
    objects.check_storage().await?;
    let agent = Agent { swift, objects: &objects, backup: BackupId::random(), instance: InstanceId::random() };
    let backup = agent.backup;
    let names = async || -> Result<Vec<String>> {
        let all = swift.objects(&format!("{backup}/")).await?.into_iter();
        Ok(all.map(|name| name[37..].to_owned()).collect())
    };
    // Another run takes the place of the first.
    let late = agent.to_write(OTHER_RUN, "00000001", 4).await?;
    ensure!(agent.put(&agent.to_write(OTHER_RUN, "00000000", 3).await?, b"old").await?.is_success());
    ensure!(agent.put(&agent.to_write(RUN, "00000000", 3).await?, b"new").await?.is_success());
    assert_eq!(names().await?, [format!("{RUN}/00000000")]);
    // What comes in late is removed by the sweep, once it is decided which run is kept.
    ensure!(agent.put(&late, b"late").await?.is_success());
    objects.delete_other_runs(backup, RUN).await?;
    let after = agent.to_write(RUN, "00000001", 1).await.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(after.contains("nothing is written"), "{after}");
    ensure!(objects.delete_other_runs(backup, OTHER_RUN).await.is_err(), "another run is kept");
    assert_eq!(names().await?, [format!("{RUN}/00000000"), "sealed".to_owned()]);
    ensure!(agent.put(&late, b"late").await?.is_success());
    let held = objects.sweep().await?;
    ensure!(held.iter().any(|held| held.backup == backup && held.bytes == 7), "{held:?}");
    assert_eq!(names().await?, [format!("{RUN}/00000000"), "sealed".to_owned()]);

    objects.delete_backup(backup).await?;
    objects.delete_backup(backup).await?;
    assert_eq!(names().await?, [""; 0]);
    ensure!(agent.to_write(RUN, "00000001", 1).await.is_err(), "a deleted backup is written");
    ensure!(agent.put(&late, b"late").await?.is_success(), "what was granted before is good for its minutes");
    ensure!(objects.sweep().await?.iter().all(|held| held.backup != backup));
    assert_eq!(names().await?, [""; 0]);

    // Another storage in its place is not taken for one in which everything is gone.
    let known = swift.read("storage").await?;
    swift.write("storage", b"7".to_vec()).await?;
    for told in [
        objects.delete_backup(BackupId::random()).await.err(),
        objects.check_storage().await.err(),
        objects.sweep().await.err(),
    ] {
        let told = told.map(|error| trove_controller::error::chain(&error)).unwrap_or_default();
        ensure!(told.contains("is storage 7") && told.contains(&swift.url()) && told.contains("backups"), "{told}");
    }
    swift.remove("storage").await?;
    let told = objects.delete_backup(BackupId::random()).await.err();
    let told = told.map(|error| trove_controller::error::chain(&error)).unwrap_or_default();
    ensure!(told.contains("has no object \"storage\""), "{told}");
    swift.write("storage", known).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_for_one_thing_with_one_object_and_runs_are_kept_and_removed() -> Result<()> {
    let Some(swift) = Swift::start(false).await? else { return Ok(()) };
    for by in By::ALL {
        one_thing_with_one_object(&swift, by).await?;
        runs_are_kept_and_removed(&swift, by).await?;
    }
    Ok(())
}

/// A service whose secret is not the storage's says so, and leaves nothing.
async fn a_wrong_secret(by: By) -> Result<()> {
    let Some(swift) = Swift::start(false).await? else { return Ok(()) };
    let mut stack = stack(&swift, by, Engine::Redis).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&Engine::Redis.order("db1")).await?;
    api.await_active(&id).await?;
    swift.secret_file("secret", "another secret")?;
    stack.kill_and_run()?;
    let backup = api.back_up(&id, "refused").await?;
    let failed = api.await_backup(&backup).await?;
    ensure!(failed["status"] == "FAILED", "{failed}\n{}", stack.log_end());
    let operation = api.await_backup_operations(&backup).await?[0].to_string();
    ensure!(operation.contains("take") && operation.contains("refuses this service's credentials"), "{operation}");
    let log = std::fs::read_to_string(stack.log())?;
    ensure!(log.contains("backups cannot be taken") && log.contains(&swift.url()), "{}", stack.log_end());
    ensure!(!log.contains("another secret"), "the secret is in the log");
    assert_eq!(swift.objects(&backup).await?, [""; 0]);
    api.await_active(&id).await?;
    nothing_secret_is_logged(&stack, by)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_ends_a_backup_with_its_reason() -> Result<()> {
    if !depth::is_full() {
        return a_wrong_secret(By::S3).await;
    }
    for by in By::ALL {
        a_wrong_secret(by).await?;
    }
    Ok(())
}

/// A storage that is stopped in mid-backup is waited for.
async fn stopped_in_the_middle(by: By, end: impl Fn(&mut Swift) -> Result<()>) -> Result<()> {
    let Some(mut swift) = Swift::start(false).await? else { return Ok(()) };
    let stack = stack(&swift, by, Engine::PostgreSql).await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("db1").await?;
    let client = connect(&api.instance(&id).await?, APP.0, APP.1, "app").await?;
    let fill = "create table t as select n, md5(n::text) || md5((n + 1)::text) word from generate_series(1, 300000) n";
    rows(&client, fill).await?;
    let backup = api.back_up(&id, "interrupted").await?;
    let stored = async || swift.objects(&format!("{backup}/")).await;
    poll("the first objects", SOON, stored, |objects| objects.len() > 2).await?;
    end(&mut swift)?;
    let taken = api.await_backup(&backup).await?;
    ensure!(taken["status"] == "COMPLETED", "{taken}\n{}", stack.log_end());
    let new = api.create(&restored_from(&backup, "new")).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    let client = connect(&view, APP.0, APP.1, "app").await?;
    assert_eq!(rows(&client, "select count(*) from t").await?, ["300000"]);
    nothing_secret_is_logged(&stack, by)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_killed_or_stopped_in_mid_backup_is_waited_for() -> Result<()> {
    if !depth::is_full() {
        skipped("at full depth only (TROVE_TEST_DEPTH=full)");
        return Ok(());
    }
    for by in By::ALL {
        stopped_in_the_middle(by, |swift| {
            swift.kill()?;
            std::thread::sleep(Duration::from_secs(3));
            swift.run().map(drop)
        })
        .await?;
    }
    stopped_in_the_middle(By::S3, |swift| {
        swift.signal(Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_secs(5));
        swift.signal(Signal::SIGCONT)
    })
    .await
}

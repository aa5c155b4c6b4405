//! Backups of PostgreSQL through the whole service: taken and restored by the unmodified client, restored by hand without our
//! programs, and damaged in every way. Schedules and verifications of them.

mod schedules;
mod verifications;

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::unistd::User;
use serde_json::{Value, json};
use trove_tests::{APP, Api, Clients, Engine, Stack, StackOptions, connect, each_engine, leftovers, rows};

const BINDIR: &str = "/usr/lib/postgresql/15/bin";
/// What must be found in no object: a row of a tenant's.
const ROW: &str = "a row that nobody reads in the storage";

fn columns<'a>(list: &'a Value, column: &str) -> Vec<&'a str> {
    list.as_array().into_iter().flatten().filter_map(|row| row[column].as_str()).collect()
}

/// The order of an instance from a backup.
fn restored_from(backup: &str, name: &str) -> Value {
    json!({"instance": {
        "name": name, "flavorRef": "1", "volume": {"size": 1}, "restorePoint": {"backupRef": backup}}})
}

/// An instance with a table of `count` rows, each a text of a hundred bytes that does not compress well.
async fn instance_with_rows(api: &Api, name: &str, count: u32) -> Result<(String, Value)> {
    let id = api.order_and_await(name).await?;
    let view = api.instance(&id).await?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    let fill = format!(
        "create table t (n int primary key, word text);
         insert into t select n, md5(n::text) || md5((n + 1)::text) || md5((n + 2)::text) from generate_series(1, {count}) n;
         insert into t values (0, '{ROW}')"
    );
    rows(&client, &fill).await?;
    Ok((id, view))
}

#[tokio::test(flavor = "multi_thread")]
async fn openstack_takes_and_restores_a_backup() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let user = Clients::new(&stack.clouds_yaml(), "trove")?;
    let (id, view) = instance_with_rows(&api, "db1", 100_000).await?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;

    let ordered = user.json(&["database", "backup", "create", "nightly", "--instance", "db1"])?;
    ensure!(["NEW", "BUILDING", "SAVING"].iter().any(|state| ordered["status"] == *state), "{ordered}");
    let backup = ordered["id"].as_str().with_context(|| format!("{ordered}"))?.to_owned();
    let taken = api.await_backup(&backup).await?;
    ensure!(taken["status"] == "COMPLETED", "{taken}\n{}", stack.log_end());
    ensure!(taken["size"].as_f64().is_some_and(|size| size > 0.0) && taken["locationRef"].is_string(), "{taken}");
    api.await_active(&id).await?;
    assert_eq!(columns(&user.json(&["database", "backup", "list"])?, "Name"), ["nightly"]);
    assert_eq!(columns(&user.json(&["database", "backup", "list", "instance", "db1"])?, "Name"), ["nightly"]);
    let shown = user.json(&["database", "backup", "show", "nightly"])?;
    ensure!(shown["status"] == "COMPLETED" && shown["datastore"] == "postgresql", "{shown}");

    // No more than the account that keeps them can read them, and who reads them sees nothing.
    let objects = stack.objects(&backup)?;
    ensure!(objects.len() > 1, "{objects:?}");
    for object in &objects {
        let mode = std::fs::metadata(object)?.permissions().mode() & 0o777;
        ensure!(mode & 0o077 == 0, "{object:?} has the mode {mode:o}");
        let bytes = std::fs::read(object)?;
        ensure!(!bytes.windows(ROW.len()).any(|window| window == ROW.as_bytes()), "{object:?} can be read");
    }

    rows(&client, "insert into t values (-1, 'after the backup')").await?;
    // The backup outlives the instance that it is of.
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(&id).await?;

    let version = user.json(&["datastore", "version", "list", "postgresql"])?[0]["Name"].clone();
    let mut create = vec!["database", "instance", "create", "new", "--flavor", "1", "--size", "1"];
    create.extend(["--nic", "net-id=7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1", "--datastore", "postgresql"]);
    create.extend(["--datastore-version", version.as_str().context("a version")?, "--backup", "nightly"]);
    let created = user.json(&create)?;
    let new = created["id"].as_str().with_context(|| format!("{created}"))?.to_owned();
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    let client = connect(&view, "app", "secret-app-1", "app").await.context("the user of the backup")?;
    assert_eq!(rows(&client, "select count(*), min(n) from t").await?, ["100001|0"]);
    ensure!(connect(&view, "app", "wrong", "app").await.is_err());
    ensure!(connect(&view, "os_admin", "", "postgres").await.is_err(), "the agent's account comes in over TCP");
    // It is an instance like any other.
    let users = api.get(&format!("/instances/{new}/users")).await?.body;
    assert_eq!(users["users"][0]["name"], "app", "{users}");
    assert_eq!(api.post(&format!("/instances/{new}/action"), &json!({"restart": {}})).await?.status, 202);
    api.await_operations(&new).await?;
    api.await_active(&new).await?;
    let again = api.back_up(&new, "of the new one").await?;
    ensure!(api.await_backup(&again).await?["status"] == "COMPLETED");

    user.openstack(&["database", "backup", "delete", "nightly"])?;
    api.remove_backup(&again).await?;
    trove_tests::poll(
        "the end of the backup",
        std::time::Duration::from_secs(60),
        async || Ok(api.get(&format!("/backups/{backup}")).await?.status),
        |status| *status == 404,
    )
    .await?;
    for backup in [&backup, &again] {
        let left = stack.objects(backup)?;
        ensure!(left.is_empty(), "{left:?} is left of a backup that was deleted");
    }
    Ok(())
}

/// What was acknowledged before a backup is in an instance that is made from it, and what came later is not; logins are those of then.
async fn comes_back(engine: Engine) -> Result<()> {
    let stack = Stack::of(engine).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&engine.order("db1")).await?;
    let view = api.await_active(&id).await?;
    engine.write(&view, "before").await?;
    let backup = api.back_up(&id, "nightly").await?;
    let taken = api.await_backup(&backup).await?;
    ensure!(taken["status"] == "COMPLETED", "{taken}\n{}", stack.log_end());
    engine.write(&view, "after").await?;
    let changed = json!({"users": [{"name": engine.account(APP.0), "password": "another-secret-2"}]});
    let answer = api.send(reqwest::Method::PUT, &format!("/instances/{id}/users"), Some(&changed)).await?;
    ensure!(answer.status == 202, "{answer:?}");
    api.await_operations(&id).await?;

    let new = api.create(&restored_from(&backup, "new")).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    assert_eq!(engine.read(&view).await?, ["before"]);
    ensure!(engine.log_in(&view, APP.0, "another-secret-2").await.is_err(), "a password of later is let in");
    engine.write(&view, "in the new one").await?;
    assert_eq!(api.post(&format!("/instances/{new}/action"), &json!({"restart": {}})).await?.status, 202);
    api.await_operations(&new).await?;
    let view = api.await_active(&new).await?;
    assert_eq!(engine.read(&view).await?, ["before", "in the new one"]);
    // Accounts are the agent's to change, and so it is let in with all its rights.
    let user = json!({"users": [engine.user("late", "late-secret-3")]});
    assert_eq!(api.post(&format!("/instances/{new}/users"), &user).await?.status, 202);
    api.await_operations(&new).await?;
    engine.log_in(&view, "late", "late-secret-3").await
}

each_engine!(what_was_backed_up_comes_back_in: comes_back of redis, mariadb, mongodb);

#[tokio::test(flavor = "multi_thread")]
async fn increments_are_taken_and_restored_with_what_they_build_on() -> Result<()> {
    let engine = Engine::MariaDb;
    let stack = Stack::of(engine).await?;
    let api = stack.login("trove").await?;
    let user = Clients::new(&stack.clouds_yaml(), "trove")?;
    let id = api.create(&engine.order("db1")).await?;
    let view = api.await_active(&id).await?;
    let mut backups = Vec::new();
    for (name, more) in
        [("full", &[][..]), ("first", &["--parent", "full", "--incremental"]), ("second", &["--incremental"])]
    {
        engine.write(&view, name).await?;
        let ordered = user.json(&[&["database", "backup", "create", name, "--instance", "db1"], more].concat())?;
        let backup = ordered["id"].as_str().with_context(|| format!("{ordered}"))?.to_owned();
        let taken = api.await_backup(&backup).await?;
        ensure!(taken["status"] == "COMPLETED", "{taken}\n{}", stack.log_end());
        ensure!(taken["parent_id"].as_str() == backups.last().map(String::as_str), "{taken}");
        api.await_active(&id).await?;
        backups.push(backup);
    }
    engine.write(&view, "after").await?;
    let bytes = |backup: &str| -> Result<u64> {
        let sizes =
            stack.objects(backup)?.iter().map(|path| Ok(std::fs::metadata(path)?.len())).collect::<Result<Vec<_>>>()?;
        Ok(sizes.iter().sum())
    };
    ensure!(bytes(&backups[1])? < bytes(&backups[0])?, "an increment is as large as the whole");

    // What is damaged in the middle of the chain is named; then it is whole again.
    let objects = stack.objects(&backups[1])?;
    flip(&objects[0])?;
    let new = api.create(&restored_from(&backups[2], "damaged")).await?;
    let view = api.await_error(&new).await?;
    let fault = view["fault"]["message"].as_str().unwrap_or_default();
    ensure!(fault.contains(&format!("segment 00000000 of backup {}", backups[1])), "the fault is {fault:?}");
    assert_eq!(api.delete(&format!("/instances/{new}")).await?.status, 202);
    api.await_gone(&new).await?;
    flip(&objects[0])?;

    for (number, known) in [(1, &["full", "first"][..]), (2, &["full", "first", "second"])] {
        let new = api.create(&restored_from(&backups[number], "new")).await?;
        let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
        assert_eq!(engine.read(&view).await?, known);
        assert_eq!(api.delete(&format!("/instances/{new}")).await?.status, 202);
        api.await_gone(&new).await?;
    }
    // As in Trove what builds on it goes, too.
    user.openstack(&["database", "backup", "delete", "first"])?;
    for backup in &backups[1..] {
        trove_tests::poll(
            "the end of the backup",
            std::time::Duration::from_secs(60),
            async || Ok(api.get(&format!("/backups/{backup}")).await?.status),
            |status| *status == 404,
        )
        .await?;
    }
    ensure!(api.get(&format!("/backups/{}", backups[0])).await?.body["backup"]["status"] == "COMPLETED");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_protected_is_not_deleted_and_a_last_backup_comes_before_a_deletion() -> Result<()> {
    let stack = Stack::of(Engine::Redis).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&Engine::Redis.order("db1")).await?;
    api.await_active(&id).await?;
    let run = |args: &[&str]| -> Result<String> {
        let (ok, text) = stack.trovectl(args)?;
        ensure!(ok, "trovectl {args:?}: {text}");
        Ok(text)
    };
    run(&["instance", "protect", "db1"])?;
    let shown: Value = serde_json::from_str(&run(&["instance", "show", "db1", "-o", "json"])?)?;
    assert_eq!(shown["deletion_protection"], true, "{shown}");
    let last = ["instance", "delete", "db1", "--final-backup", "last", "--wait"];
    for refused in [&last[..], &["instance", "delete", "db1", "--wait"]] {
        let (ok, text) = stack.trovectl(refused)?;
        ensure!(!ok && text.contains("protected"), "{refused:?}: {text}");
    }
    ensure!(!run(&["backup", "list"])?.contains("last"), "a backup was taken of what cannot be deleted");
    run(&["instance", "protect", "db1", "--off"])?;
    run(&last)?;
    api.await_gone(&id).await?;
    let kept: Value = serde_json::from_str(&run(&["backup", "show", "last", "-o", "json"])?)?;
    ensure!(kept["status"] == "COMPLETED", "{kept}");
    Ok(())
}

/// Runs a program as the account that runs engines, since PostgreSQL refuses root.
fn as_engine(program: &str) -> Result<Command> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let user = User::from_name("trove")?.context("the account trove; make setup makes it")?;
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid), "--clear-groups", "--", program]);
    Ok(command)
}

fn succeeds(mut command: Command, what: &str) -> Result<String> {
    let output = command.output().with_context(|| format!("{what}: {command:?}"))?;
    ensure!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Pipes the objects through `age` and `zstd` into `tar`, as docs/backups.md says.
fn unpack(segments: &[PathBuf], key: &Path, into: &Path) -> Result<()> {
    let mut age =
        Command::new("age").arg("-d").arg("-i").arg(key).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut zstd =
        Command::new("zstd").arg("-d").stdin(age.stdout.take().context("a pipe")?).stdout(Stdio::piped()).spawn()?;
    let mut tar = as_engine("tar")?;
    let mut tar = tar.arg("-x").arg("-C").arg(into).stdin(zstd.stdout.take().context("a pipe")?).spawn()?;
    let mut input = age.stdin.take().context("a pipe")?;
    for segment in segments {
        std::io::copy(&mut File::open(segment)?, &mut input)?;
    }
    drop(input);
    for (name, child) in [("age", &mut age), ("zstd", &mut zstd), ("tar", &mut tar)] {
        ensure!(child.wait()?.success(), "{name} failed");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_by_hand_without_our_programs() -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("trove-test-").tempdir()?;
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755))?;
    let key = scratch.path().join("offline.key");
    let mut keygen = Command::new("age-keygen");
    keygen.arg("-o").arg(&key);
    succeeds(keygen, "make the operator's offline key")?;
    let mut public = Command::new("age-keygen");
    public.arg("-y").arg(&key);
    let recipient = succeeds(public, "its public half")?;
    // Small segments, so that there are several.
    let config = format!("[backups]\nrecipients = [\"{}\"]\nsegment_mib = 1\n", recipient.trim());
    let stack = Stack::start_with(StackOptions { config, ..StackOptions::default() }).await?;
    let api = stack.login("trove").await?;
    let (id, _) = instance_with_rows(&api, "db1", 20_000).await?;
    let backup = api.back_up(&id, "by hand").await?;
    let taken = api.await_backup(&backup).await?;
    ensure!(taken["status"] == "COMPLETED", "{taken}\n{}", stack.log_end());

    let (manifest, segments): (Vec<_>, Vec<_>) =
        stack.objects(&backup)?.into_iter().partition(|path| path.ends_with("manifest.json"));
    ensure!(segments.len() > 1, "{segments:?}");
    let manifest: Value = serde_json::from_slice(&std::fs::read(&manifest[0])?)?;
    assert_eq!(manifest["segments"].as_array().map(Vec::len), Some(segments.len()), "{manifest}");
    let data = scratch.path().join("data");
    std::fs::create_dir(&data)?;
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
    if let (true, Some(user)) = (nix::unistd::geteuid().is_root(), User::from_name("trove")?) {
        chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    unpack(&segments, &key, &data)?;
    let mut verify = as_engine(&format!("{BINDIR}/pg_verifybackup"))?;
    verify.arg(&data);
    succeeds(verify, "pg_verifybackup")?;
    // Without any configuration of ours: single-user mode reads the rows.
    let mut postgres = as_engine(&format!("{BINDIR}/postgres"))?;
    postgres.arg("--single").args(["-D"]).arg(&data).args(["-c", "config_file=/dev/null", "app"]);
    let mut child = postgres.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(b"select count(*) from t\n")?;
    let said = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(text.contains("count = \"20001\""), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}

/// A way to damage the objects of a backup, and what the fault must say.
type Damage = (&'static str, fn(&[PathBuf]) -> Result<()>, &'static str);

fn flip(path: &Path) -> Result<()> {
    let mut file = File::options().read(true).write(true).custom_flags(0).open(path)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(middle))?;
    file.write_all(&[byte[0] ^ 1])?;
    Ok(())
}

const DAMAGES: [Damage; 5] = [
    ("a bit of a segment is flipped", |objects| flip(&objects[1]), "00000001"),
    ("a segment is cut off", |objects| Ok(File::options().write(true).open(&objects[1])?.set_len(1000)?), "00000001"),
    (
        "two segments are swapped",
        |objects| {
            let (first, second) = (std::fs::read(&objects[0])?, std::fs::read(&objects[1])?);
            std::fs::write(&objects[0], second)?;
            Ok(std::fs::write(&objects[1], first)?)
        },
        "00000000",
    ),
    ("a segment is missing", |objects| Ok(std::fs::remove_file(&objects[1])?), "00000001"),
    (
        "a bit of the manifest is flipped",
        |objects| flip(objects.last().context("a manifest")?),
        "the manifest of backup",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_is_named_and_never_restored() -> Result<()> {
    let config = "[backups]\nsegment_mib = 1\n".to_owned();
    let stack = Stack::start_with(StackOptions { config, ..StackOptions::default() }).await?;
    let api = stack.login("trove").await?;
    let (id, _) = instance_with_rows(&api, "db1", 20_000).await?;
    let backup = api.back_up(&id, "sound").await?;
    ensure!(api.await_backup(&backup).await?["status"] == "COMPLETED", "{}", stack.log_end());
    let objects = stack.objects(&backup)?;
    ensure!(objects.len() > 2, "{objects:?}");
    let sound = objects.iter().map(std::fs::read).collect::<std::io::Result<Vec<_>>>()?;
    for (what, damage, named) in DAMAGES {
        damage(&objects)?;
        let new = api.create(&restored_from(&backup, "damaged")).await?;
        let view = api.await_error(&new).await.context(what)?;
        let fault = view["fault"]["message"].as_str().unwrap_or_default();
        ensure!(fault.contains(named) && fault.contains("restore"), "{what}: the fault is {fault:?}");
        ensure!(leftovers::engines(&new).is_empty(), "{what}: an engine runs");
        assert_eq!(api.delete(&format!("/instances/{new}")).await?.status, 202);
        api.await_gone(&new).await?;
        for (object, bytes) in objects.iter().zip(&sound) {
            std::fs::write(object, bytes)?;
        }
    }
    // And what was mended is restored.
    let new = api.create(&restored_from(&backup, "mended")).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    assert_eq!(rows(&client, "select count(*) from t").await?, ["20001"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_a_backup_is_taken_and_what_it_holds_is_consistent() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let (id, view) = instance_with_rows(&api, "db1", 200_000).await?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    rows(&client, "create table ledger (n int primary key); create table twin (n int primary key)").await?;
    // Every write is in both tables, one transaction each.
    let writer = tokio::spawn(async move {
        for n in 0.. {
            let both = format!("begin; insert into ledger values ({n}); insert into twin values ({n}); commit");
            if client.batch_execute(&both).await.is_err() {
                return n;
            }
        }
        0
    });
    let count = async |view: &Value| -> Result<i64> {
        let client = connect(view, "app", "secret-app-1", "app").await?;
        Ok(rows(&client, "select count(*) from ledger").await?[0].parse()?)
    };
    let before = count(&view).await?;
    let backup = api.back_up(&id, "under load").await?;
    ensure!(api.await_backup(&backup).await?["status"] == "COMPLETED", "{}", stack.log_end());
    let after = count(&view).await?;
    ensure!(after > before, "nothing was written while the backup was taken");
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(&id).await?;
    writer.await?;

    let new = api.create(&restored_from(&backup, "restored")).await?;
    let view = api.await_active(&new).await.with_context(|| stack.log_end())?;
    let client = connect(&view, "app", "secret-app-1", "app").await?;
    let held: i64 = rows(&client, "select count(*) from ledger").await?[0].parse()?;
    ensure!((before..=after).contains(&held), "{before} were acknowledged before, {after} after, {held} are there");
    let gaps = "select count(*) from ledger full join twin using (n) where ledger.n is null or twin.n is null";
    assert_eq!(
        rows(&client, &format!("select max(n) + 1 = {held} from ledger")).await?,
        ["t"],
        "an early one is missing"
    );
    assert_eq!(rows(&client, gaps).await?, ["0"], "half of a transaction is there");
    Ok(())
}

//! Faults of the store: its disk is full or read-only, or its server is killed. Meanwhile every write is answered with
//! 503 and `Retry-After`. Afterwards everything works without a restart, and nothing is partly written.

mod writes;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{
    Answer, Api, Database, Failpoints, Shared, SmallDisk, Stack, StackOptions, depth, has_root_or_skips, leftovers,
    order_body, poll, skipped,
};

use self::writes::Things;

/// Time in which the service recovers after the fault.
const BACK: Duration = Duration::from_secs(20);
/// Time in which an operation that the fault interrupted has ended; includes the end of its lease.
const CAUGHT_UP: Duration = Duration::from_secs(180);

/// A service with things to write about, a member and an administrator.
struct Story {
    stack: Stack,
    member: Api,
    admin: Api,
    things: Things,
    /// What was shown of the things before the fault.
    before: Vec<Value>,
    /// Kinds that were accepted during the fault, and those that were refused.
    accepted: BTreeSet<&'static str>,
    refused: BTreeSet<&'static str>,
    /// The stopped processes of an engine.
    stopped: Vec<i32>,
    /// Counter for names.
    made: usize,
}

impl Story {
    async fn begin(stack: Stack) -> Result<Self> {
        stack.await_datastore().await?;
        let (member, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
        let things = Things::make(&member, &admin, 0).await.with_context(|| stack.log_end())?;
        let before = things.shown(&member, &admin).await?;
        let (accepted, refused, stopped) = Default::default();
        Ok(Self { stack, member, admin, things, before, accepted, refused, stopped, made: 0 })
    }

    async fn health(&self) -> Result<Answer> {
        self.member.send_to(Method::GET, "/healthcheck", None).await
    }

    async fn await_health(&self, status: u16, within: Duration) -> Result<Answer> {
        poll("another health", within, async || self.health().await, |answer| answer.status == status).await
    }

    /// Asserts that every write, and a login, is answered with 503 and `Retry-After`. `may_fit`: single writes may
    /// succeed, as long as the full disk has room, and others be refused for these.
    async fn is_refused(&mut self, may_fit: bool) -> Result<()> {
        self.made += 1;
        let writes = self.things.writes(&self.member, self.made);
        let answers = join_all(writes.iter().map(|write| write.send(&self.member, &self.admin))).await;
        for (write, answer) in writes.iter().zip(answers) {
            let (kind, answer) = (write.kind, answer?);
            if answer.status == 503 {
                ensure!(answer.headers.contains_key("retry-after"), "{kind}: no Retry-After: {answer:?}");
                self.refused.insert(kind);
            } else {
                ensure!(may_fit && answer.status < 500, "{kind} is answered {answer:?}\n{}", self.stack.log_end());
                if answer.status < 300 {
                    self.accepted.insert(kind);
                }
            }
        }
        ensure!(!self.refused.is_empty(), "nothing was refused");
        if let Err(error) = self.stack.login("trove").await {
            ensure!(error.to_string().contains("503"), "a login is answered {error:#}");
        } else {
            ensure!(may_fit, "a login was written into nothing");
        }
        Ok(())
    }

    /// Stops an engine, and waits until the report of it could not be stored.
    async fn stop_an_engine(&mut self) -> Result<()> {
        let id = &self.things.doomed;
        for pid in leftovers::engines(id) {
            kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
            self.stopped.push(pid);
        }
        ensure!(!self.stopped.is_empty(), "no engine");
        let (log, line) = (self.stack.log(), format!("store the agent of instance {id}"));
        let begin = std::fs::read_to_string(&log)?.len();
        let lost = async || Ok(std::fs::read_to_string(&log)?[begin..].contains(&line));
        poll("a report that is not stored", BACK, lost, |lost| *lost).await?;
        Ok(())
    }

    /// Asserts that the report which was not stored during the fault is, and has the engine go on.
    async fn is_reported(&mut self) -> Result<()> {
        if self.stopped.is_empty() {
            return Ok(());
        }
        let id = &self.things.doomed;
        let is_told = |view: &Value| view["operating_status"] == "BLOCKED";
        poll("what the agent reports", BACK, async || self.member.instance(id).await, is_told).await?;
        for pid in self.stopped.drain(..) {
            kill(Pid::from_raw(pid), Signal::SIGCONT)?;
        }
        self.member.await_active(id).await?;
        Ok(())
    }

    /// Asserts that nothing is changed if nothing was accepted; else makes new things.
    async fn is_unchanged(&mut self) -> Result<()> {
        if !self.accepted.is_empty() {
            self.made += 1;
            self.things = Things::make(&self.member, &self.admin, self.made).await?;
            return Ok(());
        }
        let writes = self.things.writes(&self.member, self.made);
        let never = writes.iter().map(|write| write.kind).find(|kind| !self.refused.contains(kind));
        ensure!(never.is_none(), "never refused: {never:?}");
        let after = self.things.shown(&self.member, &self.admin).await?;
        for (before, after) in self.before.iter().zip(&after) {
            ensure!(before == after, "a refused write has changed {before} to {after}");
        }
        let all = self.member.get("/instances").await?.body;
        let count = all["instances"].as_array().map_or(0, Vec::len);
        ensure!(count <= 3, "a refused order was made: {all}");
        Ok(())
    }

    /// Does every kind of write, one after the other, and waits until each is carried out.
    async fn does_everything(&mut self) -> Result<()> {
        self.made += 1;
        let Self { things, member, admin, .. } = &*self;
        for write in things.writes(member, self.made) {
            let (kind, answer) = (write.kind, write.send(member, admin).await?);
            ensure!(answer.status < 300, "{kind} afterwards: {answer:?}\n{}", self.stack.log_end());
            let Some(operation) = &answer.operation else { continue };
            for id in [&things.kept, &things.doomed] {
                if kind == "a deletion" {
                    break;
                }
                let all = member.await_operations(id).await?;
                let mut all = all.as_array().into_iter().flatten();
                let failed = all.find(|one| one["id"] == operation.as_str() && one["status"] != "done");
                ensure!(failed.is_none(), "{kind} afterwards: {failed:?}\n{}", self.stack.log_end());
            }
        }
        ensure!(member.with_token(&things.token).get("/limits").await?.status == 401, "the token was revoked");
        let verified = member.await_verification(&things.backup).await?;
        ensure!(verified["state"] == "passed", "{verified}");
        member.await_gone(&things.doomed).await?;
        member.await_active(&things.kept).await?;
        Ok(())
    }

    /// Asserts that after the fault the service works, by every kind of write where that is asked for; that accepted requests are
    /// carried out, and quotas are right.
    async fn works_again(&mut self, by_every_kind: bool) -> Result<()> {
        self.await_health(200, BACK).await.with_context(|| self.stack.log_end())?;
        self.stack.login("trove").await.context("a login afterwards")?;
        self.is_reported().await.with_context(|| self.stack.log_end())?;
        self.is_unchanged().await.with_context(|| self.stack.log_end())?;
        if by_every_kind {
            self.does_everything().await.with_context(|| self.stack.log_end())?;
        }
        let all = self.member.get("/instances").await?;
        let ids: Vec<String> = all.body["instances"]
            .as_array()
            .context("instances")?
            .iter()
            .filter_map(|instance| instance["id"].as_str().map(str::to_owned))
            .collect();
        for id in &ids {
            let ended = |view: &Value| view["status"] != "BUILD";
            let view = poll("its end", CAUGHT_UP, async || self.member.instance(id).await, ended).await;
            let view = view.with_context(|| self.stack.log_end())?;
            ensure!(view["status"] == "ACTIVE", "{id} is {view}\n{}", self.stack.log_end());
        }
        let quotas = self.admin.get(&format!("/mgmt/quotas/{}", self.member.project)).await?.body;
        let mut quotas = quotas["quotas"].as_array().into_iter().flatten();
        let counted = quotas.find(|quota| quota["resource"] == "instances").map(|quota| quota["in_use"].clone());
        ensure!(counted == Some(json!(ids.len())), "{counted:?} counted, {} there", ids.len());
        for id in &ids {
            ensure!(self.member.delete(&format!("/instances/{id}")).await?.status == 202, "delete {id}");
        }
        for id in &ids {
            self.member.await_gone(id).await.with_context(|| self.stack.log_end())?;
        }
        Ok(())
    }
}

/// A service with its state in `parent`, and its hosts and backups elsewhere.
async fn on_sqlite(parent: &Path, elsewhere: &Path) -> Result<Story> {
    let options = StackOptions {
        parent: Some(parent.to_owned()),
        sqlite: true,
        environment: [("TROVE_PROCESS__HOSTS_DIR", "hosts"), ("TROVE_BACKUPS__DIRECTORY", "backups")]
            .map(|(name, place)| (name.to_owned(), elsewhere.join(place).display().to_string()))
            .into(),
        ..StackOptions::default()
    };
    let mut stack = Stack::prepare(options)?;
    stack.run(&Failpoints::default())?;
    Story::begin(stack).await
}

async fn on_postgresql(shared: Shared) -> Result<Story> {
    let mut stack = Stack::prepare(StackOptions { shared: Some(shared), ..StackOptions::default() })?;
    stack.run(&Failpoints::default())?;
    Story::begin(stack).await
}

fn directory() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::Builder::new().prefix("trove-disk-").tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    for part in ["disk", "hosts"] {
        std::fs::create_dir(directory.path().join(part))?;
        std::fs::set_permissions(directory.path().join(part), std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(directory)
}

#[tokio::test]
async fn a_full_state_disk_refuses_writes_until_there_is_room() -> Result<()> {
    if !has_root_or_skips("only root mounts a file system of its own") {
        return Ok(());
    }
    let directory = directory()?;
    let disk = SmallDisk::mount(&directory.path().join("disk"), "24m")?;
    let mut story = on_sqlite(&directory.path().join("disk"), directory.path()).await?;
    // The fault hits the steps of this operation.
    story.member.order("midst").await?;
    let filler = disk.fill()?;
    for round in 0..3 {
        if round == 1 {
            // It dials again while nothing can be written of it.
            let agents = leftovers::agents(&story.things.kept);
            kill(Pid::from_raw(*agents.first().context("the agent")?), Signal::SIGKILL)?;
        }
        disk.fill()?;
        let health = story.await_health(503, BACK).await.with_context(|| story.stack.log_end())?;
        ensure!(health.message().contains("full"), "health does not name what fails: {health:?}");
        story.is_refused(true).await?;
    }
    std::fs::remove_file(&filler)?;
    story.works_again(depth::is_full()).await?;
    drop(story);
    drop(disk);
    Ok(())
}

/// A file system on which files can be made immutable, even while they are open.
struct Image(std::path::PathBuf);

impl Image {
    fn mount(directory: &Path) -> Result<Self> {
        let (image, at) = (directory.join("image"), directory.join("disk"));
        std::fs::File::create(&image)?.set_len(64 << 20)?;
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).output()?;
        ensure!(made.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).output()?;
        ensure!(mounted.status.success(), "mount: {}", String::from_utf8_lossy(&mounted.stderr));
        Ok(Self(at))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Makes the database's files immutable or writable. `-shm` is left out, since it is mapped: the kernel kills a process
/// that writes to a mapping of an immutable file.
fn set_immutable(state: &Path, immutable: bool) -> Result<()> {
    let mut command = Command::new("chattr");
    command.arg(if immutable { "+i" } else { "-i" });
    for name in ["trove.sqlite", "trove.sqlite-wal"] {
        let path = state.join(name);
        if path.exists() {
            command.arg(path);
        }
    }
    ensure!(command.status()?.success(), "chattr");
    Ok(())
}

#[tokio::test]
async fn a_store_that_cannot_be_written_refuses_writes_until_it_can() -> Result<()> {
    if !has_root_or_skips("only root mounts a file system of its own") {
        return Ok(());
    }
    let directory = directory()?;
    let Ok(image) = Image::mount(directory.path()) else {
        skipped("no loop device");
        return Ok(());
    };
    let mut story = on_sqlite(&directory.path().join("disk"), directory.path()).await?;
    story.member.order("midst").await?;
    let state = story.stack.state();
    set_immutable(&state, true)?;
    let refused = async {
        for _ in 0..3 {
            story.await_health(503, BACK).await.with_context(|| story.stack.log_end())?;
            story.is_refused(false).await?;
            ensure!(story.member.get("/instances").await?.status == 200, "a list needs no write");
        }
        story.stop_an_engine().await
    };
    let refused: Result<()> = refused.await;
    set_immutable(&state, false)?;
    refused?;
    story.works_again(true).await?;
    drop(story);
    drop(image);
    Ok(())
}

#[tokio::test]
async fn a_full_disk_of_the_server_refuses_writes_until_there_is_room() -> Result<()> {
    if !has_root_or_skips("only root mounts a file system of its own") {
        return Ok(());
    }
    let directory = directory()?;
    let disk = SmallDisk::mount(&directory.path().join("disk"), "160m")?;
    let settings = ["fsync=off", "min_wal_size=32MB", "max_wal_size=32MB"];
    let database = Database::start_in(&directory.path().join("disk"), &settings)?;
    let [hosts, backups] = ["hosts", "backups"].map(|place| directory.path().join(place));
    let mut story = on_postgresql(Shared { hosts, backups, ..database.shared() }).await?;
    let filler = disk.fill()?;
    // A table grows by pages, so insert until there is no room.
    let refused = async {
        let mut seen = false;
        for _ in 0..400 {
            disk.fill()?;
            let token = json!({"auth": {"identity": {"methods": ["token"], "token": {"id": story.member.token()}}}});
            let answer = story.member.send_to(Method::POST, "/identity/v3/auth/tokens", Some(&token)).await?;
            ensure!(matches!(answer.status, 201 | 503), "{answer:?}");
            seen = answer.status == 503;
            if seen {
                break;
            }
        }
        ensure!(seen, "the disk never was full");
        story.is_refused(true).await
    };
    let refused: Result<()> = refused.await;
    std::fs::remove_file(&filler)?;
    refused?;
    if database.connect().await.is_err() {
        // PostgreSQL ends if it cannot write its WAL.
        let _ = database.kill();
        database.start_again()?;
    }
    story.works_again(depth::is_full()).await?;
    drop(story);
    drop(database);
    drop(disk);
    Ok(())
}

#[tokio::test]
async fn a_killed_server_refuses_everything_until_it_is_back() -> Result<()> {
    let database = Database::start_with(&[])?;
    let mut story = on_postgresql(database.shared()).await?;
    story.member.order("midst").await?;
    for _ in 0..2 {
        database.kill()?;
        story.await_health(503, BACK).await.with_context(|| story.stack.log_end())?;
        story.is_refused(false).await?;
        if story.stopped.is_empty() {
            story.stop_an_engine().await?;
        }
        database.start_again()?;
        story.await_health(200, BACK).await.with_context(|| story.stack.log_end())?;
    }
    story.works_again(true).await
}

/// A stopped server, like one behind a broken network, does not answer at all.
#[tokio::test]
async fn a_stopped_server_refuses_everything_in_bounded_time_until_it_goes_on() -> Result<()> {
    const LONGEST: Duration = Duration::from_secs(17);
    let database = Database::start_with(&["fsync=off"])?;
    let mut story = on_postgresql(database.shared()).await?;
    story.member.order("midst").await?;
    let refused = async {
        // Use connections right before the stop, so that they are not tested before their next use.
        ensure!(story.health().await?.status == 200, "it is well before");
        database.signal(Signal::SIGSTOP)?;
        for _ in 0..2 {
            let begun = Instant::now();
            let list = story.member.get("/instances").await?;
            ensure!(list.status == 503 && begun.elapsed() < LONGEST, "{list:?} after {:?}", begun.elapsed());
            let begun = Instant::now();
            let order = story.member.post("/instances", &order_body("unheard")).await?;
            ensure!(order.status == 503 && begun.elapsed() < LONGEST, "{order:?} after {:?}", begun.elapsed());
            ensure!(story.health().await?.status == 503, "it is not well");
        }
        let begun = Instant::now();
        story.is_refused(false).await?;
        ensure!(begun.elapsed() < LONGEST * 2, "all of them, and then a login: {:?}", begun.elapsed());
        Ok(())
    };
    let refused: Result<()> = refused.await;
    database.signal(Signal::SIGCONT)?;
    refused.with_context(|| story.stack.log_end())?;
    story.works_again(depth::is_full()).await
}

#[tokio::test]
async fn a_server_that_only_reads_refuses_writes_until_it_writes() -> Result<()> {
    let database = Database::start_with(&["fsync=off"])?;
    let mut story = on_postgresql(database.shared()).await?;
    story.member.order("midst").await?;
    let client = database.connect().await?;
    client.batch_execute("alter system set default_transaction_read_only = on").await?;
    client.batch_execute("select pg_reload_conf()").await?;
    let health = story.await_health(503, BACK).await.with_context(|| story.stack.log_end())?;
    ensure!(health.message().contains("read-only"), "health does not name what fails: {health:?}");
    story.is_refused(false).await?;
    ensure!(story.member.get("/instances").await?.status == 200, "a list needs no write");
    story.stop_an_engine().await?;
    client.batch_execute("set default_transaction_read_only = off").await?;
    client.batch_execute("alter system reset default_transaction_read_only").await?;
    client.batch_execute("select pg_reload_conf()").await?;
    story.works_again(depth::is_full()).await
}

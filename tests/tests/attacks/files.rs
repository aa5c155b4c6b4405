//! Attacks by a tenant with a shell who plants links, pipes and devices where the agent, which has more rights, works.
//! Their targets must not be changed or disclosed, nothing may hang, and the instance must show what is wrong.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use serde_json::{Value, json};
use trove_tests::{APP, Api, Engine, Failpoints, Stack, StackOptions, has_root_or_skips, leftovers, poll};

const WAIT: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of root's";

/// A service with an instance, and a directory of root's with a file that only root may read.
struct Place {
    stack: Stack,
    api: Api,
    id: String,
    roots: PathBuf,
    /// Mode, owner, group, names and contents of that directory and file at the beginning.
    before: Vec<String>,
}

impl Place {
    async fn new(engine: Engine, failpoints: &Failpoints) -> Result<Self> {
        // Not in /tmp: hosts have their own, so a link there would lead nowhere.
        let parent = Some(PathBuf::from("/var/lib"));
        let mut stack = Stack::prepare(StackOptions { parent, ..StackOptions::default() })?;
        stack.run(failpoints)?;
        stack.await_datastore().await?;
        let roots = stack.directory().join("roots");
        fs::create_dir(&roots)?;
        fs::write(roots.join("secret"), SECRET)?;
        fs::set_permissions(roots.join("secret"), fs::Permissions::from_mode(0o600))?;
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o700))?;
        let api = stack.login("trove").await?;
        let id = api.create(&engine.order("planted")).await?;
        let before = facts(&roots)?;
        Ok(Self { stack, api, id, roots, before })
    }

    /// `<volume>/<major>`, the parent of the data directory, which belongs to the engine's account.
    fn data(&self) -> Result<PathBuf> {
        let volume = self.stack.host(&self.id).join("volume");
        let major = fs::read_dir(&volume)?.next().context("a directory of data")??;
        Ok(major.path().join("data"))
    }

    fn uid(&self) -> Result<u32> {
        let data = self.data()?;
        Ok(fs::metadata(data.parent().context("a volume")?)?.uid())
    }

    /// Runs a script as the engine's account in the host, in that directory.
    fn run(&self, script: &str) -> Result<String> {
        let agent = *leftovers::agents(&self.id).first().context("an agent")?;
        let uid = self.uid()?;
        let major = self.data()?;
        let major = major.parent().and_then(Path::file_name).context("a major version")?.to_string_lossy().into_owned();
        let begin = format!("cd /run/trove-rs/{}/h/volume/{major} && {script}", self.id);
        let output = Command::new("nsenter")
            .args([&format!("--target={agent}"), "--mount", "--", "setpriv"])
            .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--", "sh", "-c", &begin])
            .output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Restarts the engine; reboots the host if an earlier restart failed.
    async fn restart(&self) -> Result<Value> {
        let started = if self.api.instance(&self.id).await?["status"] == "ACTIVE" {
            self.api.post(&format!("/instances/{}/action", self.id), &json!({"restart": {}})).await?
        } else {
            let admin = self.stack.login("trove-admin").await?;
            let path = format!("/mgmt/instances/{}/action", self.id);
            let reset = admin.post(&path, &json!({"reset-task-status": {}})).await?;
            ensure!(reset.status == 202, "{reset:?}");
            admin.post(&path, &json!({"reboot": {}})).await?
        };
        ensure!(started.status == 202, "{started:?}");
        Ok(self.api.await_operations(&self.id).await?[0].clone())
    }

    /// Asserts that a restart works, or fails with a message about the planted file and does no other harm.
    async fn restart_with(&self, what: &str, name: &str) -> Result<()> {
        let ended = self.restart().await?;
        if ended["status"] == "done" {
            self.api.await_active(&self.id).await?;
        } else {
            ensure!(ended.to_string().contains(name), "{what}: it is not said what is wrong: {ended}");
        }
        self.assert_kept(what).await
    }

    /// Asserts that root's directory is unchanged, and that the host contains no copy of its secret.
    async fn assert_kept(&self, what: &str) -> Result<()> {
        ensure!(facts(&self.roots)? == self.before, "{what}: {:?}, then {:?}", self.before, facts(&self.roots)?);
        let view = self.api.instance(&self.id).await?.to_string();
        ensure!(!view.contains(SECRET), "{what}: {view}");
        let mut places = vec![self.stack.host(&self.id)];
        places.extend(leftovers::agents(&self.id).first().map(|agent| leftovers::sockets(&self.id, *agent)));
        for place in places {
            if let Some(found) = find(&place)? {
                anyhow::bail!("{what}: {} has the secret", found.display());
            }
        }
        Ok(())
    }
}

fn facts(roots: &Path) -> Result<Vec<String>> {
    let mut all = vec![fs::read_to_string(roots.join("secret"))?];
    for entry in fs::read_dir(roots)? {
        all.push(entry?.file_name().to_string_lossy().into_owned());
    }
    for path in [roots.to_owned(), roots.join("secret")] {
        let facts = fs::symlink_metadata(path)?;
        let names = if facts.is_dir() { 0 } else { facts.nlink() };
        all.push(format!("{:o} {} {} {names}", facts.mode(), facts.uid(), facts.gid()));
    }
    Ok(all)
}

/// Finds a regular file with the secret below a directory.
fn find(place: &Path) -> Result<Option<PathBuf>> {
    let mut open = vec![place.to_owned()];
    while let Some(next) = open.pop() {
        // The file was removed meanwhile.
        let Ok(facts) = fs::symlink_metadata(&next) else { continue };
        if facts.is_dir() {
            open.extend(fs::read_dir(&next).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if facts.is_file() && fs::read(&next).is_ok_and(|bytes| has_secret(&bytes)) {
            return Ok(Some(next));
        }
    }
    Ok(None)
}

fn has_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

/// Plants a file of a kind. Kinds that the account cannot make itself are made by root.
fn plant(place: &Place, kind: &str, path: &Path) -> Result<()> {
    let secret = place.roots.join("secret");
    match kind {
        "a link" => std::os::unix::fs::symlink(secret, path)?,
        "a link to a directory" => std::os::unix::fs::symlink(&place.roots, path)?,
        "a pipe" => nix::unistd::mkfifo(path, Mode::S_IRWXU)?,
        _ => mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 7))?,
    }
    Ok(lchown(path, Some(place.uid()?), Some(place.uid()?))?)
}

#[tokio::test]
async fn a_file_of_accounts_that_is_none_is_neither_followed_nor_waited_for() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Place::new(Engine::Redis, &Failpoints::default()).await?;
    it.api.await_active(&it.id).await?;
    let secret = it.roots.join("secret").display().to_string();
    ensure!(it.run("id -u")?.trim() == it.uid()?.to_string() && it.run(&format!("cat {secret}"))?.contains("denied"));
    let said = it.run(&format!("mv data/users.acl data/kept; ln -s {secret} data/users.acl; ls -l data"))?;
    ensure!(said.contains(" -> "), "{said}");
    it.restart_with("the tenant's link", "users.acl").await?;
    for kind in ["a link to a directory", "a pipe", "a device"] {
        it.run("rm -rf data/users.acl")?;
        plant(&it, kind, &it.data()?.join("users.acl"))?;
        it.restart_with(kind, "users.acl").await?;
    }
    it.run("rm -rf data/users.acl; mv data/kept data/users.acl")?;
    let ended = it.restart().await?;
    ensure!(ended["status"] == "done", "{ended}");
    Engine::Redis.log_in(&it.api.await_active(&it.id).await?, APP.0, APP.1).await?;

    // The account cannot change directories in which the agent follows paths.
    let attempts = "for d in ../../log ../../etc ../../agent ../.. ..; do touch $d/x; mkdir $d/y; ln -s / $d/z; \
                    mv $d/engine.log $d/w; mv $d/engine.conf $d/w; rm -f $d/agent.toml $d/authority.pem; done; true";
    let said = it.run(attempts)?;
    for name in ["x", "y", "z", "w"] {
        let host = it.stack.host(&it.id);
        let made =
            ["log", "etc", "agent", ".", "volume"].map(|place| host.join(place).join(name)).map(|path| path.exists());
        ensure!(made == [false; 5], "{name}: {made:?}: {said}");
    }
    ensure!(it.restart().await?["status"] == "done");
    it.assert_kept("attempts elsewhere").await
}

#[tokio::test]
async fn a_data_directory_that_leads_elsewhere_is_not_worked_in() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Place::new(Engine::PostgreSql, &Failpoints::default()).await?;
    it.api.await_active(&it.id).await?;
    let engine = leftovers::engines(&it.id);
    // The agent removes such files before each start.
    for kind in ["a link", "a link to a directory", "a pipe", "a device"] {
        let before = leftovers::engines(&it.id);
        let agent = *leftovers::agents(&it.id).first().context("an agent")?;
        let lock = leftovers::sockets(&it.id, agent).join(".s.PGSQL.5432.lock");
        for path in [it.data()?.join("postmaster.pid"), lock] {
            // The engine writes them a moment after it was started again.
            let there = async || Ok(fs::symlink_metadata(&path).is_ok());
            poll("the engine's file", WAIT, there, |is_there| *is_there).await?;
            fs::remove_file(&path)?;
            plant(&it, kind, &path)?;
        }
        kill(Pid::from_raw(before[0]), Signal::SIGKILL)?;
        let again = |now: &Vec<i32>| now.len() == 1 && *now != before;
        poll("another engine", WAIT, async || Ok(leftovers::engines(&it.id)), again).await?;
        it.api.await_active(&it.id).await?;
        it.assert_kept(kind).await?;
    }
    ensure!(leftovers::engines(&it.id) != engine);
    // It may be shown as it was before it was killed, and not answer yet.
    let view = it.api.instance(&it.id).await?;
    let written = async || Ok(Engine::PostgreSql.write(&view, "kept").await.is_ok());
    poll("an engine that answers", WAIT, written, |is_written| *is_written).await?;
    let said = it.run(&format!("mv data mine; ln -s {} data; ls -l", it.roots.display()))?;
    ensure!(said.contains(" -> "), "{said}");
    it.restart_with("a link in place of the data", "data").await?;
    it.run("rm data; mv mine data")?;
    let ended = it.restart().await?;
    ensure!(ended["status"] == "done", "{ended}");
    ensure!(Engine::PostgreSql.read(&it.api.await_active(&it.id).await?).await? == ["kept"]);
    it.run(&format!("mv data mine; ln -s {} data; ln -s {} mine/away", it.roots.display(), it.roots.display()))?;
    ensure!(it.api.delete(&format!("/instances/{}", it.id)).await?.status == 202);
    it.api.await_gone(&it.id).await?;
    ensure!(!it.stack.host(&it.id).exists());
    it.assert_kept("a deletion").await
}

#[tokio::test]
async fn a_data_directory_that_leads_elsewhere_is_not_made() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    for engine in [Engine::PostgreSql, Engine::Redis] {
        let agent = Some("agent.prepare.before_initialise=stop".to_owned());
        let it = Place::new(engine, &Failpoints { controller: None, agent }).await?;
        let is_stopped = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        let stopped = |agents: &Vec<i32>| agents.iter().any(is_stopped);
        let agents = poll("an agent that stands", WAIT, async || Ok(leftovers::agents(&it.id)), stopped).await?;
        let said = it.run(&format!("ln -s {} data; ls -l", it.roots.display()))?;
        ensure!(said.contains(" -> "), "{said}");
        kill(Pid::from_raw(agents[0]), Signal::SIGCONT)?;
        let view = it.api.await_error(&it.id).await?;
        let told = view["fault"]["message"].as_str().unwrap_or_default();
        ensure!(told.contains("data") && told.contains("link"), "{engine:?}: {view}");
        it.assert_kept("a link before it was made").await?;
        ensure!(it.api.delete(&format!("/instances/{}", it.id)).await?.status == 202);
        it.api.await_gone(&it.id).await?;
        it.assert_kept("its deletion").await?;
    }
    Ok(())
}

//! The Docker driver, on a Docker Engine of the test's own, with the unmodified `openstack` client.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use trove_tests::{Clients, Dockerd, Failpoints, Stack, StackOptions, connect, order_body, poll, program, rows};

const SOON: Duration = Duration::from_secs(90);

struct Story {
    stack: Stack,
    dockerd: Dockerd,
}

impl Story {
    async fn begin() -> Result<Option<Self>> {
        let Some(dockerd) = Dockerd::start().await? else { return Ok(None) };
        // Another range for each test.
        let (a, b) = (rand::random_range(100..200), rand::random_range(0..16) * 16);
        let environment = [
            ("TROVE_COMPUTE", "docker".to_owned()),
            ("TROVE_AGENTS__LISTEN", format!("10.{a}.{b}.1:8778")),
            ("TROVE_DOCKER__SOCKET", dockerd.socket().display().to_string()),
            ("TROVE_DOCKER__ADDRESS_RANGE", format!("10.{a}.{b}.0/20")),
        ];
        let environment: Vec<_> = environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut stack = Stack::prepare(StackOptions { environment, ..StackOptions::default() })?;
        stack.run(&Failpoints::default())?;
        let story = Self { stack, dockerd };
        let image = story.dockerd.image.clone();
        story.admin(&["datastore", "register"], Some(&image))?;
        Ok(Some(story))
    }

    fn admin(&self, verb: &[&str], argument: Option<&Path>) -> Result<()> {
        let mut command = Command::new(program("trove-controller")?);
        command.args(verb).arg("--state").arg(self.stack.state()).arg("--config").arg(self.stack.config());
        let output = command.args(argument).envs(self.stack.environment()).output()?;
        ensure!(output.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Processes of a container: pid on this machine, and command line.
    fn processes(&self, container: &str) -> Result<Vec<(i32, String)>> {
        let text = self.dockerd.docker(&["top", container, "-eo", "pid,args"])?;
        let process = |line: &str| {
            let (pid, words) = line.trim().split_once(' ')?;
            Some((pid.parse().ok()?, words.trim().to_owned()))
        };
        Ok(text.lines().filter_map(process).collect())
    }

    fn pid_of(&self, container: &str, what: &str) -> Result<i32> {
        let all = self.processes(container)?;
        let found = all.iter().find(|(_, words)| words.contains(what));
        Ok(found.with_context(|| format!("no {what} in {all:?}"))?.0)
    }

    fn loop_devices(&self) -> Result<String> {
        let output = Command::new("losetup").args(["--list", "--noheadings", "--output", "BACK-FILE"]).output()?;
        let all = String::from_utf8_lossy(&output.stdout).into_owned();
        let own = self.stack.directory().to_string_lossy().into_owned();
        Ok(all.lines().filter(|line| line.contains(&own)).collect())
    }

    fn host(&self, id: &str) -> PathBuf {
        self.stack.state().join("docker").join(id)
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        // A failed test leaves mounts, which would keep the state directory from being removed.
        let _ = self.stack.kill();
        let _ = self.admin(&["hosts", "stop"], None);
    }
}

async fn count(view: &Value) -> Result<Vec<String>> {
    let client = connect(view, "alice", "Alice-secret-1", "one").await?;
    rows(&client, "select count(*) from t").await
}

/// Waits until the rows can be counted again.
async fn still_there(view: &Value) -> Result<()> {
    poll("the rows", SOON, async || count(view).await, |rows| rows == &["1000"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_lives_in_a_container_and_leaves_nothing() -> Result<()> {
    let Some(mut story) = Story::begin().await? else { return Ok(()) };
    let api = story.stack.login("trove").await?;
    let user = Clients::new(&story.stack.clouds_yaml(), "trove")?;
    let order = ["database", "instance", "create", "demo", "--flavor", "1", "--size", "1", "--datastore", "postgresql"];
    let accounts = ["--databases", "one", "--users", "alice:Alice-secret-1"];
    let created = user.json(&[&order[..], &accounts].concat())?;
    let id = created["id"].as_str().with_context(|| format!("an id in {created}"))?.to_owned();
    let view = api.await_active(&id).await?;
    let container = format!("trove-{id}");
    let label = "{{index .Config.Labels \"trove-rs.state\"}}";
    let key = story.dockerd.docker(&["inspect", "--format", label, &container])?;
    let networks =
        |story: &Story| story.dockerd.names(&["network", "ls", "--format", "{{.Name}}"], &format!("trove-{key}-"));
    ensure!(networks(&story)?.len() == 2);

    let client = connect(&view, "alice", "Alice-secret-1", "one").await?;
    rows(&client, "create table t (n int); insert into t select generate_series(1, 1000)").await?;
    let facts = story.dockerd.docker(&["inspect", &container])?;
    for said in ["\"Privileged\": false", "\"ReadonlyRootfs\": true", "no-new-privileges:true"] {
        ensure!(facts.contains(said), "{said}: {facts}");
    }
    for secret in ["token\":", "BEGIN CERTIFICATE", "Alice-secret-1"] {
        ensure!(!facts.contains(secret), "{secret}: {facts}");
    }
    ensure!(story.loop_devices()?.contains("volume.img"), "the volume is no file system of its own");

    // The agent is killed: the engine goes on, and the next agent adopts it.
    let (agent, engine) = (story.pid_of(&container, "trove-agent run")?, story.pid_of(&container, "bin/postgres -D")?);
    kill(nix::unistd::Pid::from_raw(agent), Signal::SIGKILL)?;
    poll("another agent", SOON, async || story.pid_of(&container, "trove-agent run"), |pid| *pid != agent).await?;
    ensure!(story.pid_of(&container, "bin/postgres -D")? == engine, "the engine was started again");
    still_there(&api.await_active(&id).await?).await?;

    // The first process is killed, and all of the container with it: the driver starts it again.
    kill(story.dockerd.pid(&container)?, Signal::SIGKILL)?;
    let first = async || story.pid_of(&container, "bin/postgres -D");
    poll("another engine", SOON, first, |pid| *pid != engine).await?;
    still_there(&view).await?;

    // The controller finds the host again; so it does when the container ended in the meantime.
    story.stack.kill()?;
    story.dockerd.docker(&["kill", &container])?;
    story.stack.run(&Failpoints::default())?;
    let api = story.stack.login("trove").await?;
    still_there(&view).await?;
    api.await_active(&id).await?;

    let settled = async || {
        api.await_operations(&id).await?;
        api.await_active(&id).await
    };
    user.openstack(&["database", "instance", "restart", "demo"])?;
    settled().await?;
    user.openstack(&["database", "instance", "resize", "volume", "demo", "2"])?;
    ensure!(settled().await?["volume"]["size"] == 2);
    let facts = nix::sys::statvfs::statvfs(&story.host(&id).join("volume"))?;
    ensure!(facts.blocks() * facts.fragment_size() > 2 << 30, "the file system has not grown");
    user.openstack(&["database", "instance", "resize", "flavor", "demo", "2"])?;
    ensure!(settled().await?["flavor"]["id"] == "2");
    let memory: u64 = story.dockerd.docker(&["inspect", "--format", "{{.HostConfig.Memory}}", &container])?.parse()?;
    ensure!((1024 << 20..1200 << 20).contains(&memory), "{memory}");
    still_there(&view).await?;

    user.openstack(&["database", "instance", "delete", "demo"])?;
    api.await_gone(&id).await?;
    ensure!(story.dockerd.names(&["ps", "--all", "--format", "{{.Names}}"], &container)?.is_empty());
    ensure!(networks(&story)?.len() == 1, "only the network with the controllers' address stays");
    ensure!(story.loop_devices()?.is_empty() && !story.host(&id).exists(), "something is left of the host");

    story.stack.stop()?;
    story.admin(&["hosts", "stop"], None)?;
    ensure!(networks(&story)?.is_empty());
    let chains = Command::new("iptables").arg("-S").output()?;
    ensure!(!String::from_utf8_lossy(&chains.stdout).contains(&format!("TROVE-{key}")), "rules are left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn access_rules_hold_and_a_guest_reaches_the_agents_port_alone() -> Result<()> {
    let Some(story) = Story::begin().await? else { return Ok(()) };
    let api = story.stack.login("trove").await?;
    let mut closed = order_body("closed");
    closed["instance"]["access"] = serde_json::json!({"is_public": false, "allowed_cidrs": ["192.0.2.0/24"]});
    let id = api.create(&closed).await?;
    let view = api.await_active(&id).await?;
    let refused = connect(&view, "app", "secret-app-1", "app").await;
    ensure!(refused.is_err(), "an address that is not allowed was let in");

    let container = format!("trove-{id}");
    let environment = story.stack.environment();
    let listens = &environment.iter().find(|(name, _)| name == "TROVE_AGENTS__LISTEN").context("the port")?.1;
    let listens = listens.to_string_lossy();
    let (address, port) = listens.split_once(':').context("an address")?;
    let reaches = |port: &str| {
        let script = format!("exec 3<>/dev/tcp/{address}/{port}");
        story.dockerd.docker(&["exec", &container, "timeout", "3", "bash", "-c", &script])
    };
    reaches(port)?;
    let _other = std::net::TcpListener::bind((address, 18779))?;
    ensure!(reaches("18779").is_err(), "a service of the machine was reached");

    api.delete(&format!("/instances/{id}")).await?;
    api.await_gone(&id).await
}

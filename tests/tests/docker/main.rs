//! The Docker driver, on a Docker Engine of the test's own, with the unmodified `openstack` client.

mod attacks;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use trove_tests::{
    Api, Clients, Dockerd, Failpoints, OtherMachine, Stack, StackOptions, connect, order_body, poll, program, rows,
};

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

    /// Registers another image, which is the story's with a change, as a version of this name. Returns the image's id.
    fn register(&self, name: &str, change: impl FnOnce(&Path, &str) -> Result<()>) -> Result<String> {
        let mut description: Value = serde_json::from_str(&fs::read_to_string(&self.dockerd.image)?)?;
        let file = description["files"].as_array().into_iter().flatten().find(|file| file["format"] == "docker");
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
        let path = text(&file.context("a file for Docker")?["path"])?;
        let bindir = text(&description["manifest"]["installation"]["bindir"])?;
        let directory = self.stack.directory().join(name);
        fs::create_dir(&directory)?;
        let tar = directory.join("image.tar");
        symlink(self.dockerd.image.with_file_name(path), &tar)?;
        change(&tar, bindir.trim_start_matches('/'))?;
        let sum = run(Command::new("sha256sum").arg(&tar))?;
        let size = fs::metadata(&tar)?.len();
        let id = format!("{:08x}-0000-4000-8000-000000000000", rand::random::<u32>());
        description["name"] = json!(format!("postgresql-{name}"));
        description["id"] = json!(id);
        description["files"] =
            json!([{"format": "docker", "path": "image.tar", "size": size, "sha256": sum.split(' ').next()}]);
        let described = directory.join("image.json");
        fs::write(&described, description.to_string())?;
        self.admin(&["datastore", "register", "--name", name], Some(&described))?;
        Ok(id)
    }

    /// Of the directory of hosts: how the names of what is its begin in Docker.
    fn key(&self) -> Result<String> {
        let root = fs::canonicalize(self.stack.state().join("docker"))?;
        let sum = run(Command::new("bash").args(["-c", "printf %s \"$0\" | sha256sum"]).arg(root))?;
        Ok(sum[..8].to_owned())
    }

    /// Removes the images of this story, which would stay in an engine that was found running.
    fn remove_images(&self) -> Result<()> {
        let reference = format!("reference=trove-rs/*:{}-*", self.key()?);
        let names = self.dockerd.docker(&["images", "--filter", &reference, "--format", "{{.Repository}}:{{.Tag}}"])?;
        let names: Vec<&str> = names.lines().collect();
        if !names.is_empty() {
            self.dockerd.docker(&[&["rmi"][..], &names[..]].concat())?;
        }
        Ok(())
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
        let _ = self.remove_images();
    }
}

/// Runs a program, which must succeed, and returns its output.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Puts a program that says its version and does not start in the place of the engine's.
fn break_engine(tar: &Path, bindir: &str) -> Result<()> {
    let image = fs::read_link(tar)?;
    fs::remove_file(tar)?;
    fs::copy(image, tar)?;
    let layer = tar.with_file_name("layer");
    let program = Path::new(bindir).join("postgres");
    fs::create_dir_all(layer.join(bindir))?;
    let major = Path::new(bindir).parent().and_then(Path::file_name).context("a major version")?;
    let says = format!("postgres (PostgreSQL) {}.0", major.to_string_lossy());
    fs::write(layer.join(&program), format!("#!/bin/sh\n[ \"$1\" = --version ] || exit 1\necho '{says}'\n"))?;
    fs::set_permissions(layer.join(&program), fs::Permissions::from_mode(0o755))?;
    let program = Path::new(".").join(program);
    // Docker takes no archive with two files of one name.
    run(Command::new("tar").arg("--delete").arg("--file").arg(tar).arg(&program))?;
    let owner = ["--append", "--owner=0", "--group=0", "--file"];
    run(Command::new("tar").arg("-C").arg(&layer).args(owner).arg(tar).arg(program)).map(drop)
}

/// Waits for the end of the newest operation, which may have an image to import, and then for the engine.
async fn settled(api: &Api, id: &str) -> Result<Value> {
    let path = format!("/instances/{id}/operations");
    let newest = async || Ok(api.get(&path).await?.body["operations"][0]["status"].clone());
    let has_ended = |status: &Value| ["done", "failed", "cancelled"].iter().any(|end| status == end);
    poll("the end of the operation", Duration::from_secs(240), newest, has_ended).await?;
    api.await_active(id).await
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
    ensure!(key == story.key()?);
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

    user.openstack(&["database", "instance", "restart", "demo"])?;
    settled(&api, &id).await?;
    user.openstack(&["database", "instance", "resize", "volume", "demo", "2"])?;
    ensure!(settled(&api, &id).await?["volume"]["size"] == 2);
    let facts = nix::sys::statvfs::statvfs(&story.host(&id).join("volume"))?;
    ensure!(facts.blocks() * facts.fragment_size() > 2 << 30, "the file system has not grown");
    user.openstack(&["database", "instance", "resize", "flavor", "demo", "2"])?;
    ensure!(settled(&api, &id).await?["flavor"]["id"] == "2");
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
    for table in ["filter", "raw"] {
        let rules = Command::new("iptables").args(["-t", table, "-S"]).output()?;
        ensure!(!String::from_utf8_lossy(&rules.stdout).contains(&format!("TROVE-{key}")), "rules are left");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_another_image_keeps_the_data_and_goes_back_where_the_engine_does_not_start() -> Result<()> {
    let Some(mut story) = Story::begin().await? else { return Ok(()) };
    let api = story.stack.login("trove").await?;
    let (user, clouds) = (Clients::new(&story.stack.clouds_yaml(), "trove")?, story.stack.clouds_yaml());
    let operator = Clients::new(&clouds, "trove-admin")?;
    let order = ["database", "instance", "create", "demo", "--flavor", "1", "--size", "1", "--datastore", "postgresql"];
    let accounts = ["--databases", "one", "--users", "alice:Alice-secret-1"];
    let created = user.json(&[&order[..], &accounts].concat())?;
    let id = created["id"].as_str().with_context(|| format!("an id in {created}"))?.to_owned();
    let view = settled(&api, &id).await?;
    let client = connect(&view, "alice", "Alice-secret-1", "one").await?;
    rows(&client, "create table t (n int); insert into t select generate_series(1, 1000)").await?;
    drop(client);
    let next = story.register("next", |_, _| Ok(()))?;
    story.register("broken", break_engine)?;
    let container = format!("trove-{id}");
    let of_container = |what: &str| story.dockerd.docker(&["inspect", "--format", what, &container]);
    let (first, begun) = (of_container("{{.Config.Image}}")?, view["datastore"]["version"].clone());

    user.openstack(&["database", "instance", "upgrade", "demo", "next"])?;
    let view = settled(&api, &id).await?;
    ensure!(view["datastore"]["version"] == "next" && view["fault"].is_null(), "{view}");
    let second = of_container("{{.Config.Image}}")?;
    ensure!(second.starts_with("trove-rs/postgresql-next:"), "{second}");
    still_there(&view).await?;

    user.openstack(&["database", "instance", "upgrade", "demo", "broken"])?;
    let view = settled(&api, &id).await?;
    let fault = view["fault"]["message"].as_str().unwrap_or_default();
    ensure!(fault.starts_with("Upgrading the instance failed, it keeps its version: await_healthy"), "{view}");
    ensure!(view["datastore"]["version"] == "next" && of_container("{{.Config.Image}}")? == second, "{view}");
    still_there(&view).await?;

    // From its own image, and from the first one.
    let before = of_container("{{.Id}}")?;
    operator.openstack(&["database", "instance", "rebuild", &id, &next])?;
    let view = settled(&api, &id).await?;
    ensure!(view["datastore"]["version"] == "next" && view["fault"].is_null(), "{view}");
    ensure!(of_container("{{.Id}}")? != before, "the host was not made again");
    let text = fs::read_to_string(&story.dockerd.image)?;
    let image: Value = serde_json::from_str(&text)?;
    operator.openstack(&["database", "instance", "rebuild", &id, image["id"].as_str().context("an id")?])?;
    let view = settled(&api, &id).await?;
    ensure!(view["datastore"]["version"] == begun && of_container("{{.Config.Image}}")? == first, "{view}");
    still_there(&view).await?;

    // Versions that go take their images along; a reconciler's first round is at the start.
    let admin = story.stack.login("trove-admin").await?;
    let versions = admin.get("/mgmt/datastore-versions").await?.body;
    for version in versions["versions"].as_array().into_iter().flatten().filter(|version| version["name"] != begun) {
        let id = version["id"].as_str().context("an id")?;
        ensure!(admin.delete(&format!("/mgmt/datastore-versions/{id}")).await?.status == 202, "{version}");
    }
    story.stack.kill_and_run()?;
    let own = first.split_once(':').and_then(|(_, tag)| tag.split('-').next()).context("a key")?;
    let images = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
    let own_images = async || {
        let all = story.dockerd.names(&images, "trove-rs/")?;
        Ok(all.into_iter().filter(|name| name.contains(&format!(":{own}-"))).collect::<Vec<_>>())
    };
    poll("one image", SOON, own_images, |images| images[..] == [first.clone()]).await?;
    let api = story.stack.login("trove").await?;
    api.delete(&format!("/instances/{id}")).await?;
    api.await_gone(&id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn access_rules_hold_and_a_guest_reaches_the_agents_port_alone() -> Result<()> {
    let Some(story) = Story::begin().await? else { return Ok(()) };
    let api = story.stack.login("trove").await?;
    let mut closed = order_body("closed");
    closed["instance"]["access"] = json!({"is_public": false, "allowed_cidrs": ["192.0.2.0/24"]});
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

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_reaches_a_public_instance_and_no_other() -> Result<()> {
    let Some(story) = Story::begin().await? else { return Ok(()) };
    let (api, machine) = (story.stack.login("trove").await?, OtherMachine::new().await?);
    let mut public = order_body("public");
    let allowed = format!("{}/32", machine.address);
    public["instance"]["access"] = json!({"is_public": true, "allowed_cidrs": [allowed]});
    let (public, private) = (api.create(&public).await?, api.create(&order_body("private")).await?);
    let (is_public, is_private) = (api.await_active(&public).await?, api.await_active(&private).await?);
    let reaches = |view: &Value| machine.reaches(view["ip"][0].as_str().unwrap_or_default(), 5432);
    ensure!(reaches(&is_public), "the packet filter keeps out who is allowed");
    ensure!(!reaches(&is_private), "another machine was let in");
    connect(&is_private, "app", "secret-app-1", "app").await?;
    ensure!(connect(&is_public, "app", "secret-app-1", "app").await.is_err(), "this machine's address is not allowed");

    // One instance does not fill the kernel's table of connections, which all have in common.
    let flood = format!("for port in {{1000..5000}}; do echo > /dev/udp/{}/$port; done", machine.address);
    story.dockerd.docker(&["exec", &format!("trove-{private}"), "bash", "-c", &flood])?;
    // Not every kernel lists them; the driver's own tests count them in a namespace without others.
    if let Ok(table) = fs::read_to_string("/proc/net/nf_conntrack") {
        let from = format!("src={} dst={} ", is_private["ip"][0].as_str().context("an address")?, machine.address);
        let entries = table.lines().filter(|line| line.contains(&from)).count();
        ensure!((800..1100).contains(&entries), "4000 connections have {entries} entries");
    }

    for id in [public, private] {
        api.delete(&format!("/instances/{id}")).await?;
        api.await_gone(&id).await?;
    }
    Ok(())
}

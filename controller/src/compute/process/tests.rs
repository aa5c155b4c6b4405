//! Tests of hosts whose agent is a shell script, which starts grandchildren in sessions of their own and keeps running.

mod groups;
mod namespaces;
mod planted;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use secrecy::SecretString;
use trove_strategy::{Installation, Size};

use super::*;
use crate::compute::lock;
use crate::compute::process::system::ProcessId;
use crate::compute::{Bootstrap, Network};
use crate::model::{Access, Artifact, Nic};

const SOON: Duration = Duration::from_secs(15);

const AGENT: &str = r#"#!/bin/sh
# run --config FILE
directory=$(dirname "$3")
for group in $(sed -n 's/^cgroups = \[\(.*\)\]/\1/p' "$3" | tr -d '",'); do echo $$ > "$group/cgroup.procs"; done
mkdir -p "$directory/volume"
(cd "$directory/volume" && exec setsid sleep 1000) &
echo $! >> "$directory/children"
(cd "$directory/volume" && exec setsid sh -c 'sleep 1000 & echo $! >> ../children; wait') &
echo $! >> "$directory/children"
echo $$ >> "$directory/agents"
while :; do sleep 1000 & wait $!; done
"#;

struct World {
    directory: tempfile::TempDir,
    driver: Arc<ProcessDriver>,
}

impl World {
    fn new(with_cgroups: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("agent");
        std::fs::write(&program, AGENT).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let driver = Self::driver(directory.path(), with_cgroups);
        Self { directory, driver }
    }

    /// A new driver, as after a start of the controller.
    fn driver(directory: &Path, with_cgroups: bool) -> Arc<ProcessDriver> {
        let mut config = Config::default();
        config.process.runtime_dir = Some(directory.join("run"));
        config.process.agent_program = Some(directory.join("agent"));
        let options = ProcessOptions { state_dir: directory.join("state"), config: Arc::new(config) };
        let mut hosts = find_hosts(&options).unwrap();
        if !with_cgroups {
            hosts.cgroups = None;
        }
        ProcessDriver::over(hosts, "127.0.0.0/8".parse().unwrap()).unwrap()
    }

    /// Replaces the driver, as if the controller was killed and started again. Agents keep running.
    async fn restart(&mut self) {
        let watchers: Vec<Watcher> = self.driver.watchers.lock().unwrap().drain().map(|(_, watcher)| watcher).collect();
        for watcher in watchers {
            watcher.task.abort();
            let _ = watcher.task.await;
        }
        self.driver = Self::driver(self.directory.path(), self.driver.hosts.cgroups.is_some());
    }

    /// A specification, with an account if hosts have one. (The scripts do not run as that account.)
    async fn spec(&self, instance: InstanceId) -> HostSpec {
        let engine_uid = self.driver.reserve_account(instance, &BTreeSet::new()).await.unwrap();
        Self::spec_with(instance, engine_uid)
    }

    fn spec_with(instance: InstanceId, engine_uid: Option<u32>) -> HostSpec {
        HostSpec {
            engine_uid,
            instance,
            project: ProjectId("demo".to_owned()),
            fence: 1,
            size: Size { memory_mib: 512, vcpus: 1, volume_gib: 1 },
            requirements: Requirements::default(),
            network: Network { address: "127.0.0.1".parse().unwrap(), port: 5432, tls_port: None },
            bootstrap: Bootstrap {
                generation: 1,
                datastore: "engine".to_owned(),
                controllers: vec!["127.0.0.1:1".to_owned()],
                authority_pem: "PEM".to_owned(),
                token: Some(SecretString::from("sesame")),
            },
            artifact: local(None),
            driver_state: serde_json::Value::Null,
        }
    }

    /// Pids that the agents of a host have written to a file. The processes may have ended.
    fn listed(&self, instance: InstanceId, file: &str) -> Vec<i32> {
        let file = self.driver.hosts.directory(instance).join(file);
        std::fs::read_to_string(file).unwrap_or_default().lines().map(|line| line.parse().unwrap()).collect()
    }

    /// The `nth` agent of the host, once it has started all its children.
    async fn agent(&self, instance: InstanceId, nth: usize) -> ProcessId {
        until("the agent has its children", || self.listed(instance, "children").len() == 3 * nth).await;
        // The script may be ready before the controller has recorded its pid.
        let find = || self.driver.hosts.find_agent(instance).unwrap();
        until("the agent runs", || find().is_some()).await;
        find().unwrap()
    }
}

fn local(agent_program: Option<PathBuf>) -> Artifact {
    Artifact::Local { installation: Installation::new("1.2", "1", "/usr/bin"), agent_program }
}

/// Kills the processes that the agents have recorded, so that a failed test leaves none.
impl Drop for World {
    fn drop(&mut self) {
        for instance in self.driver.hosts.list().unwrap_or_default() {
            for pid in [self.listed(instance, "agents"), self.listed(instance, "children")].concat() {
                if let Some(process) = ProcessId::of(pid).unwrap() {
                    kill(process);
                }
            }
        }
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn kill(process: ProcessId) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// The life of a host from its creation to its deletion, with crashes of the agent and the controller.
async fn live_and_die(mut world: World) {
    let instance = InstanceId::random();
    let driver = world.driver.clone();
    assert_eq!(driver.describe(instance).await.unwrap(), HostState::Absent);
    driver.ensure_host(&world.spec(instance).await).await.unwrap();
    let first = world.agent(instance, 1).await;
    driver.ensure_host(&world.spec(instance).await).await.unwrap();
    assert_eq!(world.driver.hosts.find_agent(instance).unwrap(), Some(first), "made once");
    assert_eq!(driver.describe(instance).await.unwrap(), HostState::Active);
    for secret in ["agent.toml", "token"] {
        let facts = std::fs::metadata(driver.hosts.directory(instance).join(secret)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{secret}");
    }

    kill(first);
    let second = world.agent(instance, 2).await;
    assert_ne!(first, second, "a dead agent is started again");
    until("the dead agent is collected", || !is_there(first.pid)).await;

    drop(driver);
    world.restart().await;
    assert_eq!(world.driver.list().await.unwrap(), [instance]);
    assert_eq!(world.driver.describe(instance).await.unwrap(), HostState::Active);
    world.driver.ensure_host(&world.spec(instance).await).await.unwrap();
    assert_eq!(
        world.driver.hosts.find_agent(instance).unwrap(),
        Some(second),
        "found again after the controller's restart"
    );
    assert_eq!(world.listed(instance, "agents").len(), 2, "none was started beside it");
    kill(second);
    world.agent(instance, 3).await;

    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let children = world.listed(instance, "children");
    assert!(children.iter().all(|pid| is_there(*pid)), "children outlive their agents");
    let groups: Vec<PathBuf> =
        world.driver.hosts.cgroups.iter().flat_map(|cgroups| cgroups.all(&instance.to_string())).collect();
    assert!(groups.iter().all(|group| group.exists()));
    world.driver.delete_host(instance, 1).await.unwrap();
    let alive: Vec<i32> = children.into_iter().filter(|pid| ProcessId::of(*pid).unwrap().is_some()).collect();
    assert_eq!(alive, Vec::<i32>::new(), "all of them are ended");
    assert_eq!(stranger.try_wait().unwrap(), None, "and no others");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(!world.driver.hosts.directory(instance).exists());
    assert!(!world.driver.hosts.run_directory(instance).exists());
    for group in groups {
        assert!(!group.exists(), "{}", group.display());
        assert!(!group.parent().unwrap().exists(), "the last host takes the directory above along");
    }
    world.driver.delete_host(instance, 1).await.expect("what is not there counts as deleted");
    assert_eq!(world.driver.list().await.unwrap(), []);
    assert_eq!(world.driver.describe(instance).await.unwrap(), HostState::Absent);
}

#[tokio::test]
async fn a_host_without_control_groups_lives_and_dies_whole() {
    live_and_die(World::new(false)).await;
}

#[tokio::test]
async fn a_host_in_control_groups_lives_and_dies_whole() {
    let world = World::new(true);
    if world.driver.hosts.cgroups.is_none() {
        println!("skipped: this account or machine has no control groups");
        return;
    }
    live_and_die(world).await;
}

#[test]
fn a_host_of_an_ordinary_user_lives_and_dies_whole() {
    if !nix::unistd::geteuid().is_root() {
        println!("covered by the test without control groups: this account is no other");
        return;
    }
    // A directory that an ordinary user can reach.
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let name = "compute::process::tests::a_host_without_control_groups_lives_and_dies_whole";
    let output = Command::new("setpriv")
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs", "--"])
        .arg(&program)
        .args(["--exact", name])
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("TMPDIR")
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn a_half_removed_host_is_listed_gets_no_agent_and_can_be_removed() {
    let mut world = World::new(false);
    let instance = InstanceId::random();
    world.driver.ensure_host(&world.spec(instance).await).await.unwrap();
    let agent = world.agent(instance, 1).await;
    // As if the controller was killed after the deletion began.
    world.driver.hosts.withdraw(instance, 1).await.unwrap();
    kill(agent);
    world.restart().await;
    assert_eq!(world.driver.list().await.unwrap(), [instance]);
    assert!(!world.driver.is_watched(instance));
    assert_eq!(world.driver.describe(instance).await.unwrap(), HostState::Dead);
    let children = world.listed(instance, "children");
    world.driver.delete_host(instance, 1).await.unwrap();
    assert!(children.into_iter().all(|pid| ProcessId::of(pid).unwrap().is_none()));
    assert_eq!(world.driver.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_missing_agent_program_is_named_and_nothing_is_made() {
    let world = World::new(false);
    let instance = InstanceId::random();
    let plain = world.directory.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    for program in [world.directory.path().join("nowhere"), plain, world.directory.path().to_owned()] {
        let spec = HostSpec { artifact: local(Some(program.clone())), ..World::spec_with(instance, Some(70000)) };
        let error = world.driver.ensure_host(&spec).await.unwrap_err();
        let says_so = matches!(&error, ComputeError::Fatal(text) if text.contains(&program.display().to_string()));
        assert!(says_so, "{error}");
    }
    assert_eq!(world.driver.list().await.unwrap(), []);
}

#[tokio::test]
async fn the_shared_memory_of_a_crashed_engine_goes_too() {
    let world = World::new(false);
    let instance = InstanceId::random();
    let spec = world.spec(instance).await;
    world.driver.ensure_host(&spec).await.unwrap();
    world.agent(instance, 1).await;
    // Segments that no process has attached. One was created by the engine that the agent recorded, which has ended.
    let mut command = Command::new("ipcmk");
    if let Some(uid) = spec.engine_uid {
        command = Command::new("setpriv");
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--", "ipcmk"]);
    }
    let (segment, maker) = make_segment(&mut command);
    let (strangers, _) = make_segment(&mut Command::new("ipcmk"));
    let state = world.driver.hosts.directory(instance).join("agent");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("engine.json"), format!("{{\"pid\":{maker}}}")).unwrap();
    world.driver.delete_host(instance, 1).await.unwrap();
    assert_eq!(find_segment(segment), None);
    assert!(find_segment(strangers).is_some(), "another's stays");
    assert!(Command::new("ipcrm").args(["-m", &strangers.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn a_process_that_looks_like_the_agent_is_not_taken_for_it() {
    let world = World::new(true);
    let instance = InstanceId::random();
    world.driver.ensure_host(&world.spec(instance).await).await.unwrap();
    let agent = world.agent(instance, 1).await;
    let config = world.driver.hosts.directory(instance).join("agent.toml");
    let mut liar = Command::new("sh");
    liar.args(["-c", "sleep 45; true", "x", "--config"]).arg(&config).current_dir(config.parent().unwrap());
    let mut liar = liar.spawn().unwrap();
    kill(agent);
    let second = world.agent(instance, 2).await;
    assert_ne!(second.pid, i32::try_from(liar.id()).unwrap());
    liar.kill().unwrap();
    liar.wait().unwrap();
    world.driver.delete_host(instance, 1).await.unwrap();
}

/// As if the controller was killed before it recorded the agent's pid.
#[tokio::test]
async fn an_agent_that_was_not_written_down_is_found_by_what_it_is() {
    let world = World::new(true);
    let instance = InstanceId::random();
    world.driver.ensure_host(&world.spec(instance).await).await.unwrap();
    let agent = world.agent(instance, 1).await;
    std::fs::remove_file(world.driver.hosts.directory(instance).join("agent-process")).unwrap();
    // The executable of a script's process is the shell.
    let mut hosts = world.driver.hosts.clone();
    assert_eq!(hosts.find_agent(instance).unwrap(), None);
    hosts.program = "/bin/sh".into();
    assert_eq!(hosts.find_agent(instance).unwrap(), Some(agent));
    kill(agent);
    world.agent(instance, 2).await;
    world.driver.delete_host(instance, 1).await.unwrap();
}

#[tokio::test]
async fn each_host_has_an_account_and_a_namespace_that_go_with_it() {
    let mut world = World::new(true);
    if world.driver.hosts.apart.is_none() {
        println!("skipped: an ordinary user's hosts are not kept apart");
        return;
    }
    let (one, two) = (InstanceId::random(), InstanceId::random());
    let (first, second) = (world.spec(one).await, world.spec(two).await);
    assert_ne!(first.engine_uid, second.engine_uid);
    for spec in [&first, &second] {
        world.driver.ensure_host(spec).await.unwrap();
    }
    let agents = [world.agent(one, 1).await, world.agent(two, 1).await];
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let (of_one, of_two) = (namespace(agents[0].pid), namespace(agents[1].pid));
    assert!(of_one != of_two && of_one != namespace(i32::try_from(std::process::id()).unwrap()));
    let root = PathBuf::from(format!("/proc/{}/root", agents[0].pid));
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap());
    let names = |path: &Path| {
        let entries = std::fs::read_dir(inside(path)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(&world.driver.hosts.runtime), [one.to_string()], "no other host");
    assert_eq!(names(&world.driver.hosts.root), Vec::<String>::new());
    assert_eq!(names(Path::new("/dev/shm")), Vec::<String>::new());
    // The second host was made while the first one existed.
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", agents[1].pid)).unwrap();
    assert!(!mounts.contains(&one.to_string()) && mounts.contains(&two.to_string()), "{mounts}");
    let uid = first.engine_uid.unwrap();
    let passwd = std::fs::read_to_string(inside(Path::new("/etc/passwd"))).unwrap();
    assert!(passwd.contains(&format!("\nos_admin:x:{uid}:{uid}:")), "{passwd}");
    assert!(!std::fs::read_to_string("/etc/passwd").unwrap().contains("os_admin"));

    // The next agent enters the same namespace, whichever controller starts it.
    kill(agents[0]);
    world.restart().await;
    let next = world.agent(one, 2).await;
    assert_eq!(namespace(next.pid), of_one);
    for instance in [one, two] {
        world.driver.delete_host(instance, 1).await.unwrap();
        assert_eq!(world.driver.hosts.account(instance).unwrap(), None);
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&one.to_string()), "{mounts}");
}

#[tokio::test]
async fn a_host_of_an_engine_that_shared_its_account_is_taken_over() {
    let world = World::new(true);
    if world.driver.hosts.apart.is_none() {
        println!("skipped: an ordinary user's hosts are not kept apart");
        return;
    }
    let instance = InstanceId::random();
    let spec = world.spec(instance).await;
    let directory = world.driver.hosts.directory(instance);
    std::fs::create_dir_all(directory.join("volume/15/data")).unwrap();
    std::os::unix::fs::chown(directory.join("volume/15/data"), Some(65534), Some(65534)).unwrap();
    std::fs::write(directory.join("agent.toml"), "memory_mib = 512\nbindir = \"/\"\nengine_account = \"x\"\n").unwrap();
    assert!(matches!(world.driver.hosts.ensure_agent(instance).await, Ok(Started::Gone)), "it is written anew first");
    std::os::unix::fs::chown(directory.join("volume/15"), Some(65534), Some(65534)).unwrap();
    world.driver.ensure_host(&spec).await.unwrap();
    let owner = std::fs::metadata(directory.join("volume/15/data")).unwrap().uid();
    assert_eq!(Some(owner), spec.engine_uid);

    // If the files cannot be read, the result is an error, not "the same account".
    std::fs::rename(directory.join("agent.toml"), directory.join("kept")).unwrap();
    std::fs::create_dir(directory.join("agent.toml")).unwrap();
    assert!(matches!(world.driver.ensure_host(&spec).await, Err(ComputeError::Transient(_))));
    std::fs::remove_dir(directory.join("agent.toml")).unwrap();
    std::fs::rename(directory.join("kept"), directory.join("agent.toml")).unwrap();
    assert!(!world.driver.hosts.had_another_account(&spec).unwrap());
    world.driver.delete_host(instance, 1).await.unwrap();
}

/// Makes a segment with `ipcmk`. Returns its id and the pid of ipcmk, which has ended.
fn make_segment(command: &mut Command) -> (u64, i32) {
    let child = command.args(["--shmem", "4096"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let maker = i32::try_from(child.id()).unwrap();
    let printed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    (printed.rsplit_once(' ').unwrap().1.trim().parse().unwrap(), maker)
}

fn find_segment(id: u64) -> Option<system::Object> {
    system::objects(system::Kind::Segment).unwrap().into_iter().find(|segment| segment.id == id)
}

#[tokio::test]
async fn an_agent_that_cannot_come_in_is_dead_until_it_has_a_token() {
    let world = World::new(false);
    let instance = InstanceId::random();
    let spec = world.spec(instance).await;
    world.driver.ensure_host(&spec).await.unwrap();
    let agent = world.agent(instance, 1).await;
    let host = world.driver.hosts.directory(instance);
    assert_eq!(world.driver.describe(instance).await.unwrap(), HostState::Active);
    std::fs::create_dir_all(host.join("agent")).unwrap();
    std::fs::rename(host.join("token"), host.join("agent/identity.pem")).unwrap();
    assert_eq!(world.driver.describe(instance).await.unwrap(), HostState::Active, "it has enrolled");
    // The agent renames a damaged file like this.
    std::fs::rename(host.join("agent/identity.pem"), host.join("agent/identity.pem.damaged")).unwrap();
    assert_eq!(world.driver.describe(instance).await.unwrap(), HostState::Dead);
    world.driver.ensure_host(&spec).await.unwrap();
    assert!(host.join("token").exists() && is_there(agent.pid), "the same agent has a token");
    assert_eq!(world.driver.describe(instance).await.unwrap(), HostState::Active);
    world.driver.delete_host(instance, 1).await.unwrap();
}

#[tokio::test]
async fn a_controller_that_is_stopped_in_the_midst_of_a_start_delays_no_other_host() {
    let world = World::new(false);
    let (one, two) = (InstanceId::random(), InstanceId::random());
    let (first, second) = (world.spec(one).await, world.spec(two).await);
    let directory = world.driver.hosts.directory(one);
    std::fs::create_dir_all(&directory).unwrap();
    let stopped = lock::take(std::fs::File::open(&directory).unwrap(), SOON).unwrap();
    let refused = world.driver.ensure_host(&first).await.unwrap_err();
    assert!(matches!(refused, ComputeError::Transient(_)), "{refused}");
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    world.driver.ensure_host(&second).await.unwrap();
    drop(stopped);
    world.driver.ensure_host(&first).await.unwrap();
    for instance in [one, two] {
        world.agent(instance, 1).await;
        world.driver.delete_host(instance, 1).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_stalled_controller_asks_for_late_changes_nothing() {
    let mut world = World::new(false);
    let instance = InstanceId::random();
    let at = |spec: &HostSpec, fence: u64, memory_mib: u64| HostSpec {
        fence,
        size: Size { memory_mib, ..spec.size },
        ..spec.clone()
    };
    let spec = world.spec(instance).await;
    world.driver.ensure_host(&at(&spec, 7, 512)).await.unwrap();
    world.agent(instance, 1).await;
    world.driver.stop_host(instance, 9).await.unwrap();
    world.driver.ensure_host(&at(&spec, 9, 2048)).await.unwrap();
    let agent = world.agent(instance, 2).await;
    let config = world.driver.hosts.directory(instance).join("agent.toml");
    let written = std::fs::read_to_string(&config).unwrap();
    assert!(written.contains("memory_mib = 2048"), "{written}");

    // The fence holds in another driver, and after a restart.
    for _ in 0..2 {
        let late = [
            world.driver.ensure_host(&at(&spec, 8, 512)).await.map(drop),
            world.driver.stop_host(instance, 8).await,
            world.driver.delete_host(instance, 8).await,
        ];
        for late in late {
            assert!(matches!(late, Err(ComputeError::Fenced { fence: 8, seen: 9 })), "{late:?}");
        }
        assert_eq!(std::fs::read_to_string(&config).unwrap(), written);
        assert_eq!(world.driver.hosts.find_agent(instance).unwrap(), Some(agent), "it runs on");
        assert_eq!(world.driver.describe(instance).await.unwrap(), HostState::Active);
        world.restart().await;
    }
    let facts = std::fs::metadata(config.with_file_name("fence")).unwrap();
    assert_eq!((facts.permissions().mode() & 0o777, facts.uid()), (0o600, nix::unistd::geteuid().as_raw()));

    // A damaged fence file blocks no call.
    std::fs::write(config.with_file_name("fence"), [0xff]).unwrap();
    world.driver.ensure_host(&at(&spec, 9, 2048)).await.unwrap();
    assert_eq!(std::fs::read_to_string(config.with_file_name("fence")).unwrap(), "9");
    world.driver.delete_host(instance, 9).await.unwrap();
    assert_eq!(world.driver.list().await.unwrap(), []);
}

#[tokio::test]
async fn what_one_machine_cannot_give_is_refused_by_the_name_of_the_field() {
    let world = World::new(false);
    let with = |change: fn(&mut Requirements)| {
        let mut requirements = Requirements::default();
        change(&mut requirements);
        world.driver.check_order(&requirements)
    };
    for (field, refused) in [
        ("availability_zone", with(|order| order.availability_zone = Some("nova".to_owned()))),
        ("volume.type", with(|order| order.volume_type = Some("ssd".to_owned()))),
        ("locality", with(|order| order.locality = Some(Locality::AntiAffinity))),
        ("access.is_public", with(|order| order.access = Some(Access { is_public: true, allowed_cidrs: None }))),
    ] {
        let refusal = refused.unwrap_err();
        assert!(refusal.starts_with(field), "{refusal}");
    }
    for locality in [Locality::Affinity, Locality::SoftAffinity, Locality::SoftAntiAffinity] {
        let requirements = Requirements {
            nics: vec![Nic { network_id: Some("any".to_owned()), subnet_id: None, ip_address: None }],
            access: Some(Access { is_public: false, allowed_cidrs: Some(vec!["10.0.0.0/8".to_owned()]) }),
            locality: Some(locality),
            ..Requirements::default()
        };
        assert_eq!(world.driver.check_order(&requirements), Ok(()));
    }
}

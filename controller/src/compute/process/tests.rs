//! Tests of hosts whose agent is a shell script, which starts grandchildren in sessions of their own and keeps running.

mod agents;
mod controllers;
mod groups;
mod holders;
mod life;
mod memory;
mod namespaces;
mod planted;
mod separation;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use secrecy::SecretString;
use trove_strategy::{Installation, Size};

use super::*;
use crate::compute::process::system::ProcessId;
use crate::compute::{Bootstrap, Network};
use crate::compute::{disk, lock};
use crate::model::{Access, Artifact, Locality, Nic};

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

/// Kills the processes that the agents have recorded, so that a failed test leaves none, and forgets the service.
impl Drop for World {
    fn drop(&mut self) {
        let service = format!("service.{}", disk::key(&self.directory.path().join("state")));
        // Only a driver of root's has told others of itself.
        let _ = std::fs::remove_file(Path::new(accounts::RESERVATIONS).join(service));
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

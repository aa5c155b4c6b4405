//! Tests of cgroups: their limits, their members, and that fork bombs in them can be killed.

use super::*;
use crate::compute::process::cgroup::{Held, Part, members};

#[tokio::test]
async fn limits_are_those_of_the_flavor_and_follow_it() {
    let mut world = World::new(true);
    let Some(cgroups) = world.driver.hosts.cgroups.clone() else {
        println!("skipped: this account or machine has no control groups");
        return;
    };
    let instance = InstanceId::random();
    let mut spec = world.spec(instance).await;
    world.driver.ensure_host(&spec).await.unwrap();
    world.agent(instance, 1).await;
    let groups = cgroups.of(&instance.to_string(), Part::Engine);
    let read = |name: &str| {
        let all = groups.iter().map(|group| group.join(name));
        all.filter_map(|file| std::fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()).collect::<Vec<_>>()
    };
    let assert_limits = |processes: &str, vcpus: u64| {
        assert!(read("pids.max").iter().all(|limit| limit == processes), "{:?}", read("pids.max"));
        let quota = (vcpus * 100_000).to_string();
        assert!(read("cpu.cfs_quota_us").iter().all(|limit| *limit == quota), "{:?}", read("cpu.cfs_quota_us"));
        assert!(read("cpu.max").iter().all(|limit| *limit == format!("{quota} 100000")), "{:?}", read("cpu.max"));
    };
    assert!(!read("pids.max").is_empty());
    assert_limits("384", 1);

    // A new controller sets limits again that an older version set differently.
    let file = groups.iter().map(|group| group.join("pids.max")).find(|file| file.exists()).unwrap();
    std::fs::write(&file, "8192").unwrap();
    world.restart().await;
    until("limits are renewed", || read("pids.max").iter().all(|limit| limit == "384")).await;

    world.driver.stop_host(instance, 1).await.unwrap();
    spec.size = Size { memory_mib: 1024, vcpus: 2, volume_gib: 1 };
    world.driver.ensure_host(&spec).await.unwrap();
    world.agent(instance, 2).await;
    assert_limits("640", 2);
    world.driver.delete_host(instance, 1).await.unwrap();
}

/// A host of an older version, whose agent was in its engine's cgroups.
#[tokio::test]
async fn an_agent_among_its_tenants_processes_gets_groups_of_its_own() {
    let mut world = World::new(true);
    let Some(cgroups) = world.driver.hosts.cgroups.clone() else {
        println!("skipped: this account or machine has no control groups");
        return;
    };
    let instance = InstanceId::random();
    world.driver.ensure_host(&world.spec(instance).await).await.unwrap();
    let agent = world.agent(instance, 1).await;
    let [of_agent, of_engine] = [Part::Agent, Part::Engine].map(|part| cgroups.of(&instance.to_string(), part));
    for group in &of_engine {
        std::fs::write(group.join("cgroup.procs"), agent.pid.to_string()).unwrap();
    }
    let file = world.driver.hosts.directory(instance).join("agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut config: toml::Table = text.parse().unwrap();
    let groups = config.remove("engine_cgroups").unwrap();
    config.insert("cgroups".to_owned(), groups);
    std::fs::write(&file, config.to_string()).unwrap();
    world.restart().await;
    assert_eq!(world.driver.hosts.find_agent(instance).unwrap(), Some(agent), "it is known as it is");

    kill(agent);
    let agent = world.agent(instance, 2).await;
    let is_in = |groups: &[PathBuf]| groups.iter().all(|group| members(group).unwrap().contains(&agent));
    assert!(is_in(&of_agent) && !is_in(&of_engine));
    let config: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let named = |name: &str| {
        config[name].as_array().unwrap().iter().map(|it| it.as_str().unwrap().into()).collect::<Vec<PathBuf>>()
    };
    assert_eq!((named("cgroups"), named("engine_cgroups")), (of_agent, of_engine));
    world.driver.delete_host(instance, 1).await.unwrap();
}

/// A tenant's program that stops all other processes of its account and forks as often as it can.
#[tokio::test]
async fn who_stops_and_multiplies_is_ended() {
    let world = World::new(true);
    let Some(cgroups) = world.driver.hosts.cgroups.as_ref().filter(|_| world.driver.hosts.apart.is_some()) else {
        println!("skipped: this account or machine has no control groups");
        return;
    };
    let instance = InstanceId::random();
    let spec = world.spec(instance).await;
    world.driver.ensure_host(&spec).await.unwrap();
    world.agent(instance, 1).await;
    let groups = cgroups.of(&instance.to_string(), Part::Engine);
    // A low limit, to spare the machine.
    let limit = groups.iter().map(|group| group.join("pids.max")).find(|file| file.exists()).unwrap();
    std::fs::write(&limit, "64").unwrap();
    let uid = spec.engine_uid.unwrap();
    let program = "if (fork) { sleep 2; while (1) { kill 'STOP', -1 } } else { while (1) { fork } }";
    let storm = "for group; do echo $$ > $group/cgroup.procs; done; exec setpriv --reuid=$0 --regid=$0 --clear-groups perl -e \"$STORM\"";
    let mut storm =
        Command::new("sh").args(["-c", storm, &uid.to_string()]).args(&groups).env("STORM", program).spawn().unwrap();
    until("the storm fills its group", || system::processes_of(uid).unwrap().len() > 40).await;
    let stopped = |process: &ProcessId| {
        std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).is_ok_and(|stat| stat.contains(") T "))
    };
    until("they are stopped", || system::processes_of(uid).unwrap().iter().any(stopped)).await;
    let deleted = tokio::time::timeout(SOON, world.driver.delete_host(instance, 1)).await;
    // A failed test leaves no process.
    drop(Held::new(&groups));
    storm.wait().unwrap();
    deleted.expect("it takes its time").unwrap();
    assert_eq!(system::processes_of(uid).unwrap(), []);
}

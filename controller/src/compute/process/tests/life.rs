//! The life of a host, from its creation to its deletion.

use super::*;

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
    let name = "compute::process::tests::life::a_host_without_control_groups_lives_and_dies_whole";
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

//! Tests of namespaces: what a host has of its own inside, and namespaces made by older versions.

use std::os::unix::fs::MetadataExt as _;

use super::*;

fn namespace(process: ProcessId, kind: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{}/ns/{kind}", process.pid)).unwrap()
}

fn inside(process: ProcessId, path: &Path) -> PathBuf {
    Path::new(&format!("/proc/{}/root", process.pid)).join(path.strip_prefix("/").unwrap())
}

/// A command that runs in the namespaces of a process.
fn run_inside(process: ProcessId, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--target={}", process.pid)).args(["--mount", "--ipc", "--"]).args(words);
    command
}

#[tokio::test]
async fn sockets_and_objects_are_the_hosts_own_and_bounded() {
    let mut world = World::new(true);
    if world.driver.hosts.apart.is_none() {
        println!("skipped: an ordinary user's hosts are not kept apart");
        return;
    }
    let instance = InstanceId::random();
    world.driver.ensure_host(&world.spec(instance).await).await.unwrap();
    let agent = world.agent(instance, 1).await;
    let (run, own) = (world.driver.hosts.run_directory(instance), std::fs::read_link("/proc/self/ns/ipc").unwrap());
    assert_ne!(namespace(agent, "ipc"), own);
    let sockets = run.join("s");
    let error = std::fs::write(inside(agent, &sockets).join("junk"), vec![1; 16 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(!sockets.join("junk").exists(), "it is on the machine's file system");
    assert!(run_inside(agent, &["ipcmk", "--queue"]).stdout(std::process::Stdio::null()).status().unwrap().success());
    let queues = |process| run_inside(process, &["cat", "/proc/sysvipc/msg"]).output().unwrap().stdout;
    let (of_agent, before) = (namespace(agent, "ipc"), queues(agent));
    assert_eq!(before.split(|byte| *byte == b'\n').count(), 3);

    // An agent that another controller starts finds the same objects.
    kill(agent);
    world.restart().await;
    let next = world.agent(instance, 2).await;
    assert_eq!((namespace(next, "ipc"), queues(next)), (of_agent, before));
    world.driver.delete_host(instance, 1).await.unwrap();
    assert!(!run.exists());
}

#[tokio::test]
async fn a_namespace_of_an_earlier_version_is_used_while_the_engine_lives_in_it() {
    let world = World::new(true);
    if world.driver.hosts.apart.is_none() {
        println!("skipped: an ordinary user's hosts are not kept apart");
        return;
    }
    let instance = InstanceId::random();
    let spec = world.spec(instance).await;
    world.driver.ensure_host(&spec).await.unwrap();
    let first = world.agent(instance, 1).await;
    let run = world.driver.hosts.run_directory(instance);
    for place in ["ipc", "s"] {
        let place = run.join(place);
        assert!(run_inside(first, &["umount", place.to_str().unwrap()]).status().unwrap().success());
    }
    let uid = format!("--reuid={}", spec.engine_uid.unwrap());
    let mut engine = run_inside(first, &["setpriv", &uid, "--clear-groups", "sleep", "1000"]).spawn().unwrap();
    let runs = || !system::processes_of(spec.engine_uid.unwrap()).unwrap().is_empty();
    until("the engine runs", runs).await;
    let old = namespace(first, "mnt");
    kill(first);
    let second = world.agent(instance, 2).await;
    assert_eq!(namespace(second, "mnt"), old, "the engine's sockets are there");
    engine.kill().unwrap();
    engine.wait().unwrap();
    kill(second);
    let third = world.agent(instance, 3).await;
    assert_ne!(namespace(third, "ipc"), std::fs::read_link("/proc/self/ns/ipc").unwrap());
    let device = |path: &Path| std::fs::metadata(inside(third, path)).unwrap().dev();
    assert_ne!(device(&run.join("s")), device(&run));
    world.driver.delete_host(instance, 1).await.unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&instance.to_string()), "{mounts}");
}

#[tokio::test]
async fn each_place_that_all_accounts_may_write_to_is_the_hosts_own_also_with_a_program_in_it() {
    let world = World::new(true);
    if world.driver.hosts.apart.is_none() {
        println!("skipped: an ordinary user's hosts are not kept apart");
        return;
    }
    let programs = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(programs.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = programs.path().join("agent");
    std::fs::copy(world.directory.path().join("agent"), &program).unwrap();
    let mut agents = Vec::new();
    for _ in 0..2 {
        let instance = InstanceId::random();
        let spec = HostSpec { artifact: local(Some(program.clone())), ..world.spec(instance).await };
        world.driver.ensure_host(&spec).await.unwrap();
        agents.push((instance, world.agent(instance, 1).await));
    }
    let [(one, first), (two, second)] = agents[..] else { unreachable!("there are two") };
    for place in ["/tmp", "/var/tmp", "/dev/shm"].map(Path::new) {
        let file = place.join(one.to_string());
        std::fs::write(inside(first, &file), "a file").unwrap();
        assert!(!file.exists() && !inside(second, &file).exists(), "others see {}", file.display());
    }
    let refusal = std::fs::write(inside(first, &programs.path().join("file")), "").unwrap_err();
    assert_eq!(refusal.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    for instance in [one, two] {
        world.driver.delete_host(instance, 1).await.unwrap();
    }
}

/// In a user namespace there are namespaces of mounts, but nobody there may mount the machine's /proc.
#[test]
fn a_machine_that_cannot_hide_processes_is_found_out() {
    const INSIDE: &str = "TROVE_TEST_IN_A_USER_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        namespace::can_be_made().unwrap();
        let reason = namespace::can_hide_processes().unwrap_err();
        assert!(reason.starts_with("mount /proc with hidepid: "), "{reason}");
        return;
    }
    let own = "compute::process::tests::namespaces::a_machine_that_cannot_hide_processes_is_found_out";
    let unshare = ["--user", "--map-root-user", "--"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: no user namespaces");
        return;
    }
    let test = std::env::current_exe().unwrap();
    let output = Command::new("unshare").args(unshare).arg(test).args(["--exact", own]).env(INSIDE, "1").output();
    let said = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
    assert!(said.contains("test result: ok. 1 passed"), "{said}");
}

#[tokio::test]
async fn whatever_lets_instances_meet_is_why_root_is_not_enabled() {
    let world = World::new(true);
    let mut hosts = world.driver.hosts.clone();
    let filter = || {
        filter::Filter::new(
            "trove-rs-test",
            services::Service { state: world.directory.path().to_owned(), uids: (70000, 99999), listens: Vec::new() },
        )
    };
    let apart = |gap: Option<&'static str>| {
        let accounts = accounts::Accounts::parse("70000-99999", world.directory.path()).unwrap();
        Some(Arc::new(Apart {
            accounts,
            filter: filter(),
            hidden: Vec::new(),
            obstacle: None,
            hides_processes: true,
            gap,
        }))
    };
    if hosts.apart.take().is_none() {
        assert!(world.driver.separates_tenants().unwrap_err().contains("one account"));
        println!("skipped: an ordinary user's hosts are not kept apart");
        return;
    }
    assert!(hosts.gap().unwrap().contains("one account"));
    hosts.apart = apart(None);
    assert_eq!(hosts.gap(), None);
    hosts.apart = apart(Some("they see each other"));
    assert_eq!(hosts.gap(), Some("they see each other"));
    (hosts.apart, hosts.cgroups) = (apart(None), None);
    assert!(hosts.gap().unwrap().contains("memory or processes"));
}

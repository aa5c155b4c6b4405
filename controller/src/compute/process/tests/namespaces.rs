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

#[test]
fn instances_that_can_pass_each_other_files_are_not_kept_apart() {
    let directory = tempfile::tempdir().unwrap();
    let service = services::Service { state: directory.path().to_owned(), uids: (70000, 99999), listens: Vec::new() };
    let apart = |passage: Option<&str>| Apart {
        accounts: accounts::Accounts::parse("70000-99999", directory.path()).unwrap(),
        filter: filter::Filter::new("trove-rs-test", service.clone()),
        hidden: Vec::new(),
        obstacle: None,
        passage: passage.map(str::to_owned),
    };
    assert!(apart(None).holds());
    assert!(!apart(Some("this kernel has no Landlock")).holds());
}

//! What hosts of root have for themselves: an account, a namespace, a place in the packet filter.

use super::*;

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

/// Elements of the packet filter that let the host send from its address.
fn accepted(spec: &HostSpec) -> String {
    format!("{} . {}", spec.engine_uid.unwrap(), spec.network.address)
}

fn filtered(what: &str) -> bool {
    let output = Command::new("nft").args(["list", "table", "inet", filter::TABLE]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(what)
}

#[tokio::test]
async fn a_renewal_during_a_removal_puts_nothing_back_into_the_packet_filter() {
    let world = World::new(true);
    let Some(apart) = world.driver.hosts.apart.clone() else {
        println!("skipped: an ordinary user's hosts are not kept apart");
        return;
    };
    let instance = InstanceId::random();
    let mut spec = world.spec(instance).await;
    spec.network.address = "127.201.8.8".parse().unwrap();
    world.driver.ensure_host(&spec).await.unwrap();
    world.agent(instance, 1).await;
    assert!(filtered(&accepted(&spec)));
    // As the deletion of a host does, with a renewal after each step.
    world.driver.hosts.withdraw(instance, 1).await.unwrap();
    world.driver.unwatch(instance).await;
    world.driver.hosts.kill_all(instance).await.unwrap();
    apart.filter.renew(&apart.accounts);
    assert!(filtered(&accepted(&spec)), "it is stopped only");
    world.driver.hosts.leave_filter(instance).unwrap();
    assert!(!filtered(&accepted(&spec)));
    apart.filter.renew(&apart.accounts);
    assert!(!filtered(&accepted(&spec)), "it was put back");
    world.driver.delete_host(instance, 1).await.unwrap();
    assert_eq!(world.driver.hosts.account(instance).unwrap(), None);
}

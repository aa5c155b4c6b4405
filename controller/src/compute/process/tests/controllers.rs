//! Several controllers with the same hosts, of which one stalls.

use super::*;

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

//! How the agent of a host is recognised.

use super::*;

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

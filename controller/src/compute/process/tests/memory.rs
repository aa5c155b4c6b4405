//! Shared memory that engines leave.

use super::*;

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

use super::*;
use crate::app::instances::Edit;
use crate::state::{HostState, Task};
use crate::testing::app::{World, caller, world};

fn words(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::Instance(instance) => format!("instance {}", instance.status().0),
        Event::Deleted(_) => "deleted".to_owned(),
        Event::Operation(changed) => format!("{} {}", changed.operation.kind, changed.operation.status),
    };
    events.iter().map(word).collect()
}

async fn next(watcher: &mut Watcher) -> Vec<String> {
    words(&watcher.next().await.unwrap())
}

fn of(world: &World, since: Option<i64>) -> Watcher {
    world.app.watch(Some(ProjectId("demo".to_owned())), since)
}

#[tokio::test]
async fn a_watcher_begins_with_what_there_is_and_tells_what_changes() {
    let world = world().await;
    let id = world.healthy("demo").await;
    world.healthy("other").await;
    let mut watcher = of(&world, None);
    assert_eq!(next(&mut watcher).await, ["instance ACTIVE"]);
    let accepted = world.app.restart_instance(&caller("demo"), "r", id).await.unwrap();
    assert_eq!(next(&mut watcher).await, ["restart_instance queued", "instance REBOOT"]);
    let mut late = of(&world, None);
    assert_eq!(next(&mut late).await, ["restart_instance queued", "instance REBOOT"], "what is under way is told");

    let left = watcher.cursor();
    drop(watcher);
    world.run("update operation set status = 'done', finished = 1, changed = (select value + 1 from counter where name = 'change') where id = $1", accepted.operation).await;
    world.run("update counter set value = value + 1 where name = 'change' and $1 <> ''", "x").await;
    world.set(id, Task::None, HostState::Active).await;
    let mut back = of(&world, Some(left));
    assert_eq!(next(&mut back).await, ["restart_instance done", "instance ACTIVE"], "the end that was missed");
    let mut tx = world.app.store.begin().await.unwrap();
    world.app.store.mark_deleted(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    world.app.changes.bump();
    assert_eq!(next(&mut back).await, ["deleted"]);
}

#[tokio::test]
async fn a_new_name_is_told_and_an_old_one_is_not() {
    let world = world().await;
    let id = world.healthy("demo").await;
    let mut watcher = of(&world, None);
    next(&mut watcher).await;
    world.app.edit_instance(&caller("demo"), id, Edit { name: Some("renamed"), ..Edit::default() }).await.unwrap();
    assert_eq!(next(&mut watcher).await, ["instance ACTIVE"]);
    world.app.edit_instance(&caller("demo"), id, Edit { name: Some("renamed"), ..Edit::default() }).await.unwrap();
    assert_eq!(next(&mut watcher).await, Vec::<String>::new());
}

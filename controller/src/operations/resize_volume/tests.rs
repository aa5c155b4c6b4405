use super::*;
use crate::compute::ComputeError;
use crate::testing::operations::{Stage, failed_anywhere, killed_anywhere};

/// As the use case does: the row has the new size already.
async fn make() -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    let from = stage.row().await.volume_gib;
    let mut tx = stage.context.store.begin().await.unwrap();
    stage.context.store.set_volume(&mut tx, stage.instance, from + 3).await.unwrap();
    tx.commit().await.unwrap();
    let operation = new(stage.origin(), from);
    (stage, operation)
}

#[tokio::test]
async fn a_kill_between_any_two_steps_ends_with_the_new_size() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!(row.task, Task::None, "{what}");
        let specs = stage.compute.specs.lock().unwrap().clone();
        assert_eq!(specs.last().unwrap().size.volume_gib, row.volume_gib, "{what}");
        assert_eq!(specs[0].size.volume_gib + 3, row.volume_gib, "{what}");
        let assigned = stage.agents.assigned.lock().unwrap().last().cloned().unwrap();
        assert_eq!(assigned.specification.unwrap().volume_gib, row.volume_gib, "{what}");
        assert_eq!(*stage.compute.stopped.lock().unwrap(), 0, "{what}");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn a_failure_leaves_the_size_and_a_fault() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!(row.task, Task::None, "{what}");
        assert_eq!(row.volume_gib, stage.compute.specs.lock().unwrap()[0].size.volume_gib, "{what}");
        assert!(row.fault.unwrap().message.starts_with("Resizing the volume failed, it keeps its size: "), "{what}");
        stage.assert_settled().await;
    };
    failed_anywhere(make, check).await;
    let (stage, operation) = make().await;
    stage.compute.fail_next("ensure_host", ComputeError::Fatal("it cannot grow".to_owned()));
    stage.complete(operation).await.unwrap_err();
    check(&stage, "refused by the driver").await;
}

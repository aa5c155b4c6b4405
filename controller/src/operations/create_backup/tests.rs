use super::*;
use crate::agents::AgentError;
use crate::model::backups::BackupState;
use crate::operations::points::Hold;
use crate::reconcile::backups::reconcile;
use crate::testing::operations::{Stage, failed_anywhere, hold_at, killed_anywhere, reached};

async fn make() -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    let params =
        Params { backup: BackupId::random(), recipients: vec!["age1of-the-order".to_owned()], segment_bytes: 1 << 20 };
    let operation = new(stage.origin(), params).unwrap();
    (stage, operation)
}

/// The only backup there is.
async fn backup(stage: &Stage) -> Backup {
    let mut all = stage.context.store.list_backups(Default::default(), 0, 10).await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// The names in the directory of a backup, with those in its runs.
#[allow(clippy::disallowed_methods, reason = "the directory is this test's alone")]
fn objects(stage: &Stage, id: BackupId) -> Vec<String> {
    let runs = stage.fixture.objects_directory().join(id.to_string());
    let names = |directory: &std::path::Path| -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let mut all: Vec<String> = names(&runs);
    for run in all.clone() {
        all.extend(names(&runs.join(run)));
    }
    all.sort();
    all
}

#[tokio::test]
async fn a_kill_between_any_two_steps_ends_in_one_whole_backup() {
    let check = async |stage: &Stage, what: &str| {
        let backup = backup(stage).await;
        let stored = backup.stored.clone().unwrap();
        assert_eq!((backup.state, backup.fault.as_deref()), (BackupState::Completed, None), "{what}");
        assert_eq!((stored.data_bytes, stored.stored_bytes, stored.position.as_deref()), (3, 2, Some("0/1")), "{what}");
        assert_eq!((stored.checkpoint.as_deref(), stored.memory_bytes), (Some("7"), Some(5)), "{what}");
        assert_eq!(stage.agents.count("backup"), 1, "{what}");
        let there = objects(stage, backup.id);
        for object in [stored.run.as_str(), "00000000", "manifest.json"] {
            assert!(there.iter().any(|name| name == object), "{what}: {there:?}");
        }
        assert_eq!(stage.row().await.status(), ("ACTIVE", "ERROR"), "{what}: nobody has heard its agent");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_no_object_and_says_why() {
    let check = async |stage: &Stage, what: &str| {
        let backup = backup(stage).await;
        assert_eq!((backup.state, backup.stored.is_none()), (BackupState::Failed, true), "{what}");
        let fault = backup.fault.clone().unwrap();
        assert!(fault.starts_with("Taking the backup failed at "), "{what}: {fault}");
        let row = stage.row().await;
        assert_eq!((row.backing_up, row.fault.is_none()), (false, true), "{what}: the instance is as it was");
        stage.assert_settled().await;
        reconcile(&stage.context, true).await.unwrap();
        assert_eq!(objects(stage, backup.id), Vec::<String>::new(), "{what}");
        assert!(stage.context.store.list_unwanted_backups().await.unwrap().is_empty(), "{what}");
    };
    failed_anywhere(make, check).await;
}

#[tokio::test]
async fn the_agent_is_told_whom_to_encrypt_to_and_the_status_shows_it() {
    let (stage, operation) = make().await;
    let (hook, there) = hold_at("operation.create_backup.take.after".to_owned(), Hold::Forever);
    let running = stage.start(Some(hook));
    let id = stage.submit(operation).await.unwrap();
    reached(&there, "take").await;
    let taken = backup(&stage).await;
    assert_eq!((taken.state, taken.operation), (BackupState::Building, id));
    assert_eq!(stage.row().await.status().0, "BACKUP");
    {
        let starts = stage.agents.starts.lock().unwrap();
        let Some(v1::start::Work::Backup(job)) = &starts[0].work else { panic!("{starts:?}") };
        assert_eq!(job.backup, taken.id.to_string());
        assert_eq!((job.recipients.as_slice(), job.segment_bytes), (&["age1of-the-order".to_owned()][..], 1 << 20));
    }
    running.kill().await;
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "the directory is this test's alone")]
async fn what_is_damaged_before_it_is_checked_is_no_backup() {
    let (stage, operation) = make().await;
    let point = "operation.create_backup.check.before";
    let (hook, there) = hold_at(point.to_owned(), Hold::Forever);
    let running = stage.start(Some(hook));
    let id = stage.submit(operation).await.unwrap();
    reached(&there, point).await;
    running.kill().await;
    let taken = backup(&stage).await.id;
    let directory = stage.fixture.objects_directory().join(taken.to_string());
    let run = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    std::fs::write(run.join("00000000"), b"xz").unwrap();
    let running = stage.start(None);
    let error = stage.end(id).await.unwrap_err();
    running.stop().await;
    assert!(error.contains("what was stored is not what was taken: object 00000000"), "{error}");
    assert_eq!(backup(&stage).await.state, BackupState::Failed);
    reconcile(&stage.context, true).await.unwrap();
    assert!(objects(&stage, taken).is_empty());
}

#[tokio::test]
async fn what_may_pass_is_tried_five_times() {
    let (stage, operation) = make().await;
    for _ in 0..10 {
        let error = AgentError::Refused { kind: v1::ErrorKind::Transient, message: "the storage stalls".to_owned() };
        stage.agents.fail_next("backup", error);
    }
    let running = stage.start(None);
    let id = stage.submit(operation).await.unwrap();
    let error = stage.end(id).await.unwrap_err();
    running.stop().await;
    assert_eq!(error, "take: it failed 5 times, the last time: the storage stalls");
    assert_eq!(stage.agents.starts.lock().unwrap().len(), 5);
    let failed = backup(&stage).await;
    let fault = "Taking the backup failed at take: it failed 5 times, the last time: the storage stalls";
    assert_eq!((failed.state, failed.fault.as_deref()), (BackupState::Failed, Some(fault)));
}

#[tokio::test]
async fn one_whose_controller_is_killed_while_it_is_given_up_tells_the_agent_too() {
    let (stage, operation) = make().await;
    let point = "operation.create_backup.take.after";
    let (hook, there) = hold_at(point.to_owned(), Hold::Forever);
    let running = stage.start(Some(hook));
    let id = stage.submit(operation).await.unwrap();
    reached(&there, point).await;
    running.kill().await;
    let mut tx = stage.context.store.begin().await.unwrap();
    stage.context.store.cancel_active(&mut tx, stage.instance, &[Lane::Backup]).await.unwrap();
    tx.commit().await.unwrap();
    assert!(stage.agents.cancelled.lock().unwrap().is_empty());
    let running = stage.start(None);
    stage.end(id).await.unwrap_err();
    running.stop().await;
    assert_eq!(*stage.agents.cancelled.lock().unwrap(), [(stage.instance, id)]);
}

#[tokio::test]
async fn one_that_is_given_up_stays_failed_and_its_objects_go() {
    let (stage, operation) = make().await;
    let point = "operation.create_backup.take.after";
    let (hook, there) = hold_at(point.to_owned(), Hold::Forever);
    let running = stage.start(Some(hook));
    let id = stage.submit(operation).await.unwrap();
    reached(&there, point).await;
    let store = &stage.context.store;
    let mut tx = store.begin().await.unwrap();
    store.cancel_active(&mut tx, stage.instance, &[Lane::Backup]).await.unwrap();
    store.fail_backups_of(&mut tx, stage.instance, "It was given up.").await.unwrap();
    tx.commit().await.unwrap();
    stage.context.nudge.now();
    stage.end(id).await.unwrap_err();
    running.stop().await;
    let failed = backup(&stage).await;
    assert_eq!((failed.state, failed.fault.as_deref()), (BackupState::Failed, Some("It was given up.")));
    assert!(!objects(&stage, failed.id).is_empty());
    reconcile(&stage.context, true).await.unwrap();
    assert!(objects(&stage, failed.id).is_empty());
    stage.assert_settled().await;
}

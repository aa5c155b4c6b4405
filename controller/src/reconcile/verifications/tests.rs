use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use trove_strategy::Capability;

use super::*;
use crate::agents::AgentError;
use crate::config::Config;
use crate::ids::{BackupId, OperationId};
use crate::model::backup_schedules::LastVerification;
use crate::model::backups::{Backup, StoredBackup, Verification, VerificationState};
use crate::model::operations::Lane;
use crate::operations::Nudge;
use crate::store::backups::NewRow;
use crate::store::micros;
use crate::store::sql::query;
use crate::testing::operations::Stage;
use crate::testing::store::{manifest, register, schedule};

const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A stage whose datastore has backups.
async fn ready() -> Stage {
    let stage = Stage::ordered().await;
    let mut able = manifest();
    able.capabilities.push(Capability::Backup);
    register(&stage.context.store, &able).await;
    stage
}

/// A schedule that was made an hour ago, with a verification each week.
async fn weekly(stage: &Stage) -> BackupSchedule {
    let store = &stage.context.store;
    let made = store.now() - Duration::from_secs(3600);
    let weekly = BackupSchedule { verify: Some(WEEK), ..schedule(stage.instance, made) };
    let mut tx = store.begin().await.unwrap();
    store.insert_backup_schedule(&mut tx, &weekly).await.unwrap();
    tx.commit().await.unwrap();
    read(stage, &weekly).await
}

async fn read(stage: &Stage, schedule: &BackupSchedule) -> BackupSchedule {
    stage.context.store.get_backup_schedule(schedule.id).await.unwrap().unwrap()
}

async fn last(stage: &Stage, schedule: &BackupSchedule) -> Option<LastVerification> {
    read(stage, schedule).await.last_verification
}

/// A complete backup of the schedule that was begun at this time.
async fn complete(stage: &Stage, schedule: &BackupSchedule, begun: OffsetDateTime) -> Backup {
    let store = &stage.context.store;
    let row = stage.fixture.new_backup("p", schedule.instance, OperationId::random());
    let row = NewRow { schedule: Some(schedule.id), ..row };
    let (run, manifest_sum) = ("0123456789abcdef".repeat(2), "00".to_owned());
    let stored = StoredBackup {
        run,
        manifest_sum,
        data_bytes: 3,
        stored_bytes: 2,
        position: None,
        checkpoint: None,
        memory_bytes: None,
    };
    let mut tx = store.begin().await.unwrap();
    store.insert_backup(&mut tx, &row).await.unwrap();
    assert!(store.complete_backup(&mut tx, row.id, &stored).await.unwrap());
    let begin = query("update backup set created = $2 where id = $1").bind(row.id.to_string()).bind(micros(begun));
    begin.execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    store.get_backup(row.id).await.unwrap().unwrap()
}

/// The verifications that were ever begun of these backups, and those that run.
async fn begun(stage: &Stage) -> [i64; 2] {
    let store = &stage.context.store;
    let all = "select count(*) from operation where kind = 'verify_backup'";
    [store.number(all).await, store.number(&format!("{all} and active")).await]
}

async fn verification(stage: &Stage, id: BackupId) -> Option<Verification> {
    stage.context.store.get_backup(id).await.unwrap().unwrap().verification
}

/// Ends the verification of a backup as its operation does.
async fn end(stage: &Stage, id: BackupId) -> std::result::Result<(), String> {
    let running = stage.start(None);
    let ended = stage.end(verification(stage, id).await.unwrap().operation).await;
    running.stop().await;
    ended
}

#[tokio::test]
async fn the_newest_is_verified_at_first_and_then_once_in_each_interval() {
    let stage = ready().await;
    let due = weekly(&stage).await;
    let begin = async || reconcile(&stage.context).await.unwrap();
    begin().await;
    assert_eq!(begun(&stage).await, [0, 0], "nothing is complete");
    complete(&stage, &due, due.created + DAY / 48).await;
    let newest = complete(&stage, &due, due.created + DAY / 24).await;
    begin().await;
    begin().await;
    assert_eq!(begun(&stage).await, [1, 1]);
    let running = last(&stage, &due).await.unwrap();
    assert_eq!((running.backup, running.state, running.fault), (newest.id, VerificationState::Running, None));
    assert_eq!(verification(&stage, newest.id).await.unwrap().at, running.at);
    assert_eq!(read(&stage, &due).await.verify_due, due.verify_due + WEEK);
    end(&stage, newest.id).await.unwrap();
    let passed = last(&stage, &due).await.unwrap();
    assert_eq!((passed.backup, passed.state, passed.fault), (newest.id, VerificationState::Passed, None));
    assert!(passed.at > running.at && verification(&stage, newest.id).await.unwrap().at == passed.at);

    complete(&stage, &due, due.created + 6 * DAY).await;
    begin().await;
    assert_eq!(begun(&stage).await, [1, 0], "before the week is over");
    let next = complete(&stage, &due, due.created + WEEK).await;
    begin().await;
    assert_eq!(last(&stage, &due).await.unwrap().backup, next.id);
    end(&stage, next.id).await.unwrap();
    // Nobody was there for weeks.
    for weeks in 2..6 {
        complete(&stage, &due, due.created + weeks * WEEK + DAY).await;
    }
    begin().await;
    begin().await;
    assert_eq!(begun(&stage).await, [3, 1], "once for all of them");
    assert_eq!(read(&stage, &due).await.verify_due, due.verify_due + 6 * WEEK);
}

#[tokio::test]
async fn what_rests_or_is_not_to_be_verified_is_not() {
    let stage = ready().await;
    let due = weekly(&stage).await;
    let backup = complete(&stage, &due, due.created + DAY / 24).await;
    let store = &stage.context.store;
    for change in [
        BackupSchedule { paused: true, ..due.clone() },
        BackupSchedule { verify: None, ..due.clone() },
        BackupSchedule { verify_due: backup.created + Duration::from_secs(1), ..due.clone() },
    ] {
        let mut tx = store.begin().await.unwrap();
        store.change_backup_schedule(&mut tx, &change).await.unwrap();
        tx.commit().await.unwrap();
        reconcile(&stage.context).await.unwrap();
        // What was read before it was changed is not begun, either.
        begin(&stage.context, &due).await.unwrap();
        assert_eq!((begun(&stage).await, last(&stage, &due).await), ([0, 0], None), "{change:?}");
    }
    let mut tx = store.begin().await.unwrap();
    store.change_backup_schedule(&mut tx, &due).await.unwrap();
    store.begin_backup_deletion(&mut tx, backup.id).await.unwrap();
    tx.commit().await.unwrap();
    reconcile(&stage.context).await.unwrap();
    assert_eq!(begun(&stage).await, [0, 0]);
}

#[tokio::test]
async fn a_failure_stands_on_the_backup_and_on_the_schedule_until_the_next_one() {
    let stage = ready().await;
    let due = weekly(&stage).await;
    let backup = complete(&stage, &due, due.created + DAY).await;
    reconcile(&stage.context).await.unwrap();
    let (kind, message) = (trove_proto::v1::ErrorKind::Invalid, "segment 00000003 is damaged".to_owned());
    stage.agents.fail_next("check", AgentError::Refused { kind, message });
    end(&stage, backup.id).await.unwrap_err();
    let failed = last(&stage, &due).await.unwrap();
    assert_eq!((failed.backup, failed.state), (backup.id, VerificationState::Failed));
    assert!(failed.fault.as_ref().unwrap().contains("segment 00000003 is damaged"), "{failed:?}");
    assert_eq!(verification(&stage, backup.id).await.unwrap().fault, failed.fault);
    reconcile(&stage.context).await.unwrap();
    assert_eq!(begun(&stage).await, [1, 0], "it is not tried again before the next one is due");
    let next = complete(&stage, &due, due.created + WEEK).await;
    reconcile(&stage.context).await.unwrap();
    end(&stage, next.id).await.unwrap();
    assert_eq!(last(&stage, &due).await.unwrap().state, VerificationState::Passed);
    assert_eq!(verification(&stage, backup.id).await.unwrap().fault, failed.fault, "the backup stays marked");
    stage.assert_settled().await;
}

#[tokio::test]
async fn what_cannot_be_begun_stands_on_the_schedule() {
    let mut stage = ready().await;
    stage.context.config = Arc::new(Config { flavors: Vec::new(), ..Config::default() });
    let due = weekly(&stage).await;
    let backup = complete(&stage, &due, due.created + DAY).await;
    for _ in 0..2 {
        reconcile(&stage.context).await.unwrap();
        let refused = last(&stage, &due).await.unwrap();
        assert_eq!((refused.backup, refused.state), (backup.id, VerificationState::Failed));
        let fault = refused.fault.unwrap();
        assert!(fault.starts_with("It was not begun: ") && fault.contains("no flavor"), "{fault}");
        assert_eq!(read(&stage, &due).await.verify_due, due.verify_due + WEEK);
    }
    assert_eq!((begun(&stage).await, verification(&stage, backup.id).await), ([0, 0], None));
}

#[tokio::test]
async fn a_persons_verification_counts_and_so_does_one_that_was_given_up() {
    let stage = ready().await;
    let due = weekly(&stage).await;
    let backup = complete(&stage, &due, due.created + DAY).await;
    let operation = stage.submit(verify_backup::new(stage.origin(), backup.id).unwrap()).await.unwrap();
    reconcile(&stage.context).await.unwrap();
    assert_eq!(begun(&stage).await, [1, 1]);
    assert_eq!(last(&stage, &due).await.unwrap().state, VerificationState::Running);
    let store = &stage.context.store;
    let mut tx = store.begin().await.unwrap();
    store.cancel_active(&mut tx, stage.instance, &[Lane::Lifecycle]).await.unwrap();
    store.end_orphaned_verifications(&mut tx, "It was given up.").await.unwrap();
    tx.commit().await.unwrap();
    for fault in [last(&stage, &due).await.unwrap().fault, verification(&stage, backup.id).await.unwrap().fault] {
        assert_eq!(fault.as_deref(), Some("It was given up."), "{operation}");
    }
    reconcile(&stage.context).await.unwrap();
    assert_eq!(begun(&stage).await, [1, 0]);
}

#[tokio::test]
async fn one_runs_at_once_and_the_last_place_is_for_a_person() {
    let stage = ready().await;
    let mut backups = Vec::new();
    for _ in 0..3 {
        let due = weekly(&stage).await;
        backups.push(complete(&stage, &due, due.created + DAY).await);
    }
    for done in 1..=3 {
        reconcile(&stage.context).await.unwrap();
        reconcile(&stage.context).await.unwrap();
        assert_eq!(begun(&stage).await, [done, 1]);
        for backup in &backups {
            if verification(&stage, backup.id).await.is_some_and(|it| it.state == VerificationState::Running) {
                end(&stage, backup.id).await.unwrap();
            }
        }
    }
    reconcile(&stage.context).await.unwrap();
    assert_eq!(begun(&stage).await, [3, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_controllers_begin_one() {
    let stage = ready().await;
    let due = weekly(&stage).await;
    let backup = complete(&stage, &due, due.created + DAY).await;
    let controllers = ["one", "two", "here", "there"].map(|controller_id| {
        let mut context = stage.context.clone();
        (context.controller_id, context.nudge) = (controller_id.to_owned(), Nudge::default());
        tokio::spawn(async move { reconcile(&context).await.unwrap() })
    });
    for ended in futures::future::join_all(controllers).await {
        ended.unwrap();
    }
    assert_eq!(begun(&stage).await, [1, 1]);
    end(&stage, backup.id).await.unwrap();
    // One that had read that it is due before the other one has done it.
    begin(&stage.context, &due).await.unwrap();
    assert_eq!(begun(&stage).await, [1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_dies_has_begun_it_or_not() {
    let stage = ready().await;
    let mut died = 0;
    for n in 0..30 {
        let due = weekly(&stage).await;
        let backup = complete(&stage, &due, due.created + DAY).await;
        let _died = tokio::time::timeout(Duration::from_micros(n * 250), begin(&stage.context, &due)).await;
        // What it has written is rolled back, or committed, before another one writes.
        drop(stage.context.store.begin().await.unwrap());
        let read = read(&stage, &due).await;
        let moved = read.verify_due != due.verify_due;
        let of_backup = verification(&stage, backup.id).await;
        let shown = (moved, read.last_verification.is_some(), of_backup.is_some());
        assert!(shown == (true, true, true) || shown == (false, false, false), "{n}: {shown:?}");
        died += i64::from(!moved);
        if !moved {
            begin(&stage.context, &due).await.unwrap();
        }
        end(&stage, backup.id).await.unwrap();
        assert_eq!(begun(&stage).await, [i64::try_from(n).unwrap() + 1, 0]);
    }
    assert!(died > 0, "none has died");
    let rows = stage.context.store.number("select count(*) from instance where purpose is not null").await;
    assert_eq!(rows, 30, "a scratch instance for each");
}

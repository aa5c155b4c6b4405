use std::sync::Arc;

use time::macros::datetime;
use trove_strategy::Capability;

use super::*;
use crate::config::Config;
use crate::ids::{InstanceId, OperationId};
use crate::model::Resource;
use crate::model::backup_schedules::{Keep, Rhythm};
use crate::model::backups::{Backup, BackupState, StoredBackup, Verification};
use crate::operations::Nudge;
use crate::state::{HostState, Service, Task};
use crate::store::agents::{AgentRow, ReportSequence};
use crate::store::backups::NewRow;
use crate::store::sql::query;
use crate::testing::operations::Stage;
use crate::testing::store::{manifest, register};

const HOUR: Duration = Duration::from_secs(3600);

/// A stage whose datastore has backups, with an instance that is up.
async fn ready(change: impl FnOnce(&mut Config)) -> Stage {
    let mut stage = Stage::created().await;
    let mut able = manifest();
    able.capabilities.push(Capability::Backup);
    register(&stage.context.store, &able).await;
    let mut config = Config::default();
    change(&mut config);
    stage.context.config = Arc::new(config);
    up(&stage, stage.instance).await;
    stage
}

/// Brings an instance up, as its agent would.
async fn up(stage: &Stage, instance: InstanceId) {
    let store = &stage.context.store;
    let mut tx = store.begin().await.unwrap();
    store.set_task(&mut tx, instance, Task::None).await.unwrap();
    store.set_host(&mut tx, instance, HostState::Active).await.unwrap();
    tx.commit().await.unwrap();
    says(stage, instance, Service::Healthy).await;
    let link = query("insert into agent_link (instance_id, controller_id, connected_at) values ($1, 'c', 1)");
    link.bind(instance.to_string()).execute(&store.write).await.unwrap();
}

async fn says(stage: &Stage, instance: InstanceId, service: Service) {
    let agent = AgentRow {
        service,
        detail: String::new(),
        engine_version: "15.18".to_owned(),
        volume_used_bytes: 1,
        assignment_generation: 1,
    };
    assert!(stage.context.store.put_agent(instance, &agent, &ReportSequence::default()).await.unwrap());
}

/// A schedule of each six hours that keeps two.
async fn schedule(stage: &Stage, instance: InstanceId) -> BackupSchedule {
    scheduled(stage, instance, 6 * HOUR, Keep { count: Some(2), age: None }).await
}

async fn scheduled(stage: &Stage, instance: InstanceId, interval: Duration, keep: Keep) -> BackupSchedule {
    let (store, now) = (&stage.context.store, stage.context.store.now());
    let rhythm = Rhythm::Every(interval);
    let mut schedule = BackupSchedule { rhythm, keep, ..crate::testing::store::schedule(instance, now) };
    schedule.next_due = schedule.due_after(now).unwrap();
    let mut tx = store.begin().await.unwrap();
    store.insert_backup_schedule(&mut tx, &schedule).await.unwrap();
    tx.commit().await.unwrap();
    schedule
}

async fn read(stage: &Stage, schedule: &BackupSchedule) -> BackupSchedule {
    stage.context.store.get_backup_schedule(schedule.id).await.unwrap().unwrap()
}

async fn backups(stage: &Stage) -> Vec<Backup> {
    stage.context.store.list_backups(Default::default(), 0, 100).await.unwrap()
}

/// Ends a backup as its operation does.
async fn end(stage: &Stage, backup: &Backup) {
    let running = stage.start(None);
    stage.end(backup.operation).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn what_is_due_is_begun_and_nothing_before() {
    let stage = ready(|_| ()).await;
    let due = schedule(&stage, stage.instance).await;
    assert_eq!(reconcile(&stage.context, due.next_due - HOUR).await.unwrap(), Some(due.next_due));
    assert!(backups(&stage).await.is_empty());
    let now = due.next_due + Duration::from_secs(1);
    assert_eq!(reconcile(&stage.context, now).await.unwrap(), Some(due.next_due + 6 * HOUR));
    let all = backups(&stage).await;
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].state, all[0].schedule, &all[0].project), (BackupState::New, Some(due.id), &due.project));
    assert_eq!(all[0].name, name("first", now));
    let begun = read(&stage, &due).await;
    assert_eq!((begun.last_run, begun.last_backup), (Some(now), Some(all[0].id)));
    assert_eq!((begun.tries, begun.fault), (0, None));
    assert_eq!(stage.operations().await[0].kind, "create_backup");
    assert_eq!(stage.row().await.status().0, "BACKUP");
}

#[test]
fn a_backup_is_named_after_its_instance_and_its_time() {
    assert_eq!(name("db1", datetime!(2026-11-29 3:00:07.5 UTC)), "db1-20261129T030007Z");
    assert_eq!(name(&"\u{fc}".repeat(255), datetime!(2026-11-29 3:00 UTC)).chars().count(), NAME + 17);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_controllers_begin_one() {
    let stage = ready(|_| ()).await;
    let mut dues = vec![schedule(&stage, stage.instance).await];
    for _ in 0..3 {
        let instance = stage.fixture.insert("p").await;
        up(&stage, instance).await;
        dues.push(schedule(&stage, instance).await);
    }
    let now = stage.context.store.now() + 7 * HOUR;
    let controllers = ["one", "two", "here", "there"].map(|controller_id| {
        let mut context = stage.context.clone();
        (context.controller_id, context.nudge) = (controller_id.to_owned(), Nudge::default());
        tokio::spawn(async move { reconcile(&context, now).await.unwrap() })
    });
    for ended in futures::future::join_all(controllers).await {
        ended.unwrap();
    }
    assert_eq!(backups(&stage).await.len(), 4);
    for due in dues {
        let begun = read(&stage, &due).await;
        assert_eq!((begun.fault, begun.tries, begun.last_run), (None, 0, Some(now)), "nobody has tried in vain");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_dies_has_begun_it_or_not() {
    let stage = ready(|config| {
        config.backups.scheduled_at_once = 1000;
        config.quota.max_backups_per_tenant = -1;
    })
    .await;
    let now = stage.context.store.now() + 7 * HOUR;
    let (mut dues, mut begun) = (Vec::new(), 0);
    for n in 0..40 {
        let instance = stage.fixture.insert("p").await;
        up(&stage, instance).await;
        let due = schedule(&stage, instance).await;
        let _died = tokio::time::timeout(Duration::from_micros(n * 250), fire(&stage.context, &due, now)).await;
        // What it has written is rolled back, or committed, before another one writes.
        drop(stage.context.store.begin().await.unwrap());
        let read = read(&stage, &due).await;
        let all = backups(&stage).await;
        let made: Vec<&Backup> = all.iter().filter(|backup| backup.schedule == Some(due.id)).collect();
        let moved = read.next_due != due.next_due;
        assert_eq!((made.len(), made.first().map(|backup| backup.id)), (usize::from(moved), read.last_backup), "{n}");
        begun += made.len();
        dues.push(due);
    }
    assert!(begun < dues.len(), "none has died");
    reconcile(&stage.context, now).await.unwrap();
    let all = backups(&stage).await;
    for due in dues {
        assert_eq!(all.iter().filter(|backup| backup.schedule == Some(due.id)).count(), 1);
        assert_eq!(read(&stage, &due).await.fault, None);
    }
}

#[tokio::test]
async fn what_was_missed_is_made_up_for_once() {
    let stage = ready(|_| ()).await;
    let due = schedule(&stage, stage.instance).await;
    let now = due.next_due + 3 * 6 * HOUR + HOUR;
    assert_eq!(reconcile(&stage.context, now).await.unwrap(), Some(due.next_due + 4 * 6 * HOUR));
    end(&stage, &backups(&stage).await[0]).await;
    assert_eq!(reconcile(&stage.context, now).await.unwrap(), Some(due.next_due + 4 * 6 * HOUR));
    assert_eq!(backups(&stage).await.len(), 1);
}

#[tokio::test]
async fn a_busy_instance_is_tried_again_and_then_left_out_until_the_next_time() {
    let stage = ready(|_| ()).await;
    let due = schedule(&stage, stage.instance).await;
    let store = &stage.context.store;
    let mut tx = store.begin().await.unwrap();
    store.set_task(&mut tx, stage.instance, Task::Restarting).await.unwrap();
    tx.commit().await.unwrap();
    let mut now = due.next_due;
    for tries in 1..TRIES {
        let again = reconcile(&stage.context, now).await.unwrap().unwrap();
        let tried = read(&stage, &due).await;
        assert_eq!((tried.tries, tried.next_due, tried.last_run), (tries, again, None));
        let fault = tried.fault.unwrap();
        assert!(fault.contains("tried again") && fault.contains("task status was RESTARTING"), "{fault}");
        now = again;
    }
    assert_eq!(now - due.next_due, HOUR);
    assert_eq!(reconcile(&stage.context, now).await.unwrap(), Some(due.next_due + 6 * HOUR));
    let out = read(&stage, &due).await;
    assert_eq!((out.tries, out.last_backup), (0, None));
    assert!(out.fault.unwrap().contains("was left out: "));
    assert!(backups(&stage).await.is_empty());

    up_again(&stage).await;
    reconcile(&stage.context, due.next_due + 6 * HOUR).await.unwrap();
    assert_eq!((backups(&stage).await.len(), read(&stage, &due).await.fault), (1, None));
}

async fn up_again(stage: &Stage) {
    let mut tx = stage.context.store.begin().await.unwrap();
    stage.context.store.set_task(&mut tx, stage.instance, Task::None).await.unwrap();
    tx.commit().await.unwrap();
    says(stage, stage.instance, Service::Healthy).await;
}

#[tokio::test]
async fn a_stopped_instance_is_backed_up_when_it_runs_again_and_no_try_goes_beyond_the_next_time() {
    let stage = ready(|_| ()).await;
    let due = scheduled(&stage, stage.instance, HOUR / 4, Keep { count: Some(2), age: None }).await;
    says(&stage, stage.instance, Service::Shutdown).await;
    let again = reconcile(&stage.context, due.next_due).await.unwrap().unwrap();
    up_again(&stage).await;
    assert_eq!(reconcile(&stage.context, again).await.unwrap(), Some(due.next_due + HOUR / 4));
    assert_eq!((backups(&stage).await.len(), read(&stage, &due).await.fault), (1, None));
    // Now it is being backed up, which is a reason, too.
    let (mut now, mut tries) = (due.next_due + HOUR / 4, 0);
    while read(&stage, &due).await.next_due < due.next_due + HOUR / 2 {
        now = reconcile(&stage.context, now).await.unwrap().unwrap();
        tries += 1;
    }
    assert_eq!((tries, now), (4, due.next_due + HOUR / 2), "after 0, 1, 3 and 7 min");
    assert_eq!(backups(&stage).await.len(), 1);
}

#[tokio::test]
async fn over_quota_it_is_left_out_until_the_next_time() {
    let stage = ready(|config| config.quota.max_backups_per_tenant = 0).await;
    let due = schedule(&stage, stage.instance).await;
    let before = stage.context.store.number("select count(*) from operation").await;
    assert_eq!(reconcile(&stage.context, due.next_due).await.unwrap(), Some(due.next_due + 6 * HOUR));
    let out = read(&stage, &due).await;
    let fault = out.fault.unwrap();
    assert!(fault.contains("was left out: Quota exceeded for resources: ['backups']"), "{fault}");
    assert_eq!(stage.context.store.number("select count(*) from operation").await, before);
    let mut tx = stage.context.store.begin().await.unwrap();
    stage.context.store.set_quota(&mut tx, &due.project, Resource::Backups, 1).await.unwrap();
    tx.commit().await.unwrap();
    reconcile(&stage.context, due.next_due + HOUR).await.unwrap();
    assert!(backups(&stage).await.is_empty());
    reconcile(&stage.context, due.next_due + 6 * HOUR).await.unwrap();
    assert_eq!(read(&stage, &due).await.fault, None);
    assert_eq!(stage.context.store.number("select in_use from usage where resource = 'backups'").await, 1);
}

#[tokio::test]
async fn no_more_are_taken_at_once_than_may_be() {
    let stage = ready(|config| config.backups.scheduled_at_once = 1).await;
    let other = stage.fixture.insert("p").await;
    up(&stage, other).await;
    let dues = [schedule(&stage, stage.instance).await, schedule(&stage, other).await];
    let now = stage.context.store.now() + 7 * HOUR;
    assert_eq!(reconcile(&stage.context, now).await.unwrap(), Some(now + RETRY));
    let first = backups(&stage).await;
    assert_eq!(first.len(), 1);
    assert_eq!(reconcile(&stage.context, now).await.unwrap(), Some(now + RETRY));
    assert_eq!(backups(&stage).await.len(), 1);
    let complete = "update backup set state = 'COMPLETED' where id = $1";
    query(complete).bind(first[0].id.to_string()).execute(&stage.context.store.write).await.unwrap();
    reconcile(&stage.context, now).await.unwrap();
    assert_eq!(backups(&stage).await.len(), 2);
    for due in dues {
        assert_eq!(read(&stage, &due).await.fault, None);
    }
}

#[tokio::test]
async fn one_that_rests_is_not_due() {
    let stage = ready(|_| ()).await;
    let due = schedule(&stage, stage.instance).await;
    let mut tx = stage.context.store.begin().await.unwrap();
    let rests = BackupSchedule { paused: true, ..due.clone() };
    stage.context.store.change_backup_schedule(&mut tx, &rests).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(reconcile(&stage.context, due.next_due + HOUR).await.unwrap(), None);
    // What was read before it was changed is not begun, either.
    assert!(matches!(fire(&stage.context, &due, due.next_due + HOUR).await.unwrap(), Fired::Settled));
    assert!(backups(&stage).await.is_empty());
    assert_eq!(read(&stage, &due).await, rests);
}

#[tokio::test]
async fn the_loop_wakes_when_one_is_due_and_when_one_is_made() {
    let stage = ready(|_| ()).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(run(stage.context.clone(), shutdown.clone()));
    let mut changes = stage.context.changes.subscribe();
    let due = schedule(&stage, stage.instance).await;
    let soon = "update backup_schedule set next_due = created + 1500000 where id = $1";
    query(soon).bind(due.id.to_string()).execute(&stage.context.store.write).await.unwrap();
    stage.context.nudge.now();
    let begun = async {
        while backups(&stage).await.is_empty() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), begun).await.unwrap();
    assert!(stage.context.store.now() - due.created >= Duration::from_millis(1500), "not before");
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_backup_that_is_complete_sends_the_oldest_away_and_never_a_persons_own() {
    let stage = ready(|_| ()).await;
    let own = stage.stored_backup().await;
    let due = scheduled(&stage, stage.instance, 6 * HOUR, Keep { count: Some(1), age: None }).await;
    let mut made = Vec::new();
    for n in 0..3 {
        reconcile(&stage.context, due.next_due + n * 6 * HOUR).await.unwrap();
        let backup = backups(&stage).await.into_iter().find(|backup| backup.state == BackupState::New).unwrap();
        end(&stage, &backup).await;
        made.push(backup.id);
        crate::reconcile::backups::reconcile(&stage.context, false).await.unwrap();
        let there: Vec<BackupId> = backups(&stage).await.into_iter().map(|backup| backup.id).collect();
        assert_eq!(there.len(), 2, "{there:?}");
        assert!(there.contains(&own.id) && there.contains(&backup.id));
    }
    stage.assert_settled().await;
}

/// Begins and ends the backup that is due at `now`, which is its time from then on.
async fn taken(stage: &Stage, now: OffsetDateTime) -> Backup {
    reconcile(&stage.context, now).await.unwrap();
    let backup = backups(stage).await.into_iter().find(|backup| backup.state == BackupState::New).unwrap();
    let begun = query("update backup set created = $2 where id = $1").bind(backup.id.to_string());
    begun.bind(crate::store::micros(now)).execute(&stage.context.store.write).await.unwrap();
    end(stage, &backup).await;
    stage.context.store.get_backup(backup.id).await.unwrap().unwrap()
}

#[tokio::test]
async fn increments_build_on_one_another_and_go_together_once_another_full_one_is_there() {
    let stage = ready(|_| ()).await;
    let mut able = manifest();
    able.capabilities.extend([Capability::Backup, Capability::Incremental]);
    register(&stage.context.store, &able).await;
    let due = scheduled(&stage, stage.instance, 6 * HOUR, Keep { count: Some(1), age: None }).await;
    let change = async |full_every| {
        let mut tx = stage.context.store.begin().await.unwrap();
        let changed = BackupSchedule { full_every, ..read(&stage, &due).await };
        stage.context.store.change_backup_schedule(&mut tx, &changed).await.unwrap();
        tx.commit().await.unwrap();
    };
    change(Some(24 * HOUR)).await;
    let mut made: Vec<Backup> = Vec::new();
    for n in 0..3 {
        let backup = taken(&stage, due.next_due + n * 6 * HOUR).await;
        assert_eq!(backup.parent, made.last().map(|backup| backup.id), "{n}");
        made.push(backup);
        crate::reconcile::backups::reconcile(&stage.context, false).await.unwrap();
        assert_eq!(backups(&stage).await.len(), made.len(), "what the newest builds on stays");
    }
    let full = taken(&stage, due.next_due + 3 * 6 * HOUR).await;
    assert_eq!(full.parent, None, "a day after the first");
    crate::reconcile::backups::reconcile(&stage.context, false).await.unwrap();
    let ids = async || backups(&stage).await.into_iter().map(|backup| backup.id).collect::<Vec<_>>();
    assert_eq!(ids().await, [full.id], "nothing needs the first chain");
    let next = taken(&stage, due.next_due + 4 * 6 * HOUR).await;
    assert_eq!(next.parent, Some(full.id));
    // A person deletes it, and so the one before it is not the last that was begun.
    let mut tx = stage.context.store.begin().await.unwrap();
    stage.context.store.begin_backup_deletion(&mut tx, next.id).await.unwrap();
    tx.commit().await.unwrap();
    let last = taken(&stage, due.next_due + 5 * 6 * HOUR).await;
    assert_eq!(last.parent, None);
    change(None).await;
    assert_eq!(taken(&stage, due.next_due + 6 * 6 * HOUR).await.parent, None);
    change(Some(24 * HOUR)).await;
    able.capabilities.pop();
    register(&stage.context.store, &able).await;
    assert_eq!(taken(&stage, due.next_due + 7 * 6 * HOUR + HOUR).await.parent, None, "its engine cannot any more");
}

#[tokio::test]
async fn a_full_one_is_taken_whenever_something_speaks_against_an_increment() {
    let stage = ready(|_| ()).await;
    let now = stage.context.store.now();
    let day = 24 * HOUR;
    let schedule = BackupSchedule { full_every: Some(7 * day), ..crate::testing::store::schedule(stage.instance, now) };
    let mut full = stage.stored_backup().await;
    full.stored.as_mut().unwrap().checkpoint = Some("7".to_owned());
    let last = Backup { id: BackupId::random(), parent: Some(full.id), ..full.clone() };
    let version = full.source.version_number.clone();
    let of = |chain: &[Backup]| parent(&schedule, chain, &version, now + day);
    assert_eq!(of(&[full.clone(), last.clone()]), Some(last.id));
    assert_eq!(of(std::slice::from_ref(&full)), Some(full.id));
    assert_eq!(of(&[]), None);
    assert_eq!(of(std::slice::from_ref(&last)), None, "what it builds on is gone");
    assert_eq!(parent(&schedule, std::slice::from_ref(&full), "15.19", now + day), None);
    assert_eq!(parent(&schedule, std::slice::from_ref(&full), &version, now + 8 * day), None);
    for state in BackupState::ALL {
        let other = Backup { state, ..last.clone() };
        assert_eq!(of(&[full.clone(), other]).is_some(), state == BackupState::Completed, "{state:?}");
    }
    let verified = |state| Verification { state, at: now, operation: OperationId::random(), fault: None };
    for state in [VerificationState::Running, VerificationState::Passed, VerificationState::Failed] {
        let full = Backup { verification: Some(verified(state)), ..full.clone() };
        assert_eq!(of(&[full, last.clone()]).is_some(), state != VerificationState::Failed, "{state:?}");
    }
    let mut bare = last.clone();
    bare.stored.as_mut().unwrap().checkpoint = None;
    assert_eq!(of(&[full.clone(), bare]), None, "nothing builds on it");
    let chain = |increments| [&[full.clone()][..], &vec![last.clone(); increments]].concat();
    assert!(of(&chain(LONGEST_CHAIN - 2)).is_some() && of(&chain(LONGEST_CHAIN - 1)).is_none());
}

#[tokio::test]
async fn one_that_fails_says_why_in_its_schedule_and_sends_no_complete_one_away() {
    let stage = ready(|_| ()).await;
    let due = scheduled(&stage, stage.instance, 6 * HOUR, Keep { count: Some(1), age: None }).await;
    reconcile(&stage.context, due.next_due).await.unwrap();
    end(&stage, &backups(&stage).await[0]).await;
    for n in 1..6 {
        reconcile(&stage.context, due.next_due + n * 6 * HOUR).await.unwrap();
        let backup = backups(&stage).await.into_iter().find(|backup| backup.state == BackupState::New).unwrap();
        let kind = trove_proto::v1::ErrorKind::Fatal;
        stage.agents.fail_next("backup", crate::agents::AgentError::Refused { kind, message: "it is full".to_owned() });
        let running = stage.start(None);
        stage.end(backup.operation).await.unwrap_err();
        running.stop().await;
        let fault = read(&stage, &due).await.fault.unwrap();
        assert!(fault.contains("it is full"), "{fault}");
        crate::reconcile::backups::reconcile(&stage.context, true).await.unwrap();
    }
    let left = backups(&stage).await;
    let count = |state| left.iter().filter(|backup| backup.state == state).count();
    assert_eq!((count(BackupState::Completed), count(BackupState::Failed), left.len()), (1, 3, 4));
}

#[tokio::test]
async fn what_has_become_too_old_goes_but_for_the_newest_and_what_is_being_restored() {
    let stage = ready(|_| ()).await;
    let store = &stage.context.store;
    let own = stage.stored_backup().await;
    let due = scheduled(&stage, stage.instance, 6 * HOUR, Keep { count: None, age: Some(24 * HOUR) }).await;
    let mut made = Vec::new();
    for _ in 0..4 {
        let row = stage.fixture.new_backup("p", stage.instance, OperationId::random());
        let row = NewRow { schedule: Some(due.id), ..row };
        let stored = own.stored.clone().unwrap();
        let mut tx = store.begin().await.unwrap();
        store.insert_backup(&mut tx, &row).await.unwrap();
        assert!(store.complete_backup(&mut tx, row.id, &StoredBackup { ..stored }).await.unwrap());
        tx.commit().await.unwrap();
        made.push(row.id);
    }
    let restores = "update operation set active = $1, kind = 'restore_instance', state = $2";
    let restore = async |active: bool| {
        let state = format!("{{\"backup\":\"{}\"}}", made[1]);
        query(restores).bind(active).bind(state).execute(&store.write).await.unwrap();
    };
    restore(true).await;
    assert_eq!(retain(&stage.context, store.now() + 23 * HOUR).await.unwrap(), []);
    let later = store.now() + 25 * HOUR;
    let mut gone = retain(&stage.context, later).await.unwrap();
    gone.sort();
    let mut old = vec![made[0], made[2]];
    old.sort();
    assert_eq!(gone, old);
    restore(false).await;
    assert_eq!(retain(&stage.context, later).await.unwrap(), [made[1]]);
    assert_eq!(retain(&stage.context, later).await.unwrap(), []);
    assert_eq!(store.get_backup(made[3]).await.unwrap().unwrap().state, BackupState::Completed);
    assert_eq!(store.get_backup(own.id).await.unwrap().unwrap().state, BackupState::Completed);
}

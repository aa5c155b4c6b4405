use super::*;
use crate::model::backups::StoredBackup;
use crate::testing::store::{Fixture, fixture};

const HOUR: Duration = Duration::from_secs(3600);

/// A schedule that was due an hour ago.
fn new(fixture: &Fixture, project: &str, instance: InstanceId) -> BackupSchedule {
    let now = from_micros(fixture.store.now_micros());
    BackupSchedule {
        project: ProjectId(project.to_owned()),
        next_due: now - HOUR,
        ..crate::testing::store::schedule(instance, now)
    }
}

async fn insert(fixture: &Fixture, schedule: &BackupSchedule) {
    let mut tx = fixture.store.begin().await.unwrap();
    fixture.store.insert_backup_schedule(&mut tx, schedule).await.unwrap();
    tx.commit().await.unwrap();
}

/// A backup of a schedule, complete, failed, or being taken.
async fn backup(fixture: &Fixture, schedule: &BackupSchedule, state: BackupState) -> (BackupId, OperationId) {
    let store = &fixture.store;
    let row = crate::store::backups::NewRow {
        schedule: Some(schedule.id),
        ..fixture.new_backup("p", schedule.instance, OperationId::random())
    };
    let mut tx = store.begin().await.unwrap();
    store.insert_backup(&mut tx, &row).await.unwrap();
    let (run, manifest_sum) = ("ab".to_owned(), "cd".to_owned());
    let stored = StoredBackup {
        run,
        manifest_sum,
        data_bytes: 2,
        stored_bytes: 1,
        position: None,
        checkpoint: None,
        memory_bytes: None,
    };
    match state {
        BackupState::Completed => assert!(store.complete_backup(&mut tx, row.id, &stored).await.unwrap()),
        BackupState::Failed => store.fail_backup(&mut tx, row.operation, "no space").await.unwrap(),
        _ => {}
    }
    tx.commit().await.unwrap();
    (row.id, row.operation)
}

#[tokio::test]
async fn a_schedule_is_read_back_whole_and_changed() {
    let fixture = fixture().await;
    let (store, mut schedule) = (&fixture.store, new(&fixture, "p", InstanceId::random()));
    insert(&fixture, &schedule).await;
    assert_eq!(store.get_backup_schedule(schedule.id).await.unwrap(), Some(schedule.clone()));
    schedule.rhythm = Rhythm::Every(6 * HOUR);
    schedule.keep = Keep { count: None, age: Some(24 * HOUR) };
    schedule.full_every = Some(48 * HOUR);
    (schedule.verify, schedule.verify_due) = (Some(24 * HOUR), schedule.verify_due + HOUR);
    schedule.paused = true;
    (schedule.anchor, schedule.next_due, schedule.tries) = (schedule.anchor + HOUR, schedule.next_due + HOUR, 0);
    let mut tx = store.begin().await.unwrap();
    store.change_backup_schedule(&mut tx, &schedule).await.unwrap();
    assert_eq!(store.backup_schedule(&mut tx, schedule.id).await.unwrap(), Some(schedule.clone()));
    store.delete_backup_schedule(&mut tx, schedule.id).await.unwrap();
    store.delete_backup_schedule(&mut tx, schedule.id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.get_backup_schedule(schedule.id).await.unwrap(), None);
}

#[tokio::test]
async fn lists_are_filtered_and_paged_by_id() {
    let fixture = fixture().await;
    let (store, instance) = (&fixture.store, InstanceId::random());
    let mut all: Vec<BackupSchedule> = [("p", instance), ("p", InstanceId::random()), ("q", InstanceId::random())]
        .map(|(project, instance)| new(&fixture, project, instance))
        .into();
    for schedule in &all {
        insert(&fixture, schedule).await;
    }
    let first = all[0].id;
    all.sort_by_key(|schedule| schedule.id);
    let ids = |of: &str| -> Vec<ScheduleId> {
        all.iter().filter(|schedule| of.contains(&schedule.project.0)).map(|schedule| schedule.id).collect()
    };
    let list = async |filter: Filter<'_>, marker: Option<&str>, limit| {
        let found = store.list_backup_schedules(filter, marker, limit).await.unwrap();
        found.into_iter().map(|schedule| schedule.id).collect::<Vec<_>>()
    };
    let project = ProjectId("p".to_owned());
    let own = Filter { project: Some(&project), instance: None };
    assert_eq!(list(Filter::default(), None, 10).await, ids("pq"));
    assert_eq!(list(own, None, 10).await, ids("p"));
    assert_eq!(list(own, None, 1).await, ids("p")[..1]);
    assert_eq!(list(own, Some(&ids("p")[0].to_string()), 10).await, ids("p")[1..]);
    assert_eq!(list(Filter { instance: Some(&instance.to_string()), ..own }, None, 10).await, [first]);
    let mut tx = store.begin().await.unwrap();
    assert_eq!(store.count_backup_schedules(&mut tx, instance).await.unwrap(), 1);
    tx.commit().await.unwrap();
    let active = store.active_backup_schedules(None, 2).await.unwrap();
    let rest = store.active_backup_schedules(Some(active[1].id), 2).await.unwrap();
    assert_eq!(active.iter().chain(&rest).map(|schedule| schedule.id).collect::<Vec<_>>(), ids("pq"));
}

#[tokio::test]
async fn only_who_read_the_time_that_is_stored_moves_it() {
    let fixture = fixture().await;
    let (store, read) = (&fixture.store, new(&fixture, "p", InstanceId::random()));
    insert(&fixture, &read).await;
    let now = store.now();
    let due = async || store.list_due_backup_schedules(now, 10).await.unwrap().len();
    assert_eq!(store.next_backup_due().await.unwrap(), Some(read.next_due));
    assert_eq!(store.list_due_backup_schedules(read.next_due - HOUR, 10).await.unwrap(), []);
    assert_eq!(due().await, 1);

    let (later, last) = (now + HOUR, now + 2 * HOUR);
    let mut tx = store.begin().await.unwrap();
    assert!(store.put_off_scheduled_backup(&mut tx, &read, 1, later, "busy").await.unwrap());
    assert!(!store.put_off_scheduled_backup(&mut tx, &read, 1, later, "busy").await.unwrap());
    let backup = BackupId::random();
    assert!(!store.begin_scheduled_backup(&mut tx, &read, backup, now, last).await.unwrap());
    let again = store.backup_schedule(&mut tx, read.id).await.unwrap().unwrap();
    assert_eq!((again.next_due, again.tries, again.fault.as_deref()), (later, 1, Some("busy")));
    assert!(store.begin_scheduled_backup(&mut tx, &again, backup, now, last).await.unwrap());
    assert!(!store.begin_scheduled_backup(&mut tx, &again, backup, now, last).await.unwrap());
    let begun = store.backup_schedule(&mut tx, read.id).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!((begun.next_due, begun.tries, begun.fault.as_deref()), (last, 0, None));
    assert_eq!((begun.last_run, begun.last_backup), (Some(from_micros(micros(now))), Some(backup)));
    assert_eq!(due().await, 0);

    let rests = BackupSchedule { paused: true, next_due: read.next_due, ..begun };
    let mut tx = store.begin().await.unwrap();
    store.change_backup_schedule(&mut tx, &rests).await.unwrap();
    assert!(!store.begin_scheduled_backup(&mut tx, &rests, backup, now, last).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!((due().await, store.next_backup_due().await.unwrap()), (0, None));
}

#[tokio::test]
async fn the_schedules_of_an_instance_go_with_it_and_their_backups_stay() {
    let fixture = fixture().await;
    let (store, instance) = (&fixture.store, fixture.insert("p").await);
    let (own, other) = (new(&fixture, "p", instance), new(&fixture, "p", InstanceId::random()));
    insert(&fixture, &own).await;
    insert(&fixture, &other).await;
    let (backup, operation) = backup(&fixture, &own, BackupState::Completed).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(store.schedule_of(&mut tx, operation).await.unwrap().map(|found| found.id), Some(own.id));
    store.mark_deleted(&mut tx, instance).await.unwrap();
    assert_eq!(store.schedule_of(&mut tx, operation).await.unwrap(), None);
    tx.commit().await.unwrap();
    assert_eq!(store.get_backup_schedule(own.id).await.unwrap(), None);
    assert!(store.get_backup_schedule(other.id).await.unwrap().is_some());
    let kept = store.get_backup(backup).await.unwrap().unwrap();
    assert_eq!((kept.state, kept.schedule), (BackupState::Completed, Some(own.id)));
}

#[tokio::test]
async fn what_a_schedule_keeps_no_longer_is_deleted_and_nothing_else() {
    let fixture = fixture().await;
    let (store, instance) = (&fixture.store, fixture.insert("p").await);
    let schedule = new(&fixture, "p", instance);
    insert(&fixture, &schedule).await;
    let other = new(&fixture, "p", instance);
    let mut tx = store.begin().await.unwrap();
    let own = fixture.new_backup("p", instance, OperationId::random());
    store.insert_backup(&mut tx, &own).await.unwrap();
    tx.commit().await.unwrap();
    let (foreign, _) = backup(&fixture, &other, BackupState::Completed).await;
    let mut made = Vec::new();
    for state in [BackupState::Completed, BackupState::Failed].repeat(5) {
        made.push(backup(&fixture, &schedule, state).await.0);
    }
    let (running, _) = backup(&fixture, &schedule, BackupState::New).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(store.count_scheduled_backups(&mut tx).await.unwrap(), 1, "not that of a person");
    let rests = BackupSchedule { paused: true, ..schedule.clone() };
    assert_eq!(store.trim_backups(&mut tx, &rests, store.now()).await.unwrap(), []);
    let mut gone = store.trim_backups(&mut tx, &schedule, store.now()).await.unwrap();
    assert_eq!(store.trim_backups(&mut tx, &schedule, store.now()).await.unwrap(), []);
    tx.commit().await.unwrap();
    gone.sort();
    let mut oldest = vec![made[0], made[1], made[2], made[3], made[4]];
    oldest.sort();
    assert_eq!(gone, oldest, "two complete ones and three failed ones are kept");
    for id in gone {
        assert_eq!(store.get_backup(id).await.unwrap().unwrap().state, BackupState::Deleting);
    }
    for (id, state) in [(own.id, BackupState::New), (foreign, BackupState::Completed), (running, BackupState::New)] {
        assert_eq!(store.get_backup(id).await.unwrap().unwrap().state, state);
    }
}

#[tokio::test]
async fn a_verification_is_due_once_a_backup_is_complete_that_was_begun_when_it_was_due() {
    let fixture = fixture().await;
    let (store, instance) = (&fixture.store, InstanceId::random());
    let at = |verify, verify_due| BackupSchedule { verify, verify_due, ..new(&fixture, "p", instance) };
    let (now, week) = (store.now(), Some(7 * 24 * HOUR));
    let due = at(week, now - HOUR);
    let others = [at(None, now - HOUR), at(week, now + HOUR), BackupSchedule { paused: true, ..at(week, now - HOUR) }];
    for schedule in others.iter().chain([&due]) {
        insert(&fixture, schedule).await;
    }
    let list = async || {
        let found = store.list_due_verifications(10).await.unwrap();
        found.into_iter().map(|schedule| schedule.id).collect::<Vec<_>>()
    };
    for schedule in others.iter().chain([&due]) {
        backup(&fixture, schedule, BackupState::Failed).await;
        backup(&fixture, schedule, BackupState::New).await;
    }
    assert_eq!(list().await, []);
    assert!(store.get_scheduled_chain(due.id).await.unwrap().is_empty());
    let mut newest = Vec::new();
    for schedule in others.iter().chain([&due, &due]) {
        newest.push(backup(&fixture, schedule, BackupState::Completed).await.0);
        backup(&fixture, schedule, BackupState::Failed).await;
    }
    assert_eq!(list().await, [due.id]);
    let chain = store.get_scheduled_chain(due.id).await.unwrap();
    assert_eq!(chain.iter().map(|backup| backup.id).collect::<Vec<_>>(), newest[4..]);
    let (found, operation) = (&chain[0], OperationId::random());
    let mut tx = store.begin().await.unwrap();
    store.begin_verification(&mut tx, found, operation).await.unwrap();
    store.end_verification(&mut tx, operation, Some("it is damaged")).await.unwrap();
    store.end_verification(&mut tx, operation, None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(list().await, []);
    let read = store.get_backup_schedule(due.id).await.unwrap().unwrap();
    let last = read.last_verification.unwrap();
    assert_eq!(
        (last.backup, last.state, last.fault.as_deref()),
        (found.id, VerificationState::Failed, Some("it is damaged"))
    );
    assert_eq!(micros(read.verify_due), micros(due.verify_due) + 7 * 24 * 3_600_000_000);
}

#[tokio::test]
async fn what_a_kept_increment_builds_on_stays_and_goes_with_the_last_that_needs_it() {
    let fixture = fixture().await;
    let (store, instance) = (&fixture.store, fixture.insert("p").await);
    let schedule = new(&fixture, "p", instance);
    insert(&fixture, &schedule).await;
    let mut made = Vec::new();
    // Two chains of a full one and two increments, the last of which has failed; then a full one.
    for (parent, state) in [
        (None, BackupState::Completed),
        (Some(0), BackupState::Completed),
        (Some(1), BackupState::Failed),
        (None, BackupState::Completed),
        (Some(3), BackupState::Completed),
        (Some(4), BackupState::Completed),
    ] {
        let (id, _) = backup(&fixture, &schedule, state).await;
        let parent = parent.map(|n: usize| made[n]);
        let update = query("update backup set parent_id = $2 where id = $1").bind(id.to_string());
        let parent = parent.map(|id: BackupId| id.to_string());
        update.bind(parent).execute(&store.write).await.unwrap();
        made.push(id);
    }
    let trim = async || {
        let mut tx = store.begin().await.unwrap();
        let gone = store.trim_backups(&mut tx, &schedule, store.now()).await.unwrap();
        tx.commit().await.unwrap();
        gone
    };
    assert_eq!(trim().await, [made[1], made[0]], "the whole first chain at once, and the failed one needs nothing");
    assert_eq!(trim().await, [], "the full one of the second chain is beyond the two, and is needed");
    let full = backup(&fixture, &schedule, BackupState::Completed).await.0;
    assert_eq!(trim().await, []);
    let running = backup(&fixture, &schedule, BackupState::New).await.0;
    let builds = query("update backup set parent_id = $2 where id = $1").bind(running.to_string());
    builds.bind(made[5].to_string()).execute(&store.write).await.unwrap();
    backup(&fixture, &schedule, BackupState::Completed).await;
    assert_eq!(trim().await, [], "one that is being taken needs it");
    let failed = query("update backup set state = 'FAILED' where id = $1").bind(running.to_string());
    failed.execute(&store.write).await.unwrap();
    assert_eq!(trim().await, [made[5], made[4], made[3]]);
    assert_eq!(store.get_backup(full).await.unwrap().unwrap().state, BackupState::Completed);
}

#[tokio::test]
async fn a_failure_is_said_in_the_schedule_whose_last_backup_it_was() {
    let fixture = fixture().await;
    let (store, schedule) = (&fixture.store, new(&fixture, "p", InstanceId::random()));
    insert(&fixture, &schedule).await;
    let (first, old) = backup(&fixture, &schedule, BackupState::Failed).await;
    let (last, operation) = backup(&fixture, &schedule, BackupState::Failed).await;
    let mut tx = store.begin().await.unwrap();
    assert!(store.begin_scheduled_backup(&mut tx, &schedule, last, store.now(), schedule.next_due).await.unwrap());
    store.fail_schedule_of(&mut tx, old, "late").await.unwrap();
    assert_eq!(store.backup_schedule(&mut tx, schedule.id).await.unwrap().unwrap().fault, None, "{first}");
    store.fail_schedule_of(&mut tx, operation, "no space").await.unwrap();
    let fault = store.backup_schedule(&mut tx, schedule.id).await.unwrap().unwrap().fault;
    tx.commit().await.unwrap();
    assert_eq!(fault.as_deref(), Some("no space"));
}

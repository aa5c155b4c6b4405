use trove_strategy::Capability;

use super::*;
use crate::state::HostState;
use crate::testing::app::{World, admin, caller, code, world};
use crate::testing::store::{manifest, register};

const HOUR: Duration = Duration::from_secs(3600);

/// A world whose datastore has backups, with an instance that is up.
async fn ready() -> (World, InstanceId) {
    let world = world().await;
    let mut able = manifest();
    able.capabilities.push(Capability::Backup);
    register(&world.app.store, &able).await;
    let id = world.healthy("demo").await;
    (world, id)
}

fn cron(text: &str) -> NewRhythm {
    NewRhythm { cron: Some(text.to_owned()), interval: None }
}

fn every(interval: Duration) -> NewRhythm {
    NewRhythm { cron: None, interval: Some(interval) }
}

fn order(id: InstanceId) -> NewSchedule {
    let keep = Keep { count: Some(10), age: Some(7 * 24 * HOUR) };
    NewSchedule {
        instance: id.to_string(),
        rhythm: cron("0  3 * * *"),
        full_every: Duration::ZERO,
        keep,
        verify: None,
        paused: false,
    }
}

#[tokio::test]
async fn a_schedule_is_answered_as_it_is_read_and_is_due_when_it_says() {
    let (world, id) = ready().await;
    let (app, demo) = (&world.app, caller("demo"));
    let made = app.create_backup_schedule(&demo, order(id)).await.unwrap();
    let read = app.get_backup_schedule(&demo, made.id).await.unwrap();
    assert_eq!(read, made);
    assert_eq!(
        (&made.rhythm, made.instance, &made.user_id),
        (&Rhythm::Cron("0 3 * * *".to_owned()), id, &demo.user_id)
    );
    let (hour, minute) = (made.next_due.hour(), made.next_due.minute());
    assert!(hour == 3 && minute < 5 && made.next_due > app.store.now(), "{}", made.next_due);
    let interval = NewSchedule { rhythm: every(HOUR / 4), ..order(id) };
    let made = app.create_backup_schedule(&demo, interval).await.unwrap();
    let wait = made.next_due - made.created;
    assert!(wait >= HOUR / 4 && wait < HOUR / 4 + HOUR / 40, "{wait}");

    let (other, admin) = (caller("other"), admin());
    assert_eq!(code(&app.get_backup_schedule(&other, made.id).await), 404);
    assert_eq!(code(&app.delete_backup_schedule(&other, made.id).await), 404);
    let pause = || ScheduleChange { paused: Some(true), ..ScheduleChange::default() };
    assert_eq!(code(&app.change_backup_schedule(&other, made.id, pause()).await), 404);
    assert_eq!(app.get_backup_schedule(&admin, made.id).await.unwrap().id, made.id);
    let page = || PageRequest { limit: 20, marker: None };
    let count = async |caller: &Caller, wanted: &ListedSchedules| {
        app.list_backup_schedules(caller, wanted, page()).await.unwrap().items.len()
    };
    assert_eq!(count(&demo, &ListedSchedules::default()).await, 2);
    assert_eq!(count(&other, &ListedSchedules::default()).await, 0);
    assert_eq!(count(&admin, &ListedSchedules { all_projects: true, ..Default::default() }).await, 2);
    let of = ListedSchedules { project: Some(ProjectId("demo".to_owned())), ..Default::default() };
    assert_eq!(count(&admin, &of).await, 2);
    app.delete_backup_schedule(&demo, made.id).await.unwrap();
    assert_eq!(code(&app.delete_backup_schedule(&demo, made.id).await), 404);
    assert_eq!(count(&demo, &ListedSchedules::default()).await, 1);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let (world, id) = ready().await;
    let (app, demo) = (&world.app, caller("demo"));
    let made = app.create_backup_schedule(&demo, order(id)).await.unwrap();
    let before = world.rows().await;
    let both = NewRhythm { interval: Some(HOUR), ..cron("0 3 * * *") };
    let rhythms = [
        (cron("daily"), "['cron'] must be a cron expression of five fields"),
        (cron("0 0 31 2 *"), "['cron'] must come at some time"),
        (cron("*/10 * * * *"), "['cron'] must not come twice within 15 min"),
        (every(HOUR / 4 - Duration::from_secs(1)), "['interval_seconds'] must be from 900 (15 min)"),
        (every(367 * 24 * HOUR), "['interval_seconds'] must be from"),
        (both, "['cron'] must not be there together"),
        (NewRhythm::default(), "needs cron or interval_seconds"),
    ];
    for (rhythm, said) in rhythms {
        let refused = app.create_backup_schedule(&demo, NewSchedule { rhythm: rhythm.clone(), ..order(id) }).await;
        assert_eq!(code(&refused), 400, "{said}");
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(said), "{said}: {text}");
        let change = ScheduleChange { rhythm: Some(rhythm), ..ScheduleChange::default() };
        assert_eq!(code(&app.change_backup_schedule(&demo, made.id, change).await), 400, "{said}");
    }
    for seconds in [1, 899, 367 * 24 * 3600] {
        let verify = Some(Duration::from_secs(seconds));
        let refused = app.create_backup_schedule(&demo, NewSchedule { verify, ..order(id) }).await;
        assert_eq!(code(&refused), 400, "{seconds}");
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("['verify_seconds'] must be 0 (never) or from 900 (15 min)"), "{text}");
        let change = ScheduleChange { verify, ..ScheduleChange::default() };
        assert_eq!(code(&app.change_backup_schedule(&demo, made.id, change).await), 400, "{seconds}");
    }
    for (count, seconds, said) in [
        (None, None, "['keep'] needs count or seconds"),
        (Some(0), None, "['keep']['count'] must be from 1"),
        (Some(10_001), None, "['keep']['count']"),
        (Some(1), Some(0), "['keep']['seconds'] must be from 1"),
        (None, Some(u64::MAX), "['keep']['seconds']"),
    ] {
        let keep = Keep { count, age: seconds.map(Duration::from_secs) };
        let refused = app.create_backup_schedule(&demo, NewSchedule { keep, ..order(id) }).await;
        assert_eq!(code(&refused), 400, "{said}");
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(said), "{said}: {text}");
        let change = ScheduleChange { keep: Some(keep), ..ScheduleChange::default() };
        assert_eq!(code(&app.change_backup_schedule(&demo, made.id, change).await), 400, "{said}");
    }
    let nobody = InstanceId::random().to_string();
    for (instance, project) in [("x".to_owned(), "demo"), (nobody, "demo"), (id.to_string(), "other")] {
        let refused = app.create_backup_schedule(&caller(project), NewSchedule { instance, ..order(id) }).await;
        assert_eq!(code(&refused), 404);
    }
    world.set(id, Task::Deleting, HostState::Active).await;
    assert_eq!(code(&app.create_backup_schedule(&demo, order(id)).await), 422, "its schedules would outlive it");
    world.set(id, Task::Restarting, HostState::Active).await;
    register(&app.store, &manifest()).await;
    assert_eq!(code(&app.create_backup_schedule(&demo, order(id)).await), 501);
    assert_eq!(world.rows().await, before);
    assert_eq!(app.get_backup_schedule(&demo, made.id).await.unwrap(), made);
}

#[tokio::test]
async fn one_is_verified_each_week_unless_another_interval_is_asked_for() {
    let (world, id) = ready().await;
    let (app, demo, day) = (&world.app, caller("demo"), 24 * HOUR);
    for (asked, verify) in [(None, Some(7 * day)), (Some(Duration::ZERO), None), (Some(day), Some(day))] {
        let made = app.create_backup_schedule(&demo, NewSchedule { verify: asked, ..order(id) }).await.unwrap();
        assert_eq!((made.verify, made.verify_due, &made.last_verification), (verify, made.created, &None));
        assert_eq!(app.get_backup_schedule(&demo, made.id).await.unwrap(), made);
    }
    let made = app.create_backup_schedule(&demo, order(id)).await.unwrap();
    world.run("update backup_schedule set verify_due = 5 where id = $1", made.id).await;
    let change = async |verify| {
        let change = ScheduleChange { verify, ..ScheduleChange::default() };
        app.change_backup_schedule(&demo, made.id, change).await.unwrap()
    };
    let due = OffsetDateTime::UNIX_EPOCH + Duration::from_micros(5);
    for verify in [None, Some(7 * day)] {
        let same = change(verify).await;
        assert_eq!((same.verify, same.verify_due), (Some(7 * day), due), "nothing has changed");
    }
    for (verify, expected) in [(day, Some(day)), (Duration::ZERO, None), (7 * day, Some(7 * day))] {
        let changed = change(Some(verify)).await;
        assert_eq!((changed.verify, changed.verify_due), (expected, changed.updated), "the next backup is verified");
    }
}

#[tokio::test]
async fn increments_are_for_datastores_that_have_them() {
    let (world, id) = ready().await;
    let (app, demo, week) = (&world.app, caller("demo"), 7 * 24 * HOUR);
    let made = app.create_backup_schedule(&demo, order(id)).await.unwrap();
    let create = async |full_every| app.create_backup_schedule(&demo, NewSchedule { full_every, ..order(id) }).await;
    let change = async |full_every| {
        let change = ScheduleChange { full_every: Some(full_every), ..ScheduleChange::default() };
        app.change_backup_schedule(&demo, made.id, change).await
    };
    for refused in [create(week).await, change(week).await] {
        assert_eq!(code(&refused), 422);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("enginedb has no incremental backups: leave out full_every_seconds"), "{text}");
    }
    assert_eq!(change(Duration::ZERO).await.unwrap().full_every, None);
    let mut able = manifest();
    able.capabilities.extend([Capability::Backup, Capability::Incremental]);
    register(&app.store, &able).await;
    for refused in [create(HOUR / 5).await, change(HOUR / 5).await] {
        assert_eq!(code(&refused), 400);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("['full_every_seconds'] must be 0 (all of them) or from 900"), "{text}");
    }
    let with = create(week).await.unwrap();
    assert_eq!((with.full_every, app.get_backup_schedule(&demo, with.id).await.unwrap()), (Some(week), with.clone()));
    let changed = change(week).await.unwrap();
    assert_eq!((changed.full_every, changed.next_due, changed.keep), (Some(week), made.next_due, made.keep));
    let paused = ScheduleChange { paused: Some(true), ..ScheduleChange::default() };
    assert_eq!(app.change_backup_schedule(&demo, made.id, paused).await.unwrap().full_every, Some(week), "it stays");
    let other = ScheduleChange { full_every: Some(week), ..ScheduleChange::default() };
    assert_eq!(code(&app.change_backup_schedule(&caller("other"), made.id, other).await), 404);
}

#[tokio::test]
async fn an_instance_has_only_so_many() {
    let (world, id) = ready().await;
    for _ in 0..MOST {
        world.app.create_backup_schedule(&caller("demo"), order(id)).await.unwrap();
    }
    let refused = world.app.create_backup_schedule(&caller("demo"), order(id)).await;
    assert_eq!(code(&refused), 422);
    assert!(refused.unwrap_err().to_string().contains("10 schedules"));
}

#[tokio::test]
async fn a_change_changes_what_it_names_and_what_rested_is_not_made_up_for() {
    let (world, id) = ready().await;
    let (app, demo) = (&world.app, caller("demo"));
    let made = app.create_backup_schedule(&demo, order(id)).await.unwrap();
    let change = async |change: ScheduleChange| app.change_backup_schedule(&demo, made.id, change).await.unwrap();
    let keep = Keep { count: Some(3), age: None };
    let kept = change(ScheduleChange { keep: Some(keep), ..Default::default() }).await;
    assert_eq!((kept.keep, &kept.rhythm, kept.next_due), (keep, &made.rhythm, made.next_due), "both bounds at once");
    let paused = change(ScheduleChange { paused: Some(true), ..Default::default() }).await;
    assert_eq!((paused.paused, paused.next_due), (true, made.next_due));

    // Meanwhile some are missed.
    world.run("update backup_schedule set next_due = 1, tries = 3 where id = $1", made.id).await;
    let resumed = change(ScheduleChange { paused: Some(false), ..Default::default() }).await;
    assert_eq!((resumed.paused, resumed.next_due, resumed.tries), (false, made.next_due, 0));
    assert_eq!(app.get_backup_schedule(&demo, made.id).await.unwrap(), resumed);
    // One that does not rest stays due.
    world.run("update backup_schedule set next_due = 1 where id = $1", made.id).await;
    let same = change(ScheduleChange { paused: Some(false), ..Default::default() }).await;
    assert_eq!(same.next_due, OffsetDateTime::UNIX_EPOCH + Duration::from_micros(1));

    let faster = change(ScheduleChange { rhythm: Some(every(HOUR)), ..Default::default() }).await;
    assert_eq!((&faster.rhythm, faster.keep), (&Rhythm::Every(HOUR), keep));
    assert!(faster.anchor == faster.updated && faster.next_due - faster.updated >= HOUR, "{faster:?}");
    assert_eq!(app.get_backup_schedule(&demo, made.id).await.unwrap(), faster);
}

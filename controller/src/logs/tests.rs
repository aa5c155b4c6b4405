use time::OffsetDateTime;

use super::*;
use crate::model::logs::LogBase;
use crate::testing::store::{Fixture, fixture};

struct Ground {
    fixture: Fixture,
    desk: LogDesk,
    instance: InstanceId,
}

const RUN: &str = "0123456789abcdef0123456789abcdef";
const HOUR: Duration = Duration::from_secs(3600);

fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap()
}

async fn ground() -> Ground {
    let fixture = fixture().await;
    let instance = fixture.insert("p").await;
    let desk = LogDesk::new(fixture.store.clone(), fixture.objects(), Arc::new(Config::default()));
    let ground = Ground { fixture, desk, instance };
    ground.keep(Some(HOUR)).await;
    ground
}

impl Ground {
    async fn keep(&self, keep: Option<Duration>) {
        let (store, project) = (&self.fixture.store, crate::ids::ProjectId("p".to_owned()));
        let mut tx = store.begin().await.unwrap();
        store.set_log_shipping(&mut tx, self.instance, &project, keep).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn ask(&self, instance: InstanceId, kind: Question) -> std::result::Result<Answer, v1::Error> {
        let answer = self.desk.answer(instance, v1::LogQuestion { number: 7, kind: Some(kind) }).await;
        assert_eq!(answer.number, 7);
        match answer.kind.unwrap() {
            Answer::Refusal(error) => Err(error),
            other => Ok(other),
        }
    }

    async fn container(&self, kind: Question) -> std::result::Result<v1::LogContainer, v1::Error> {
        match self.ask(self.instance, kind).await? {
            Answer::Container(container) => Ok(container),
            _ => panic!("another answer"),
        }
    }

    async fn begin(&self, from: &str) -> v1::LogContainer {
        self.container(Question::Begin(v1::LogBegin { from: from.to_owned() })).await.unwrap()
    }

    async fn all(&self) -> Vec<LogContainer> {
        let project = crate::ids::ProjectId("p".to_owned());
        self.fixture.store.log_containers(self.instance, &project).await.unwrap()
    }

    async fn cover(&self, container: &str, time_us: i64) {
        let covered = v1::LogCovered { container: container.to_owned(), time_us };
        self.container(Question::Covered(covered)).await.unwrap();
    }

    async fn pieces(&self, chain: ContainerId, since: OffsetDateTime, until: i64) -> Vec<String> {
        let until = OffsetDateTime::from_unix_timestamp_nanos(i128::from(until) * 1000).unwrap();
        let found = self.fixture.store.log_to_replay(chain, since, until).await.unwrap();
        found.into_iter().flat_map(|(_, pieces)| pieces).map(|piece| piece.begins).collect()
    }
}

fn stored(container: &str, object: u32, from: &str, until: &str) -> Question {
    Question::Stored(v1::LogStored {
        container: container.to_owned(),
        run: RUN.to_owned(),
        object,
        from: from.to_owned(),
        until: until.to_owned(),
        bytes: 10,
        sum: vec![1; 32],
        data_bytes: 100,
    })
}

#[tokio::test]
async fn pieces_follow_one_another_and_a_repeated_one_changes_nothing() {
    let ground = ground().await;
    let nothing = ground.container(Question::State(v1::LogState {})).await.unwrap();
    assert_eq!((nothing.until.as_str(), nothing.container.as_str()), ("", ""));
    let begun = ground.begin("a").await;
    assert!(begun.recipients.iter().any(|recipient| recipient.starts_with("age1")) && begun.until == "a");
    let id = begun.container.as_str();
    assert_eq!(ground.begin("a").await.container, id, "it goes on there");
    for _ in 0..2 {
        let next = ground.container(stored(id, 0, "a", "b")).await.unwrap();
        assert_eq!((next.container.as_str(), next.until.as_str()), (id, "b"));
    }
    let wrong = ground.container(stored(id, 1, "a", "b")).await.unwrap_err();
    assert!(wrong.kind() == v1::ErrorKind::Transient && wrong.message.contains("ends at b"), "{wrong:?}");
    ground.container(stored(id, 1, "b", "c")).await.unwrap();
    let state = ground.container(Question::State(v1::LogState {})).await.unwrap();
    assert_eq!(state.until, "c");
    ground.cover(id, 2_000_000).await;
    ground.cover(id, 1_000_000).await;
    let all = ground.all().await;
    let covered = all[0].covered.map(OffsetDateTime::unix_timestamp);
    assert_eq!((all.len(), all[0].pieces, covered), (1, 2, Some(2)), "it went back");
}

#[tokio::test]
async fn a_gap_begins_a_chain_and_a_full_container_does_not() {
    let ground = ground().await;
    let first = ground.begin("a").await.container;
    ground.container(stored(&first, 0, "a", "b")).await.unwrap();
    let after_gap = ground.begin("m").await.container;
    assert_ne!(after_gap, first);
    let late = ground.container(stored(&first, 1, "b", "c")).await.unwrap_err();
    assert_eq!(late.kind(), v1::ErrorKind::Transient, "an older host goes on");
    ground.fixture.store.change("update log_container set pieces = 9999 where number = 2").await;
    let full = ground.container(stored(&after_gap, 0, "m", "n")).await.unwrap();
    assert!(full.container != after_gap && full.until == "n");
    let all = ground.all().await;
    let chains: Vec<_> = all.iter().map(|of| of.chain.to_string()).collect();
    assert_eq!(chains, [first.clone(), after_gap.clone(), after_gap.clone()]);
    assert!(all[0].recipient != all[1].recipient && all[1].recipient != all[2].recipient, "each has a key of its own");
}

#[tokio::test]
async fn what_is_not_asked_for_or_not_ones_own_is_refused() {
    let ground = ground().await;
    let id = ground.begin("a").await.container;
    let grant = |container: &str, name: &str, access: v1::ObjectAccess| {
        let objects = vec![v1::ObjectNeed { name: name.to_owned(), access: access.into(), bytes: 5 }];
        Question::Grant(v1::LogGrant { container: container.to_owned(), run: RUN.to_owned(), objects })
    };
    let granted = ground.ask(ground.instance, grant(&id, "00000000", v1::ObjectAccess::Write)).await.unwrap();
    let Answer::Grants(granted) = granted else { panic!("no grants") };
    assert!(granted.objects[0].url.starts_with(&format!("/objects/{id}/{RUN}/00000000")), "{granted:?}");
    for (name, access) in [("00000000", v1::ObjectAccess::Read), ("../../x", v1::ObjectAccess::Write)] {
        let Answer::Grants(refused) = ground.ask(ground.instance, grant(&id, name, access)).await.unwrap() else {
            panic!("no grants")
        };
        assert!(refused.objects.is_empty() && refused.refusal.is_some(), "{name}");
    }
    let other = ground.fixture.insert("p").await;
    assert!(ground.ask(other, grant(&id, "00000000", v1::ObjectAccess::Write)).await.is_err(), "another's container");
    assert!(ground.ask(other, Question::Begin(v1::LogBegin { from: "a".to_owned() })).await.is_err(), "not shipped");
    for from in ["", "a b", "\u{e9}", &"x".repeat(129)] {
        let refused = ground.container(Question::Begin(v1::LogBegin { from: from.to_owned() })).await.unwrap_err();
        assert_eq!(refused.kind(), v1::ErrorKind::Invalid, "{from:?}");
    }
    let Question::Stored(sound) = stored(&id, 0, "a", "b") else { return };
    for wrong in [
        v1::LogStored { sum: vec![1; 31], ..sound.clone() },
        v1::LogStored { run: "x".to_owned(), ..sound.clone() },
        v1::LogStored { bytes: SEGMENT_LIMIT + 1, ..sound.clone() },
        v1::LogStored { bytes: 0, ..sound.clone() },
        v1::LogStored { data_bytes: u64::MAX, ..sound.clone() },
    ] {
        assert_eq!(ground.container(Question::Stored(wrong)).await.unwrap_err().kind(), v1::ErrorKind::Invalid);
    }
    ground.keep(None).await;
    let covered = v1::LogCovered { container: id.clone(), time_us: 1 };
    for question in [
        Question::Begin(v1::LogBegin { from: "a".to_owned() }),
        Question::Begin(v1::LogBegin { from: "z".to_owned() }),
        grant(&id, "00000000", v1::ObjectAccess::Write),
        Question::Stored(sound),
        Question::Covered(covered),
    ] {
        let refused = ground.ask(ground.instance, question.clone()).await.unwrap_err();
        assert!(refused.message.contains("not to be shipped"), "{question:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_ahead_covers_no_time_that_is_still_to_come() {
    let ground = ground().await;
    let id = ground.begin("a").await.container;
    ground.container(stored(&id, 0, "a", "b")).await.unwrap();
    let ahead = micros(ground.fixture.store.now() + HOUR * 24 * 365);
    ground.cover(&id, ahead).await;
    let after = ground.fixture.store.now();
    assert!(ground.all().await[0].covered.is_some_and(|covered| covered <= after), "nobody can know that");
    // It was set back: what is written now is in the next piece, and is not left out.
    ground.container(stored(&id, 1, "b", "c")).await.unwrap();
    ground.cover(&id, micros(ground.fixture.store.now())).await;
    let now = micros(ground.fixture.store.now());
    assert_eq!(ground.pieces(id.parse().unwrap(), OffsetDateTime::UNIX_EPOCH + HOUR, now).await, ["a", "b"]);
}

#[tokio::test]
async fn so_many_containers_are_begun_within_a_day_and_no_more() {
    let ground = ground().await;
    for number in 0..MOST_CONTAINERS {
        ground.begin(&format!("a{number}")).await;
    }
    let begin = async || ground.container(Question::Begin(v1::LogBegin { from: "b".to_owned() })).await;
    let refused = begin().await.unwrap_err();
    assert!(refused.kind() == v1::ErrorKind::Transient && refused.message.contains("within a day"), "{refused:?}");
    ground.begin(&format!("a{}", MOST_CONTAINERS - 1)).await;
    ground.fixture.store.change("update log_container set created = created - 86400000000").await;
    begin().await.unwrap();
}

#[tokio::test]
async fn what_is_being_removed_is_not_gone_on_with() {
    let ground = ground().await;
    let first = ground.begin("a").await.container;
    ground.container(stored(&first, 0, "a", "b")).await.unwrap();
    ground.fixture.store.change("update log_container set is_deleted = true").await;
    assert_eq!(ground.container(Question::State(v1::LogState {})).await.unwrap().until, "");
    assert!(ground.container(stored(&first, 1, "b", "c")).await.is_err());
    let next = ground.begin("b").await.container;
    assert_ne!(next, first);
    let all = ground.all().await;
    assert_eq!((all.len(), all[0].number, all[0].chain.to_string()), (1, 2, next));
}

#[tokio::test]
async fn no_more_is_replayed_than_leads_to_the_time() {
    let ground = ground().await;
    let id = ground.begin("a").await.container;
    let chain: ContainerId = id.parse().unwrap();
    for (object, (from, until)) in [("a", "b"), ("b", "c"), ("c", "d")].into_iter().enumerate() {
        ground.container(stored(&id, u32::try_from(object).unwrap(), from, until)).await.unwrap();
        ground.cover(&id, (i64::try_from(object).unwrap() + 1) * 1_000_000).await;
    }
    let long_ago = OffsetDateTime::UNIX_EPOCH + HOUR;
    assert_eq!(ground.pieces(chain, long_ago, 1_000_000).await, ["a"]);
    assert_eq!(ground.pieces(chain, long_ago, 1_000_001).await, ["a", "b"]);
    assert_eq!(ground.pieces(chain, long_ago, 9_000_000).await, ["a", "b", "c"]);
    let later = ground.fixture.store.now() + HOUR;
    assert!(ground.pieces(chain, later, 9_000_000).await.is_empty(), "what a later backup has is not replayed on it");
}

#[tokio::test]
async fn what_is_too_old_goes_unless_a_backup_needs_it_or_it_is_written() {
    let ground = ground().await;
    let store = &ground.fixture.store;
    let give_up = async || {
        let mut tx = store.begin().await.unwrap();
        let count = store.give_up_old_logs(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        count
    };
    let first = ground.begin("a").await.container;
    ground.container(stored(&first, 0, "a", "b")).await.unwrap();
    store.change("update log_container set pieces = 10000").await;
    ground.begin("b").await;
    assert_eq!(give_up().await, 0, "it is young");
    store.change("update log_container set recorded = recorded - 7200000000").await;
    // A backup of before it is the only one that leads to the times that are kept.
    let backup = ground.fixture.new_backup("p", ground.instance, crate::ids::OperationId::random());
    let mut tx = store.begin().await.unwrap();
    store.insert_backup(&mut tx, &backup).await.unwrap();
    tx.commit().await.unwrap();
    store
        .change(
            "update backup set state = 'COMPLETED', created = created - 10000000000, updated = updated - 9900000000",
        )
        .await;
    assert_eq!(give_up().await, 0, "a backup needs it");
    let project = crate::ids::ProjectId("p".to_owned());
    let bases = store.log_bases(ground.instance, &project).await.unwrap();
    assert!(matches!(bases.as_slice(), [LogBase { id, .. }] if *id == backup.id));
    store.change("update backup set created = created + 5000000000, updated = updated + 5000000000").await;
    assert_eq!(give_up().await, 1, "the one that is written stays");
    assert_eq!(store.unwanted_log_containers().await.unwrap().len(), 1);
    assert_eq!(ground.all().await.len(), 1);
    let id: ContainerId = first.parse().unwrap();
    let mut tx = store.begin().await.unwrap();
    store.log_container_removed(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    assert!(!store.has_log_container(id).await.unwrap());
}

/// A backup that takes long while containers end: each that the backup needs stays, also while no older backup is there.
#[tokio::test]
async fn what_ended_while_a_backup_was_taken_stays_as_long_as_it_leads_to_what_is_kept() {
    let ground = ground().await;
    let store = &ground.fixture.store;
    let first = ground.begin("a").await.container;
    ground.container(stored(&first, 0, "a", "b")).await.unwrap();
    let backup = ground.fixture.new_backup("p", ground.instance, crate::ids::OperationId::random());
    let mut tx = store.begin().await.unwrap();
    store.insert_backup(&mut tx, &backup).await.unwrap();
    tx.commit().await.unwrap();
    store.change("update log_container set pieces = 10000").await;
    ground.begin("b").await;
    // It was ordered three hours ago; the container ended two hours ago, and an hour of it is kept.
    store.change("update log_container set recorded = recorded - 7200000000 where number = 1").await;
    for change in [
        "update backup set state = 'BUILDING', created = created - 10800000000, updated = updated - 10800000000",
        "update backup set state = 'COMPLETED', updated = updated + 9000000000",
    ] {
        store.change(change).await;
        let mut tx = store.begin().await.unwrap();
        assert_eq!(store.give_up_old_logs(&mut tx).await.unwrap(), 0, "{change}");
    }
    store.change("update backup set state = 'FAILED'").await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(store.give_up_old_logs(&mut tx).await.unwrap(), 1, "nobody needs it");
}

/// A backup may be kept for ever: what leads from it to times that are kept no more is not.
#[tokio::test]
async fn a_chain_that_has_ended_goes_as_a_whole_whatever_backups_are_kept() {
    let ground = ground().await;
    let store = &ground.fixture.store;
    let first = ground.begin("a").await.container;
    let backup = ground.fixture.new_backup("p", ground.instance, crate::ids::OperationId::random());
    let mut tx = store.begin().await.unwrap();
    store.insert_backup(&mut tx, &backup).await.unwrap();
    tx.commit().await.unwrap();
    store.change("update backup set state = 'COMPLETED'").await;
    ground.container(stored(&first, 0, "a", "b")).await.unwrap();
    ground.cover(&first, micros(store.now())).await;
    store.change("update log_container set pieces = 10000").await;
    ground.begin("b").await;
    store.change("update backup set created = created - 7500000000, updated = updated - 7400000000").await;
    store.change("update log_container set created = created - 7600000000, recorded = recorded - 7200000000").await;
    let give_up = async || {
        let mut tx = store.begin().await.unwrap();
        let count = store.give_up_old_logs(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        count
    };
    assert_eq!(give_up().await, 0, "nothing was written, and all of it is stored up to now");
    store.change("update log_container set covered = covered - 7200000000").await;
    assert_eq!(give_up().await, 0, "its agent may come back and go on");
    ground.keep(None).await;
    assert_eq!(give_up().await, 2, "it leads to nothing that is kept");
}

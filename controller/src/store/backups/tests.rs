use super::*;
use crate::model::backups::BackupStrategy;
use crate::testing::store::{Fixture, fixture};

async fn insert(fixture: &Fixture, project: &str, instance: InstanceId) -> NewRow {
    let row = fixture.new_backup(project, instance, OperationId::random());
    let mut tx = fixture.store.begin().await.unwrap();
    fixture.store.insert_backup(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
    row
}

fn stored() -> StoredBackup {
    let (run, manifest_sum) = ("ab".to_owned(), "cd".to_owned());
    StoredBackup {
        run,
        manifest_sum,
        data_bytes: 3 << 40,
        stored_bytes: 1 << 40,
        position: Some("0/1".to_owned()),
        checkpoint: Some("7".to_owned()),
        memory_bytes: Some(5 << 40),
    }
}

#[tokio::test]
async fn a_backup_is_read_back_whole_and_moved_on_until_it_is_complete() {
    let fixture = fixture().await;
    let (store, instance) = (&fixture.store, InstanceId::random());
    let row = insert(&fixture, "p", instance).await;
    let read = store.get_backup(row.id).await.unwrap().unwrap();
    assert_eq!((&read.name, &read.description, &read.source), (&row.name, &None, &row.source));
    assert_eq!((read.project, read.instance, read.operation), (row.project.clone(), instance, row.operation));
    assert_eq!((&read.recipient, &read.identity), (&row.recipient, &row.identity));
    assert_eq!((read.state, read.stored, read.fault), (BackupState::New, None, None));
    assert_eq!(read.created, read.updated);

    let mut tx = store.begin().await.unwrap();
    assert!(store.set_backup_state(&mut tx, row.id, BackupState::Building).await.unwrap());
    assert!(store.set_backup_state(&mut tx, row.id, BackupState::Building).await.unwrap(), "a step runs twice");
    assert!(store.complete_backup(&mut tx, row.id, &stored()).await.unwrap());
    assert!(!store.complete_backup(&mut tx, row.id, &stored()).await.unwrap());
    assert!(!store.set_backup_state(&mut tx, row.id, BackupState::Saving).await.unwrap());
    store.fail_backup(&mut tx, row.operation, "late").await.unwrap();
    store.fail_backups_of(&mut tx, instance, "late").await.unwrap();
    let inside = store.backup(&mut tx, row.id).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!((inside.state, inside.stored, inside.fault), (BackupState::Completed, Some(stored()), None));
}

#[tokio::test]
async fn what_was_given_up_is_not_moved_on_and_its_leftovers_are_listed_until_they_are_removed() {
    let fixture = fixture().await;
    let store = &fixture.store;
    let row = insert(&fixture, "p", InstanceId::random()).await;
    let mut tx = store.begin().await.unwrap();
    store.fail_backup(&mut tx, row.operation, "no space").await.unwrap();
    assert!(!store.set_backup_state(&mut tx, row.id, BackupState::Building).await.unwrap());
    assert!(!store.complete_backup(&mut tx, row.id, &stored()).await.unwrap());
    tx.commit().await.unwrap();
    let failed = store.get_backup(row.id).await.unwrap().unwrap();
    assert_eq!((failed.state, failed.fault.as_deref()), (BackupState::Failed, Some("no space")));
    let unwanted = store.list_unwanted_backups().await.unwrap();
    assert_eq!(unwanted, [Unwanted { id: row.id, project: row.project, state: BackupState::Failed }]);
    let mut tx = store.begin().await.unwrap();
    store.backup_removed(&mut tx, &unwanted[0]).await.unwrap();
    tx.commit().await.unwrap();
    assert!(store.list_unwanted_backups().await.unwrap().is_empty());
    assert!(store.get_backup(row.id).await.unwrap().is_some(), "the row stays to say why");
}

#[tokio::test]
async fn a_deletion_goes_on_until_the_objects_are_removed_and_gives_back_the_quota_once() {
    let fixture = fixture().await;
    let store = &fixture.store;
    let row = insert(&fixture, "p", InstanceId::random()).await;
    let used = async || store.number("select in_use from usage where resource = 'backups'").await;
    let mut tx = store.begin().await.unwrap();
    store.count_use(&mut tx, &row.project, Amounts::backup()).await.unwrap();
    store.begin_backup_deletion(&mut tx, row.id).await.unwrap();
    store.backup_not_removed(&mut tx, row.id, "the disk is away").await.unwrap();
    tx.commit().await.unwrap();
    let there = store.get_backup(row.id).await.unwrap().unwrap();
    assert_eq!((there.state, there.fault.as_deref()), (BackupState::DeleteFailed, Some("the disk is away")));
    assert_eq!(used().await, 1);
    let unwanted = store.list_unwanted_backups().await.unwrap();
    for _ in 0..2 {
        let mut tx = store.begin().await.unwrap();
        store.backup_removed(&mut tx, &unwanted[0]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(used().await, 0);
        assert!(store.get_backup(row.id).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn lists_are_filtered_and_paged_by_last_change() {
    let fixture = fixture().await;
    let (store, instance) = (&fixture.store, InstanceId::random());
    let mut ids = Vec::new();
    for (project, instance) in [("p", instance), ("p", InstanceId::random()), ("q", InstanceId::random())] {
        ids.push(insert(&fixture, project, instance).await.id);
    }
    let list = async |filter: Filter<'_>, offset, limit| {
        let found = store.list_backups(filter, offset, limit).await.unwrap();
        found.into_iter().map(|backup| backup.id).collect::<Vec<_>>()
    };
    let project = ProjectId("p".to_owned());
    let own = Filter { project: Some(&project), ..Filter::default() };
    assert_eq!(list(Filter::default(), 0, 10).await, [ids[2], ids[1], ids[0]]);
    assert_eq!(list(own, 0, 10).await, [ids[1], ids[0]]);
    assert_eq!(list(own, 1, 10).await, [ids[0]]);
    assert_eq!(list(own, 0, 1).await, [ids[1]]);
    assert!(list(own, 2, 10).await.is_empty());
    let text = instance.to_string();
    assert_eq!(list(Filter { instance: Some(&text), ..own }, 0, 10).await, [ids[0]]);
    assert_eq!(list(Filter { datastore: Some("enginedb"), ..own }, 0, 10).await.len(), 2);
    assert!(list(Filter { datastore: Some("other"), ..own }, 0, 10).await.is_empty());
    let mut tx = store.begin().await.unwrap();
    assert!(store.set_backup_state(&mut tx, ids[0], BackupState::Building).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(list(own, 0, 10).await, [ids[0], ids[1]], "what changed last comes first");
}

#[tokio::test]
async fn an_instance_is_backed_up_while_a_backup_runs_and_a_version_is_kept_for_its_backups() {
    let fixture = fixture().await;
    let (store, instance) = (&fixture.store, fixture.insert("p").await);
    let backing_up = async || store.get_instance(instance).await.unwrap().unwrap().backing_up;
    assert!(!backing_up().await);
    let row = insert(&fixture, "p", instance).await;
    assert!(backing_up().await);
    let mut tx = store.begin().await.unwrap();
    assert!(store.complete_backup(&mut tx, row.id, &stored()).await.unwrap());
    store.mark_deleted(&mut tx, instance).await.unwrap();
    let refused = store.remove_version(&mut tx, fixture.version).await.unwrap_err().to_string();
    tx.commit().await.unwrap();
    assert!(refused.contains("in use by backups"), "{refused}");
    assert!(!backing_up().await);
}

#[tokio::test]
async fn a_strategy_is_replaced_listed_and_removed() {
    let fixture = fixture().await;
    let (store, project) = (&fixture.store, ProjectId("p".to_owned()));
    let instance = InstanceId::random();
    for (instance, container) in [(None, "a"), (Some(instance), "b"), (None, "c")] {
        let strategy = BackupStrategy { project: project.clone(), instance, swift_container: container.to_owned() };
        let mut tx = store.begin().await.unwrap();
        store.put_backup_strategy(&mut tx, &strategy).await.unwrap();
        tx.commit().await.unwrap();
    }
    let list = async |instance: Option<&str>| {
        let found = store.list_backup_strategies(&project, instance).await.unwrap();
        found.into_iter().map(|strategy| (strategy.instance, strategy.swift_container)).collect::<Vec<_>>()
    };
    assert_eq!(list(None).await, [(None, "c".to_owned()), (Some(instance), "b".to_owned())]);
    assert_eq!(list(Some(&instance.to_string())).await, [(Some(instance), "b".to_owned())]);
    for _ in 0..2 {
        store.delete_backup_strategy(&project, "").await.unwrap();
        assert_eq!(list(None).await, [(Some(instance), "b".to_owned())]);
    }
    assert!(store.list_backup_strategies(&ProjectId("q".to_owned()), None).await.unwrap().is_empty());
}

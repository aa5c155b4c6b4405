use std::sync::Arc;

use trove_strategy::{Capability, Installation};

use super::*;
use crate::app::instances::NewInstance;
use crate::model::Resource;
use crate::model::backups::StoredBackup;
use crate::state::{HostState, Service, Task};
use crate::testing::app::{World, admin, caller, code, order as instance_order, world, world_with};
use crate::testing::store::{manifest, register};

/// A world whose datastore has backups, with an instance that is up.
async fn ready() -> (World, InstanceId) {
    ready_in(world_with(|config| config.process.allow_root = true).await).await
}

async fn ready_in(world: World) -> (World, InstanceId) {
    let mut able = manifest();
    able.capabilities.push(Capability::Backup);
    register(&world.app.store, &able).await;
    let id = world.healthy("demo").await;
    (world, id)
}

fn order(id: InstanceId) -> NewBackup {
    let (name, instance) = ("nightly".to_owned(), id.to_string());
    NewBackup { name, description: None, instance, parent: None, incremental: false }
}

async fn take(world: &World, id: InstanceId) -> (Backup, Accepted) {
    world.app.create_backup(&caller("demo"), "r", order(id)).await.unwrap()
}

/// Ends a backup as its operation does.
async fn complete(world: &World, id: InstanceId, data_bytes: u64) -> Backup {
    complete_in_memory(world, id, data_bytes, None).await
}

async fn complete_in_memory(world: &World, id: InstanceId, data_bytes: u64, memory_bytes: Option<u64>) -> Backup {
    let (backup, accepted) = take(world, id).await;
    let (run, manifest_sum) = ("00".to_owned(), "00".to_owned());
    let stored =
        StoredBackup { run, manifest_sum, data_bytes, stored_bytes: 1, position: None, checkpoint: None, memory_bytes };
    let mut tx = world.app.store.begin().await.unwrap();
    assert!(world.app.store.complete_backup(&mut tx, backup.id, &stored).await.unwrap());
    tx.commit().await.unwrap();
    world.end(accepted.operation, "done", None).await;
    world.app.get_backup(&caller("demo"), backup.id).await.unwrap()
}

/// A world whose datastore has increments.
async fn ready_for_increments() -> (World, InstanceId) {
    let (world, id) = ready().await;
    register_increments(&world, true).await;
    (world, id)
}

async fn register_increments(world: &World, has: bool) {
    let mut able = manifest();
    able.capabilities.push(Capability::Backup);
    able.capabilities.extend(has.then_some(Capability::Incremental));
    register(&world.app.store, &able).await;
}

/// Ends the backup that was ordered last, on which another can build.
async fn completed(world: &World, order: NewBackup) -> Backup {
    let demo = caller("demo");
    let (backup, accepted) = world.app.create_backup(&demo, "r", order).await.unwrap();
    let (run, manifest_sum) = ("00".to_owned(), "00".to_owned());
    let checkpoint = Some("7".to_owned());
    let stored = StoredBackup {
        run,
        manifest_sum,
        data_bytes: 1 << 30,
        stored_bytes: 1,
        position: None,
        checkpoint,
        memory_bytes: None,
    };
    let mut tx = world.app.store.begin().await.unwrap();
    assert!(world.app.store.complete_backup(&mut tx, backup.id, &stored).await.unwrap());
    tx.commit().await.unwrap();
    world.end(accepted.operation, "done", None).await;
    world.app.get_backup(&demo, backup.id).await.unwrap()
}

fn on(id: InstanceId, parent: &Backup) -> NewBackup {
    NewBackup { parent: Some(parent.id.to_string()), incremental: true, ..order(id) }
}

fn next(id: InstanceId) -> NewBackup {
    NewBackup { incremental: true, ..order(id) }
}

#[tokio::test]
async fn an_increment_builds_on_what_was_named_or_on_the_last_one() {
    let (world, id) = ready_for_increments().await;
    let first = completed(&world, next(id)).await;
    assert_eq!(first.parent, None, "there is none before it, as in Trove");
    let second = completed(&world, next(id)).await;
    assert_eq!(second.parent, Some(first.id));
    let third = completed(&world, on(id, &first)).await;
    assert_eq!(third.parent, Some(first.id));
    let by_name = completed(&world, NewBackup { parent: Some("nightly".to_owned()), ..order(id) }).await;
    assert_eq!(by_name.parent, Some(third.id), "all have this name");
    let chain = world.app.store.get_backup_chain(second.id).await.unwrap();
    assert_eq!(chain.iter().map(|backup| backup.id).collect::<Vec<_>>(), [first.id, second.id]);
    assert!(world.app.store.get_backup_chain(BackupId::random()).await.unwrap().is_empty());
    // Each is larger than what it would be alone: a volume must hold what all of them come to.
    let restored = NewInstance { backup: Some(second.id.to_string()), volume_gib: Some(2), ..instance_order() };
    let refused = world.app.create_instance(&caller("demo"), "r", restored).await;
    assert_eq!(code(&refused), 403, "{:?}", refused.err());
}

#[tokio::test]
async fn what_an_increment_cannot_build_on_is_refused_and_changes_nothing() {
    let (world, id) = ready_for_increments().await;
    let other = world.healthy("demo").await;
    let strange = world.healthy("other").await;
    let full = complete(&world, id, 1).await;
    let of_other = completed(&world, order(other)).await;
    let before = world.rows().await;
    let stranger = {
        let (backup, _) = world.app.create_backup(&caller("other"), "r", order(strange)).await.unwrap();
        let before_it = before;
        assert_ne!(world.rows().await, before_it);
        backup
    };
    let before = world.rows().await;
    let named = |text: &str| NewBackup { parent: Some(text.to_owned()), ..order(id) };
    for (order, status, word) in [
        (named("x"), 404, "\"x\""),
        (named(&BackupId::random().to_string()), 404, "cannot be found"),
        (on(id, &stranger), 404, "cannot be found"),
        (on(id, &of_other), 400, "it is of the instance"),
        (on(id, &full), 400, "nothing builds on it"),
    ] {
        let refused = world.app.create_backup(&caller("demo"), "r", order).await;
        assert_eq!(code(&refused), status, "{word}");
        assert!(refused.unwrap_err().to_string().contains(word), "{word}");
    }
    assert_eq!(world.rows().await, before);
    register_increments(&world, false).await;
    for order in [next(id), on(id, &full)] {
        assert_eq!(code(&world.app.create_backup(&caller("demo"), "r", order).await), 422);
    }
}

#[tokio::test]
async fn a_chain_has_an_end() {
    let (world, id) = ready_for_increments().await;
    let mut last = completed(&world, order(id)).await;
    for _ in 1..LONGEST_CHAIN {
        last = completed(&world, on(id, &last)).await;
    }
    let refused = world.app.create_backup(&caller("demo"), "r", next(id)).await;
    assert_eq!(code(&refused), 422);
    assert!(refused.unwrap_err().to_string().contains("take a full backup"));
    assert_eq!(world.app.store.get_backup_chain(last.id).await.unwrap().len(), LONGEST_CHAIN);
    completed(&world, order(id)).await;
}

#[tokio::test]
async fn what_builds_on_a_backup_is_deleted_with_it_and_all_or_nothing() {
    let (world, id) = ready_for_increments().await;
    let demo = caller("demo");
    let full = completed(&world, order(id)).await;
    let first = completed(&world, on(id, &full)).await;
    let second = completed(&world, on(id, &first)).await;
    let beside = completed(&world, on(id, &full)).await;
    let (running, accepted) = world.app.create_backup(&demo, "r", on(id, &second)).await.unwrap();
    let before = world.rows().await;
    let refused = world.app.delete_backup(&demo, full.id).await;
    assert_eq!(code(&refused), 422);
    assert!(refused.unwrap_err().to_string().contains(&running.id.to_string()), "it says which");
    assert_eq!(world.rows().await, before);
    let mut tx = world.app.store.begin().await.unwrap();
    world.app.store.fail_backup(&mut tx, accepted.operation, "it failed").await.unwrap();
    tx.commit().await.unwrap();
    world.end(accepted.operation, "failed", Some("it failed")).await;

    assert_eq!(world.app.delete_backup(&demo, first.id).await.unwrap(), [second.id, running.id]);
    let state = async |backup: &Backup| world.app.get_backup(&demo, backup.id).await.unwrap().state;
    assert_eq!(state(&second).await, BackupState::Deleting);
    assert_eq!((state(&full).await, state(&beside).await), (BackupState::Completed, BackupState::Completed));
    let restored = NewInstance { backup: Some(beside.id.to_string()), volume_gib: Some(5), ..instance_order() };
    world.app.create_instance(&demo, "r", restored).await.unwrap();
    assert_eq!(code(&world.app.delete_backup(&demo, full.id).await), 422, "an increment on it is being restored");
}

async fn used(world: &World) -> i64 {
    let quotas = world.app.quotas(&admin(), &ProjectId("demo".to_owned())).await.unwrap();
    quotas.iter().find(|quota| quota.resource == Resource::Backups).unwrap().in_use
}

#[tokio::test]
async fn an_order_writes_the_backup_its_key_its_use_and_its_operation() {
    let (world, id) = ready().await;
    let (backup, accepted) = take(&world, id).await;
    let read = world.app.get_backup(&caller("demo"), backup.id).await.unwrap();
    assert_eq!(format!("{read:?}"), format!("{backup:?}"), "it is answered as it will be read");
    assert_eq!((read.state, read.operation), (BackupState::New, accepted.operation));
    assert_eq!((read.source.datastore.as_str(), read.source.major.as_str()), ("enginedb", "15"));
    assert!(read.recipient.starts_with("age1") && !read.identity.contains("AGE"), "the secret half is sealed");
    world.app.store.seal.open(Backup::SEALED, &read.identity).unwrap();
    let (kind, status, state) = world.operation(accepted.operation).await;
    assert_eq!((kind.as_str(), status.as_str()), ("create_backup", "queued"));
    assert!(!state.contains("AGE"), "{state}");
    assert_eq!(used(&world).await, 1);
    let instance = world.app.get_instance(&caller("demo"), id).await.unwrap();
    assert_eq!(instance.status(), ("BACKUP", "HEALTHY"));
}

#[tokio::test]
async fn only_one_backup_runs_and_the_life_cycle_waits_while_accounts_do_not() {
    let (world, id) = ready().await;
    let demo = caller("demo");
    let (_, accepted) = take(&world, id).await;
    let before = world.rows().await;
    let app = &world.app;
    for refused in [
        app.create_backup(&demo, "r", order(id)).await.map(drop),
        app.restart_instance(&demo, "r", id).await.map(drop),
        app.resize_volume(&demo, "r", id, 3).await.map(drop),
        app.stop_instance(&admin(), "r", id).await.map(drop),
        app.reboot_instance(&admin(), "r", id).await.map(drop),
    ] {
        assert_eq!(code(&refused), 422, "{refused:?}");
    }
    let refused = app.restart_instance(&demo, "r", id).await.unwrap_err().to_string();
    assert!(refused.ends_with("(instance status was BACKUP)."), "{refused}");
    assert_eq!(world.rows().await, before, "what is refused changes nothing");
    app.list_databases(&demo, id, Default::default()).await.unwrap();
    app.create_databases(&demo, "r", id, vec![crate::testing::app::database("d")]).await.unwrap();
    world.end(accepted.operation, "done", None).await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_and_changes_nothing() {
    let (world, id) = ready().await;
    let demo = caller("demo");
    let before = world.rows().await;
    let with = |change: fn(&mut NewBackup)| {
        let mut order = order(id);
        change(&mut order);
        order
    };
    for (order, status, word) in [
        (with(|order| order.name = String::new()), 400, "name"),
        (with(|order| order.name = "a\nb".to_owned()), 400, "name"),
        (with(|order| order.description = Some("x".repeat(257))), 400, "description"),
        (with(|order| order.instance = "x".to_owned()), 404, "\"x\""),
        (with(|order| order.instance = InstanceId::random().to_string()), 404, "cannot be found"),
        (with(|order| order.incremental = true), 422, "enginedb has no incremental backups"),
    ] {
        let refused = world.app.create_backup(&demo, "r", order).await;
        assert_eq!(code(&refused), status, "{word}");
        assert!(refused.unwrap_err().to_string().contains(word), "{word}");
    }
    assert_eq!(code(&world.app.create_backup(&caller("other"), "r", order(id)).await), 404);
    for (task, host, service) in [
        (Task::Restarting, HostState::Active, Service::Healthy),
        (Task::None, HostState::Dead, Service::Healthy),
        (Task::None, HostState::Active, Service::Shutdown),
        (Task::None, HostState::Active, Service::Blocked),
    ] {
        world.set(id, task, host).await;
        world.says(id, service).await;
        assert_eq!(code(&world.app.create_backup(&demo, "r", order(id)).await), 422, "{task:?} {host:?} {service:?}");
    }
    world.set(id, Task::None, HostState::Active).await;
    world.says(id, Service::Healthy).await;
    register(&world.app.store, &manifest()).await;
    let refused = world.app.create_backup(&demo, "r", order(id)).await;
    assert_eq!(code(&refused), 501);
    assert_eq!(world.rows().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_quota_is_exact_when_many_ask_at_once() {
    let (world, _) = ready().await;
    world.app.set_quotas(&ProjectId("demo".to_owned()), &[(Resource::Backups, 3)]).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(world.healthy("demo").await);
    }
    let world = Arc::new(world);
    let asked = ids.into_iter().map(|id| {
        let world = world.clone();
        tokio::spawn(async move { code(&world.app.create_backup(&caller("demo"), "r", order(id)).await) })
    });
    let mut codes: Vec<u16> =
        futures::future::join_all(asked).await.into_iter().map(std::result::Result::unwrap).collect();
    codes.sort_unstable();
    assert_eq!(codes, [200, 200, 200, 413, 413, 413, 413, 413]);
    assert_eq!(used(&world).await, 3);
}

#[tokio::test]
async fn a_deletion_waits_for_what_runs_and_for_what_is_restored() {
    let (world, id) = ready().await;
    let demo = caller("demo");
    let (backup, _) = take(&world, id).await;
    assert_eq!(code(&world.app.delete_backup(&demo, backup.id).await), 422, "it is being taken");
    assert_eq!(code(&world.app.delete_backup(&caller("other"), backup.id).await), 404);
    world.run("update backup set created = created - 259200000000 where id = $1", backup.id).await;
    world.app.delete_backup(&demo, backup.id).await.unwrap();
    assert_eq!(world.operation(backup.operation).await.1, "cancelled");
    assert_eq!(world.app.get_backup(&demo, backup.id).await.unwrap().state, BackupState::Deleting);
    world.app.delete_backup(&demo, backup.id).await.unwrap();

    let whole = complete(&world, id, 1 << 20).await;
    let restored = NewInstance { backup: Some(whole.id.to_string()), ..instance_order() };
    let (_, _, accepted) = world.app.create_instance(&demo, "r", restored).await.unwrap();
    let refused = world.app.delete_backup(&demo, whole.id).await;
    assert_eq!(code(&refused), 422);
    assert!(refused.unwrap_err().to_string().contains("is being restored"));
    world.end(accepted.operation, "done", None).await;
    world.app.delete_backup(&demo, whole.id).await.unwrap();
    assert_eq!(used(&world).await, 2, "until their objects are removed");
}

#[tokio::test]
async fn deletions_and_resets_of_the_instance_end_its_running_backup() {
    for what in ["delete", "reset", "reset task"] {
        let (world, id) = ready().await;
        let demo = caller("demo");
        let (backup, accepted) = take(&world, id).await;
        match what {
            "delete" => drop(world.app.delete_instance(&demo, "r", id).await.unwrap()),
            "reset" => world.app.reset_status(&demo, id).await.unwrap(),
            _ => world.app.reset_task_status(id).await.unwrap(),
        }
        let failed = world.app.get_backup(&demo, backup.id).await.unwrap();
        assert_eq!(failed.state, BackupState::Failed, "{what}");
        assert!(failed.fault.unwrap().ends_with("while the backup was taken."), "{what}");
        assert_eq!(world.operation(accepted.operation).await.1, "cancelled", "{what}");
        assert!(!world.app.get_instance(&demo, id).await.unwrap().backing_up, "{what}");
        assert_eq!(used(&world).await, 1, "{what}: it counts until it is deleted");
    }
}

#[tokio::test]
async fn what_brings_root_along_is_restored_only_where_root_is_allowed() {
    let (world, id) = ready_in(world().await).await;
    world.run("update instance set root_enabled_at = 1, root_enabled_by = 'someone' where id = $1", id).await;
    let backup = complete(&world, id, 1 << 20).await;
    let before = world.rows().await;
    let restored = NewInstance { backup: Some(backup.id.to_string()), ..instance_order() };
    let refused = world.app.create_instance(&caller("demo"), "r", restored).await;
    assert_eq!(code(&refused), 403);
    assert_eq!(world.rows().await, before);
}

#[tokio::test]
async fn a_restore_takes_what_the_backup_was_of() {
    let (world, id) = ready().await;
    let demo = caller("demo");
    world.run("update instance set root_enabled_at = 1, root_enabled_by = 'someone' where id = $1", id).await;
    let backup = complete(&world, id, 1 << 20).await;
    let mut tx = world.app.store.begin().await.unwrap();
    world.app.store.mark_deleted(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
    let mut newer = manifest();
    newer.capabilities.push(Capability::Backup);
    newer.installation = Installation::new("15.19", "15", "/opt/engine/15.19/bin");
    register(&world.app.store, &newer).await;
    let restored = NewInstance { backup: Some(backup.id.to_string()), ..instance_order() };
    let (instance, _, accepted) = world.app.create_instance(&demo, "r", restored).await.unwrap();
    assert_eq!((instance.version_number.as_str(), instance.status()), ("15.18", ("BUILD", "")));
    let (kind, _, state) = world.operation(accepted.operation).await;
    assert_eq!(kind, "restore_instance");
    assert!(state.contains(&backup.id.to_string()) && state.contains("user-of-demo"), "{state}");
}

#[tokio::test]
async fn what_does_not_fit_is_not_restored_and_changes_nothing() {
    let (world, id) = ready().await;
    let demo = caller("demo");
    let (small, large) = (complete(&world, id, 1 << 20).await, complete(&world, id, 2 << 30).await);
    let (running, _) = take(&world, id).await;
    for (number, major) in [("15.2", "15"), ("16.1", "16")] {
        let mut other = manifest();
        other.capabilities.push(Capability::Backup);
        other.installation = Installation::new(number, major, format!("/opt/engine/{number}/bin"));
        let version = register(&world.app.store, &other).await;
        let name = crate::store::datastores::VersionChange { name: Some(number.to_owned()), ..Default::default() };
        world.app.change_version(version, name).await.unwrap();
    }
    let mut foreign = manifest();
    foreign.identity.name = "otherdb".to_owned();
    foreign.capabilities.push(Capability::Backup);
    foreign.installation = Installation::new("15.18", "15", "/opt/other/15/bin");
    register(&world.app.store, &foreign).await;
    let before = world.rows().await;
    let of = |backup: &Backup| NewInstance { backup: Some(backup.id.to_string()), ..instance_order() };
    let version = |number: &str| NewInstance { version: Some(number.to_owned()), ..of(&small) };
    for (order, status, word) in [
        (NewInstance { backup: Some("x".to_owned()), ..instance_order() }, 404, "Backup \"x\""),
        (of(&running), 409, "its status is NEW"),
        (of(&large), 403, "2048 MiB of data, and needs 3 GB"),
        (version("15.2"), 400, "cannot be restored to 15.2"),
        (version("16.1"), 400, "cannot be restored to 16.1"),
        (NewInstance { datastore: Some("otherdb".to_owned()), ..version("15") }, 400, "restored to otherdb"),
    ] {
        let refused = world.app.create_instance(&demo, "r", order).await;
        assert_eq!(code(&refused), status, "{word}");
        let said = refused.unwrap_err().to_string();
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(code(&world.app.create_instance(&caller("other"), "r", of(&small)).await), 404);
    assert_eq!(world.rows().await, before);
}

#[tokio::test]
async fn what_has_no_room_in_the_memory_of_a_flavor_is_not_restored_to_it() {
    let (world, id) = ready().await;
    let demo = caller("demo");
    // The second is from before the memory was counted: its stream is what its data take at least.
    let short = complete_in_memory(&world, id, 1 << 20, Some(400 << 20)).await;
    let older = complete(&world, id, 400 << 20).await;
    let of = |backup: &Backup, flavor: &str| NewInstance {
        backup: Some(backup.id.to_string()),
        flavor: flavor.to_owned(),
        ..instance_order()
    };
    let mut in_memory = manifest();
    in_memory.capabilities.push(Capability::Backup);
    in_memory.identity.data_memory_percent = Some(60);
    register(&world.app.store, &in_memory).await;
    let before = world.rows().await;
    for backup in [&short, &older] {
        let refused = world.app.create_instance(&demo, "r", of(backup, "1")).await;
        assert_eq!(code(&refused), 422);
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("400 MiB") && said.contains("of 512 MiB data may have 307 MiB"), "{said}");
    }
    assert_eq!(world.rows().await, before);
    world.app.create_instance(&demo, "r", of(&short, "2")).await.unwrap();
    let mut on_disk = in_memory;
    on_disk.identity.data_memory_percent = None;
    register(&world.app.store, &on_disk).await;
    world.app.create_instance(&demo, "r", of(&older, "1")).await.unwrap();
}

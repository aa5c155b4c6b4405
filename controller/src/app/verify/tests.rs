use trove_strategy::{Capability, Installation};

use super::*;
use crate::app::PageRequest;
use crate::app::backups::NewBackup;
use crate::app::instances::Edit;
use crate::app::instances::{Deleted, NewInstance};
use crate::ids::{InstanceId, ProjectId};
use crate::model::backups::{Backup, StoredBackup, VerificationState};
use crate::model::{Access, Purpose};
use crate::state::Task;
use crate::testing::app::{World, admin, caller, code, order as instance_order, world, world_with};
use crate::testing::store::{manifest, register};

async fn ready_in(world: World) -> (World, InstanceId) {
    let mut able = manifest();
    able.capabilities.push(Capability::Backup);
    register(&world.app.store, &able).await;
    let id = world.healthy("demo").await;
    (world, id)
}

async fn ready() -> (World, InstanceId) {
    ready_in(world_with(|config| config.process.allow_root = true).await).await
}

/// A complete backup with so many bytes of data.
async fn complete(world: &World, id: InstanceId, data_bytes: u64) -> Backup {
    complete_in_memory(world, id, data_bytes, None).await
}

async fn complete_in_memory(world: &World, id: InstanceId, data_bytes: u64, memory_bytes: Option<u64>) -> Backup {
    let order = NewBackup {
        name: "nightly".to_owned(),
        description: None,
        instance: id.to_string(),
        parent: None,
        incremental: false,
    };
    let (backup, accepted) = world.app.create_backup(&caller("demo"), "r", order).await.unwrap();
    let (run, manifest_sum) = ("00".to_owned(), "00".to_owned());
    let stored =
        StoredBackup { run, manifest_sum, data_bytes, stored_bytes: 1, position: None, checkpoint: None, memory_bytes };
    let mut tx = world.app.store.begin().await.unwrap();
    assert!(world.app.store.complete_backup(&mut tx, backup.id, &stored).await.unwrap());
    tx.commit().await.unwrap();
    world.end(accepted.operation, "done", None).await;
    world.app.get_backup(&caller("demo"), backup.id).await.unwrap()
}

/// The scratch instances that there are, as an administrator sees them.
async fn scratches(world: &World) -> Vec<crate::model::Instance> {
    let all = world.app.list_all_instances(None, Deleted::Excluded, 0, 100).await.unwrap();
    all.into_iter().filter(|instance| instance.purpose.is_some()).collect()
}

#[tokio::test]
async fn a_scratch_instance_is_like_the_source_and_is_for_nobody_but_its_operation() {
    let (world, id) = ready().await;
    let (demo, app) = (caller("demo"), &world.app);
    let backup = complete(&world, id, 1 << 20).await;
    let project = ProjectId("demo".to_owned());
    let used = format!("{:?}", app.quotas(&admin(), &project).await.unwrap());
    let accepted = app.verify_backup(&demo, "r", backup.id).await.unwrap();
    assert_eq!(world.operation(accepted.operation).await.0, "verify_backup");
    let shown = app.get_backup(&demo, backup.id).await.unwrap();
    let verification = shown.verification.unwrap();
    assert_eq!((verification.state, verification.operation), (VerificationState::Running, accepted.operation));
    assert_eq!((shown.state, shown.updated), (backup.state, backup.updated), "what else is shown stays");
    assert_eq!(format!("{:?}", app.quotas(&admin(), &project).await.unwrap()), used, "it counts against no quota");

    let found = scratches(&world).await;
    let [scratch] = &found[..] else { panic!("one scratch instance") };
    let source = app.get_instance(&demo, id).await.unwrap();
    assert_eq!((&scratch.flavor, scratch.volume_gib), (&source.flavor, backup.source.volume_gib));
    assert_eq!((scratch.version_id, &scratch.project), (source.version_id, &source.project));
    assert_eq!(scratch.access, Some(Access { is_public: false, allowed_cidrs: Some(Vec::new()) }));
    assert_eq!(scratch.purpose, Some(Purpose::Verification));
    let listed = app.list_instances(&project, PageRequest { limit: 10, marker: None }).await.unwrap();
    assert_eq!(listed.items.iter().map(|instance| instance.id).collect::<Vec<_>>(), [id]);
    assert_eq!(app.store.present_instances(Some(&project)).await.unwrap().len(), 1);
    for caller in [&demo, &admin()] {
        let before = world.rows().await;
        for refused in [
            app.get_instance(caller, scratch.id).await.map(drop),
            app.delete_instance(caller, "r", scratch.id).await.map(drop),
            app.restart_instance(caller, "r", scratch.id).await.map(drop),
            app.reset_status(caller, scratch.id).await,
            app.edit_instance(caller, scratch.id, Edit { name: Some("mine"), ..Edit::default() }).await,
            app.list_databases(caller, scratch.id, PageRequest { limit: 1, marker: None }).await.map(drop),
        ] {
            assert_eq!(code(&refused), 404, "{refused:?}");
        }
        assert_eq!(world.rows().await, before);
    }
    for refused in [
        app.stop_instance(&admin(), "r", scratch.id).await.map(drop),
        app.reboot_instance(&admin(), "r", scratch.id).await.map(drop),
        app.reset_task_status(scratch.id).await,
    ] {
        assert_eq!(code(&refused), 422, "{refused:?}");
    }
    assert_eq!(app.get_any_instance(scratch.id, false).await.unwrap().task, Task::Building);
    let (operations, _) = app.list_backup_operations(&demo, backup.id, None, 0).await.unwrap();
    let kinds: Vec<&str> = operations.iter().map(|operation| operation.kind.as_str()).collect();
    assert_eq!(kinds, ["verify_backup", "create_backup"]);
    assert_eq!(code(&app.list_backup_operations(&caller("other"), backup.id, None, 0).await), 404);
}

#[tokio::test]
async fn a_backup_is_verified_once_at_a_time_and_two_at_once() {
    let (world, id) = ready().await;
    let (demo, app) = (caller("demo"), &world.app);
    let mut backups = Vec::new();
    for _ in 0..3 {
        backups.push(complete(&world, id, 1).await.id);
    }
    let first = app.verify_backup(&demo, "r", backups[0]).await.unwrap();
    let twice = app.verify_backup(&demo, "r", backups[0]).await;
    assert_eq!(code(&twice), 409);
    assert!(twice.unwrap_err().to_string().contains("verified already"));
    let refused = app.delete_backup(&demo, backups[0]).await;
    assert_eq!(code(&refused), 422);
    assert!(refused.unwrap_err().to_string().contains("is being verified"));
    app.verify_backup(&demo, "r", backups[1]).await.unwrap();
    let before = world.rows().await;
    let third = app.verify_backup(&demo, "r", backups[2]).await;
    assert_eq!(code(&third), 409);
    assert!(third.unwrap_err().to_string().contains("2 backups are being verified"));
    assert_eq!(world.rows().await, before);
    world.end(first.operation, "done", None).await;
    app.verify_backup(&demo, "r", backups[2]).await.unwrap();
    app.delete_backup(&demo, backups[0]).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_restored_is_not_verified_and_changes_nothing() {
    let (world, id) = ready().await;
    let (demo, app) = (caller("demo"), &world.app);
    let backup = complete(&world, id, 1).await;
    let order = NewBackup {
        name: "running".to_owned(),
        description: None,
        instance: id.to_string(),
        parent: None,
        incremental: false,
    };
    let (running, _) = app.create_backup(&demo, "r", order).await.unwrap();
    let before = world.rows().await;
    assert_eq!(code(&app.verify_backup(&demo, "r", running.id).await), 409);
    assert_eq!(code(&app.verify_backup(&caller("other"), "r", backup.id).await), 404);
    assert_eq!(code(&app.verify_backup(&demo, "r", BackupId::random()).await), 404);
    assert_eq!(world.rows().await, before);
    app.verify_backup(&admin(), "r", backup.id).await.unwrap();
    assert_eq!(scratches(&world).await[0].project, ProjectId("demo".to_owned()));
}

#[tokio::test]
async fn root_comes_along_only_where_it_is_allowed() {
    let (world, id) = ready_in(world().await).await;
    world.run("update instance set root_enabled_at = 1, root_enabled_by = 'someone' where id = $1", id).await;
    let backup = complete(&world, id, 1).await;
    assert_eq!(code(&world.app.verify_backup(&caller("demo"), "r", backup.id).await), 403);
}

#[tokio::test]
async fn a_larger_volume_and_another_flavor_are_chosen_where_they_are_needed() {
    let (world, id) = ready().await;
    let (demo, app) = (caller("demo"), &world.app);
    let backup = complete(&world, id, 2 << 30).await;
    let ordered = NewInstance { backup: Some(backup.id.to_string()), ..instance_order() };
    assert_eq!(code(&app.create_instance(&demo, "r", ordered).await), 403, "it does not fit into the source's volume");
    for (set, expected) in [
        ("update instance set flavor_id = 'gone', ram_mib = 1000 where id = $1", "2"),
        ("update instance set flavor_id = 'gone', ram_mib = 1000000 where id = $1", "4"),
        ("update instance set flavor_id = '3', ram_mib = 1 where id = $1", "3"),
    ] {
        world.run(set, id).await;
        let accepted = app.verify_backup(&demo, "r", backup.id).await.unwrap();
        let found = scratches(&world).await;
        let scratch = found.iter().max_by_key(|scratch| scratch.created).unwrap();
        assert_eq!((scratch.flavor.id.as_str(), scratch.volume_gib), (expected, 3));
        world.end(accepted.operation, "done", None).await;
    }
    // The source's version is the one that restores it, also when others are newer.
    let mut newer = manifest();
    newer.capabilities.push(Capability::Backup);
    newer.installation = Installation::new("15.19", "15", "/opt/engine/15.19/bin");
    register(&app.store, &newer).await;
    app.verify_backup(&demo, "r", backup.id).await.unwrap();
    assert!(scratches(&world).await.iter().all(|scratch| scratch.version_id == backup.source.version_id));
}

#[tokio::test]
async fn a_scratch_instance_has_memory_for_the_data_though_the_source_has_become_smaller() {
    let (world, id) = ready().await;
    let mut in_memory = manifest();
    in_memory.capabilities.push(Capability::Backup);
    in_memory.identity.data_memory_percent = Some(60);
    register(&world.app.store, &in_memory).await;
    let verify = async |memory_bytes| {
        let backup = complete_in_memory(&world, id, 1 << 20, Some(memory_bytes)).await;
        world.app.verify_backup(&caller("demo"), "r", backup.id).await
    };
    verify(400 << 20).await.unwrap();
    let scratch = scratches(&world).await.pop().unwrap();
    assert_eq!(scratch.flavor.id, "2", "data may have 307 MiB in the source's");
    let refused = verify(5 << 30).await;
    assert_eq!(code(&refused), 422);
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("5120 MiB") && said.contains("of 4096 MiB data may have 2457 MiB"), "{said}");
}

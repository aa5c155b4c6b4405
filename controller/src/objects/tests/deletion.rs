//! Tests of deletion beside agents that still write, and of what killed processes leave.

use std::time::SystemTime;

use super::*;
use crate::agents::tests::until;
use crate::error::{Error, chain};
use crate::objects::directory::{NotStored, Place};
use crate::objects::{CheckError, Held};

/// A PUT of 1000 bytes of which half has come.
async fn half(world: &World, run: &str, name: &str) -> TlsStream<TcpStream> {
    let grant = world.to_write(run, name, 1000).await;
    let mut stream = world.raw().await;
    say(&mut stream, &World::head(&grant, "content-length: 1000\r\nconnection: close")).await;
    say(&mut stream, &"x".repeat(500)).await;
    let begun = format!("{run}/.{name}.");
    until("it is being written", || async { world.stored.files().iter().any(|file| file.contains(&begun)) }).await;
    stream
}

async fn finish(mut stream: TlsStream<TcpStream>) -> String {
    say(&mut stream, &"x".repeat(500)).await;
    rest(&mut stream).await
}

#[tokio::test]
async fn a_deleted_backup_does_not_come_back() {
    let world = World::new().await;
    let backup = world.stored.backup;
    world.stored.plant_backup(RUN);
    let unused = world.to_write(RUN, "00000002", 10).await;
    let begun = half(&world, RUN, "00000003").await;
    world.stored.objects.delete_backup(backup).await.unwrap();
    let marker = format!("{backup}.deleted");
    assert_eq!(world.stored.files(), std::slice::from_ref(&marker));
    assert!(finish(begun).await.starts_with("HTTP/1.1 410"));
    assert_eq!(world.put(&unused, vec![1; 10]).await, StatusCode::GONE);
    assert_eq!(world.get(&world.to_read(RUN, "00000000").await).await.0, StatusCode::NOT_FOUND);
    assert_eq!(world.stored.files(), [marker]);
    assert!(!world.stored.path(&backup.to_string()).exists());
    world.stored.objects.delete_backup(backup).await.expect("what is not there counts as removed");
    world.stored.objects.delete_backup(BackupId::random()).await.unwrap();
    world.controller.stop().await;
}

#[tokio::test]
async fn of_a_backups_runs_one_is_kept_and_nothing_is_added() {
    let world = World::new().await;
    let (backup, objects) = (world.stored.backup, &world.stored.objects);
    let sum = world.stored.plant_backup(RUN);
    world.stored.plant_backup(OTHER_RUN);
    let unused = world.to_write(RUN, "00000002", 10).await;
    let begun = half(&world, OTHER_RUN, "00000003").await;
    let mine = half(&world, RUN, "00000004").await;
    objects.delete_other_runs(backup, RUN).await.unwrap();
    objects.delete_other_runs(backup, RUN).await.expect("it may be repeated");
    assert!(finish(begun).await.starts_with("HTTP/1.1 410"));
    assert!(finish(mine).await.starts_with("HTTP/1.1 410"));
    assert_eq!(world.put(&unused, vec![1; 10]).await, StatusCode::GONE);
    let kept = ["00000000", "00000001", MANIFEST_NAME].map(|name| format!("{backup}/{RUN}/{name}"));
    assert_eq!(world.stored.files(), [kept.as_slice(), &[format!("{backup}/sealed")]].concat());
    objects.check(backup, RUN, &sum).await.unwrap();
    let other = objects.delete_other_runs(backup, OTHER_RUN).await.unwrap_err();
    assert!(chain(&other).contains("no such run"), "{other}");
    std::fs::create_dir(world.stored.path(&format!("{backup}/{OTHER_RUN}"))).unwrap();
    let other = objects.delete_other_runs(backup, OTHER_RUN).await.unwrap_err();
    assert!(chain(&other).contains(RUN), "{other}");
    assert!(objects.delete_other_runs(backup, "../x").await.is_err());
    objects.check(backup, RUN, &sum).await.unwrap();
    world.controller.stop().await;
}

fn place(stored: &Stored, run: &str, name: &str) -> Place {
    Place::new(stored.backup, run, name).unwrap()
}

/// Two controllers: between the look at the markers and the name of the object the other one deletes the backup.
#[test]
fn a_deletion_by_another_controller_takes_back_what_was_just_written() {
    let stored = Stored::new();
    let here = stored.objects.inner.storage.directory().unwrap();
    let there = Objects::open_directory(stored.path(""), None, Seal::new(&[3; 32]), &Config::default()).unwrap();
    let (file, new) = here.begin(place(&stored, RUN, "00000000")).unwrap();
    let (sealed_file, sealed) = here.begin(place(&stored, OTHER_RUN, "00000000")).unwrap();
    // The marker alone, as if the deletion were cut off there: the files are not taken away from under the writer.
    std::fs::write(stored.path(&format!("{}.deleted", stored.backup)), "").unwrap();
    assert!(matches!(new.complete(&file), Err(NotStored::Closed)));
    assert!(matches!(sealed.complete(&sealed_file), Err(NotStored::Closed)));
    assert_eq!(stored.files(), [format!("{}.deleted", stored.backup)]);
    assert!(!stored.path(&stored.backup.to_string()).exists(), "the last one takes the directories along");
    assert!(matches!(here.begin(place(&stored, RUN, "00000000")), Err(NotStored::Closed)));
    drop(there);
}

fn age_by(stored: &Stored, file: &str, age: Duration) {
    let file = std::fs::File::options().write(true).open(stored.path(file)).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn what_a_kill_leaves_of_an_object_is_swept() {
    let stored = Stored::new();
    let backup = stored.backup;
    let directory = stored.objects.inner.storage.directory().unwrap();
    stored.plant(RUN, "00000001", b"12345");
    // Killed before the object had its name: a process that is gone drops nothing.
    std::mem::forget(directory.begin(place(&stored, RUN, "00000000")).unwrap());
    // Killed after it: it has both.
    std::mem::forget(directory.begin(place(&stored, RUN, "00000002")).unwrap());
    let unfinished: Vec<_> = stored.files().into_iter().filter(|file| file.contains("/.0")).collect();
    assert_eq!(unfinished.len(), 2);
    std::fs::hard_link(stored.path(&unfinished[1]), stored.path(&format!("{backup}/{RUN}/00000002"))).unwrap();
    let held = stored.objects.sweep().await.unwrap();
    assert_eq!(stored.files().len(), 4, "they may be of a request that goes on");
    assert_eq!((held.len(), held[0].backup, held[0].bytes), (1, backup, 5));
    assert!(held[0].age < HOUR);
    for file in &unfinished {
        age_by(&stored, file, HOUR * 2);
    }
    stored.objects.sweep().await.unwrap();
    assert_eq!(stored.files(), ["00000001", "00000002"].map(|name| format!("{backup}/{RUN}/{name}")));
    let (file, new) = directory.begin(place(&stored, RUN, "00000000")).unwrap();
    new.complete(&file).expect("it is written anew");
}

#[tokio::test]
async fn what_a_kill_leaves_of_a_deletion_is_swept() {
    let stored = Stored::new();
    let backup = stored.backup;
    stored.plant_backup(RUN);
    stored.plant_backup(OTHER_RUN);
    // Killed after the run to be kept was decided.
    std::fs::write(stored.path(&format!("{backup}/sealed")), RUN).unwrap();
    let held = stored.objects.sweep().await.unwrap();
    assert!(!stored.path(&format!("{backup}/{OTHER_RUN}")).exists());
    let bytes = std::fs::metadata(stored.path(&format!("{backup}/{RUN}/{MANIFEST_NAME}"))).unwrap().len() + 200_000;
    assert_eq!(held.iter().map(|Held { backup, bytes, .. }| (*backup, *bytes)).collect::<Vec<_>>(), [(backup, bytes)]);
    // Killed after the marker of the deletion.
    let marker = format!("{backup}.deleted");
    std::fs::write(stored.path(&marker), "").unwrap();
    std::fs::write(stored.path(".x.deleted.new"), "").unwrap();
    assert_eq!(stored.objects.sweep().await.unwrap(), []);
    assert_eq!(stored.files(), [".x.deleted.new", &marker]);
    age_by(&stored, &marker, HOUR * 23);
    age_by(&stored, ".x.deleted.new", HOUR * 2);
    stored.objects.sweep().await.unwrap();
    assert_eq!(stored.files(), std::slice::from_ref(&marker));
    age_by(&stored, &marker, HOUR * 25);
    stored.objects.sweep().await.unwrap();
    assert_eq!(stored.files(), [""; 0]);
}

#[test]
fn a_directory_of_another_account_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a_directory_of_another_account_is_refused: only root can give directories away");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(54_321), None).unwrap();
    let refused = Objects::open_directory(scratch.path().to_owned(), None, Seal::new(&[3; 32]), &Config::default());
    assert!(refused.is_err_and(|error| chain(&error).contains("54321")));
}

#[tokio::test]
async fn nothing_is_written_or_removed_where_another_directory_is_in_the_place() {
    let stored = Stored::new();
    let (backup, objects) = (stored.backup, &stored.objects);
    let sum = stored.plant_backup(RUN);
    let (place_of, away) = (stored.path(""), stored.scratch.path().join("away"));
    let (file, new) = objects.inner.storage.directory().unwrap().begin(place(&stored, OTHER_RUN, "00000000")).unwrap();
    std::fs::rename(&place_of, &away).unwrap();
    let refused = |error: Error, why: &str| {
        let said = chain(&error);
        assert!(
            said.contains("is not the directory in which this service keeps its backups: ") && said.contains(why),
            "{said}"
        );
    };
    for why in ["has no file \"storage\"", "is storage 1 and not"] {
        std::fs::create_dir_all(&place_of).unwrap();
        if why.contains('1') {
            std::fs::write(place_of.join("storage"), "1\n").unwrap();
        }
        refused(objects.delete_backup(backup).await.unwrap_err(), why);
        refused(objects.delete_other_runs(backup, RUN).await.unwrap_err(), why);
        refused(objects.sweep().await.unwrap_err(), why);
        refused(objects.check_storage().await.unwrap_err(), why);
        // It is not known to be damaged.
        let unknown = objects.check(backup, RUN, &sum).await;
        assert!(matches!(unknown, Err(CheckError::Unavailable(_))), "{unknown:?}");
        let begun = objects.inner.storage.directory().unwrap().begin(place(&stored, RUN, "00000007"));
        assert!(matches!(begun, Err(NotStored::Failed(_))));
        assert_eq!(stored.files(), [""; 0]);
    }
    assert!(new.complete(&file).is_err(), "what was begun before");
    std::fs::remove_dir_all(&place_of).unwrap();
    std::fs::rename(&away, &place_of).unwrap();
    objects.check(backup, RUN, &sum).await.unwrap();
    objects.check_storage().await.unwrap();
    objects.delete_backup(backup).await.unwrap();
    assert_eq!(stored.files(), [format!("{backup}.deleted")]);

    // At a start the number comes from the store.
    let (seal, config) = (Seal::new(&[3; 32]), Config::default());
    let again = Objects::open_directory(place_of.clone(), None, seal.clone(), &config).unwrap();
    assert_eq!(again.storage(), objects.storage());
    let known = Objects::open_directory(place_of.clone(), Some(objects.storage()), seal.clone(), &config).unwrap();
    known.check_storage().await.unwrap();
    let elsewhere = stored.scratch.path().join("elsewhere");
    let not_mounted = Objects::open_directory(elsewhere.clone(), Some(objects.storage()), seal, &config).unwrap();
    refused(not_mounted.check_storage().await.unwrap_err(), "has no file");
    std::fs::write(elsewhere.join("storage"), objects.storage().to_string()).unwrap();
    not_mounted.check_storage().await.unwrap();
}

#[test]
fn controllers_that_open_a_new_directory_at_once_agree_on_its_name() {
    let scratch = tempfile::tempdir().unwrap();
    let open =
        || Objects::open_directory(scratch.path().join("objects"), None, Seal::new(&[3; 32]), &Config::default());
    let found: Vec<i64> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| open().unwrap().storage())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(found.iter().all(|storage| *storage == found[0] && *storage > 0), "{found:?}");
}

#[test]
fn controllers_that_delete_a_backup_at_once_do_not_meet() {
    let stored = Stored::new();
    stored.plant_backup(RUN);
    let directory = stored.objects.inner.storage.directory().unwrap();
    std::thread::scope(|scope| {
        for deleted in [(); 8].map(|()| scope.spawn(|| directory.delete(stored.backup))) {
            deleted.join().unwrap().unwrap();
        }
    });
    assert_eq!(stored.files(), [format!("{}.deleted", stored.backup)]);
}

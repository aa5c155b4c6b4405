//! Tests of which damages are found, and how they are told.

use super::*;
use crate::objects::CheckError;
use crate::operations::steps::StepError;

/// What is told of a backup that was damaged like this.
async fn told(damage: impl FnOnce(&Stored)) -> String {
    let stored = Stored::new();
    let sum = stored.plant_backup(RUN);
    stored.objects.check(stored.backup, RUN, &sum).await.expect("it is whole");
    damage(&stored);
    match stored.objects.check(stored.backup, RUN, &sum).await {
        Err(CheckError::Damaged(what)) => what,
        other => panic!("{other:?}"),
    }
}

fn object(stored: &Stored, name: &str) -> PathBuf {
    stored.path(&format!("{}/{RUN}/{name}", stored.backup))
}

fn change(path: &std::path::Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn every_damage_is_found_and_its_object_named() {
    let flipped = told(|stored| change(&object(stored, "00000001"), |bytes| bytes[77_777] ^= 1)).await;
    assert!(flipped.starts_with("object 00000001: its BLAKE3 sum is "), "{flipped}");
    let truncated = told(|stored| change(&object(stored, "00000000"), |bytes| bytes.truncate(99_999))).await;
    assert_eq!(truncated, "object 00000000: it has 99999 bytes instead of 100000");
    let longer = told(|stored| change(&object(stored, "00000000"), |bytes| bytes.push(0))).await;
    assert_eq!(longer, "object 00000000: it has 100001 bytes instead of 100000");
    let swapped = told(|stored| {
        let [one, two, aside] = ["00000000", "00000001", "aside"].map(|name| object(stored, name));
        std::fs::rename(&one, &aside).unwrap();
        std::fs::rename(&two, &one).unwrap();
        std::fs::rename(&aside, &two).unwrap();
    });
    let swapped = swapped.await;
    assert!(swapped.starts_with("object 00000000: its BLAKE3 sum is "), "{swapped}");
    let missing = told(|stored| std::fs::remove_file(object(stored, "00000001")).unwrap()).await;
    assert_eq!(missing, "object 00000001: it is missing");
    let missing = told(|stored| std::fs::remove_file(object(stored, MANIFEST_NAME)).unwrap()).await;
    assert_eq!(missing, "object manifest.json: it is missing");
    let flipped = told(|stored| change(&object(stored, MANIFEST_NAME), |bytes| bytes[40] ^= 1)).await;
    assert!(flipped.starts_with("object manifest.json: its BLAKE3 sum is "), "{flipped}");
    let huge = told(|stored| {
        let file = std::fs::File::options().write(true).open(object(stored, MANIFEST_NAME)).unwrap();
        file.set_len((16 << 20) + 1).unwrap();
    });
    assert!(huge.await.contains("more than a manifest can have"));
}

#[tokio::test]
async fn a_manifest_of_another_backup_or_run_is_found_though_its_sum_is_right() {
    let stored = Stored::new();
    let sum = stored.plant_backup(RUN);
    let foreign = Stored { backup: BackupId::random(), ..Stored::new() };
    let theirs = foreign.plant_backup(RUN);
    std::fs::copy(object(&foreign, MANIFEST_NAME), object(&stored, MANIFEST_NAME)).unwrap();
    let of_backup = stored.objects.check(stored.backup, RUN, &theirs).await.unwrap_err().to_string();
    assert_eq!(of_backup, format!("object manifest.json: it is of run {RUN} of backup {}", foreign.backup));
    let replaced = stored.objects.check(stored.backup, RUN, &sum).await.unwrap_err().to_string();
    assert!(replaced.starts_with("object manifest.json: its BLAKE3 sum"), "{replaced}");
    let other = Stored::new();
    let sum = other.plant_backup(RUN);
    std::fs::rename(
        other.path(&format!("{}/{RUN}", other.backup)),
        other.path(&format!("{}/{OTHER_RUN}", other.backup)),
    )
    .unwrap();
    let of_run = other.objects.check(other.backup, OTHER_RUN, &sum).await.unwrap_err().to_string();
    assert!(of_run.contains(&format!("it is of run {RUN}")), "{of_run}");
}

#[tokio::test]
async fn a_damage_ends_the_step_and_a_storage_that_is_away_is_asked_again() {
    let stored = Stored::new();
    let damaged = stored.objects.check(stored.backup, "../..", "").await.unwrap_err();
    assert!(matches!(&damaged, CheckError::Damaged(what) if what.contains("no run's name")), "{damaged}");
    assert!(matches!(StepError::from(damaged), StepError::Fatal(_)));
    let sum = stored.plant_backup(RUN);
    std::fs::remove_file(object(&stored, "00000000")).unwrap();
    std::fs::create_dir(object(&stored, "00000000")).unwrap();
    // A directory has a size, but cannot be read.
    let size = std::fs::metadata(object(&stored, "00000000")).unwrap().len();
    let told = stored.objects.check(stored.backup, RUN, &sum).await.unwrap_err();
    assert!(told.to_string().starts_with("object 00000000"), "{told} ({size})");
    let away = CheckError::Unavailable("away".to_owned());
    assert!(matches!(StepError::from(away), StepError::RetrySameKey(_)));
}

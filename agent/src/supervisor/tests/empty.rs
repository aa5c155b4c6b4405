//! A host whose engine never ran is emptied for a restore; any other is left alone.

use trove_proto::v1::start::Work;

use super::*;

/// An order of a restore, which gets as far as asking for the manifest.
fn order(identity: &str) -> Work {
    let specification = Some(v1::Specification { server_id: 7, ..v1::Specification::default() });
    let (backup, run, manifest_sum) = ("b".to_owned(), "r".to_owned(), "00".to_owned());
    let full = v1::StoredBackup { backup, run, manifest_sum, identity: identity.to_owned() };
    Work::Restore(v1::Restore { generation: 2, specification, chain: vec![full], replay: None })
}

fn key() -> String {
    use trove_strategy::ExposeSecret as _;
    age::x25519::Identity::generate().to_string().expose_secret().to_owned()
}

fn start(stage: &Stage, operation: &str, work: Work) -> Attached {
    let key = v1::JobKey { operation: operation.to_owned(), ..v1::JobKey::default() };
    stage.jobs.start(v1::Start { key: Some(key), fence: 1, deadline_s: 60, work: Some(work) })
}

async fn failure(mut job: Attached) -> v1::Error {
    let ended = tokio::time::timeout(Duration::from_secs(20), job.state.wait_for(|state| state.ended.is_some()));
    ended.await.expect("it ends").unwrap().ended.clone().unwrap().error.unwrap()
}

async fn has(stage: &Stage, name: &str) -> bool {
    stage.site.host.exists(&Directory::Data.join(name)).await.unwrap()
}

async fn plant(stage: &Stage) {
    for name in ["data", "data.new"] {
        stage.site.host.make_directory(&Directory::Data.join(name), 0o700, Owner::Engine).await.unwrap();
        keep(&stage.site, Directory::Data.join(format!("{name}/half")), Owner::Engine).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_try_left_is_removed_before_a_restore_which_can_be_cancelled() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    plant(&stage).await;
    let mut job = start(&stage, "restore", order(&key()));
    let asked = job.state.wait_for(|state| state.question.is_some());
    let question =
        tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap().unwrap().question.clone().unwrap();
    assert_eq!((question.run.as_str(), question.objects[0].name.as_str()), ("r", "manifest.json"));
    assert!(!has(&stage, "data").await && !has(&stage, "data.new").await);
    assert_eq!(stage.assignments.assigned().borrow().specification.server_id, 7, "it is assigned as Prepare does it");
    assert!(!stage.files.path(DESIRED).exists(), "nothing wants it to run");
    job.cancel.cancel();
    assert_eq!(failure(job).await.kind(), v1::ErrorKind::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_restored_over_an_engine_that_runs_or_has_run_also_after_a_restart_of_the_agent() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    plant(&stage).await;
    stage.supervisor.start().await.unwrap();
    for operation in ["runs", "stopped"] {
        let error = failure(start(&stage, operation, order(&key()))).await;
        assert_eq!(error.kind(), v1::ErrorKind::Invalid, "{operation}");
        assert!(error.message.contains("the engine has run here"), "{}", error.message);
        assert!(has(&stage, "data/half").await && has(&stage, "data.new/half").await);
        stage.supervisor.stop().await.unwrap();
    }
    let stage = stage.again_with(DESIRED, 2).await;
    let error = failure(start(&stage, "another agent", order(&key()))).await;
    assert_eq!(error.kind(), v1::ErrorKind::Invalid, "what `desired` said is lost, and that it was there is not");
    assert!(has(&stage, "data/half").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_refused_before_anything_is_removed_and_not_repeated() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    plant(&stage).await;
    let error = failure(start(&stage, "restore", order("AGE-SECRET-KEY-1NONSENSE"))).await;
    assert_eq!(error.kind(), v1::ErrorKind::Invalid);
    assert!(!error.message.contains("NONSENSE"), "{}", error.message);
    assert!(has(&stage, "data/half").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_needs_an_engine_that_runs() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    let backup = v1::Backup { backup: "b".to_owned(), recipients: Vec::new(), segment_bytes: 1 << 20, parent: None };
    let error = failure(start(&stage, "before", Work::Backup(backup.clone()))).await;
    assert!(error.message.contains("the engine does not run"), "{}", error.message);
    stage.supervisor.start().await.unwrap();
    let error = failure(start(&stage, "without a key", Work::Backup(backup.clone()))).await;
    assert_eq!(error.kind(), v1::ErrorKind::Invalid, "{}", error.message);
    let recipients = vec![age::x25519::Identity::generate().to_public().to_string()];
    let job = start(&stage, "cancelled", Work::Backup(v1::Backup { recipients, ..backup }));
    job.cancel.cancel();
    assert_eq!(failure(job).await.kind(), v1::ErrorKind::Cancelled);
    stage.end().await;
}

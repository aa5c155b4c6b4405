//! What an agent that has died leaves: files that are cut off, an engine of an initialisation that did not end.

use super::*;

/// A shell that stays one, so that it is found by its program.
pub(super) const STAYS: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_mark_is_cut_off_is_found_by_its_signs() {
    let mut stage = stage(STAYS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let (pid, whole) = (stage.pid(), stage.files.read(MARK).unwrap().unwrap());
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        stage = stage.again_with(MARK, length).await;
        stage.until(ServiceState::Healthy).await;
        assert!(stage.files.read(MARK).unwrap().is_none(), "no other was started");
        stage.files.write(MARK, &whole).unwrap();
    }
    assert_eq!(stage.pid(), pid);
    stage.supervisor.stop().await.unwrap();
    // A zombie of this process may be left, since no adopting agent has to reap it.
    assert!(!serde_json::from_slice::<Mark>(&whole).unwrap().runs().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_an_initialisation_that_did_not_end_is_not_adopted() {
    let stage = stage(STAYS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let before: Mark = stage.files.read_json(MARK).unwrap().unwrap();
    // The first start of an engine, for the agent alone, is made before any start was asked for.
    std::fs::remove_file(stage.files.path(DESIRED)).unwrap();
    let Stage { supervisor, jobs, scratch, .. } = stage;
    drop((supervisor, jobs));
    let stage = stage_in(scratch, STAYS, Mood::Answers).await;
    assert_eq!(stage.supervisor.status().borrow().service, ServiceState::New);
    stage.supervisor.initialise().await.unwrap();
    assert!(!before.runs().unwrap());
    stage.supervisor.start().await.unwrap();
    assert_ne!(stage.pid(), before.pid);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_begun_runs_also_when_that_is_cut_off() {
    let mut stage = stage(STAYS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    for length in [0, 1, 2, 3] {
        stage.supervisor.start().await.unwrap();
        stage.supervisor.stop_for_a_while().await.unwrap();
        stage = stage.again_with(DESIRED, length).await;
        stage.until(ServiceState::Healthy).await;
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_without_its_assignment_keeps_its_configuration_and_is_not_stopped_for_its_size() {
    let stage = stage(STAYS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let stage = stage.again_with(ASSIGNMENT, 3).await;
    stage.until(ServiceState::Healthy).await;
    stage.supervisor.stop_for_a_while().await.unwrap();
    stage.used.send_replace(Some(1200 * MIB));
    stage.supervisor.configure().await.unwrap();
    stage.supervisor.start().await.expect("nobody knows that the volume is no greater");
    assert!(stage.sleeper.read_only.lock().unwrap().is_empty(), "it was configured");
    stage.end().await;
}

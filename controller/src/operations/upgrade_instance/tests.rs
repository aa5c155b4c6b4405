use trove_strategy::Installation;

use super::*;
use crate::compute::{ComputeError, HostSpec};
use crate::model::Artifact;
use crate::testing::operations::{Stage, failed_anywhere, killed_anywhere};
use crate::testing::store::{manifest, register};

const OLD: &str = "/opt/engine/15/bin";
const NEW: &str = "/opt/engine/15.19/bin";

fn bindir(spec: &HostSpec) -> &str {
    let Artifact::Local { installation, .. } = &spec.artifact else { panic!("{spec:?}") };
    installation.bindir.to_str().unwrap()
}

async fn make() -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    let mut newer = manifest();
    newer.installation = Installation::new("15.19", "15", NEW);
    let to = register(&stage.context.store, &newer).await;
    let operation = new(stage.origin(), Params { to }).unwrap();
    (stage, operation)
}

#[tokio::test]
async fn a_kill_between_any_two_steps_ends_in_the_new_version() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!(
            (row.task, row.host, row.version_number.as_str()),
            (Task::None, HostState::Active, "15.19"),
            "{what}"
        );
        assert_eq!(row.fault, None, "{what}");
        assert_eq!(bindir(stage.compute.specs.lock().unwrap().last().unwrap()), NEW, "{what}");
        assert!(*stage.compute.stopped.lock().unwrap() >= 1, "{what}");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn a_failure_at_any_step_ends_in_the_old_version() {
    let check = async |stage: &Stage, what: &str| {
        let row = stage.row().await;
        assert_eq!(
            (row.task, row.host, row.version_number.as_str()),
            (Task::None, HostState::Active, "15.18"),
            "{what}"
        );
        assert_eq!(bindir(stage.compute.specs.lock().unwrap().last().unwrap()), OLD, "{what}");
        let fault = row.fault.unwrap().message;
        assert!(fault.starts_with("Upgrading the instance failed, it keeps its version: "), "{what}: {fault}");
        stage.assert_settled().await;
    };
    failed_anywhere(make, check).await;
    for (verb, step, stops) in [("fetch_programs", "fetch_programs", 0), ("ensure_host", "boot_host", 2)] {
        let (stage, operation) = make().await;
        stage.compute.fail_next(verb, ComputeError::Fatal("the image is not there".to_owned()));
        stage.complete(operation).await.unwrap_err();
        check(&stage, verb).await;
        assert!(*stage.compute.stopped.lock().unwrap() <= stops, "{verb}");
        assert!(stage.row().await.fault.unwrap().message.contains(step), "{verb}");
    }
}

#[tokio::test]
async fn a_version_that_an_instance_is_about_to_have_is_not_taken_away() {
    let (stage, operation) = make().await;
    let to = serde_json::from_value::<Params>(operation.state.clone()).unwrap().to;
    stage.submit(operation).await.unwrap();
    let store = &stage.context.store;
    let mut tx = store.begin().await.unwrap();
    let refused = store.remove_version(&mut tx, to).await.unwrap_err().to_string();
    assert!(refused.contains("in use by upgrades"), "{refused}");
}

use super::*;
use crate::agents::AgentError;
use crate::model::backups::{Verification, VerificationState};
use crate::testing::operations::{Stage, failed_anywhere, killed_anywhere};

/// A complete backup, and the scratch instance for it.
async fn make() -> (Stage, NewOperation) {
    let stage = Stage::ordered().await;
    let mut tx = stage.context.store.begin().await.unwrap();
    crate::store::sql::query("update instance set purpose = 'verification'").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let backup = stage.stored_backup().await.id;
    let operation = new(stage.origin(), backup).unwrap();
    (stage, operation)
}

async fn verification(stage: &Stage) -> Verification {
    let filter = crate::store::backups::Filter::default();
    let backups = stage.context.store.list_backups(filter, 0, 10).await.unwrap();
    assert_eq!(backups[0].state.tag(), "COMPLETED", "the backup stays");
    backups[0].verification.clone().unwrap()
}

async fn assert_clean(stage: &Stage, what: &str) {
    assert!(stage.row().await.deleted.is_some(), "{what}");
    stage.assert_nothing_left().await;
    let counted = stage.context.store.number("select count(*) from usage where in_use <> 0").await;
    assert_eq!(counted, 0, "{what}: a quota was changed");
    let free = stage.fixture.insert("p").await;
    let mut tx = stage.context.store.begin().await.unwrap();
    assert!(stage.context.store.set_address(&mut tx, free, "127.0.7.1".parse().unwrap()).await.unwrap(), "{what}");
}

#[tokio::test]
async fn a_kill_between_any_two_steps_verifies_once_and_leaves_nothing() {
    let check = async |stage: &Stage, what: &str| {
        let verified = verification(stage).await;
        assert_eq!((verified.state, verified.fault), (VerificationState::Passed, None), "{what}");
        let counts = ["restore", "prepare", "check"].map(|job| stage.agents.count(job));
        assert_eq!(counts, [1, 1, 1], "{what}");
        assert_clean(stage, what).await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn a_failure_at_any_step_is_said_and_leaves_nothing_behind() {
    let check = async |stage: &Stage, what: &str| {
        let Verification { state, fault, .. } = verification(stage).await;
        // The check had passed, and what failed is the removal.
        let passed = what.contains("remove_host") || what.contains("verify_backup.check.after");
        if passed {
            assert_eq!((state, fault), (VerificationState::Passed, None), "{what}");
        } else {
            assert_eq!(state, VerificationState::Failed, "{what}");
            assert!(fault.unwrap().starts_with("The verification failed at "), "{what}");
        }
        assert_clean(stage, what).await;
    };
    failed_anywhere(make, check).await;
}

#[tokio::test]
async fn what_the_agent_finds_becomes_the_fault() {
    for job in ["restore", "check"] {
        let (stage, operation) = make().await;
        let kind = v1::ErrorKind::Invalid;
        let message = "segment 00000003 is damaged".to_owned();
        stage.agents.fail_next(job, AgentError::Refused { kind, message });
        let error = format!("{job}: segment 00000003 is damaged");
        assert_eq!(stage.complete(operation).await.unwrap_err(), error);
        let Verification { state, fault, .. } = verification(&stage).await;
        assert_eq!(state, VerificationState::Failed);
        assert_eq!(fault, Some(format!("The verification failed at {error}")));
        assert_clean(&stage, job).await;
    }
}

#[tokio::test]
async fn a_check_that_does_not_end_is_begun_three_times() {
    for (fails, passes) in [(2, true), (3, false)] {
        let (stage, operation) = make().await;
        for _ in 0..fails {
            let kind = v1::ErrorKind::Transient;
            stage.agents.fail_next("check", AgentError::Refused { kind, message: "the engine crashed".to_owned() });
        }
        assert_eq!(stage.complete(operation).await.is_ok(), passes, "{fails}");
        assert_eq!(verification(&stage).await.fault.is_none(), passes, "{fails}");
        assert_clean(&stage, "crashes").await;
    }
}

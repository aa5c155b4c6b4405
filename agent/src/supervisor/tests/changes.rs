//! Changes of accounts that come while the engine recovers, or is stopped.

use super::*;

/// Asks for a change of accounts.
fn ask_for_a_change(stage: &Stage) -> Attached {
    let kind = Some(v1::account_change::Kind::DeleteDatabase("x".to_owned()));
    let changes = v1::ChangeAccounts { changes: vec![v1::AccountChange { kind }] };
    let key = v1::JobKey { operation: "o".to_owned(), step: "apply".to_owned(), target: "i".to_owned(), attempt: 1 };
    let work = Some(v1::start::Work::ChangeAccounts(changes));
    stage.jobs.start(v1::Start { key: Some(key), fence: 1, deadline_s: 60, work })
}

async fn end_of(job: &mut Attached) -> v1::Result {
    let ended = job.state.wait_for(|state| state.ended.is_some());
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it ends").unwrap().ended.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_accepted_waits_for_an_engine_that_recovers() {
    let stage = stage(SLEEPS, Mood::Recovers).await;
    let supervisor = stage.supervisor.clone();
    let start = tokio::spawn(async move { supervisor.start().await });
    stage.until(ServiceState::Starting).await;
    let mut job = ask_for_a_change(&stage);
    let waits = job.state.wait_for(|state| state.progress.stage.contains("waits for the engine, which recovers"));
    tokio::time::timeout(Duration::from_secs(10), waits).await.expect("its progress says so").unwrap();
    stage.is(Mood::Answers);
    let changed = v1::result::Outcome::AccountsChanged(v1::AccountsChanged { changes: 1 });
    assert_eq!(end_of(&mut job).await, v1::Result { error: None, outcome: Some(changed) });
    let told = job.state.borrow().progress.clone();
    assert_eq!((told.done, told.total, told.unit.as_str()), (Some(1), Some(1), "items"));
    start.await.unwrap().unwrap();
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_does_not_wait_for_an_engine_that_is_stopped() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    stage.supervisor.stop().await.unwrap();
    stage.is(Mood::Recovers);
    let error = end_of(&mut ask_for_a_change(&stage)).await.error.expect("it fails");
    assert_eq!(
        (error.kind(), error.message.contains("the engine is stopped")),
        (v1::ErrorKind::Fatal, true),
        "{error:?}"
    );
    stage.end().await;
}

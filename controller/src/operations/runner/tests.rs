mod several;

use async_trait::async_trait;
use serde::{Deserialize as De, Serialize as Se};
use tokio::sync::Notify;

use super::*;
use crate::ids::InstanceId;
use crate::operations::points::Hold;
use crate::operations::steps::{Entry, Member, Operation, StepError, StepResult, Steps};
use crate::operations::{Lane, NewOperation, Origin, Target, Work, delete_instance};
use crate::store::operations::Status;
use crate::store::sql::Connection;
use crate::testing::operations::{QUICK, Stage, hold_at, reached};

/// Waits for the agent's service to be healthy, and counts itself in its state.
struct Demo;

#[derive(Se, De, Default)]
struct State {
    runs: u32,
}

#[async_trait]
impl Operation for Demo {
    const KIND: &'static str = "demo";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = ();
    type TargetState = State;

    fn steps() -> Steps<(), State> {
        Steps::default().step("first", Duration::from_secs(60), count).undo(uncount).step(
            "second",
            Duration::from_millis(400),
            wait,
        )
    }

    async fn finished(
        work: &Work,
        conn: &mut Connection,
        _: &(),
        targets: &[Member<State>],
    ) -> crate::error::Result<()> {
        for Member { instance, state } in targets {
            // Shown nowhere else once the operation's own state is gone.
            work.context.store.set_fault(conn, *instance, Some((&state.runs.to_string(), ""))).await?;
        }
        Ok(())
    }

    async fn failed(
        work: &Work,
        conn: &mut Connection,
        targets: &[InstanceId],
        error: &str,
    ) -> crate::error::Result<()> {
        for instance in targets {
            work.context.store.set_fault(conn, *instance, Some((error, ""))).await?;
        }
        Ok(())
    }
}

async fn count(_: &Work, _: &Target, _: &(), state: &mut State) -> StepResult {
    state.runs += 1;
    Ok(())
}

async fn uncount(_: &Work, _: &Target, _: &(), state: &mut State) -> StepResult {
    assert_eq!(state.runs, 1, "an undo sees what its step stored");
    Ok(())
}

async fn wait(work: &Work, target: &Target, _: &(), _: &mut State) -> StepResult {
    if work.context.agents.state(target.instance).borrow().connected {
        return Ok(());
    }
    Err(StepError::RetrySameKey("not yet".to_owned()))
}

fn demo(stage: &Stage) -> NewOperation {
    demo_on(stage, stage.instance)
}

fn demo_on(stage: &Stage, instance: InstanceId) -> NewOperation {
    NewOperation::of::<Demo>(Origin { targets: vec![instance], ..stage.origin() }, serde_json::Value::Null)
}

fn registry() -> Vec<Arc<dyn Registered>> {
    vec![Arc::new(Entry::<Demo>::new())]
}

async fn fault(stage: &Stage) -> String {
    stage.row().await.fault.unwrap().message
}

#[tokio::test]
async fn a_step_that_is_late_is_undone_and_says_what_it_last_met() {
    let stage = Stage::ordered().await;
    let running = stage.start_as(stage.context.clone(), registry(), QUICK, None);
    let id = stage.submit(demo(&stage)).await.unwrap();
    let error = stage.end(id).await.unwrap_err();
    assert_eq!(error, "second: it was not done within 0 s; last error: not yet");
    assert_eq!(fault(&stage).await, error);
    running.stop().await;
    stage.assert_settled().await;
}

#[tokio::test]
async fn a_kind_or_version_that_is_not_known_is_left_alone() {
    let stage = Stage::ordered().await;
    let mut newer = demo(&stage);
    newer.version = 2;
    let newer = stage.submit(newer).await.unwrap();
    let other = stage.fixture.insert("p").await;
    let known = demo_on(&stage, other);
    stage.agents.connect(other, true);
    let running = stage.start_as(stage.context.clone(), registry(), QUICK, None);
    let known = stage.submit(known).await.unwrap();
    stage.end(known).await.unwrap();
    running.stop().await;
    assert_eq!(stage.context.store.operation_end(newer).await.unwrap(), None);
    assert_eq!(stage.operations().await[0].status, "queued");
}

#[tokio::test]
async fn a_paused_controller_leaves_orders_to_others() {
    let stage = Stage::ordered().await;
    stage.agents.connect(stage.instance, true);
    let id = stage.submit(demo(&stage)).await.unwrap();
    let mut config = (*stage.context.config).clone();
    config.operations.paused = true;
    let paused = RunnerContext { config: Arc::new(config), ..stage.context.clone() };
    let paused = Runner::with(paused, registry(), QUICK, Points::default());
    let (mut running, mut cancels) = (JoinSet::new(), HashMap::new());
    paused.pass(&mut false, &mut running, &mut cancels, &CancellationToken::new()).await.unwrap();
    assert!(running.is_empty());
    assert_eq!(stage.operations().await[0].status, "queued");
    let other = stage.start_as(stage.context.clone(), registry(), QUICK, None);
    stage.end(id).await.unwrap();
    other.stop().await;
}

#[tokio::test]
async fn one_that_stalled_beyond_its_lease_is_fenced_off() {
    let stage = Stage::ordered().await;
    stage.agents.connect(stage.instance, true);
    // It never renews, and goes on with the record of its first step when the other has long finished.
    let stalled = Timing { lease: Duration::from_millis(100), renew: Duration::from_secs(60), ..QUICK };
    let point = "operation.demo.first.after";
    let (hook, there) = hold_at(point.to_owned(), Hold::For(Duration::from_millis(600)));
    let one = stage.start_as(stage.context.clone(), registry(), stalled, Some(hook));
    let id = stage.submit(demo(&stage)).await.unwrap();
    reached(&there, point).await;

    let other = RunnerContext { controller_id: "two".to_owned(), ..stage.context.clone() };
    let two = stage.start_as(other, registry(), QUICK, None);
    stage.end(id).await.unwrap();
    assert_eq!(fault(&stage).await, "1", "the step was recorded once");
    let (_, version) = stage.context.store.list_operations(stage.instance).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (_, later) = stage.context.store.list_operations(stage.instance).await.unwrap();
    assert_eq!(later, version, "the late one has written nothing");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_lease_is_kept_for_as_long_as_the_step_takes() {
    let stage = Stage::ordered().await;
    stage.agents.connect(stage.instance, true);
    let quick = Timing { lease: Duration::from_secs(2), renew: Duration::from_millis(50), ..QUICK };
    let point = "operation.demo.first.before";
    let (hook, there) = hold_at(point.to_owned(), Hold::For(Duration::from_secs(4)));
    let one = stage.start_as(stage.context.clone(), registry(), quick, Some(hook));
    let id = stage.submit(demo(&stage)).await.unwrap();
    reached(&there, point).await;
    let other = RunnerContext { controller_id: "two".to_owned(), ..stage.context.clone() };
    let stolen = Arc::new(Notify::new());
    let notify = stolen.clone();
    let two = stage.start_as(
        other,
        registry(),
        quick,
        Some(Arc::new(move |_: &str, _: InstanceId| {
            notify.notify_one();
            Hold::Pass
        })),
    );
    tokio::select! {
        end = stage.end(id) => end.unwrap(),
        () = stolen.notified() => panic!("the other took a lease that was renewed"),
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_shutdown_lets_go_so_that_another_goes_on_at_once() {
    let stage = Stage::ordered().await;
    stage.agents.connect(stage.instance, true);
    let point = "operation.demo.second.before";
    let (hook, there) = hold_at(point.to_owned(), Hold::Forever);
    let one = stage.start_as(stage.context.clone(), registry(), QUICK, Some(hook));
    let id = stage.submit(demo(&stage)).await.unwrap();
    reached(&there, point).await;
    one.stop().await;
    let other = RunnerContext { controller_id: "two".to_owned(), ..stage.context.clone() };
    let two = stage.start_as(other, registry(), QUICK, None);
    stage.end(id).await.unwrap();
    two.stop().await;
    assert_eq!(fault(&stage).await, "1");
}

#[tokio::test]
async fn a_running_operation_that_is_cancelled_lets_the_next_one_in() {
    let stage = Stage::created().await;
    let point = "operation.restart_instance.restart_engine.before";
    let (hook, there) = hold_at(point.to_owned(), Hold::Forever);
    let running = stage.start(Some(hook));
    let restart = stage.submit(crate::operations::restart_instance::new(stage.origin())).await.unwrap();
    reached(&there, point).await;
    let refused = stage.submit(delete_instance::new(stage.origin())).await.unwrap_err();
    assert!(refused.to_string().contains("restart_instance"), "{refused}");

    let store = &stage.context.store;
    let mut tx = store.begin().await.unwrap();
    store.cancel_active(&mut tx, stage.instance, &[Lane::Lifecycle, Lane::Accounts]).await.unwrap();
    let delete = store.enqueue(&mut tx, delete_instance::new(stage.origin())).await.unwrap();
    tx.commit().await.unwrap();
    stage.context.nudge.now();
    stage.end(restart).await.unwrap_err();
    stage.end(delete).await.unwrap();
    running.stop().await;
    assert_eq!(*stage.agents.cancelled.lock().unwrap(), [(stage.instance, restart)], "its agent is told");
    let operations = stage.operations().await;
    assert_eq!(operations[1].status, Status::Cancelled.tag());
    assert_eq!(operations[1].steps[0].error.as_deref(), Some("cancelled"));
    assert!(operations[0].started >= operations[1].finished, "the next one waited");
    stage.assert_nothing_left().await;
}

#[tokio::test]
async fn what_waits_is_cancelled_at_once() {
    let stage = Stage::created().await;
    let id = stage.submit(crate::operations::restart_instance::new(stage.origin())).await.unwrap();
    let store = &stage.context.store;
    let mut tx = store.begin().await.unwrap();
    store.cancel_active(&mut tx, stage.instance, &[Lane::Lifecycle]).await.unwrap();
    tx.commit().await.unwrap();
    assert!(store.operation_end(id).await.unwrap().unwrap().is_err());
    stage.assert_settled().await;
}

#[tokio::test]
async fn progress_is_stored_with_its_step() {
    let stage = Stage::created().await;
    let point = "operation.restart_instance.restart_engine.after";
    let (hook, there) = hold_at(point.to_owned(), Hold::Forever);
    let running = stage.start(Some(hook));
    let mut changes = stage.context.changes.subscribe();
    stage.submit(crate::operations::restart_instance::new(stage.origin())).await.unwrap();
    reached(&there, point).await;
    let shown = async {
        loop {
            if let Some(progress) = stage.operations().await.remove(0).steps.remove(0).progress {
                return progress;
            }
            changes.changed().await.unwrap();
        }
    };
    let shown = tokio::time::timeout(Duration::from_secs(10), shown).await.unwrap();
    assert_eq!(shown, (None, None, "two".to_owned()));
    running.kill().await;
}

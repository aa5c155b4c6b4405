//! An operation over three targets, killed and failed at every point on each of them; and what lanes let run beside what.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize as De, Serialize as Se};
use tokio::sync::Notify;

use crate::ids::{InstanceId, ProjectId};
use crate::operations::points::{Hold, Hook};
use crate::operations::runner::*;
use crate::operations::steps::{Entry, Member, Operation, StepError, StepResult, Steps};
use crate::operations::{Lane, NewOperation, Origin, Target, Work};
use crate::store::operations::Status;
use crate::store::sql::Connection;
use crate::testing::operations::{QUICK, Running, Stage, reached};

/// Numbers its targets, adds the numbers up, and gives each the sum.
struct Vote;

/// What all targets share.
#[derive(Se, De, Default, Debug)]
struct Ballot {
    sum: u32,
}

/// What is known of one.
#[derive(Se, De, Default, Clone, PartialEq, Eq, Debug)]
struct Voter {
    number: u32,
    heard: u32,
}

#[async_trait::async_trait]
impl Operation for Vote {
    const KIND: &'static str = "vote";
    const VERSION: u16 = 1;
    const LANE: Lane = Lane::Lifecycle;
    type State = Ballot;
    type TargetState = Voter;

    fn steps() -> Steps<Ballot, Voter> {
        Steps::default()
            .step("number", Duration::from_secs(60), number)
            .undo(take_back)
            .join(|ballot, voters| ballot.sum = voters.iter().map(|voter| voter.state.number).sum())
            .step("tell", Duration::from_secs(60), tell)
            .undo(take_back)
    }

    async fn finished(work: &Work, conn: &mut Connection, ballot: &Ballot, voters: &[Member<Voter>]) -> Result<()> {
        for Member { instance, state } in voters {
            let told = format!("{} of {}, heard {}", state.number, ballot.sum, state.heard);
            work.context.store.set_fault(conn, *instance, Some((&told, ""))).await?;
        }
        Ok(())
    }

    async fn failed(work: &Work, conn: &mut Connection, voters: &[InstanceId], error: &str) -> Result<()> {
        for instance in voters {
            work.context.store.set_fault(conn, *instance, Some((error, ""))).await?;
        }
        Ok(())
    }
}

/// Hosts stand for effects: there is one after the step, and none after its undo.
async fn number(work: &Work, target: &Target, _: &Ballot, voter: &mut Voter) -> StepResult {
    work.context.ensure_host(target.instance, work.fence()).await?;
    voter.number = 1;
    Ok(())
}

async fn tell(work: &Work, target: &Target, ballot: &Ballot, voter: &mut Voter) -> StepResult {
    if work.context.agents.state(target.instance).borrow().connected {
        voter.heard = ballot.sum;
        return Ok(());
    }
    Err(StepError::RetrySameKey("not yet".to_owned()))
}

async fn take_back(work: &Work, target: &Target, _: &Ballot, _: &mut Voter) -> StepResult {
    Ok(work.context.compute.delete_host(target.instance, work.fence()).await?)
}

/// Holds the accounts' or the backup's lane for as long as the agent is away.
struct InLane<const BACKUP: bool>;

#[async_trait::async_trait]
impl<const BACKUP: bool> Operation for InLane<BACKUP> {
    const KIND: &'static str = if BACKUP { "backup" } else { "accounts" };
    const VERSION: u16 = 1;
    const LANE: Lane = if BACKUP { Lane::Backup } else { Lane::Accounts };
    type State = ();
    type TargetState = ();

    fn steps() -> Steps<(), ()> {
        Steps::default().step("work", Duration::from_secs(60), pass)
    }

    async fn finished(_: &Work, _: &mut Connection, _: &(), _: &[Member<()>]) -> Result<()> {
        Ok(())
    }

    async fn failed(_: &Work, _: &mut Connection, _: &[InstanceId], _: &str) -> Result<()> {
        Ok(())
    }
}

async fn pass(_: &Work, _: &Target, _: &(), _: &mut ()) -> StepResult {
    Ok(())
}

fn registry() -> Vec<Arc<dyn Registered>> {
    vec![
        Arc::new(Entry::<Vote>::new()),
        Arc::new(Entry::<InLane<true>>::new()),
        Arc::new(Entry::<InLane<false>>::new()),
    ]
}

/// A stage with three instances that have addresses, and their vote.
async fn three() -> (Stage, Vec<InstanceId>, NewOperation) {
    let stage = Stage::ordered().await;
    let mut targets = vec![stage.instance, stage.fixture.insert("p").await, stage.fixture.insert("p").await];
    targets.sort();
    for target in &targets {
        let address = stage.context.compute.choose_address(*target, &ProjectId("demo".to_owned()), 5432).await.unwrap();
        let mut tx = stage.context.store.begin().await.unwrap();
        assert!(stage.context.store.set_address(&mut tx, *target, address).await.unwrap());
        tx.commit().await.unwrap();
    }
    let origin = Origin { targets: targets.clone(), ..stage.origin() };
    let vote = NewOperation::of::<Vote>(origin, serde_json::json!(Ballot::default()));
    (stage, targets, vote)
}

fn start(stage: &Stage, hook: Option<Hook>) -> Running {
    stage.start_as(stage.context.clone(), registry(), QUICK, hook)
}

fn holding(point: String, at: InstanceId, hold: Hold) -> (Hook, Arc<Notify>) {
    let there = Arc::new(Notify::new());
    let notify = there.clone();
    let hook = move |name: &str, target: InstanceId| {
        if name != point || target != at {
            return Hold::Pass;
        }
        notify.notify_one();
        hold
    };
    (Arc::new(hook), there)
}

async fn told(stage: &Stage, target: InstanceId) -> String {
    stage.context.store.get_instance(target).await.unwrap().unwrap().fault.unwrap().message
}

async fn statuses(stage: &Stage) -> BTreeMap<(String, InstanceId), String> {
    let operations = stage.operations().await;
    operations[0].steps.iter().map(|step| ((step.name.clone(), step.target), step.status.clone())).collect()
}

#[tokio::test]
async fn it_ends_as_if_nothing_had_happened_wherever_it_is_killed() {
    for step in ["number", "tell"] {
        for place in ["before", "after"] {
            for at in 0..3 {
                let (stage, targets, vote) = three().await;
                let point = format!("operation.vote.{step}.{place}");
                let (hook, there) = holding(point.clone(), targets[at], Hold::Forever);
                let running = start(&stage, Some(hook));
                let id = stage.submit(vote).await.unwrap();
                reached(&there, &point).await;
                running.kill().await;
                let running = start(&stage, None);
                assert_eq!(stage.end(id).await, Ok(()), "{point} on {at}");
                running.stop().await;
                for target in &targets {
                    assert_eq!(told(&stage, *target).await, "1 of 3, heard 3", "{point} on {at}");
                }
                assert_eq!(*stage.compute.made.lock().unwrap(), 3, "{point} on {at}");
                assert!(statuses(&stage).await.values().all(|status| status == "done"));
                stage.assert_settled().await;
            }
        }
    }
}

#[tokio::test]
async fn all_of_it_is_undone_wherever_it_fails_and_the_undo_is_killed() {
    let undos: Vec<Option<(&str, &str)>> = [None]
        .into_iter()
        .chain(
            ["number", "tell"].into_iter().flat_map(|step| [Some((step, "undo_before")), Some((step, "undo_after"))]),
        )
        .collect();
    for (step, place) in [("number", "before"), ("number", "after"), ("tell", "before"), ("tell", "after")] {
        for at in 0..3 {
            for undo in &undos {
                let (stage, targets, vote) = three().await;
                let point = format!("operation.vote.{step}.{place}");
                let kill = undo.map(|(step, place)| format!("operation.vote.{step}.{place}"));
                let what = format!("{point} on {at}, killed at {kill:?}");
                let there = Arc::new(Notify::new());
                let (notify, failing, fail, kill_at) = (there.clone(), targets[at], point.clone(), kill.clone());
                let hook: Hook = Arc::new(move |name: &str, target: InstanceId| {
                    if name == fail && target == failing {
                        return Hold::Fail;
                    }
                    if Some(name) == kill_at.as_deref() && target != failing {
                        notify.notify_one();
                        return Hold::Forever;
                    }
                    Hold::Pass
                });
                let mut running = start(&stage, Some(hook));
                let id = stage.submit(vote).await.unwrap();
                // What failed in its first stage has nothing to undo of the second.
                let ended = tokio::select! {
                    () = there.notified() => false,
                    _ = stage.end(id) => true,
                };
                if !ended {
                    running.kill().await;
                    running = start(&stage, None);
                }
                let error = stage.end(id).await.unwrap_err();
                assert!(error.contains(&point), "{what}: {error}");
                running.stop().await;
                assert!(stage.compute.hosts.lock().unwrap().is_empty(), "{what}: a host is left");
                for target in &targets {
                    assert_eq!(told(&stage, *target).await, error, "{what}");
                }
                let left = statuses(&stage).await;
                assert!(left.values().all(|status| status != "running" && status != "done"), "{what}: {left:?}");
                stage.assert_settled().await;
            }
        }
    }
}

#[tokio::test]
async fn its_targets_are_worked_on_at_once_and_each_retries_alone() {
    let (stage, targets, vote) = three().await;
    stage.agents.silent.store(true, std::sync::atomic::Ordering::SeqCst);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let running = start(
        &stage,
        Some(Arc::new(move |name: &str, target: InstanceId| {
            note.lock().unwrap().push((name.to_owned(), target));
            Hold::Pass
        })),
    );
    let id = stage.submit(vote).await.unwrap();
    // The first is silent, and the others are told nevertheless.
    let mut changes = stage.context.changes.subscribe();
    let others = async {
        loop {
            for target in &targets[1..] {
                if stage.compute.hosts.lock().unwrap().contains(target) {
                    stage.agents.connect(*target, true);
                }
            }
            let now = statuses(&stage).await;
            let done = |target: &InstanceId| now.get(&("tell".to_owned(), *target)).is_some_and(|it| it == "done");
            if targets[1..].iter().all(done) {
                return now;
            }
            changes.changed().await.unwrap();
        }
    };
    let now = tokio::time::timeout(Duration::from_secs(10), others).await.unwrap();
    assert_eq!(now[&("tell".to_owned(), targets[0])], "running");
    let stuck = stage
        .operations()
        .await
        .remove(0)
        .steps
        .into_iter()
        .find(|step| step.target == targets[0] && step.name == "tell");
    assert_eq!(stuck.unwrap().error.as_deref(), Some("not yet"));
    stage.agents.connect(targets[0], true);
    stage.end(id).await.unwrap();
    running.stop().await;
    let tries = |target| {
        seen.lock().unwrap().iter().filter(|(name, at)| name.ends_with("tell.before") && *at == target).count()
    };
    assert!(tries(targets[0]) > tries(targets[1]), "only the silent one is tried again and again");
}

#[tokio::test]
async fn an_operation_holds_all_of_its_targets() {
    let (stage, targets, vote) = three().await;
    let again = vote.clone();
    let point = "operation.vote.number.before";
    let (hook, there) = holding(point.to_owned(), targets[0], Hold::Forever);
    let running = start(&stage, Some(hook));
    let id = stage.submit(vote).await.unwrap();
    reached(&there, point).await;
    for target in &targets {
        let one = NewOperation { origin: Origin { targets: vec![*target], ..stage.origin() }, ..again.clone() };
        let refused = stage.submit(one).await.unwrap_err().to_string();
        assert!(refused.contains("vote") && refused.contains(&target.to_string()), "{refused}");
    }
    running.kill().await;
    let running = start(&stage, None);
    stage.end(id).await.unwrap();
    running.stop().await;
}

/// Whether `second` is accepted while `first` runs, and if so whether it ends before it.
async fn beside(first: &str, second: &str) -> (bool, bool) {
    let (stage, targets, vote) = three().await;
    let make = |name: &str| {
        let origin = || Origin { targets: vec![targets[1]], ..stage.origin() };
        match name {
            "accounts" => NewOperation::of::<InLane<false>>(origin(), serde_json::Value::Null),
            "backup" => NewOperation::of::<InLane<true>>(origin(), serde_json::Value::Null),
            _ => vote.clone(),
        }
    };
    let step = if first == "vote" { "number" } else { "work" };
    let point = format!("operation.{first}.{step}.before");
    let (hook, there) = {
        let there = Arc::new(Notify::new());
        let (notify, name, used) = (there.clone(), point.clone(), std::sync::atomic::AtomicBool::new(false));
        let hook: Hook = Arc::new(move |at: &str, _: InstanceId| {
            if at != name || used.swap(true, std::sync::atomic::Ordering::SeqCst) {
                return Hold::Pass;
            }
            notify.notify_one();
            Hold::For(Duration::from_millis(500))
        });
        (hook, there)
    };
    let running = start(&stage, Some(hook));
    let one = stage.submit(make(first)).await.unwrap();
    reached(&there, &point).await;
    let Ok(two) = stage.submit(make(second)).await else {
        stage.end(one).await.unwrap();
        running.stop().await;
        return (false, false);
    };
    stage.end(two).await.unwrap();
    let overtook = stage.context.store.operation_end(one).await.unwrap().is_none();
    stage.end(one).await.unwrap();
    running.stop().await;
    let all = stage.context.store.list_operations(targets[1]).await.unwrap().0;
    assert!(all.iter().all(|operation| operation.status == Status::Done.tag()));
    (true, overtook)
}

#[tokio::test]
async fn lanes_say_what_runs_beside_what() {
    let refused = (false, false);
    let waits = (true, false);
    let overtakes = (true, true);
    for (first, second, expected) in [
        ("vote", "vote", refused),
        ("vote", "backup", refused),
        ("vote", "accounts", waits),
        ("accounts", "vote", waits),
        ("accounts", "accounts", waits),
        ("accounts", "backup", overtakes),
        ("backup", "accounts", overtakes),
        ("backup", "backup", refused),
        ("backup", "vote", refused),
    ] {
        assert_eq!(beside(first, second).await, expected, "{second} while {first} runs");
    }
}

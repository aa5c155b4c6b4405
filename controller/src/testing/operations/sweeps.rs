//! Runs an operation with a kill or a failure at each of its points.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::stage::{LIMIT, Stage};
use crate::ids::InstanceId;
use crate::operations::points::{Hold, Hook};
use crate::operations::{NewOperation, Stage as PlannedStage};

/// A hook that holds the runner once at a point. The `Notify` tells when it is there.
pub(crate) fn hold_at(point: String, hold: Hold) -> (Hook, Arc<Notify>) {
    let there = Arc::new(Notify::new());
    let notify = there.clone();
    let used = AtomicBool::new(false);
    let hook = move |name: &str, _: InstanceId| {
        if name != point || used.swap(true, Ordering::SeqCst) {
            return Hold::Pass;
        }
        notify.notify_one();
        hold
    };
    (Arc::new(hook), there)
}

/// Waits until the runner has reached the point.
pub(crate) async fn reached(there: &Notify, point: &str) {
    assert!(tokio::time::timeout(LIMIT, there.notified()).await.is_ok(), "the runner never came to {point}");
}

/// Kills the runner before and after every step and lets another runner continue, so that each step runs twice. The
/// operation must end as if nothing had happened.
pub(crate) async fn killed_anywhere(make: impl AsyncFn() -> (Stage, NewOperation), check: impl AsyncFn(&Stage, &str)) {
    let (_, operation) = make().await;
    for PlannedStage { step, .. } in operation.plan {
        for place in ["before", "after"] {
            let (stage, operation) = make().await;
            let point = format!("operation.{}.{step}.{place}", operation.kind);
            let (hook, there) = hold_at(point.clone(), Hold::Forever);
            let running = stage.start(Some(hook));
            let id = stage.submit(operation).await.unwrap();
            reached(&there, &point).await;
            running.kill().await;
            let running = stage.start(None);
            assert_eq!(stage.end(id).await, Ok(()), "{point}");
            running.stop().await;
            check(&stage, &point).await;
        }
    }
}

/// Fails every step before and after its effect; then again, with a kill before and after each of the undos.
pub(crate) async fn failed_anywhere(make: impl AsyncFn() -> (Stage, NewOperation), check: impl AsyncFn(&Stage, &str)) {
    let (_, operation) = make().await;
    let kind = operation.kind;
    let steps: Vec<String> = operation.plan.into_iter().map(|stage| stage.step).collect();
    for (n, step) in steps.iter().enumerate() {
        for place in ["before", "after"] {
            let point = format!("operation.{kind}.{step}.{place}");
            fail_at(&make, &check, &point, None).await;
            for undone in &steps[..=n] {
                for undo in ["undo_before", "undo_after"] {
                    let kill = format!("operation.{kind}.{undone}.{undo}");
                    fail_at(&make, &check, &point, Some(kill)).await;
                }
            }
        }
    }
}

async fn fail_at(
    make: &impl AsyncFn() -> (Stage, NewOperation),
    check: &impl AsyncFn(&Stage, &str),
    point: &str,
    kill: Option<String>,
) {
    let (stage, operation) = make().await;
    let fail = point.to_owned();
    let there = Arc::new(Notify::new());
    let (notify, killed_at) = (there.clone(), kill.clone());
    let hook: Hook = Arc::new(move |name: &str, _: InstanceId| {
        if name == fail {
            return Hold::Fail;
        }
        if Some(name) == killed_at.as_deref() {
            notify.notify_one();
            return Hold::Forever;
        }
        Hold::Pass
    });
    let mut running = stage.start(Some(hook));
    let id = stage.submit(operation).await.unwrap();
    if kill.is_some() {
        // A step without an undo has no such point; then the operation just ends.
        let ended = tokio::select! {
            () = there.notified() => false,
            _ = stage.end(id) => true,
        };
        if !ended {
            running.kill().await;
            running = stage.start(None);
        }
    }
    let error = stage.end(id).await.unwrap_err();
    assert!(error.contains(point), "{error}");
    running.stop().await;
    check(&stage, &format!("failed at {point}, killed at {kill:?}")).await;
}

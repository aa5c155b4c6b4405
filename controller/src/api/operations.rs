//! Operations of an instance: ours, beyond Trove.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ApiState;
use super::auth::Authorized;
use super::body::{Json, Path, Query};
use super::fault::Fault;
use super::instances::{OfInstance, instance_id};
use super::links::Time;
use crate::app::operations::{Operation, Step};
use crate::error::Result;

/// Longest time that an answer is held, seconds.
const LONGEST_WAIT: u64 = 60;

/// Holds the answer until something has changed.
#[derive(Deserialize, IntoParams)]
pub(super) struct Wait {
    /// Seconds for which the answer may be held, 60 at most; with `since`.
    wait: Option<u64>,
    /// The `version` of an answer: this one is held until there is another.
    since: Option<String>,
}

/// How far a step is.
#[derive(Serialize, ToSchema)]
struct Progress {
    done: Option<u64>,
    total: Option<u64>,
    /// The unit, or the name of a stage where there are no amounts.
    unit: String,
}

/// A step of an operation.
#[derive(Serialize, ToSchema)]
struct StepView {
    name: String,
    /// `pending`, `running`, `done`, `failed` or `undone`.
    status: String,
    started: Option<Time>,
    finished: Option<Time>,
    progress: Option<Progress>,
    /// Why it failed, or why it is being tried again.
    error: Option<String>,
}

impl From<&Step> for StepView {
    fn from(step: &Step) -> Self {
        let progress = step.progress.clone();
        Self {
            name: step.name.clone(),
            status: step.status.clone(),
            started: step.started.map(Time::from),
            finished: step.finished.map(Time::from),
            progress: progress.map(|(done, total, unit)| Progress { done, total, unit }),
            error: step.error.clone(),
        }
    }
}

/// What the service does, or did, with an instance.
#[derive(Serialize, ToSchema)]
pub(super) struct OperationView {
    id: Uuid,
    kind: String,
    /// `queued`, `running`, `undoing`, `done`, `failed`, `cancelled` or `stuck`.
    status: String,
    created: Time,
    started: Option<Time>,
    finished: Option<Time>,
    error: Option<String>,
    /// The step it is in.
    step: Option<String>,
    steps: Vec<StepView>,
}

impl From<&Operation> for OperationView {
    fn from(operation: &Operation) -> Self {
        Self {
            id: operation.id.0,
            kind: operation.kind.clone(),
            status: operation.status.clone(),
            created: operation.created.into(),
            started: operation.started.map(Time::from),
            finished: operation.finished.map(Time::from),
            error: operation.error.clone(),
            step: operation.step.clone(),
            steps: operation.steps.iter().map(StepView::from).collect(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct OperationsBody {
    operations: Vec<OperationView>,
    /// Of this answer, for `since`.
    version: String,
}

/// Lists the operations of an instance
///
/// Newest first. With `since` and `wait` the answer is held until something has changed.
#[utoipa::path(get, path = "/instances/{id}/operations", tag = "operations", operation_id = "list_operations",
    params(OfInstance, Wait), responses(Fault<404>))]
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    Query(query): Query<Wait>,
) -> Result<Json<OperationsBody>> {
    authorized.may("instance:show")?;
    let wait_s = query.wait.unwrap_or(0).min(LONGEST_WAIT);
    let id = instance_id(&of.id)?;
    let (list, version) = state.app.list_operations(&authorized.caller, id, query.since, wait_s).await?;
    Ok(Json(OperationsBody { operations: list.iter().map(OperationView::from).collect(), version }))
}

//! Operations of an instance or of a backup: ours, beyond Trove.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ApiState;
use super::backups::{OfBackup, backup_id};
use super::http::auth::Authorized;
use super::http::body::{Json, Path, Query};
use super::http::fault::Fault;
use super::http::links::Time;
use super::instances::view::told;
use super::instances::{OfInstance, instance_id};
use crate::app::operations::{Operation, Step};
use crate::error::Result;

/// Longest time that an answer is held, seconds.
const LONGEST_WAIT: u64 = 60;

/// Holds the answer until something has changed.
#[derive(Deserialize, IntoParams)]
pub(super) struct Wait {
    /// Seconds for which the answer may be held, 60 at most; with `since`.
    #[param(maximum = 65535)]
    wait: Option<u16>,
    /// The `version` of an answer: this one is held until there is another.
    since: Option<String>,
}

impl Wait {
    fn seconds(&self) -> u64 {
        self.wait.map_or(0, u64::from).min(LONGEST_WAIT)
    }
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
    /// On which instance.
    instance_id: Uuid,
    /// `pending`, `running`, `done`, `failed` or `undone`.
    status: String,
    started: Option<Time>,
    finished: Option<Time>,
    progress: Option<Progress>,
    /// Why it failed, or why it is being tried again.
    error: Option<String>,
}

impl StepView {
    fn of(step: &Step, admin: bool) -> Self {
        let progress = step.progress.clone();
        Self {
            name: step.name.clone(),
            instance_id: step.target.0,
            status: step.status.clone(),
            started: step.started.map(Time::from),
            finished: step.finished.map(Time::from),
            progress: progress.map(|(done, total, unit)| Progress { done, total, unit: told(&unit, admin) }),
            error: step.error.as_deref().map(|error| told(error, admin)),
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

impl OperationView {
    /// As an administrator sees it, or a tenant.
    pub(super) fn of(operation: &Operation, admin: bool) -> Self {
        Self {
            id: operation.id.0,
            kind: operation.kind.clone(),
            status: operation.status.clone(),
            created: operation.created.into(),
            started: operation.started.map(Time::from),
            finished: operation.finished.map(Time::from),
            error: operation.error.as_deref().map(|error| told(error, admin)),
            step: operation.step.clone(),
            steps: operation.steps.iter().map(|step| StepView::of(step, admin)).collect(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct OperationsBody {
    operations: Vec<OperationView>,
    /// Of this answer, for `since`.
    version: String,
}

/// List the operations of an instance
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
    let id = instance_id(&of.id)?;
    let held = state.app.list_operations(&authorized.caller, id, query.since.clone(), query.seconds());
    body(&authorized, held).await
}

/// List the operations of a backup
///
/// The one that takes it, or has taken it, and the last one that verifies it. As those of an instance.
#[utoipa::path(get, path = "/backups/{id}/operations", tag = "operations", operation_id = "list_backup_operations",
    params(OfBackup, Wait), responses(Fault<404>))]
pub(super) async fn of_backup(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfBackup>,
    Query(query): Query<Wait>,
) -> Result<Json<OperationsBody>> {
    authorized.may("backup:show")?;
    let id = backup_id(&of.id)?;
    let held = state.app.list_backup_operations(&authorized.caller, id, query.since.clone(), query.seconds());
    body(&authorized, held).await
}

/// The answer, once it is held no longer; a token that ends meanwhile ends it.
async fn body(
    authorized: &Authorized,
    held: impl Future<Output = Result<(Vec<Operation>, String)>>,
) -> Result<Json<OperationsBody>> {
    let (list, version) = tokio::select! {
        biased;
        held = held => held?,
        refused = authorized.refused() => return Err(refused),
    };
    let admin = authorized.caller.is_admin();
    Ok(Json(OperationsBody { operations: list.iter().map(|one| OperationView::of(one, admin)).collect(), version }))
}

//! Operations of an instance: ours, beyond Trove.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Authorized;
use super::body::{Path, Query};
use super::instances::instance_id;
use super::links::time;
use crate::app::operations::{Operation, Step};
use crate::error::Result;

/// Longest time that an answer is held, seconds.
const LONGEST_WAIT: u64 = 60;

/// Holds the answer until something has changed.
#[derive(Deserialize)]
pub(super) struct Wait {
    wait: Option<u64>,
    since: Option<String>,
}

fn step_view(step: &Step) -> Value {
    let progress =
        step.progress.as_ref().map(|(done, total, unit)| json!({"done": done, "total": total, "unit": unit}));
    json!({
        "name": step.name, "status": step.status, "started": step.started.map(time),
        "finished": step.finished.map(time), "progress": progress, "error": step.error})
}

pub(super) fn view(operation: &Operation) -> Value {
    let steps: Vec<Value> = operation.steps.iter().map(step_view).collect();
    json!({
        "id": operation.id, "kind": operation.kind, "status": operation.status, "created": time(operation.created),
        "started": operation.started.map(time), "finished": operation.finished.map(time), "error": operation.error,
        "step": operation.step, "steps": steps})
}

/// `GET /instances/{id}/operations[?wait=seconds&since=version]`: newest first.
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, id)): Path<(String, String)>,
    Query(Wait { wait, since }): Query<Wait>,
) -> Result<Json<Value>> {
    authorized.may("instance:show")?;
    let wait_s = wait.unwrap_or(0).min(LONGEST_WAIT);
    let (list, version) = state.app.list_operations(&authorized.caller, instance_id(&id)?, since, wait_s).await?;
    let list: Vec<Value> = list.iter().map(view).collect();
    Ok(Json(json!({"operations": list, "version": version})))
}

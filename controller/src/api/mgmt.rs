//! Instances of all projects, for administrators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Administrator;
use super::body::{Body, Path};
use super::fault::{accepted, accepted_as};
use super::instances::{instance_id, view};
use super::links::time;
use super::paging::Paging;
use crate::app::instances::Instance;
use crate::error::{Error, Result};
use crate::ids::ProjectId;
use crate::state::Task;

fn flag(paging: &Paging, name: &str) -> Result<Option<bool>> {
    match paging.parameter(name).map(str::to_ascii_lowercase).as_deref() {
        None => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(_) => Err(Error::BadRequest(format!("{name} must be true or false."))),
    }
}

fn description(task: Task) -> &'static str {
    match task {
        Task::None => "No tasks for the instance.",
        Task::Building => "The instance is building.",
        Task::Restarting => "Rebooting the instance.",
        Task::Resizing => "Resizing the instance.",
        Task::Deleting => "Deleting the instance.",
        Task::RestartRequired => "Instance requires a restart.",
        Task::BuildingError => "Build error: Server.",
        Task::Error => "An operation on the instance failed.",
    }
}

fn management_view(base: &str, project: &ProjectId, instance: &Instance) -> Value {
    let (status, service) = instance.status();
    let mut body = view::detail(&view::Viewer { base, project, admin: true }, instance);
    body["server"] = json!({
        "id": instance.id, "name": instance.name, "status": status, "tenant_id": instance.project, "host": null});
    body["service_status"] = json!(service);
    body["task_description"] = json!(description(instance.task));
    body["deleted"] = json!(instance.deleted.is_some());
    body["deleted_at"] = json!(instance.deleted.map(time));
    body
}

/// `GET /mgmt/instances`.
pub(super) async fn list(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    paging: Paging,
) -> Result<Json<Value>> {
    let (offset, limit) = paging.offset()?;
    let project = paging.parameter("project_id").map(|id| ProjectId(id.to_owned()));
    let found = state.app.list_all_instances(project.as_ref(), flag(&paging, "deleted")?, offset, limit).await?;
    let base = state.app.config.public_url();
    let full = found.len() as u64 == u64::from(limit);
    let next = full.then(|| (offset + u64::from(limit)).to_string());
    let project = &authorized.caller.project;
    let items = found.iter().map(|instance| management_view(&base, project, instance)).collect();
    Ok(Json(paging.answer(&base, "instances", items, next.as_deref())))
}

/// `GET /mgmt/instances/{id}`.
pub(super) async fn show(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    paging: Paging,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    let deleted = flag(&paging, "deleted")?.unwrap_or(false);
    let instance = state.app.get_any_instance(instance_id(&id)?, deleted).await?;
    let base = state.app.config.public_url();
    let mut body = management_view(&base, &authorized.caller.project, &instance);
    body["guest_status"] = json!({"state_description": instance.service.tag()});
    body["root_enabled"] = json!(instance.root_enabled.as_ref().map(|(at, _)| time(*at)));
    body["root_enabled_by"] = json!(instance.root_enabled.as_ref().map(|(_, user)| user));
    Ok(Json(json!({"instance": body})))
}

/// `POST /mgmt/instances/{id}/action`: exactly one of Trove's.
pub(super) async fn act(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response> {
    let id = instance_id(&id)?;
    let wrong = |text: &str| Error::BadRequest(format!("Validation error: the action must be {text}."));
    let mut names = body.as_object().ok_or_else(|| wrong("an object"))?.keys();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(wrong("exactly one of stop, reboot, reset-task-status, migrate, rebuild"));
    };
    let (app, caller, request) = (&state.app, &authorized.caller, &authorized.request_id);
    match name.as_str() {
        "stop" => app.stop_instance(caller, request, id).await.map(|operation| accepted_as(&operation)),
        "reboot" => app.reboot_instance(caller, request, id).await.map(|operation| accepted_as(&operation)),
        "reset-task-status" => app.reset_task_status(id).await.map(|()| accepted()),
        "migrate" | "rebuild" => {
            app.get_any_instance(id, false).await?;
            Err(Error::NotImplemented(format!("The action {name} is not built yet.")))
        }
        _ => Err(wrong("one of stop, reboot, reset-task-status, migrate, rebuild")),
    }
}

/// `GET /mgmt/instances/{id}/root`.
pub(super) async fn show_root(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    let id = instance_id(&id)?;
    let (enabled, user) = match state.app.root_history(id).await? {
        Some((at, user)) => (time(at), user),
        None => ("Never".to_owned(), "Nobody".to_owned()),
    };
    Ok(Json(json!({"root_history": {"id": id, "enabled": enabled, "user": user}})))
}

/// `GET /mgmt/instances/{id}/rpc_ping`: 204 when the agent answers.
pub(super) async fn ping(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, id)): Path<(String, String)>,
) -> Result<StatusCode> {
    state.app.ping_agent(instance_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /mgmt/instances/{id}/diagnostics`: of the agent's own process, as in Trove; memory in KiB.
pub(super) async fn diagnostics(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    let figures = state.app.diagnose(instance_id(&id)?).await?;
    Ok(Json(json!({"diagnostics": {
        "version": figures.version, "threads": figures.threads, "fdSize": figures.open_files,
        "vmSize": figures.vm_size_kib, "vmPeak": figures.vm_peak_kib,
        "vmRss": figures.vm_rss_kib, "vmHwm": figures.vm_hwm_kib}})))
}

/// `GET /mgmt/instances/{id}/hwinfo`: what the guest may use; memory in MiB.
pub(super) async fn hardware(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    let figures = state.app.diagnose(instance_id(&id)?).await?;
    Ok(Json(json!({"hwinfo": {"mem_total": figures.memory_total_mib, "num_cpus": figures.cpus}})))
}

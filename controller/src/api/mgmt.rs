//! Instances of all projects, for administrators.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::ApiState;
use super::http::answer::{Accepted, NoContent};
use super::http::auth::Administrator;
use super::http::body::{Json, Path, Query};
use super::http::fault::Fault;
use super::http::fields::{Nothing, there};
use super::http::links::{Link, Time};
use super::http::paging::Paging;
use super::instances::view::{self, InstanceDetail};
use super::instances::{OfInstance, instance_id};
use crate::app::instances::{Deleted, Instance};
use crate::error::{Error, Result};
use crate::ids::ProjectId;
use crate::state::Task;

/// `true` or `1`, `false` or `0`, in whatever case.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, pattern = "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|0|1)$")]
struct Flag(bool);

impl TryFrom<String> for Flag {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Self(true)),
            "false" | "0" => Ok(Self(false)),
            _ => Err("must be true or false"),
        }
    }
}

#[derive(Deserialize, IntoParams)]
pub(super) struct Wanted {
    /// Of this project alone.
    project_id: Option<String>,
    /// Deleted ones, or those that are not; both where nothing is said.
    #[param(inline)]
    deleted: Option<Flag>,
}

#[derive(Deserialize, IntoParams)]
pub(super) struct AlsoDeleted {
    /// Also a deleted one.
    #[param(inline)]
    deleted: Option<Flag>,
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

/// What Trove calls the server of an instance.
#[derive(Serialize, ToSchema)]
struct Server {
    id: Uuid,
    name: String,
    status: &'static str,
    tenant_id: String,
    host: Option<String>,
}

/// An instance with what administrators see of it.
#[derive(Serialize, ToSchema)]
pub(super) struct ManagedInstance {
    #[serde(flatten)]
    instance: InstanceDetail,
    server: Server,
    service_status: &'static str,
    task_description: &'static str,
    deleted: bool,
    deleted_at: Option<Time>,
}

impl ManagedInstance {
    fn of(base: &str, project: &ProjectId, instance: &Instance) -> Self {
        let (status, service_status) = instance.status();
        Self {
            instance: view::detail(&view::Viewer { base, project, admin: true }, instance),
            server: Server {
                id: instance.id.0,
                name: instance.name.clone(),
                status,
                tenant_id: instance.project.0.clone(),
                host: None,
            },
            service_status,
            task_description: description(instance.task),
            deleted: instance.deleted.is_some(),
            deleted_at: instance.deleted.map(Time::from),
        }
    }
}

/// A page of instances of all projects.
#[derive(Serialize, ToSchema)]
pub(super) struct ManagedInstancesPage {
    instances: Vec<ManagedInstance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instances_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<Link>>,
}

#[derive(Serialize, ToSchema)]
struct GuestStatus {
    state_description: &'static str,
}

/// A single instance with what administrators see of it.
#[derive(Serialize, ToSchema)]
struct ManagedInstanceDetail {
    #[serde(flatten)]
    instance: ManagedInstance,
    guest_status: GuestStatus,
    /// When, if it is enabled.
    root_enabled: Option<Time>,
    /// By which user id.
    root_enabled_by: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ManagedInstanceBody {
    instance: ManagedInstanceDetail,
}

/// List the instances of all projects
///
/// By last change, the last one first; the marker is an offset, and `limit` has no upper bound.
#[utoipa::path(
    get,
    path = "/mgmt/instances",
    tag = "management",
    operation_id = "list_all_instances",
    params(Wanted, Paging)
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    paging: Paging,
    Query(wanted): Query<Wanted>,
) -> Result<Json<ManagedInstancesPage>> {
    let (offset, limit) = paging.offset()?;
    let project = wanted.project_id.map(ProjectId);
    let deleted = match wanted.deleted {
        None => Deleted::Included,
        Some(Flag(true)) => Deleted::Only,
        Some(Flag(false)) => Deleted::Excluded,
    };
    let found = state.app.list_all_instances(project.as_ref(), deleted, offset, limit).await?;
    let base = state.app.config.public_url();
    let full = found.len() as u64 == u64::from(limit);
    let next = full.then(|| (offset + u64::from(limit)).to_string());
    let project = &authorized.caller.project;
    let instances = found.iter().map(|instance| ManagedInstance::of(&base, project, instance)).collect();
    let links = paging.next(&base, next.as_deref());
    Ok(Json(ManagedInstancesPage { instances, instances_links: links.clone(), links }))
}

/// Show an instance of any project
#[utoipa::path(get, path = "/mgmt/instances/{id}", tag = "management", operation_id = "show_any_instance",
    params(AlsoDeleted, OfInstance), responses(Fault<404>))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    Query(also): Query<AlsoDeleted>,
    Path(of): Path<OfInstance>,
) -> Result<Json<ManagedInstanceBody>> {
    let deleted = also.deleted.is_some_and(|flag| flag.0);
    let instance = state.app.get_any_instance(instance_id(&of.id)?, deleted).await?;
    let base = state.app.config.public_url();
    let root = instance.root_enabled.clone();
    let view = ManagedInstanceDetail {
        guest_status: GuestStatus { state_description: instance.service.tag() },
        root_enabled: root.as_ref().map(|(at, _)| Time::from(*at)),
        root_enabled_by: root.map(|(_, user)| user),
        instance: ManagedInstance::of(&base, &authorized.caller.project, &instance),
    };
    Ok(Json(ManagedInstanceBody { instance: view }))
}

/// Exactly one action by its name. `migrate` and `rebuild` are not built yet.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schema(min_properties = 1, max_properties = 1)]
pub(super) struct ManagementAction {
    /// Stops the engine.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    stop: Option<Option<Nothing>>,
    /// Restarts the host.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    reboot: Option<Option<Nothing>>,
    /// Clears the task, and nothing else.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    reset_task_status: Option<Option<Nothing>>,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    migrate: Option<Option<Nothing>>,
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    rebuild: Option<Option<Nothing>>,
}

impl ManagementAction {
    /// The names that are there.
    fn names(&self) -> Vec<&'static str> {
        let all = [
            ("stop", self.stop),
            ("reboot", self.reboot),
            ("reset-task-status", self.reset_task_status),
            ("migrate", self.migrate),
            ("rebuild", self.rebuild),
        ];
        all.into_iter().filter_map(|(name, given)| given.map(|_| name)).collect()
    }
}

/// Act on an instance of any project
#[utoipa::path(post, path = "/mgmt/instances/{id}/action", tag = "management", operation_id = "act_on_any_instance",
    params(OfInstance), responses(Fault<404>, Fault<422>, Fault<501>))]
pub(super) async fn act(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    Path(of): Path<OfInstance>,
    Json(action): Json<ManagementAction>,
) -> Result<Accepted> {
    let id = instance_id(&of.id)?;
    let (app, caller, request) = (&state.app, &authorized.caller, &authorized.request_id);
    match action.names()[..] {
        ["stop"] => app.stop_instance(caller, request, id).await.map(Accepted::from),
        ["reboot"] => app.reboot_instance(caller, request, id).await.map(Accepted::from),
        ["reset-task-status"] => app.reset_task_status(id).await.map(|()| Accepted(None)),
        [name] => {
            app.get_any_instance(id, false).await?;
            Err(Error::NotImplemented(format!("The action {name} is not built yet.")))
        }
        _ => Err(Error::BadRequest(
            "Validation error: the action must be exactly one of stop, reboot, reset-task-status, migrate, rebuild."
                .to_owned(),
        )),
    }
}

/// When root was last enabled, and by which user id.
#[derive(Serialize, ToSchema)]
struct RootHistory {
    id: Uuid,
    /// A time, or `Never`.
    enabled: String,
    /// A user id, or `Nobody`.
    user: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct RootHistoryBody {
    root_history: RootHistory,
}

/// Show when root was last enabled, and by whom
#[utoipa::path(get, path = "/mgmt/instances/{id}/root", tag = "management", operation_id = "show_root_history",
    params(OfInstance), responses(Fault<404>))]
pub(super) async fn show_root(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfInstance>,
) -> Result<Json<RootHistoryBody>> {
    let id = instance_id(&of.id)?;
    let (enabled, user) = match state.app.root_history(id).await? {
        Some((at, user)) => (Time::from(at).to_string(), user),
        None => ("Never".to_owned(), "Nobody".to_owned()),
    };
    Ok(Json(RootHistoryBody { root_history: RootHistory { id: id.0, enabled, user } }))
}

/// Ask whether the agent answers
#[utoipa::path(get, path = "/mgmt/instances/{id}/rpc_ping", tag = "management", operation_id = "ping_agent",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(super) async fn ping(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfInstance>,
) -> Result<NoContent> {
    state.app.ping_agent(instance_id(&of.id)?).await?;
    Ok(NoContent)
}

/// Figures of the agent's own process, as in Trove; memory in KiB.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DiagnosticsView {
    version: String,
    threads: u32,
    fd_size: u32,
    vm_size: u64,
    vm_peak: u64,
    vm_rss: u64,
    vm_hwm: u64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct DiagnosticsBody {
    diagnostics: DiagnosticsView,
}

/// Show figures of an agent
#[utoipa::path(get, path = "/mgmt/instances/{id}/diagnostics", tag = "management", operation_id = "show_diagnostics",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(super) async fn diagnostics(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfInstance>,
) -> Result<Json<DiagnosticsBody>> {
    let figures = state.app.diagnose(instance_id(&of.id)?).await?;
    let diagnostics = DiagnosticsView {
        version: figures.version,
        threads: figures.threads,
        fd_size: figures.open_files,
        vm_size: figures.vm_size_kib,
        vm_peak: figures.vm_peak_kib,
        vm_rss: figures.vm_rss_kib,
        vm_hwm: figures.vm_hwm_kib,
    };
    Ok(Json(DiagnosticsBody { diagnostics }))
}

/// What the guest may use.
#[derive(Serialize, ToSchema)]
struct Hardware {
    /// MiB.
    mem_total: u64,
    num_cpus: u32,
}

#[derive(Serialize, ToSchema)]
pub(super) struct HardwareBody {
    hwinfo: Hardware,
}

/// Show what a guest may use
#[utoipa::path(get, path = "/mgmt/instances/{id}/hwinfo", tag = "management", operation_id = "show_hardware",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(super) async fn hardware(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfInstance>,
) -> Result<Json<HardwareBody>> {
    let figures = state.app.diagnose(instance_id(&of.id)?).await?;
    Ok(Json(HardwareBody { hwinfo: Hardware { mem_total: figures.memory_total_mib, num_cpus: figures.cpus } }))
}

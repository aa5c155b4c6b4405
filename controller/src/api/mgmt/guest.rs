//! Figures of an agent and of its machine.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::ApiState;
use crate::api::http::answer::NoContent;
use crate::api::http::auth::Administrator;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::instances::{OfInstance, instance_id};
use crate::error::Result;

/// Ask whether the agent answers
#[utoipa::path(get, path = "/mgmt/instances/{id}/rpc_ping", tag = "management", operation_id = "ping_agent",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn ping(
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
pub(in crate::api) struct DiagnosticsBody {
    diagnostics: DiagnosticsView,
}

/// Show figures of an agent
#[utoipa::path(get, path = "/mgmt/instances/{id}/diagnostics", tag = "management", operation_id = "show_diagnostics",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn diagnostics(
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
pub(in crate::api) struct HardwareBody {
    hwinfo: Hardware,
}

/// Show what a guest may use
#[utoipa::path(get, path = "/mgmt/instances/{id}/hwinfo", tag = "management", operation_id = "show_hardware",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn hardware(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfInstance>,
) -> Result<Json<HardwareBody>> {
    let figures = state.app.diagnose(instance_id(&of.id)?).await?;
    Ok(Json(HardwareBody { hwinfo: Hardware { mem_total: figures.memory_total_mib, num_cpus: figures.cpus } }))
}

//! Quotas of a project.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::http::auth::{Administrator, Authorized};
use super::http::body::{Json, Path};
use super::http::fault::Fault;
use super::http::fields::Limit;
use crate::app::names::shown;
use crate::app::quotas::{Quota, Resource};
use crate::error::{Error, Result};
use crate::ids::ProjectId;

/// What a project may have of a resource, and has.
#[derive(Serialize, ToSchema)]
struct QuotaView {
    /// `instances`, `ram`, `volumes` or `backups`; and ours, `configurations`.
    resource: &'static str,
    in_use: i64,
    reserved: i64,
    /// -1 is unlimited.
    limit: i64,
}

impl From<&Quota> for QuotaView {
    fn from(quota: &Quota) -> Self {
        Self { resource: quota.resource.tag(), in_use: quota.in_use, reserved: 0, limit: quota.limit }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct QuotasBody {
    quotas: Vec<QuotaView>,
}

/// New limits by resource (`instances`, `ram`, `volumes`, `backups`, `configurations`).
#[derive(Deserialize, ToSchema)]
pub(super) struct NewQuotas {
    quotas: BTreeMap<String, Limit>,
}

/// The limits that were given.
#[derive(Serialize, ToSchema)]
pub(super) struct GivenQuotas {
    quotas: BTreeMap<&'static str, i64>,
}

#[derive(Deserialize, IntoParams)]
pub(super) struct OfTenant {
    /// The id of a project.
    tenant: String,
}

/// Show the quotas of a project
///
/// Its own, or any for administrators.
#[utoipa::path(get, path = "/mgmt/quotas/{tenant}", tag = "quotas", operation_id = "show_quotas", params(OfTenant))]
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfTenant>,
) -> Result<Json<QuotasBody>> {
    authorized.may("quota:show")?;
    let quotas = state.app.quotas(&authorized.caller, &ProjectId(of.tenant)).await?;
    Ok(Json(QuotasBody { quotas: quotas.iter().map(QuotaView::from).collect() }))
}

/// Set quotas of a project
///
/// Answers with what was given.
#[utoipa::path(put, path = "/mgmt/quotas/{tenant}", tag = "management", operation_id = "update_quotas",
    params(OfTenant), responses(Fault<404>))]
pub(super) async fn update(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfTenant>,
    Json(body): Json<NewQuotas>,
) -> Result<Json<GivenQuotas>> {
    let mut limits = Vec::new();
    for (name, limit) in body.quotas {
        let unknown = || Error::NotFound(format!("There is no quota of {}.", shown(&name)));
        let resource = Resource::from_tag(&name).ok_or_else(unknown)?;
        limits.extend(limit.0.map(|limit| (resource, limit)));
    }
    state.app.set_quotas(&ProjectId(of.tenant), &limits).await?;
    Ok(Json(GivenQuotas { quotas: limits.iter().map(|(resource, limit)| (resource.tag(), *limit)).collect() }))
}

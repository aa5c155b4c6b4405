//! Quotas of a project.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::auth::{Administrator, Authorized};
use super::body::{Body, Path};
use super::schema::Field;
use crate::app::names::shown;
use crate::app::quotas::Resource;
use crate::error::{Error, Result};
use crate::ids::ProjectId;

/// `GET /mgmt/quotas/{tenant}`: a project's own, or any for administrators.
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path((_, tenant)): Path<(String, String)>,
) -> Result<Json<Value>> {
    authorized.may("quota:show")?;
    let quotas = state.app.quotas(&authorized.caller, &ProjectId(tenant)).await?;
    let row = |quota: &crate::app::quotas::Quota| json!({"resource": quota.resource.tag(), "in_use": quota.in_use, "reserved": 0, "limit": quota.limit});
    Ok(Json(json!({"quotas": quotas.iter().map(row).collect::<Vec<_>>()})))
}

/// `PUT /mgmt/quotas/{tenant}`: answers with what was given.
pub(super) async fn update(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, tenant)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Json<Value>> {
    let (mut limits, mut given) = (Vec::new(), Map::new());
    let quotas = Field::of(&body, "quotas");
    for name in quotas.object()?.keys() {
        let unknown = || Error::NotFound(format!("There is no quota of {}.", shown(name)));
        let resource = Resource::from_tag(name).ok_or_else(unknown)?;
        if let Some(limit) = quotas.part(name).optional(Field::limit)? {
            limits.push((resource, limit));
            given.insert(name.clone(), json!(limit));
        }
    }
    state.app.set_quotas(&ProjectId(tenant), &limits).await?;
    Ok(Json(json!({"quotas": given})))
}

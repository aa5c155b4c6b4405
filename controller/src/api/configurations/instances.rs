//! `GET /configurations/{id}/instances`.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{OfConfiguration, configuration_id};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::links::Link;
use crate::api::http::paging::Paging;
use crate::error::Result;

/// An instance that has a group.
#[derive(Serialize, ToSchema)]
struct AttachedInstance {
    id: Uuid,
    name: String,
}

/// A page of the instances that have a group.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct AttachedInstancesPage {
    instances: Vec<AttachedInstance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instances_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<Link>>,
}

/// List the instances that have a configuration group
///
/// By id.
#[utoipa::path(get, path = "/configurations/{id}/instances", tag = "configurations",
    operation_id = "list_configuration_instances", params(OfConfiguration, Paging), responses(Fault<404>))]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfConfiguration>,
    paging: Paging,
) -> Result<Json<AttachedInstancesPage>> {
    authorized.may("configuration:instances")?;
    let id = configuration_id(&of.id)?;
    let page = state.app.list_configuration_instances(&authorized.caller, id, paging.request()).await?;
    let links = paging.next(&state.app.config.public_url(), page.next.as_deref());
    let view = |attached: crate::app::configurations::Attached| AttachedInstance {
        id: attached.instance.0,
        name: attached.name,
    };
    let instances = page.items.into_iter().map(view).collect();
    Ok(Json(AttachedInstancesPage { instances, instances_links: links.clone(), links }))
}

//! Lists databases.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::DatabaseName;
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::links::Link;
use crate::api::http::paging::Paging;
use crate::api::instances::{OfInstance, instance_id};
use crate::error::Result;

/// A page of databases.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct DatabasesPage {
    databases: Vec<DatabaseName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    databases_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<Link>>,
}

/// List the databases of an instance
#[utoipa::path(get, path = "/instances/{id}/databases", tag = "databases", operation_id = "list_databases",
    params(OfInstance, Paging), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    paging: Paging,
) -> Result<Json<DatabasesPage>> {
    authorized.may("instance:extension:database:index")?;
    let page = state.app.list_databases(&authorized.caller, instance_id(&of.id)?, paging.request()).await?;
    let links = paging.next(&state.app.config.public_url(), page.next.as_deref());
    let databases = page.items.into_iter().map(|name| DatabaseName { name }).collect();
    Ok(Json(DatabasesPage { databases, databases_links: links.clone(), links }))
}

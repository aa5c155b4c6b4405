//! Lists the flavors of a version.

use axum::extract::State;

use super::{OfVersion, View};
use crate::api::ApiState;
use crate::api::flavors::FlavorsBody;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::paging::Paging;
use crate::error::Result;

/// List the flavors of a version
///
/// No flavor is bound to a version here.
#[utoipa::path(get, path = "/datastores/{datastore}/versions/{version}/flavors", tag = "datastores",
    operation_id = "list_flavors_of_version", params(OfVersion), responses(Fault<404>))]
pub(in crate::api) async fn list_flavors(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfVersion>,
    paging: Paging,
) -> Result<Json<FlavorsBody>> {
    authorized.may("datastore:list_associated_flavors")?;
    let view = View::of(&state, &authorized);
    state.app.get_version(view.admin, &of.datastore, &of.version).await?;
    Ok(Json(FlavorsBody::of(&view.base, view.project, state.app.list_flavors(), &paging)))
}

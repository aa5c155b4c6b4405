//! Shows a datastore.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{DatastoreView, OfDatastore, View};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::error::Result;

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct DatastoreBody {
    datastore: DatastoreView,
}

/// Show a datastore
#[utoipa::path(get, path = "/datastores/{datastore}", tag = "datastores", operation_id = "show_datastore",
    params(OfDatastore), responses(Fault<404>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfDatastore>,
) -> Result<Json<DatastoreBody>> {
    authorized.may("datastore:show")?;
    let view = View::of(&state, &authorized);
    let datastore = state.app.get_datastore(view.admin, &of.datastore).await?;
    Ok(Json(DatastoreBody { datastore: view.datastore(&datastore) }))
}

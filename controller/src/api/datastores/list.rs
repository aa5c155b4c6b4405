//! Lists what can be ordered.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{DatastoreView, View};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Query};
use crate::api::http::paging::Paging;
use crate::error::Result;

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct DatastoresBody {
    datastores: Vec<DatastoreView>,
}

/// Longest time that an answer is held, seconds.
const LONGEST_WAIT: u64 = 60;

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct Wait {
    /// Seconds for which the answer may be held, 60 at most, until what is installed has been registered: a service that was
    /// started just now looks for it.
    #[param(maximum = 65535)]
    wait: Option<u16>,
}

/// List what can be ordered
///
/// In one page.
#[utoipa::path(get, path = "/datastores", tag = "datastores", operation_id = "list_datastores", params(Wait))]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Query(query): Query<Wait>,
    paging: Paging,
) -> Result<Json<DatastoresBody>> {
    authorized.may("datastore:index")?;
    if let Some(wait) = query.wait {
        tokio::select! {
            () = state.app.await_registered(Duration::from_secs(u64::from(wait).min(LONGEST_WAIT))) => {}
            refused = authorized.refused() => return Err(refused),
        }
    }
    let view = View::of(&state, &authorized);
    let list = paging.rest(state.app.list_datastores(view.admin).await?, |datastore| datastore.id.to_string());
    Ok(Json(DatastoresBody { datastores: list.iter().map(|datastore| view.datastore(datastore)).collect() }))
}

//! `POST /configurations`: 200 with the detailed view.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Values;
use super::view::{ConfigurationBody, body};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Json;
use crate::api::http::fault::Fault;
use crate::api::http::fields::Name;
use crate::app::configurations;
use crate::error::Result;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct NewGroup {
    configuration: NewConfiguration,
}

/// A configuration group to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewConfiguration {
    name: Name,
    #[schema(max_length = 256)]
    description: Option<String>,
    values: Values,
    datastore: Option<GroupDatastore>,
}

/// The datastore and version that a group is for; the default ones where nothing is said.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GroupDatastore {
    /// Name or id.
    r#type: Option<Name>,
    /// Name or id.
    version: Option<Name>,
    version_number: Option<Name>,
}

/// Create a configuration group
#[utoipa::path(post, path = "/configurations", tag = "configurations", operation_id = "create_configuration",
    responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Json(NewGroup { configuration: new }): Json<NewGroup>,
) -> Result<Json<ConfigurationBody>> {
    authorized.may("configuration:create")?;
    let datastore = new.datastore.unwrap_or_default();
    let text = |name: Option<Name>| name.map(|name| name.0);
    let order = configurations::NewConfiguration {
        name: new.name.0,
        description: new.description,
        values: new.values.0,
        datastore: text(datastore.r#type),
        version: text(datastore.version),
        version_number: text(datastore.version_number),
    };
    let configuration = state.app.create_configuration(&authorized.caller, order).await?;
    Ok(Json(body(&configuration)))
}

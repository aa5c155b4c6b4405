//! `PATCH /configurations/{id}`, which merges values: 200 without a body; `PUT`, which replaces them: 202. Both are done
//! when they are answered; what the instances make of it is shown by their operations.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{OfConfiguration, Values, configuration_id};
use crate::api::ApiState;
use crate::api::http::answer::{Accepted, Empty};
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::fields::Name;
use crate::app::configurations::{ConfigurationChange, NewValues};
use crate::error::{Error, Result};

/// A change of a configuration group, of one part of it at least.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GroupChange {
    name: Option<Name>,
    #[schema(max_length = 256)]
    description: Option<String>,
    values: Option<Values>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ChangedGroup {
    configuration: GroupChange,
}

impl ChangedGroup {
    fn into_change(self, values: impl Fn(Values) -> NewValues) -> Result<ConfigurationChange> {
        let change = self.configuration;
        if change.name.is_none() && change.description.is_none() && change.values.is_none() {
            return Err(Error::BadRequest(
                "Validation error: configuration needs name, description or values.".to_owned(),
            ));
        }
        Ok(ConfigurationChange {
            name: change.name.map(|name| name.0),
            description: change.description,
            values: change.values.map(values),
        })
    }
}

/// Replace the values of a configuration group
///
/// Every instance that has the group is given them, by an operation `apply_configuration` each.
#[utoipa::path(put, path = "/configurations/{id}", tag = "configurations", operation_id = "replace_configuration",
    params(OfConfiguration), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn replace(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfConfiguration>,
    Json(body): Json<ChangedGroup>,
) -> Result<Accepted> {
    authorized.may("configuration:update")?;
    let id = configuration_id(&of.id)?;
    let change = body.into_change(|values| NewValues::Replaced(values.0))?;
    state.app.change_configuration(&authorized.caller, &authorized.request_id, id, change).await?;
    Ok(Accepted(None))
}

/// Change some values of a configuration group
///
/// As PUT, but what is not named stays.
#[utoipa::path(patch, path = "/configurations/{id}", tag = "configurations", operation_id = "update_configuration",
    params(OfConfiguration), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn merge(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfConfiguration>,
    Json(body): Json<ChangedGroup>,
) -> Result<Empty> {
    authorized.may("configuration:edit")?;
    let id = configuration_id(&of.id)?;
    let change = body.into_change(|values| NewValues::Merged(values.0))?;
    state.app.change_configuration(&authorized.caller, &authorized.request_id, id, change).await?;
    Ok(Empty)
}

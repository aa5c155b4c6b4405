//! Configuration groups.

pub(super) mod create;
pub(super) mod delete;
pub(super) mod instances;
pub(super) mod list;
pub(super) mod show;
pub(super) mod update;
pub(super) mod view;

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::app::names::shown;
use crate::error::{Error, Result};
use crate::ids::ConfigurationId;

/// Parameters of a group at most.
const VALUES: usize = 500;

#[derive(Deserialize, IntoParams)]
pub(super) struct OfConfiguration {
    /// The configuration group.
    #[param(value_type = Uuid)]
    id: String,
}

/// The id of a path; what is no id is that of nothing.
fn configuration_id(text: &str) -> Result<ConfigurationId> {
    text.parse().map_err(|_| Error::NotFound(format!("Configuration group {} cannot be found.", shown(text))))
}

/// Values of parameters, by their names in any case.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Value")]
struct Values(Map<String, Value>);

impl TryFrom<Value> for Values {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        match value {
            Value::Object(values) if values.len() > VALUES => {
                Err(format!("has {} parameters, and at most {VALUES} are taken", values.len()))
            }
            Value::Object(values) => Ok(Self(values)),
            Value::Null => Err("is required".to_owned()),
            _ => Err("must be an object of parameters and their values".to_owned()),
        }
    }
}

impl ToSchema for Values {}

impl PartialSchema for Values {
    fn schema() -> RefOr<Schema> {
        let scalar = |kind| ObjectBuilder::new().schema_type(kind);
        let value = OneOfBuilder::new()
            .item(scalar(Type::String))
            .item(scalar(Type::Number))
            .item(scalar(Type::Boolean))
            .item(scalar(Type::Null));
        let values =
            ObjectBuilder::new().schema_type(Type::Object).additional_properties(Some(RefOr::<Schema>::from(value)));
        let description = "Values of parameters by their names, each of the type that the parameter has; null, in a PATCH, \
                           takes one away.";
        values.description(Some(description)).into()
    }
}

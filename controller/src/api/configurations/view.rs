//! A configuration group as the API shows it.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::http::links::{Link, Time};
use crate::app::configurations::{Configuration, Values};
use crate::app::parameters::masked;

/// A configuration group, in lists.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ConfigurationSummary {
    id: Uuid,
    name: String,
    description: Option<String>,
    created: Time,
    updated: Time,
    datastore_name: String,
    datastore_version_id: Uuid,
    datastore_version_name: String,
    datastore_version_number: String,
}

/// A configuration group.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ConfigurationDetail {
    #[serde(flatten)]
    summary: ConfigurationSummary,
    /// What it sets; `***` stands for what is a password.
    #[schema(value_type = Object)]
    values: Values,
    /// How many instances have it.
    instance_count: u64,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ConfigurationBody {
    pub(in crate::api) configuration: ConfigurationDetail,
}

/// A page of configuration groups.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ConfigurationsPage {
    pub(in crate::api) configurations: Vec<ConfigurationSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) configurations_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) links: Option<Vec<Link>>,
}

/// The view of lists.
pub(in crate::api) fn summary(configuration: &Configuration) -> ConfigurationSummary {
    ConfigurationSummary {
        id: configuration.id.0,
        name: configuration.name.clone(),
        description: configuration.description.clone(),
        created: configuration.created.into(),
        updated: configuration.updated.into(),
        datastore_name: configuration.datastore.clone(),
        datastore_version_id: configuration.version_id.0,
        datastore_version_name: configuration.version.clone(),
        datastore_version_number: configuration.version_number.clone(),
    }
}

/// The view of a single group.
pub(in crate::api) fn body(configuration: &Configuration) -> ConfigurationBody {
    let (summary, values) = (summary(configuration), masked(&configuration.values));
    ConfigurationBody {
        configuration: ConfigurationDetail { summary, values, instance_count: configuration.instances },
    }
}

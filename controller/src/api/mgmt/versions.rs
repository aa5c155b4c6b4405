//! Versions of datastores, for administrators. Where Trove has an image, the process driver has an engine that is installed
//! on the machine: `image` is an id that stands for its directory. For other drivers it is an image that was registered.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::api::ApiState;
use crate::api::datastores::{OfVersionId, version_id};
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Administrator;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::fields::{Image, Name, NoImage};
use crate::api::http::paging::Paging;
use crate::app::datastores::{self, Datastore, Source, Version};
use crate::error::{Error, Result};

/// A version with what administrators see of it.
#[derive(Serialize, ToSchema)]
struct ManagedVersion {
    id: Uuid,
    name: String,
    /// The whole number of the engine.
    version: String,
    datastore_id: Uuid,
    datastore_name: String,
    /// The name of the strategy.
    datastore_manager: String,
    /// The id of the image, or one that stands for the engine that is installed.
    image: Uuid,
    image_tags: [&'static str; 1],
    packages: [&'static str; 1],
    active: bool,
    registry_ext: Option<String>,
    repl_strategy: Option<String>,
    default: bool,
    /// Where the engine is installed; null for an image; ours.
    bindir: Option<String>,
}

impl ManagedVersion {
    fn of(datastore: &Datastore, version: &Version) -> Self {
        Self {
            id: version.id.0,
            name: version.name.clone(),
            version: version.number.clone(),
            datastore_id: datastore.id.0,
            datastore_name: datastore.name.clone(),
            datastore_manager: datastore.name.clone(),
            image: version.source.image_id(),
            image_tags: [""],
            packages: [""],
            active: version.active,
            registry_ext: None,
            repl_strategy: None,
            default: datastore.default_version == Some(version.id),
            bindir: match &version.source {
                Source::Installed(bindir) => Some(bindir.to_string_lossy().into_owned()),
                Source::Image(_) => None,
            },
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ManagedVersionsBody {
    versions: Vec<ManagedVersion>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ManagedVersionBody {
    version: ManagedVersion,
}

/// List all versions
///
/// Also those that cannot be ordered. In one page.
#[utoipa::path(get, path = "/mgmt/datastore-versions", tag = "management", operation_id = "list_managed_versions")]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    _administrator: Administrator,
    paging: Paging,
) -> Result<Json<ManagedVersionsBody>> {
    let datastores = state.app.list_datastores(true).await?;
    let of = |datastore: &Datastore| -> Vec<_> {
        datastore.versions.iter().map(|version| ManagedVersion::of(datastore, version)).collect()
    };
    let versions = datastores.iter().flat_map(of).collect();
    Ok(Json(ManagedVersionsBody { versions: paging.rest(versions, |version| version.id.to_string()) }))
}

/// Show a version
#[utoipa::path(get, path = "/mgmt/datastore-versions/{id}", tag = "management", operation_id = "show_managed_version",
    params(OfVersionId), responses(Fault<404>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfVersionId>,
) -> Result<Json<ManagedVersionBody>> {
    let (datastore, version) = state.app.get_version_by_id(true, version_id(&of.id)?).await?;
    Ok(Json(ManagedVersionBody { version: ManagedVersion::of(&datastore, &version) }))
}

#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct Registration {
    version: NewVersion,
}

/// A version to be registered: an engine that is installed, or an image.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewVersion {
    name: Name,
    /// The same as `datastore_manager`.
    datastore_name: Name,
    /// The name of the strategy.
    datastore_manager: Name,
    /// The id of the image, or the one that stands for the engine.
    image: Image,
    active: bool,
    default: Option<bool>,
    /// The whole number that the engine is expected to have.
    version: Option<Name>,
    #[serde(rename = "image_tags")]
    _image_tags: Option<NoImage>,
    #[serde(rename = "packages")]
    _packages: Option<NoImage>,
    #[serde(rename = "registry_ext")]
    _registry_ext: Option<NoImage>,
    #[serde(rename = "repl_strategy")]
    _repl_strategy: Option<NoImage>,
}

/// Register a version
#[utoipa::path(post, path = "/mgmt/datastore-versions", tag = "management", operation_id = "create_version")]
pub(in crate::api) async fn create(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Json(Registration { version }): Json<Registration>,
) -> Result<Accepted> {
    if version.datastore_name != version.datastore_manager {
        return Err(Error::BadRequest(
            "Validation error: version['datastore_name'] must be that of datastore_manager.".to_owned(),
        ));
    }
    let order = datastores::NewVersion {
        datastore: version.datastore_manager.0,
        name: version.name.0,
        number: version.version.map(|number| number.0),
        image: version.image.0,
        active: version.active,
        default: version.default.unwrap_or(false),
    };
    state.app.create_version(order).await?;
    Ok(Accepted(None))
}

/// What a version keeps for ever.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Value")]
struct Fixed;

impl ToSchema for Fixed {}

impl PartialSchema for Fixed {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::Null).description(Some("Cannot be changed.")).into()
    }
}

impl TryFrom<Value> for Fixed {
    type Error = &'static str;

    fn try_from(_value: Value) -> std::result::Result<Self, Self::Error> {
        Err("cannot be changed: create another version of the engine")
    }
}

/// A change of a version. `image` and `datastore_manager` cannot be changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct VersionChange {
    name: Option<Name>,
    active: Option<bool>,
    default: Option<bool>,
    #[serde(rename = "image")]
    _image: Option<Fixed>,
    #[serde(rename = "datastore_manager")]
    _datastore_manager: Option<Fixed>,
    #[serde(rename = "image_tags")]
    _image_tags: Option<NoImage>,
    #[serde(rename = "packages")]
    _packages: Option<NoImage>,
    #[serde(rename = "registry_ext")]
    _registry_ext: Option<NoImage>,
    #[serde(rename = "repl_strategy")]
    _repl_strategy: Option<NoImage>,
}

/// Change a version
#[utoipa::path(patch, path = "/mgmt/datastore-versions/{id}", tag = "management", operation_id = "update_version",
    params(OfVersionId), responses(Fault<404>))]
pub(in crate::api) async fn update(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfVersionId>,
    Json(change): Json<VersionChange>,
) -> Result<Accepted> {
    let id = version_id(&of.id)?;
    let change = datastores::VersionChange {
        name: change.name.map(|name| name.0),
        active: change.active,
        default: change.default,
    };
    state.app.change_version(id, change).await?;
    Ok(Accepted(None))
}

/// Delete a version that no instance has
#[utoipa::path(delete, path = "/mgmt/datastore-versions/{id}", tag = "management", operation_id = "delete_version",
    params(OfVersionId), responses(Fault<404>))]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path(of): Path<OfVersionId>,
) -> Result<Accepted> {
    state.app.delete_version(version_id(&of.id)?).await?;
    Ok(Accepted(None))
}

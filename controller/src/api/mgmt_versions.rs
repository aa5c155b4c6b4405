//! Versions of datastores, for administrators. Where Trove has an image, the process driver has an engine that is installed
//! on the machine: `image` is an id that stands for its directory.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Administrator;
use super::body::{Body, Path};
use super::datastores::version_id;
use super::fault::accepted;
use super::schema::Field;
use crate::app::datastores::{Datastore, NewVersion, Version, VersionChange, image};
use crate::error::{Error, Result};

fn view(datastore: &Datastore, version: &Version) -> Value {
    json!({
        "id": version.id, "name": version.name, "version": version.number,
        "datastore_id": datastore.id, "datastore_name": datastore.name,
        "datastore_manager": datastore.name,
        "image": image(&version.bindir), "image_tags": [""], "packages": [""],
        "active": version.active, "registry_ext": null, "repl_strategy": null,
        "default": datastore.default_version == Some(version.id),
        // Ours.
        "bindir": version.bindir})
}

/// `GET /mgmt/datastore-versions`: also those that cannot be ordered.
pub(super) async fn list(State(state): State<ApiState>, _administrator: Administrator) -> Result<Json<Value>> {
    let datastores = state.app.list_datastores(true).await?;
    let all =
        datastores.iter().flat_map(|datastore| datastore.versions.iter().map(move |version| (datastore, version)));
    let all: Vec<Value> = all.map(|(datastore, version)| view(datastore, version)).collect();
    Ok(Json(json!({"versions": all})))
}

/// `GET /mgmt/datastore-versions/{id}`.
pub(super) async fn show(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    let (datastore, version) = state.app.get_version_by_id(true, version_id(&id)?).await?;
    Ok(Json(json!({"version": view(&datastore, &version)})))
}

/// Refuses what only images have.
fn refuse_images(version: &Field<'_>) -> Result<()> {
    for name in ["image_tags", "packages", "registry_ext", "repl_strategy"] {
        let field = version.part(name);
        let empty = field.text().is_ok_and(|text| text.is_empty())
            || field.items().is_ok_and(|items| items.iter().all(|item| item.text().is_ok_and(|text| text.is_empty())));
        if field.given() && !empty {
            return Err(Error::BadRequest(format!(
                "Validation error: {name} cannot be given: the compute driver of this service has no images; image stands \
                 for an engine that is installed."
            )));
        }
    }
    Ok(())
}

/// `POST /mgmt/datastore-versions`: 202 without a body.
pub(super) async fn create(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Body(body): Body,
) -> Result<Response> {
    let version = Field::of(&body, "version");
    version.only(&[
        "name",
        "datastore_name",
        "datastore_manager",
        "active",
        "default",
        "image",
        "image_tags",
        "packages",
        "registry_ext",
        "repl_strategy",
        "version",
    ])?;
    refuse_images(&version)?;
    let (name, datastore) = (version.part("name").name()?, version.part("datastore_manager").name()?);
    if version.part("datastore_name").name()? != datastore {
        return Err(Error::BadRequest(
            "Validation error: version['datastore_name'] must be that of datastore_manager.".to_owned(),
        ));
    }
    let image = version.part("image").reference()?;
    let wrong = |_| Error::BadRequest("Validation error: version['image'] must be an id.".to_owned());
    let order = NewVersion {
        datastore,
        name,
        number: version.part("version").optional(Field::name)?,
        image: image.parse().map_err(wrong)?,
        active: version.part("active").boolean()?,
        default: version.part("default").optional(Field::boolean)?.unwrap_or(false),
    };
    state.app.create_version(order).await?;
    Ok(accepted())
}

/// `PATCH /mgmt/datastore-versions/{id}`: the body is not wrapped.
pub(super) async fn update(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response> {
    let id = version_id(&id)?;
    let wrapped = json!({"version": body});
    let version = Field::of(&wrapped, "version");
    version.only(&[
        "name",
        "active",
        "default",
        "image",
        "datastore_manager",
        "image_tags",
        "packages",
        "registry_ext",
        "repl_strategy",
    ])?;
    refuse_images(&version)?;
    for name in ["image", "datastore_manager"] {
        if version.part(name).given() {
            return Err(Error::BadRequest(format!(
                "Validation error: {name} cannot be changed: create another version of the engine."
            )));
        }
    }
    let change = VersionChange {
        name: version.part("name").optional(Field::name)?,
        active: version.part("active").optional(Field::boolean)?,
        default: version.part("default").optional(Field::boolean)?,
    };
    state.app.change_version(id, change).await?;
    Ok(accepted())
}

/// `DELETE /mgmt/datastore-versions/{id}`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    _administrator: Administrator,
    Path((_, id)): Path<(String, String)>,
) -> Result<Response> {
    state.app.delete_version(version_id(&id)?).await?;
    Ok(accepted())
}

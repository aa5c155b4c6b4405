//! `POST /instances`: 200 with the detailed view.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::view::{self, Viewer};
use crate::api::ApiState;
use crate::api::auth::Authorized;
use crate::api::body::Body;
use crate::api::databases::new_database;
use crate::api::fault::with_operation;
use crate::api::schema::Field;
use crate::api::users::new_user;
use crate::app::instances::{Access, NewInstance, Nic};
use crate::error::{Error, Result};

/// Parts of an order that come later.
const LATER: &[&str] =
    &["restorePoint", "replica_of", "slave_of", "replica_count", "configuration", "modules", "locality"];

fn nic(field: &Field<'_>) -> Result<Nic> {
    field.only(&["net-id", "network_id", "subnet_id", "ip_address"])?;
    let network = field.part("network_id").optional(Field::name)?;
    Ok(Nic {
        network_id: network.map_or_else(|| field.part("net-id").optional(Field::name), |id| Ok(Some(id)))?,
        subnet_id: field.part("subnet_id").optional(Field::name)?,
        ip_address: field.part("ip_address").optional(Field::address)?,
    })
}

fn access(field: &Field<'_>) -> Result<Access> {
    field.object()?;
    Ok(Access {
        is_public: field.part("is_public").optional(Field::boolean)?.unwrap_or(false),
        allowed_cidrs: field.part("allowed_cidrs").optional(Field::networks)?,
    })
}

/// Refuses what is wrong by its form, and says of what comes later that it does.
fn refuse_later(order: &Field<'_>) -> Result<()> {
    if order.part("replica_count").given() {
        let count = order.part("replica_count").number(1..=3)?;
        if count == 1 && !order.part("replica_of").given() {
            return Ok(());
        }
    }
    for name in LATER {
        let part = order.part(name);
        let empty = matches!(*name, "modules") && part.items().is_ok_and(|items| items.is_empty());
        if part.given() && !empty {
            return Err(Error::NotImplemented(format!("An order with {name} is not built yet.")));
        }
    }
    Ok(())
}

/// The order of a body.
fn parse(body: &Value) -> Result<NewInstance> {
    let order = Field::of(body, "instance");
    order.object()?;
    let name = order.part("name").name()?;
    refuse_later(&order)?;
    // openstacksdk has its own name for the flavor.
    let flavor = ["flavorRef", "flavor"].map(|name| order.part(name)).into_iter().find(Field::given);
    let flavor = flavor.unwrap_or_else(|| order.part("flavorRef")).reference()?;
    let volume = order.part("volume");
    let volume_gib = volume.optional(|volume| {
        volume.object()?;
        volume.part("type").optional(Field::name)?;
        volume.part("size").size()
    })?;
    let datastore = order.part("datastore");
    if datastore.given() {
        datastore.object()?;
    }
    let items = |name: &str| order.part(name).optional(Field::items).map(Option::unwrap_or_default);
    Ok(NewInstance {
        name,
        flavor,
        volume_gib,
        datastore: datastore.part("type").optional(Field::name)?,
        version: datastore.part("version").optional(Field::name)?,
        version_number: datastore.part("version_number").optional(Field::name)?,
        databases: items("databases")?.iter().map(new_database).collect::<Result<_>>()?,
        users: items("users")?.iter().map(|field| new_user(field, None)).collect::<Result<_>>()?,
        nics: items("nics")?.iter().map(nic).collect::<Result<_>>()?,
        access: order.part("access").optional(access)?,
        availability_zone: order.part("availability_zone").optional(Field::name)?,
        region: order.part("region_name").optional(Field::name)?,
    })
}

/// 200 with the detailed view, and the password of root where the configuration enables it at once.
pub(in crate::api) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Body(body): Body,
) -> Result<Response> {
    authorized.may("instance:create")?;
    let order = parse(&body)?;
    if !order.databases.is_empty() {
        authorized.may("instance:extension:database:create")?;
    }
    if !order.users.is_empty() {
        authorized.may("instance:extension:user:create")?;
    }
    let created = state.app.create_instance(&authorized.caller, &authorized.request_id, order).await?;
    let (instance, password, accepted) = created;
    let base = state.app.config.public_url();
    let (project, admin) = (&authorized.caller.project, authorized.caller.is_admin());
    let mut view = view::detail(&Viewer { base: &base, project, admin }, &instance);
    if let Some(password) = password {
        view["password"] = json!(password.expose_secret());
    }
    Ok(with_operation(Json(json!({"instance": view})).into_response(), &accepted.operation.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_all_clients_are_understood() {
        let order = parse(&json!({"instance": {
            "name": "n", "flavorRef": 6, "volume": {"size": "2", "type": null}, "access": {"is_public": false},
            "nics": [{"net-id": "7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"}], "modules": [], "replica_count": 1}}));
        let order = order.unwrap();
        assert_eq!((order.flavor.as_str(), order.volume_gib), ("6", Some(2)));
        assert_eq!(order.nics[0].network_id.as_deref(), Some("7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"));
        let order = parse(&json!({"instance": {"name": "n", "flavor": {"id": "6"}}})).unwrap();
        assert_eq!(order.flavor, "6");
        for wrong in [
            json!({}),
            json!({"instance": []}),
            json!({"instance": {"name": "n"}}),
            json!({"instance": {"name": "", "flavorRef": 1}}),
            json!({"instance": {"name": "n", "flavorRef": 1, "nics": [{"port-id": "x"}]}}),
            json!({"instance": {"name": "n", "flavorRef": 1, "volume": 5}}),
        ] {
            assert!(matches!(parse(&wrong), Err(Error::BadRequest(_))), "{wrong}");
        }
        let later = parse(&json!({"instance": {"name": "n", "flavorRef": 1, "restorePoint": {"backupRef": "x"}}}));
        assert!(matches!(later, Err(Error::NotImplemented(_))));
    }
}

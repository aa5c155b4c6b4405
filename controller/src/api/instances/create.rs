//! `POST /instances`: 200 with the detailed view.

use axum::extract::State;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::view::{self, InstanceDetail, Viewer};
use crate::api::ApiState;
use crate::api::databases::create::NewDatabase;
use crate::api::http::answer::WithOperation;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Json;
use crate::api::http::fault::Fault;
use crate::api::http::fields::{Address, Count, Name, Networks, Reference, Size};
use crate::api::users::create::NewUser;
use crate::app::{instances, recovery};
use crate::error::{Error, Result};

/// An order.
#[derive(Deserialize, ToSchema)]
pub(in crate::api) struct Order {
    instance: NewInstance,
}

/// What is ordered. Needs `flavorRef`, or `flavor` which is openstacksdk's name of it. `replica_of`, `slave_of`
/// and `modules` are not built yet.
#[derive(Deserialize, ToSchema)]
struct NewInstance {
    name: Name,
    #[serde(rename = "flavorRef")]
    flavor_ref: Option<Reference>,
    flavor: Option<Reference>,
    volume: Option<NewVolume>,
    datastore: Option<DatastoreChoice>,
    databases: Option<Vec<NewDatabase>>,
    users: Option<Vec<NewUser>>,
    nics: Option<Vec<Nic>>,
    access: Option<Access>,
    availability_zone: Option<Name>,
    region_name: Option<Name>,
    #[serde(rename = "restorePoint")]
    restore_point: Option<RestorePoint>,
    replica_of: Option<Value>,
    slave_of: Option<Value>,
    replica_count: Option<Count>,
    /// The configuration group.
    configuration: Option<Reference>,
    modules: Option<Value>,
    locality: Option<Locality>,
    /// Whether it cannot be deleted. Not in Trove.
    deletion_protection: Option<bool>,
}

/// From which backup it is made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RestorePoint {
    #[serde(rename = "backupRef")]
    backup: Option<Reference>,
    /// The instance that it is to be as, at `time`. Not in Trove.
    instance: Option<Reference>,
    /// With `instance`: a time of its recovery window (RFC 3339), the latest without it.
    time: Option<Moment>,
}

/// A time, RFC 3339.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Moment(OffsetDateTime);

impl TryFrom<String> for Moment {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let parsed = OffsetDateTime::parse(&text, &Rfc3339);
        parsed.map(Self).map_err(|_| "must be a time with its zone, such as 2026-05-01T10:00:00Z")
    }
}

impl ToSchema for Moment {}

impl PartialSchema for Moment {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).description(Some("A time, RFC 3339.")).into()
    }
}

impl RestorePoint {
    /// The backup, or the moment: one of them.
    fn of(point: Option<Self>) -> Result<(Option<String>, Option<recovery::Moment>)> {
        let Some(Self { backup, instance, time }) = point else { return Ok((None, None)) };
        match (backup, instance, time) {
            (Some(backup), None, None) => Ok((Some(backup.0), None)),
            (None, Some(instance), time) => {
                Ok((None, Some(recovery::Moment { instance: instance.0, time: time.map(|time| time.0) })))
            }
            _ => {
                let reason =
                    "Validation error: instance.restorePoint needs a backupRef, or an instance with or without a time.";
                Err(Error::BadRequest(reason.to_owned()))
            }
        }
    }
}

#[derive(Deserialize, ToSchema)]
struct NewVolume {
    size: Size,
    r#type: Option<Name>,
}

/// Which datastore and version; the default ones where nothing is said.
#[derive(Default, Deserialize, ToSchema)]
struct DatastoreChoice {
    /// Name or id.
    r#type: Option<Name>,
    /// Name or id.
    version: Option<Name>,
    version_number: Option<Name>,
}

/// A network; `net-id` is another name of `network_id`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Nic {
    network_id: Option<Name>,
    #[serde(rename = "net-id")]
    net_id: Option<Name>,
    subnet_id: Option<Name>,
    ip_address: Option<Address>,
}

impl From<Nic> for instances::Nic {
    fn from(nic: Nic) -> Self {
        Self {
            network_id: text(nic.network_id.or(nic.net_id)),
            subnet_id: text(nic.subnet_id),
            ip_address: nic.ip_address.map(|address| address.0),
        }
    }
}

/// Whether it is to share a machine with its replicas.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Locality(instances::Locality);

impl TryFrom<String> for Locality {
    type Error = &'static str;

    fn try_from(tag: String) -> std::result::Result<Self, Self::Error> {
        let known = instances::Locality::from_tag(&tag);
        known.map(Self).ok_or("must be affinity, anti-affinity, soft-affinity or soft-anti-affinity")
    }
}

impl ToSchema for Locality {}

impl PartialSchema for Locality {
    fn schema() -> RefOr<Schema> {
        let tags = instances::Locality::ALL.map(instances::Locality::tag);
        let text = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(tags));
        text.description(Some("Whether it is to share a machine with its replicas.")).into()
    }
}

/// Who may connect.
#[derive(Deserialize, ToSchema)]
struct Access {
    is_public: Option<bool>,
    allowed_cidrs: Option<Networks>,
}

impl From<Access> for instances::Access {
    fn from(access: Access) -> Self {
        let allowed_cidrs = access.allowed_cidrs.map(Vec::from);
        Self { is_public: access.is_public.unwrap_or(false), allowed_cidrs }
    }
}

fn text(name: Option<Name>) -> Option<String> {
    name.map(|name| name.0)
}

impl NewInstance {
    /// The name of a part that comes later.
    fn later(&self) -> Option<&'static str> {
        let some = |modules: &&Value| modules.as_array().is_none_or(|modules| !modules.is_empty());
        [
            ("replica_of", self.replica_of.is_some()),
            ("slave_of", self.slave_of.is_some()),
            // One is what every order is for.
            ("replica_count", self.replica_count.is_some_and(|count| count.0 > 1)),
            ("modules", self.modules.as_ref().filter(some).is_some()),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }
}

impl TryFrom<Order> for instances::NewInstance {
    type Error = Error;

    fn try_from(Order { instance: order }: Order) -> Result<Self> {
        if let Some(name) = order.later() {
            return Err(Error::NotImplemented(format!("An order with {name} is not built yet.")));
        }
        let missing = || Error::BadRequest("Validation error: instance['flavorRef'] is required.".to_owned());
        let flavor = order.flavor_ref.or(order.flavor).ok_or_else(missing)?;
        let datastore = order.datastore.unwrap_or_default();
        let (backup, moment) = RestorePoint::of(order.restore_point)?;
        Ok(Self {
            name: order.name.0,
            flavor: flavor.0,
            volume_gib: order.volume.as_ref().map(|volume| volume.size.0),
            datastore: text(datastore.r#type),
            version: text(datastore.version),
            version_number: text(datastore.version_number),
            configuration: order.configuration.map(|configuration| configuration.0),
            backup,
            moment,
            databases: order.databases.into_iter().flatten().map(Into::into).collect(),
            users: order.users.into_iter().flatten().map(Into::into).collect(),
            requirements: instances::Requirements {
                nics: order.nics.into_iter().flatten().map(Into::into).collect(),
                access: order.access.map(Into::into),
                availability_zone: text(order.availability_zone),
                volume_type: order.volume.and_then(|volume| text(volume.r#type)),
                locality: order.locality.map(|locality| locality.0),
            },
            region: text(order.region_name),
            deletion_protection: order.deletion_protection.unwrap_or(false),
            may_have_root: false,
        })
    }
}

/// The instance that was ordered.
#[derive(Serialize, ToSchema)]
struct CreatedInstance {
    #[serde(flatten)]
    instance: InstanceDetail,
    /// Of root, where the configuration enables it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct CreatedBody {
    instance: CreatedInstance,
}

/// Create an instance
///
/// With `restorePoint` it is made from a backup.
#[utoipa::path(post, path = "/instances", tag = "instances", operation_id = "create_instance",
    responses(Fault<404>, Fault<409>, Fault<501>))]
pub(in crate::api) async fn create(
    State(state): State<ApiState>,
    authorized: Authorized,
    Json(body): Json<Order>,
) -> Result<WithOperation<Json<CreatedBody>>> {
    authorized.may("instance:create")?;
    let mut order = instances::NewInstance::try_from(body)?;
    // Who may not enable root gets an instance without it, whatever the configuration says.
    order.may_have_root = authorized.may("instance:extension:root:create").is_ok();
    if order.configuration.is_some() {
        authorized.may("instance:update")?;
    }
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
    let instance = CreatedInstance {
        instance: view::detail(&Viewer { base: &base, project, admin }, &instance),
        password: password.map(|password| password.expose_secret().to_owned()),
    };
    Ok(WithOperation(Json(CreatedBody { instance }), accepted.operation))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::http::form;

    fn parse(body: &Value) -> Result<instances::NewInstance> {
        form::read::<Order>(body.clone())?.try_into()
    }

    #[test]
    fn orders_of_all_clients_are_understood() {
        let order = parse(&json!({"instance": {
            "name": "n", "flavorRef": 6, "volume": {"size": "2", "type": null}, "access": {"is_public": false},
            "nics": [{"net-id": "7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"}], "modules": [], "replica_count": 1}}));
        let order = order.unwrap();
        assert_eq!((order.flavor.as_str(), order.volume_gib), ("6", Some(2)));
        assert_eq!(order.requirements.nics[0].network_id.as_deref(), Some("7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"));
        assert_eq!((order.requirements.volume_type, order.requirements.locality), (None, None));
        let order = parse(&json!({"instance": {
            "name": "n", "flavorRef": 6, "volume": {"size": 2, "type": "ssd"}, "locality": "soft-anti-affinity"}}));
        let wanted = order.unwrap().requirements;
        assert_eq!(wanted.volume_type.as_deref(), Some("ssd"));
        assert_eq!(wanted.locality, Some(instances::Locality::SoftAntiAffinity));
        let order = json!({"instance": {"name": "n", "flavorRef": 6, "restorePoint": {"backupRef": "b"}}});
        assert_eq!(parse(&order).unwrap().backup.as_deref(), Some("b"));
        let order = parse(&json!({"instance": {"name": "n", "flavor": {"id": "6"}}})).unwrap();
        assert_eq!(order.flavor, "6");
        for wrong in [
            json!({}),
            json!({"instance": []}),
            json!({"instance": {"name": "n"}}),
            json!({"instance": {"name": "", "flavorRef": 1}}),
            json!({"instance": {"name": "n", "flavorRef": 1, "nics": [{"port-id": "x"}]}}),
            json!({"instance": {"name": "n", "flavorRef": 1, "volume": 5}}),
            json!({"instance": {"name": "n", "flavorRef": 1, "locality": "near"}}),
            json!({"instance": {"name": "n", "flavorRef": 1, "restorePoint": "x"}}),
            json!({"instance": {"name": "n", "flavorRef": 1, "restorePoint": {}}}),
        ] {
            assert!(matches!(parse(&wrong), Err(Error::BadRequest(_))), "{wrong}");
        }
        for later in [
            json!({"instance": {"name": "n", "replica_of": "x"}}),
            json!({"instance": {"name": "n", "flavorRef": 1, "replica_count": 2}}),
            json!({"instance": {"name": "n", "flavorRef": 1, "modules": [{"id": "x"}]}}),
        ] {
            assert!(matches!(parse(&later), Err(Error::NotImplemented(_))), "{later}");
        }
    }
}

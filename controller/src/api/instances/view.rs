//! An instance as the API shows it.

use std::net::IpAddr;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::http::links::{Link, Time, links};
use crate::app::host_paths::without_host_paths;
use crate::app::instances::{Fault, Instance, Locality};
use crate::ids::ProjectId;

/// Who looks, and from where.
pub(in crate::api) struct Viewer<'a> {
    /// Base of links.
    pub(in crate::api) base: &'a str,
    /// The caller's project, in which links lie.
    pub(in crate::api) project: &'a ProjectId,
    /// Whether more is shown.
    pub(in crate::api) admin: bool,
}

#[derive(Serialize, ToSchema)]
struct FlavorReference {
    id: String,
    links: Vec<Link>,
}

#[derive(Serialize, ToSchema)]
struct DatastoreReference {
    r#type: String,
    /// The version's name.
    version: String,
    /// Not in the summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    version_number: Option<String>,
}

/// The configuration group of an instance.
#[derive(Serialize, ToSchema)]
struct ConfigurationReference {
    id: String,
    name: String,
    links: Vec<Link>,
}

#[derive(Serialize, ToSchema)]
struct Volume {
    /// GiB.
    size: u64,
    /// GiB; only for a single instance, and where its agent has told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_percent: Option<f64>,
}

/// Who may connect.
#[derive(Serialize, ToSchema)]
struct AccessView {
    #[serde(skip_serializing_if = "Option::is_none")]
    is_public: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_cidrs: Option<Vec<String>>,
}

#[derive(Serialize, ToSchema)]
struct AddressView {
    #[schema(value_type = String)]
    address: IpAddr,
    r#type: &'static str,
    /// The one network there is stands for whichever was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
}

/// Why an instance is in error.
#[derive(Serialize, ToSchema)]
struct InstanceFault {
    message: String,
    created: Time,
    details: String,
}

impl InstanceFault {
    fn of(fault: &Fault, admin: bool) -> Self {
        let (message, details) = (told(&fault.message, admin), told(&fault.details, admin));
        Self { message, created: fault.created.into(), details }
    }
}

/// What an agent or a driver said, as it is told to this viewer: a tenant does not see where the service keeps its things.
pub(in crate::api) fn told(text: &str, admin: bool) -> String {
    if admin { text.to_owned() } else { without_host_paths(text) }
}

/// An instance, in lists.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct InstanceSummary {
    id: Uuid,
    name: String,
    status: &'static str,
    operating_status: &'static str,
    links: Vec<Link>,
    flavor: FlavorReference,
    datastore: DatastoreReference,
    region: String,
    volume: Volume,
    access: AccessView,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    ip: Option<[IpAddr; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<AddressView>>)]
    addresses: Option<[AddressView; 1]>,
    /// For administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<String>,
}

/// An instance.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct InstanceDetail {
    #[serde(flatten)]
    summary: InstanceSummary,
    created: Time,
    updated: Time,
    service_status_updated: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<InstanceFault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<ConfigurationReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<&'static str>,
    /// Whether it cannot be deleted. Not in Trove.
    deletion_protection: bool,
    /// For administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_id: Option<Uuid>,
    /// For administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_id: Option<Uuid>,
    /// For administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypted_rpc_messaging: Option<bool>,
}

/// The view of lists.
pub(in crate::api) fn summary(viewer: &Viewer<'_>, instance: &Instance) -> InstanceSummary {
    let (status, operating_status) = instance.status();
    let flavor = &instance.flavor.id;
    let links = |collection: &str, id: &str| links(viewer.base, viewer.project, collection, id);
    let network = || instance.nics.iter().find_map(|nic| nic.network_id.clone());
    let address = instance.address.map(|address| AddressView { address, r#type: "private", network: network() });
    let access = instance.access.clone();
    InstanceSummary {
        id: instance.id.0,
        name: instance.name.clone(),
        status,
        operating_status,
        links: links("instances", &instance.id.to_string()),
        flavor: FlavorReference { id: flavor.clone(), links: links("flavors", flavor) },
        datastore: DatastoreReference {
            r#type: instance.datastore.clone(),
            version: instance.version.clone(),
            version_number: None,
        },
        region: instance.region.clone(),
        volume: Volume { size: instance.volume_gib, used: None, used_percent: None },
        access: match access {
            Some(access) => AccessView { is_public: Some(access.is_public), allowed_cidrs: access.allowed_cidrs },
            None => AccessView { is_public: instance.address.map(|_| false), allowed_cidrs: None },
        },
        ip: instance.address.map(|address| [address]),
        addresses: address.map(|address| [address]),
        tenant_id: viewer.admin.then(|| instance.project.0.clone()),
    }
}

/// The view of the detailed list.
pub(in crate::api) fn detail(viewer: &Viewer<'_>, instance: &Instance) -> InstanceDetail {
    let mut summary = summary(viewer, instance);
    summary.datastore.version_number = Some(instance.version_number.clone());
    InstanceDetail {
        summary,
        created: instance.created.into(),
        updated: instance.updated.into(),
        service_status_updated: instance.service_updated.into(),
        fault: instance.shown_fault().map(|fault| InstanceFault::of(&fault, viewer.admin)),
        configuration: instance.configuration.as_ref().map(|configuration| {
            let id = configuration.id.to_string();
            let links = links(viewer.base, viewer.project, "configurations", &id);
            ConfigurationReference { id, name: configuration.name.clone(), links }
        }),
        locality: instance.locality.map(Locality::tag),
        deletion_protection: instance.deletion_protection,
        server_id: viewer.admin.then_some(instance.id.0),
        volume_id: viewer.admin.then_some(instance.id.0),
        encrypted_rpc_messaging: viewer.admin.then_some(true),
    }
}

/// Bytes in a GB of Trove's, which is a GiB.
const GIB: f64 = 1_073_741_824.0;

/// The view of a single instance: with the use of the volume, where the guest is there to have told it.
pub(in crate::api) fn shown(viewer: &Viewer<'_>, instance: &Instance) -> InstanceDetail {
    let mut view = detail(viewer, instance);
    let reachable = matches!(view.summary.status, "ACTIVE" | "RESTART_REQUIRED" | "BACKUP");
    if let Some(bytes) = instance.volume_used_bytes.filter(|_| reachable) {
        // Sizes of volumes are far below the 2^52 bytes that a float holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let (used, size) = (bytes as f64 / GIB, instance.volume_gib.max(1) as f64);
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        view.summary.volume.used = Some(rounded(used));
        view.summary.volume.used_percent = Some(rounded(used / size * 100.0));
    }
    view
}

/// A page of instances.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct InstancesPage {
    pub(in crate::api) instances: Vec<InstanceSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) instances_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) links: Option<Vec<Link>>,
}

/// A page of instances with more of each.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct DetailedInstancesPage {
    pub(in crate::api) instances: Vec<InstanceDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) instances_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api) links: Option<Vec<Link>>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct InstanceBody {
    pub(in crate::api) instance: InstanceDetail,
}

//! An instance as the API shows it.

use serde_json::{Value, json};

use crate::api::links::{links, time};
use crate::app::instances::Instance;
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

/// The view of lists.
pub(in crate::api) fn summary(viewer: &Viewer<'_>, instance: &Instance) -> Value {
    let (status, operating_status) = instance.status();
    let flavor = &instance.flavor.id;
    let mut view = json!({
        "id": instance.id, "name": instance.name, "status": status, "operating_status": operating_status,
        "links": links(viewer.base, viewer.project, &format!("instances/{}", instance.id)),
        "flavor": {"id": flavor, "links": links(viewer.base, viewer.project, &format!("flavors/{flavor}"))},
        "datastore": {"type": instance.datastore, "version": instance.version},
        "region": instance.region, "volume": {"size": instance.volume_gib}, "access": {}});
    if let Some(address) = instance.address {
        view["ip"] = json!([address]);
        let mut entry = json!({"address": address, "type": "private"});
        // The one network there is stands for whichever was asked for.
        if let Some(network) = instance.nics.iter().find_map(|nic| nic.network_id.as_ref()) {
            entry["network"] = json!(network);
        }
        view["addresses"] = json!([entry]);
        view["access"] = json!({"is_public": false});
    }
    if let Some(access) = &instance.access {
        view["access"] = json!(access);
    }
    if viewer.admin {
        view["tenant_id"] = json!(instance.project);
    }
    view
}

/// The view of a single instance, and of the detailed list.
pub(in crate::api) fn detail(viewer: &Viewer<'_>, instance: &Instance) -> Value {
    let mut view = summary(viewer, instance);
    view["created"] = json!(time(instance.created));
    view["updated"] = json!(time(instance.updated));
    view["service_status_updated"] = json!(time(instance.service_updated));
    view["datastore"]["version_number"] = json!(instance.version_number);
    if let Some(fault) = &instance.fault {
        view["fault"] = json!({"message": fault.message, "created": time(fault.created), "details": fault.details});
    }
    if viewer.admin {
        view["server_id"] = json!(instance.id);
        view["volume_id"] = json!(instance.id);
        view["encrypted_rpc_messaging"] = json!(true);
    }
    view
}

/// Bytes in a GB of Trove's, which is a GiB.
const GIB: f64 = 1_073_741_824.0;

/// The same with the use of the volume, where the guest is there to have told it.
pub(in crate::api) fn shown(viewer: &Viewer<'_>, instance: &Instance) -> Value {
    let mut view = detail(viewer, instance);
    let reachable = view["status"] == "ACTIVE" || view["status"] == "RESTART_REQUIRED";
    if let Some(bytes) = instance.volume_used_bytes.filter(|_| reachable) {
        // Sizes of volumes are far below the 2^52 bytes that a float holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let (used, size) = (bytes as f64 / GIB, instance.volume_gib.max(1) as f64);
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        view["volume"]["used"] = json!(rounded(used));
        view["volume"]["used_percent"] = json!(rounded(used / size * 100.0));
    }
    view
}

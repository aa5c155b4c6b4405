//! Instances of all projects, and the versions of datastores, for administrators.

pub(super) mod action;
pub(super) mod guest;
pub(super) mod list;
pub(super) mod parameters;
pub(super) mod root;
pub(super) mod show;
pub(super) mod versions;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::http::links::Time;
use crate::api::instances::view::{self, InstanceDetail};
use crate::app::instances::{Instance, Purpose};
use crate::ids::ProjectId;
use crate::state::Task;

fn description(task: Task) -> &'static str {
    match task {
        Task::None => "No tasks for the instance.",
        Task::Building => "The instance is building.",
        Task::Restarting => "Rebooting the instance.",
        Task::Resizing => "Resizing the instance.",
        Task::Upgrading => "Upgrading the instance.",
        Task::Deleting => "Deleting the instance.",
        Task::RestartRequired => "Instance requires a restart.",
        Task::BuildingError => "Build error: Server.",
        Task::Error => "An operation on the instance failed.",
    }
}

/// What Trove calls the server of an instance.
#[derive(Serialize, ToSchema)]
struct Server {
    id: Uuid,
    name: String,
    status: &'static str,
    tenant_id: String,
    host: Option<String>,
}

/// An instance with what administrators see of it.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ManagedInstance {
    #[serde(flatten)]
    instance: InstanceDetail,
    server: Server,
    service_status: &'static str,
    task_description: &'static str,
    /// What it is for that is no tenant's: `verification`, a scratch instance on which a backup is verified; else null.
    purpose: Option<&'static str>,
    deleted: bool,
    deleted_at: Option<Time>,
}

impl ManagedInstance {
    fn of(base: &str, project: &ProjectId, instance: &Instance) -> Self {
        let (status, service_status) = instance.status();
        Self {
            instance: view::detail(&view::Viewer { base, project, admin: true }, instance),
            server: Server {
                id: instance.id.0,
                name: instance.name.clone(),
                status,
                tenant_id: instance.project.0.clone(),
                host: None,
            },
            service_status,
            task_description: description(instance.task),
            purpose: instance.purpose.map(Purpose::tag),
            deleted: instance.deleted.is_some(),
            deleted_at: instance.deleted.map(Time::from),
        }
    }
}

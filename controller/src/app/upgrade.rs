//! Another version of an instance's datastore.

use trove_strategy::Manifest;

use super::App;
use super::datastores::{Version, Wanted};
use super::names::shown;
use super::submit::{Accepted, origin};
use super::visibility::not_found;
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::model::Instance;
use crate::operations::upgrade_instance;
use crate::state::{Service, Task};

impl App {
    /// Gives it another version of its datastore, by name or id; the engine is away meanwhile. Numbers may go down, too:
    /// within a major version every engine reads what another wrote.
    ///
    /// # Errors
    /// 400 unknown, inactive or the same version, or while a configuration group, which is of one version, is attached;
    /// 404; 422 another major version, or when busy, stopped or short of room.
    pub async fn upgrade_instance(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        wanted: &str,
    ) -> Result<Accepted> {
        let (instance, manifest) = self.get_instance_with_manifest(caller, id).await?;
        let datastore = instance.datastore_id.to_string();
        let wanted = Wanted { datastore: Some(&datastore), version: Some(wanted), number: None };
        let (_, version) = self.resolve_version(&wanted).await?;
        self.check_upgrade(&instance, &manifest, &version).await?;
        instance.check_free()?;
        instance.check_volume()?;
        if instance.service == Service::Shutdown {
            return Err(Error::Unprocessable(format!(
                "Instance {id} is stopped: restart it first, since only an engine that runs shows that an upgrade is one."
            )));
        }
        let origin = origin(caller, request_id, id, instance.project.clone());
        let operation = upgrade_instance::new(origin, upgrade_instance::Params { to: version.id })?;
        let mut tx = self.store.begin().await?;
        let (_, _, group) = self.store.attachment(&mut tx, id).await?.ok_or_else(|| not_found(id))?;
        if let Some(group) = group {
            return Err(Error::BadRequest(format!(
                "Instance {id} has the configuration group {group}, which is for the datastore version {}: detach it first.",
                instance.version
            )));
        }
        let free = [Task::None, Task::RestartRequired];
        if !self.store.begin_task(&mut tx, id, &free, Task::Upgrading).await? {
            drop(tx);
            // Another order came first: its task is the reason, and nothing has been changed.
            return Err(self.get_instance(caller, id).await?.busy());
        }
        self.submit(tx, operation).await
    }

    /// Whether the engine of a version of the same datastore takes the instance's data as they are.
    async fn check_upgrade(&self, instance: &Instance, manifest: &Manifest, version: &Version) -> Result<()> {
        let id = instance.id;
        if version.id == instance.version_id {
            let name = shown(&version.name);
            return Err(Error::BadRequest(format!("Instance {id} has the datastore version {name} already.")));
        }
        let to = self.manifest(version).await?;
        let (from, to) = (&manifest.installation.major, &to.installation.major);
        if from == to {
            return Ok(());
        }
        Err(Error::Unprocessable(format!(
            "Instance {id} cannot be upgraded from {} {from} to {to}: its data are those of another major version.",
            instance.datastore
        )))
    }
}

#[cfg(test)]
mod tests;

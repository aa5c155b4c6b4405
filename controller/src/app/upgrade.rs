//! Another version of an instance's datastore, and a host that is made again from an image.

use uuid::Uuid;

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
use crate::state::{HostState, Service, Task};

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
        let instance = self.get_instance(caller, id).await?;
        let datastore = instance.datastore_id.to_string();
        let wanted = Wanted { datastore: Some(&datastore), version: Some(wanted), number: None };
        let (_, version) = self.resolve_version(&wanted).await?;
        if version.id == instance.version_id {
            let name = shown(&version.name);
            return Err(Error::BadRequest(format!("Instance {id} has the datastore version {name} already.")));
        }
        self.check_major(&instance, &version).await?;
        instance.check_free()?;
        self.begin_upgrade(caller, request_id, &instance, &version, &[Task::None, Task::RestartRequired]).await
    }

    /// Makes its host again, from an image of a version of its datastore, which it then has; also where agent or engine hang or
    /// failed. Its data stay.
    ///
    /// # Errors
    /// 400 an image of no such version, or of another one while a configuration group is attached; 404; 422 another major version,
    /// or when busy, stopped, without a host or short of room.
    pub async fn rebuild_instance(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        image: Uuid,
    ) -> Result<Accepted> {
        let instance = self.get_tenants_instance(id).await?;
        let version = self.version_of_image(&instance, image).await?;
        self.check_major(&instance, &version).await?;
        if !matches!(instance.host, HostState::Active | HostState::Dead) {
            return Err(instance.busy());
        }
        let free = [Task::None, Task::RestartRequired, Task::Error];
        self.begin_upgrade(caller, request_id, &instance, &version, &free).await
    }

    /// The version of its datastore that is of the image; its own, where several are.
    async fn version_of_image(&self, instance: &Instance, image: Uuid) -> Result<Version> {
        let datastore = self.store.get_datastore(&instance.datastore_id.to_string()).await?;
        let of_it = datastore.into_iter().flat_map(|datastore| datastore.versions);
        let of_it = of_it.filter(|version| version.source.image_id() == image);
        let version = of_it.min_by_key(|version| version.id != instance.version_id).ok_or_else(|| {
            let datastore = &instance.datastore;
            Error::BadRequest(format!("rebuild.image_id: no datastore version of {datastore} is of the image {image}."))
        })?;
        self.check_runs(&version)?;
        Ok(version)
    }

    /// The operation, for an instance whose task is one of these.
    async fn begin_upgrade(
        &self,
        caller: &Caller,
        request_id: &str,
        instance: &Instance,
        version: &Version,
        free: &[Task],
    ) -> Result<Accepted> {
        let id = instance.id;
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
        if let Some(group) = group
            && version.id != instance.version_id
        {
            return Err(Error::BadRequest(format!(
                "Instance {id} has the configuration group {group}, which is for the datastore version {}: detach it first.",
                instance.version
            )));
        }
        if !self.store.begin_task(&mut tx, id, free, Task::Upgrading).await? {
            drop(tx);
            // Another order came first: its task is the reason, and nothing has been changed.
            return Err(self.get_any_instance(id, false).await?.busy());
        }
        self.submit(tx, operation).await
    }

    /// Whether the engine of a version of the same datastore takes the instance's data as they are.
    async fn check_major(&self, instance: &Instance, version: &Version) -> Result<()> {
        let from = self.store.get_manifest(instance.version_id).await?.ok_or_else(|| not_found(instance.id))?;
        let to = self.manifest(version).await?;
        let (from, to) = (&from.installation.major, &to.installation.major);
        if from == to {
            return Ok(());
        }
        Err(Error::Unprocessable(format!(
            "Instance {} cannot be upgraded from {} {from} to {to}: its data are those of another major version.",
            instance.id, instance.datastore
        )))
    }
}

#[cfg(test)]
mod tests;

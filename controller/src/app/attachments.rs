//! The configuration group of an instance: given at its creation or later, and taken away.

use std::collections::BTreeMap;

use super::App;
use super::configurations::is_visible;
use super::instances::Accepted;
use super::submit::origin;
use super::visibility::{no_configuration, not_found};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::{ConfigurationId, InstanceId, ProjectId};
use crate::model::Version;
use crate::model::configurations::{AttachedConfiguration, Configuration};
use crate::operations::apply_configuration;
use crate::state::{HostState, Task};
use crate::store::sql::Connection;

impl App {
    /// Gives an instance a group. Its engine has the values once the operation has ended, or after its next restart.
    ///
    /// # Errors
    /// 404 instance or group; 400 when it has one, is busy or of another version; 422 when a value is no longer allowed.
    pub async fn attach_configuration(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        wanted: &str,
    ) -> Result<Accepted> {
        let instance = self.get_instance(caller, id).await?;
        let configuration = self.find_configuration(caller, wanted).await?;
        let (_, version) = self.get_version_by_id(true, instance.version_id).await?;
        self.check_attachable(&configuration, &instance.project, &version).await?;
        let mut tx = self.store.begin().await?;
        // Group and instance are looked at again: others may have been faster.
        if self.store.configuration(&mut tx, configuration.id).await?.is_none() {
            return Err(no_configuration(configuration.id));
        }
        let (task, host, attached) = self.store.attachment(&mut tx, id).await?.ok_or_else(|| not_found(id))?;
        if let Some(attached) = attached {
            return Err(Error::BadRequest(format!(
                "Instance {id} has the configuration group {attached} already: detach it first."
            )));
        }
        if !matches!(task, Task::None | Task::RestartRequired) || host != HostState::Active {
            let (status, _) = instance.status();
            return Err(Error::BadRequest(format!(
                "A configuration group can be attached to an instance that is ACTIVE; the status of {id} is {status}."
            )));
        }
        self.store.set_configuration(&mut tx, id, Some(configuration.id)).await?;
        self.submit(tx, apply_configuration::new(origin(caller, request_id, id, instance.project))?).await
    }

    /// Takes its group from an instance; `None`: it had none.
    ///
    /// # Errors
    /// 404; 422 while it is being deleted.
    pub async fn detach_configuration(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
    ) -> Result<Option<Accepted>> {
        let instance = self.get_instance(caller, id).await?;
        let mut tx = self.store.begin().await?;
        let (task, _, attached) = self.store.attachment(&mut tx, id).await?.ok_or_else(|| not_found(id))?;
        if attached.is_none() {
            return Ok(None);
        }
        if task == Task::Deleting {
            return Err(Error::Unprocessable(format!("Instance {id} is being deleted.")));
        }
        self.store.set_configuration(&mut tx, id, None).await?;
        if task == Task::BuildingError {
            // There is no engine that could take up anything.
            self.store.set_parameter_results(&mut tx, id, &BTreeMap::new()).await?;
            self.commit(tx, "detach_configuration").await?;
            return Ok(None);
        }
        self.submit(tx, apply_configuration::new(origin(caller, request_id, id, instance.project))?).await.map(Some)
    }

    /// The group that an order names.
    ///
    /// # Errors
    /// 404, 400, 422 as [`App::attach_configuration`].
    pub(super) async fn ordered_configuration(
        &self,
        caller: &Caller,
        wanted: &str,
        version: &Version,
    ) -> Result<AttachedConfiguration> {
        let configuration = self.find_configuration(caller, wanted).await?;
        self.check_attachable(&configuration, &caller.project, version).await?;
        Ok(AttachedConfiguration { id: configuration.id, name: configuration.name })
    }

    /// Looks again, in the transaction that writes the order.
    ///
    /// # Errors
    /// 404.
    pub(super) async fn check_ordered(
        &self,
        conn: &mut Connection,
        ordered: Option<&AttachedConfiguration>,
    ) -> Result<()> {
        let Some(ordered) = ordered else { return Ok(()) };
        let found = self.store.configuration(conn, ordered.id).await?;
        found.map(drop).ok_or_else(|| no_configuration(ordered.id))
    }

    /// By its id; what is no id is that of nothing.
    async fn find_configuration(&self, caller: &Caller, wanted: &str) -> Result<Configuration> {
        let missing =
            || Error::NotFound(format!("Configuration group {} cannot be found.", super::names::shown(wanted)));
        let id: ConfigurationId = wanted.parse().map_err(|_| missing())?;
        let found = self.store.get_configuration(id).await?;
        found.filter(|found| is_visible(caller, found)).ok_or_else(missing)
    }

    /// Whether an instance of this project and version can have the group.
    async fn check_attachable(
        &self,
        configuration: &Configuration,
        project: &ProjectId,
        version: &Version,
    ) -> Result<()> {
        let id = configuration.id;
        if configuration.project != *project {
            return Err(Error::BadRequest(format!(
                "Configuration group {id} is of another project than the instance."
            )));
        }
        if configuration.version_id != version.id {
            return Err(Error::BadRequest(format!(
                "Configuration group {id} is for {} {} ({}), and the instance is of the datastore version {}.",
                configuration.datastore, configuration.version, configuration.version_id, version.id
            )));
        }
        // What may be set may have become less since the group was written.
        let given = configuration.values.clone().into_iter().collect();
        if configuration.values.is_empty() {
            return Ok(());
        }
        super::parameters::check(&self.parameters(version).await?, &version.name, given).map(drop)
    }
}

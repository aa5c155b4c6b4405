//! What operators do with instances of all projects.

use time::OffsetDateTime;
use trove_proto::v1::GetDiagnosticsReply as Diagnostics;

use super::App;
use super::readiness::answer;
use super::submit::{Accepted, origin};
use super::visibility::not_found;
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::model::{Instance, Purpose};
use crate::operations::{Lane, reboot_instance, stop_instance};
use crate::state::{HostState, Service, Task};

impl App {
    /// An instance that can be changed.
    ///
    /// # Errors
    /// 404; 422: it is no tenant's, and the operation that made it deletes it.
    pub(super) async fn get_tenants_instance(&self, id: InstanceId) -> Result<Instance> {
        let instance = self.get_any_instance(id, false).await?;
        match instance.purpose {
            None => Ok(instance),
            Some(Purpose::Verification) => Err(Error::Unprocessable(format!(
                "Instance {id} is a scratch instance, on which a backup is verified: nobody changes it, and it is deleted \
                 at the end."
            ))),
        }
    }

    /// Stops the engine, until it is restarted.
    ///
    /// # Errors
    /// 404; 422 when busy.
    pub async fn stop_instance(&self, caller: &Caller, request_id: &str, id: InstanceId) -> Result<Accepted> {
        let instance = self.get_tenants_instance(id).await?;
        instance.check_free()?;
        let operation = stop_instance::new(origin(caller, request_id, id, instance.project.clone()));
        let mut tx = self.store.begin().await?;
        match self.store.task(&mut tx, id).await? {
            Some(Task::None | Task::RestartRequired) => self.submit(tx, operation).await,
            Some(_) => Err(instance.busy()),
            None => Err(not_found(id)),
        }
    }

    /// Reboots the host. It helps where the agent or the engine hangs, so neither is asked: only a task keeps it off.
    ///
    /// # Errors
    /// 404; 422 when busy, or without a host.
    pub async fn reboot_instance(&self, caller: &Caller, request_id: &str, id: InstanceId) -> Result<Accepted> {
        let instance = self.get_tenants_instance(id).await?;
        if !matches!(instance.host, HostState::Active | HostState::Dead) {
            return Err(instance.busy());
        }
        let stopped = instance.service == Service::Shutdown;
        let operation = reboot_instance::new(origin(caller, request_id, id, instance.project.clone()), stopped);
        let mut tx = self.store.begin().await?;
        let free = [Task::None, Task::RestartRequired, Task::Error];
        if !self.store.begin_task(&mut tx, id, &free, Task::Restarting).await? {
            drop(tx);
            return Err(self.get_any_instance(id, false).await?.busy());
        }
        self.submit(tx, operation).await
    }

    /// Clears the task, and ends what is under way.
    ///
    /// # Errors
    /// 404.
    pub async fn reset_task_status(&self, id: InstanceId) -> Result<()> {
        self.get_tenants_instance(id).await?;
        // As after reset_status: a deletion that is ended half-way may have stopped the host, and recorded nothing.
        let host = self.compute.describe(id).await;
        let mut tx = self.store.begin().await?;
        if self.store.task(&mut tx, id).await?.is_none() {
            return Err(not_found(id));
        }
        self.store.cancel_active(&mut tx, id, &[Lane::Lifecycle, Lane::Backup]).await?;
        self.store
            .fail_backups_of(&mut tx, id, "The status of the instance was reset while the backup was taken.")
            .await?;
        self.store.set_task(&mut tx, id, Task::None).await?;
        match host {
            Ok(host) => self.store.set_host(&mut tx, id, host).await?,
            Err(error) => tracing::warn!(instance_id = %id, "the host's state stays as it was: {error}"),
        }
        self.commit(tx, "reset_task_status").await
    }

    /// Whether its agent hears and answers.
    ///
    /// # Errors
    /// 404; 422 when it does not.
    pub async fn ping_agent(&self, id: InstanceId) -> Result<()> {
        self.get_any_instance(id, false).await?;
        answer(id, self.agents.ping(id).await)
    }

    /// Figures of the agent's own process and of its machine.
    ///
    /// # Errors
    /// 404; 422 when the agent does not answer.
    pub async fn diagnose(&self, id: InstanceId) -> Result<Diagnostics> {
        self.get_any_instance(id, false).await?;
        answer(id, self.agents.diagnose(id).await)
    }

    /// When root was last enabled and by which user id, also if it was disabled since.
    ///
    /// # Errors
    /// 404.
    pub async fn root_history(&self, id: InstanceId) -> Result<Option<(OffsetDateTime, String)>> {
        self.store.root_history(id).await?.ok_or_else(|| not_found(id))
    }
}

#[cfg(test)]
mod tests;

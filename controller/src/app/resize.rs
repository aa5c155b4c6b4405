//! Other sizes: the row says at once what is wanted, with its quota, and an operation makes it so.

use super::App;
use super::names::shown;
use super::readiness::answer;
use super::submit::{Accepted, origin};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::model::{Flavor, Instance};
use crate::operations::{resize_flavor, resize_volume};
use crate::state::{Service, Task};
use crate::store::sql::Transaction;

impl App {
    /// Gives it another flavor; the engine is away meanwhile.
    ///
    /// # Errors
    /// 400 unknown or the same flavor; 404; 413 quota; 422 when busy, with less memory than the engine's data needs, or with less
    /// for a stopped engine that holds its data there.
    pub async fn resize_flavor(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        flavor: &str,
    ) -> Result<Accepted> {
        let instance = self.get_instance(caller, id).await?;
        let unknown = |_| Error::BadRequest(format!("Flavor {} cannot be found.", shown(flavor)));
        let flavor = self.get_flavor(flavor).cloned().map_err(unknown)?;
        if flavor.id == instance.flavor.id {
            return Err(Error::BadRequest(format!("The instance has the flavor {} already.", shown(&flavor.id))));
        }
        instance.check_free()?;
        self.check_room(&instance, &flavor).await?;
        let params = resize_flavor::Params { from: instance.flavor.clone() };
        let stopped = instance.service == Service::Shutdown;
        let operation = resize_flavor::new(origin(caller, request_id, id, instance.project.clone()), params, stopped)?;
        let mut tx = self.begin_resize(caller, &instance).await?;
        if let Some((project, amounts)) = self.store.set_flavor(&mut tx, id, &flavor).await? {
            self.store.take_quota(&mut tx, &project, amounts, |resource| self.default_limit(resource)).await?;
        }
        self.submit(tx, operation).await
    }

    /// Makes its volume greater; the engine runs on.
    ///
    /// # Errors
    /// 400 without a volume, or one that would not grow; 404; 413 quota or greatest volume; 422 when busy.
    pub async fn resize_volume(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        volume_gib: u64,
    ) -> Result<Accepted> {
        let instance = self.get_instance(caller, id).await?;
        if instance.volume_gib == 0 {
            return Err(Error::BadRequest(format!("Instance {id} does not have a volume.")));
        }
        if volume_gib <= instance.volume_gib {
            return Err(Error::BadRequest(format!(
                "The new volume 'size' must be larger than the current volume size of '{}'.",
                instance.volume_gib
            )));
        }
        self.check_volume_limit(volume_gib)?;
        instance.check_free()?;
        let project = instance.project.clone();
        let operation = resize_volume::new(origin(caller, request_id, id, project), instance.volume_gib);
        let mut tx = self.begin_resize(caller, &instance).await?;
        if let Some((project, amounts)) = self.store.set_volume(&mut tx, id, volume_gib).await? {
            self.store.take_quota(&mut tx, &project, amounts, |resource| self.default_limit(resource)).await?;
        }
        self.submit(tx, operation).await
    }

    /// Refuses less memory than what the engine holds needs, which only the engine knows, while it runs: what was last heard of
    /// one that is stopped may be older than its last writes.
    async fn check_room(&self, instance: &Instance, flavor: &Flavor) -> Result<()> {
        if flavor.ram_mib >= instance.flavor.ram_mib {
            return Ok(());
        }
        let (id, name) = (instance.id, shown(&flavor.id));
        if instance.service == Service::Shutdown {
            let manifest = self.store.get_manifest(instance.version_id).await?;
            if manifest.is_none_or(|manifest| manifest.identity.data_memory_percent.is_none()) {
                return Ok(());
            }
            return Err(Error::Unprocessable(format!(
                "Instance {id} is stopped: restart it first, since only an engine that runs can say whether its data have room in \
                 the flavor {name}."
            )));
        }
        match answer(id, self.agents.check_size(id, flavor.ram_mib, flavor.vcpus).await)? {
            None => Ok(()),
            Some(refusal) => {
                Err(Error::Unprocessable(format!("Instance {id} has no room in the flavor {name}: {refusal}.")))
            }
        }
    }

    /// A transaction in which it is being resized, and has been seen to have the sizes that it was read with.
    async fn begin_resize(&self, caller: &Caller, instance: &Instance) -> Result<Transaction> {
        let id = instance.id;
        let mut tx = self.store.begin().await?;
        let free = [Task::None, Task::RestartRequired];
        let same = self.store.sizes(&mut tx, id).await? == Some((instance.flavor.id.clone(), instance.volume_gib));
        if same && self.store.begin_task(&mut tx, id, &free, Task::Resizing).await? {
            return Ok(tx);
        }
        drop(tx);
        // Another order came first: its task is the reason, and nothing has been changed.
        Err(self.get_instance(caller, id).await?.busy())
    }
}

#[cfg(test)]
mod tests;

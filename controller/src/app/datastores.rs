//! Datastores and their versions.

use std::sync::Arc;
use std::time::Duration;

use trove_strategy::Manifest;

use super::names::shown;
use super::{App, names};
use crate::error::{Error, Result};
use crate::ids::VersionId;
use crate::model::ArtifactKind;
pub use crate::model::{Datastore, Source, Version};
pub use crate::register::NewVersion;
use crate::register::{images, register_one};
pub use crate::store::datastores::VersionChange;

/// How long an order for something unknown waits for the registration of what is installed.
const REGISTRATION: Duration = Duration::from_secs(30);

impl Datastore {
    /// As the caller may see it: an inactive version is an admin's matter.
    fn visible(mut self, admin: bool) -> Self {
        self.versions.retain(|version| admin || version.active);
        let shown = |id| self.versions.iter().any(|version| version.id == id);
        self.default_version = self.default_version.filter(|id| shown(*id));
        self
    }
}

impl App {
    /// Waits until what is installed has been registered: a controller begins to look for it when it starts.
    pub async fn await_registered(&self, limit: Duration) {
        let mut registered = self.registered.clone();
        // Too late or ended: what there is by then is what there is.
        let _ = tokio::time::timeout(limit, registered.wait_for(|done| *done)).await;
    }

    /// All of them by name, without those of which the caller may see no version.
    pub async fn list_datastores(&self, admin: bool) -> Result<Vec<Datastore>> {
        let all = self.store.list_datastores().await?;
        let visible = all.into_iter().map(|datastore| datastore.visible(admin));
        Ok(visible.filter(|datastore| !datastore.versions.is_empty()).collect())
    }

    /// By name or id.
    ///
    /// # Errors
    /// 404.
    pub async fn get_datastore(&self, admin: bool, name_or_id: &str) -> Result<Datastore> {
        let found = self.store.get_datastore(name_or_id).await?;
        Ok(found.ok_or_else(|| no_datastore(name_or_id))?.visible(admin))
    }

    /// A version by name or id of a datastore by name or id; the default one where several have the name, else the last.
    ///
    /// # Errors
    /// 404 datastore; 400 version, as upstream.
    pub async fn get_version(&self, admin: bool, datastore: &str, version: &str) -> Result<(Datastore, Version)> {
        let datastore = self.get_datastore(admin, datastore).await?;
        let named = |candidate: &&Version| candidate.name == version || candidate.id.to_string() == version;
        let default = |candidate: &&Version| named(candidate) && Some(candidate.id) == datastore.default_version;
        let found = datastore.versions.iter().find(default).or(datastore.versions.iter().rfind(named)).cloned();
        let found = found.ok_or_else(|| Error::BadRequest(no_version(version)))?;
        Ok((datastore, found))
    }

    /// A version by id.
    ///
    /// # Errors
    /// 404.
    pub async fn get_version_by_id(&self, admin: bool, id: VersionId) -> Result<(Datastore, Version)> {
        let missing = || Error::NotFound(no_version(&id.to_string()));
        let datastore = self.store.get_datastore_of_version(id).await?.ok_or_else(missing)?.visible(admin);
        let found = datastore.versions.iter().find(|version| version.id == id).cloned().ok_or_else(missing)?;
        Ok((datastore, found))
    }

    /// What a version is and can do.
    ///
    /// # Errors
    /// 404: it was taken away meanwhile.
    pub(super) async fn manifest(&self, version: &Version) -> Result<Arc<Manifest>> {
        let missing = || Error::NotFound(no_version(&version.name));
        self.store.get_manifest(version.id).await?.ok_or_else(missing)
    }

    /// Registers an engine that is installed on this machine, or a known image, as a version.
    ///
    /// # Errors
    /// 400: names the field; a version of this name and number is there.
    pub async fn create_version(&self, order: NewVersion) -> Result<()> {
        names::check_text("name", &order.name)?;
        if let Some(datastore) = self.store.get_datastore(&order.datastore).await? {
            let same = |version: &&Version| {
                version.name == order.name && order.number.as_ref().is_none_or(|number| version.number == *number)
            };
            let image = |version: &&Version| version.source.image_id() == order.image;
            if let Some(version) = datastore.versions.iter().find(image) {
                return Err(Error::BadRequest(format!(
                    "version['image'] {} is that of the version {} already: rename or activate that one.",
                    order.image,
                    shown(&version.name)
                )));
            }
            if datastore.versions.iter().any(|version| same(&version)) {
                return Err(Error::BadRequest(format!(
                    "A datastore version with the name {} already exists.",
                    shown(&order.name)
                )));
            }
        }
        let (store, config) = (self.store.clone(), self.config.clone());
        if self.compute.artifacts() == ArtifactKind::Image {
            images::register_known(&store, &order).await?;
            return Ok(());
        }
        // A task of its own: a client that goes away must not leave an engine behind that was being asked.
        let registering = tokio::spawn(async move { register_one(&store, &config, &order).await });
        registering.await.map_err(|error| Error::internal("register a datastore version", error))??;
        Ok(())
    }

    /// Changes name, activity or default of a version.
    ///
    /// # Errors
    /// 404; 400 for a name that another version of the same engine has.
    pub async fn change_version(&self, id: VersionId, change: VersionChange) -> Result<()> {
        if let Some(name) = &change.name {
            names::check_text("name", name)?;
        }
        self.get_version_by_id(true, id).await?;
        let mut tx = self.store.begin().await?;
        if !self.store.change_version(&mut tx, id, &change).await? {
            return Err(Error::BadRequest("name: another version of this engine has it.".to_owned()));
        }
        tx.commit().await.map_err(|error| Error::internal("change a version", error))
    }

    /// Takes a version away; the engine that is installed is not registered again by itself.
    ///
    /// # Errors
    /// 404; 400 while an instance is of it.
    pub async fn delete_version(&self, id: VersionId) -> Result<()> {
        let mut tx = self.store.begin().await?;
        if !self.store.remove_version(&mut tx, id).await? {
            return Err(Error::NotFound(no_version(&id.to_string())));
        }
        tx.commit().await.map_err(|error| Error::internal("remove a version", error))
    }

    /// Takes a datastore away that has no versions.
    ///
    /// # Errors
    /// 404; 400 while it has versions.
    pub async fn delete_datastore(&self, name_or_id: &str) -> Result<()> {
        let mut tx = self.store.begin().await?;
        if !self.store.remove_datastore(&mut tx, name_or_id).await? {
            return Err(no_datastore(name_or_id));
        }
        tx.commit().await.map_err(|error| Error::internal("remove a datastore", error))
    }

    /// The version that an order means.
    ///
    /// # Errors
    /// 404 unknown datastore; 400 for the rest: none named and no default, unknown, ambiguous or inactive version, or one
    /// that the compute driver cannot run.
    pub(super) async fn resolve_version(&self, wanted: &Wanted<'_>) -> Result<(Datastore, Version)> {
        let (datastore, version) = self.resolve_any_version(wanted).await?;
        if !version.active {
            return Err(Error::BadRequest(format!("Datastore version {} is not active.", version.name)));
        }
        self.check_runs(&version)?;
        Ok((datastore, version))
    }

    /// Refuses a version that the compute driver cannot run.
    ///
    /// # Errors
    /// 400.
    pub(super) fn check_runs(&self, version: &Version) -> Result<()> {
        let (is, runs) = (version.source.kind(), self.compute.artifacts());
        if is == runs {
            return Ok(());
        }
        let what = |kind| match kind {
            ArtifactKind::Local => "engines that are installed on its machine",
            ArtifactKind::Image => "images",
        };
        Err(Error::BadRequest(format!(
            "datastore.version {} cannot be run: this service runs {}, and it is one of the {}.",
            shown(&version.name),
            what(runs),
            what(is)
        )))
    }

    /// The version that is meant, also one of which no instance can be ordered.
    ///
    /// # Errors
    /// As [`App::resolve_version`].
    pub(super) async fn resolve_any_version(&self, wanted: &Wanted<'_>) -> Result<(Datastore, Version)> {
        let registered = *self.registered.borrow();
        let found = self.find_version(wanted).await;
        if found.is_ok() || registered {
            return found;
        }
        // It may be among those that are not registered yet.
        self.await_registered(REGISTRATION).await;
        self.find_version(wanted).await
    }

    async fn find_version(&self, wanted: &Wanted<'_>) -> Result<(Datastore, Version)> {
        let datastore = match wanted.datastore.or(self.config.default_datastore.as_deref()) {
            Some(name) => self.store.get_datastore(name).await?.ok_or_else(|| no_datastore(name))?,
            None => only(&self.store.list_datastores().await?)?,
        };
        let version = pick(&datastore, wanted)?.clone();
        Ok((datastore, version))
    }
}

/// What an order says of datastore and version: names or ids.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted<'a> {
    pub(super) datastore: Option<&'a str>,
    pub(super) version: Option<&'a str>,
    pub(super) number: Option<&'a str>,
}

/// The only datastore of which something can be ordered.
fn only(datastores: &[Datastore]) -> Result<Datastore> {
    let mut orderable = datastores.iter().filter(|datastore| datastore.versions.iter().any(|version| version.active));
    match (orderable.next(), orderable.next()) {
        (Some(datastore), None) => Ok(datastore.clone()),
        _ => Err(Error::BadRequest("Please specify a datastore: there is no default datastore.".to_owned())),
    }
}

fn pick<'a>(datastore: &'a Datastore, wanted: &Wanted<'_>) -> Result<&'a Version> {
    let name = &datastore.name;
    let numbered = |version: &&Version| wanted.number.is_none_or(|number| version.number == number);
    let Some(version) = wanted.version else {
        let default = datastore.versions.iter().find(|version| Some(version.id) == datastore.default_version);
        return default
            .filter(numbered)
            .ok_or_else(|| Error::BadRequest(format!("Please specify a version of datastore {name}.")));
    };
    let named = |candidate: &&Version| candidate.name == version || candidate.id.to_string() == version;
    let mut found = datastore.versions.iter().filter(named).filter(numbered);
    match (found.next(), found.next()) {
        (Some(version), None) => Ok(version),
        (None, _) => Err(Error::BadRequest(no_version(version))),
        (Some(_), Some(_)) => Err(Error::BadRequest(format!(
            "Datastore {name} has several versions {}: please specify version_number, or the version by its id.",
            shown(version)
        ))),
    }
}

fn no_datastore(name: &str) -> Error {
    Error::NotFound(format!("Datastore {} cannot be found.", shown(name)))
}

fn no_version(name: &str) -> String {
    format!("Datastore version {} cannot be found.", shown(name))
}

#[cfg(test)]
mod tests;

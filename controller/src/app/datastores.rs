//! Datastores and their versions.

use super::App;
use super::names::shown;
use crate::error::{Error, Result};
use crate::ids::VersionId;
pub use crate::model::{Datastore, Version};

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
    /// All of them by name, without those of which the caller may see no version. One query.
    ///
    /// # Errors
    /// Internal only.
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

    /// The version that an order means. One query.
    ///
    /// # Errors
    /// 404 unknown datastore; 400 for the rest: none named and no default, unknown, ambiguous or inactive version.
    pub(super) async fn resolve_version(&self, wanted: &Wanted<'_>) -> Result<(Datastore, Version)> {
        let datastore = match wanted.datastore.or(self.config.default_datastore.as_deref()) {
            Some(name) => self.store.get_datastore(name).await?.ok_or_else(|| no_datastore(name))?,
            None => only(self.store.list_datastores().await?)?,
        };
        let version = pick(&datastore, wanted)?.clone();
        if version.active {
            return Ok((datastore, version));
        }
        Err(Error::BadRequest(format!("Datastore version {} is not active.", version.name)))
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
fn only(datastores: Vec<Datastore>) -> Result<Datastore> {
    let mut orderable =
        datastores.into_iter().filter(|datastore| datastore.versions.iter().any(|version| version.active));
    match (orderable.next(), orderable.next()) {
        (Some(datastore), None) => Ok(datastore),
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
            "Datastore {name} has several versions {}: please specify version_number.",
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

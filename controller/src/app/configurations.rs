//! Configuration groups: what a tenant makes, sees, changes and deletes. A change of a group's values reaches every
//! instance that has it, by an operation each, written in the transaction of the change.

use serde_json::{Map, Value};

use super::datastores::Wanted;
use super::submit::origin;
use super::visibility::no_configuration;
use super::{App, Page, PageRequest, names, parameters};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::ConfigurationId;
pub use crate::model::configurations::{Configuration, ParameterState, Values};
use crate::operations::apply_configuration;
use crate::state::Task;
pub use crate::store::configurations::Attached;
use crate::store::configurations::NewRow;
use crate::store::quota::Amounts;

/// Longest description, characters.
const DESCRIPTION: usize = 256;

/// A group to be made, checked for its form by the API; the rest is checked here.
#[derive(Clone, Debug, Default)]
pub struct NewConfiguration {
    pub name: String,
    pub description: Option<String>,
    /// By names of parameters in any case.
    pub values: Map<String, Value>,
    /// Name or id of a datastore.
    pub datastore: Option<String>,
    /// Name or id of a version.
    pub version: Option<String>,
    /// Number of a version, where several have one name.
    pub version_number: Option<String>,
}

/// What becomes of a group's values.
#[derive(Clone, Debug)]
pub enum NewValues {
    /// They are these alone.
    Replaced(Map<String, Value>),
    /// These are added, or take the place of those that were there; null takes one away.
    Merged(Map<String, Value>),
}

/// A change of a group; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ConfigurationChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub values: Option<NewValues>,
}

impl App {
    /// Makes a group.
    ///
    /// # Errors
    /// 400 names and version, 404 datastore, 413 quota; 422 names the parameter, the value and what is allowed.
    pub async fn create_configuration(&self, caller: &Caller, order: NewConfiguration) -> Result<Configuration> {
        names::check_text("name", &order.name)?;
        check_description(order.description.as_deref())?;
        let wanted = Wanted {
            datastore: order.datastore.as_deref(),
            version: order.version.as_deref(),
            number: order.version_number.as_deref(),
        };
        let (datastore, version) = self.resolve_any_version(&wanted).await?;
        let values = parameters::check(&self.parameters(&version).await?, &version.name, order.values)?;
        let row = NewRow {
            id: ConfigurationId::random(),
            project: caller.project.clone(),
            name: order.name,
            description: order.description,
            version: version.id,
            values,
        };
        let mut tx = self.store.begin().await?;
        let amounts = Amounts::configuration();
        self.store.take_quota(&mut tx, &caller.project, amounts, |resource| self.default_limit(resource)).await?;
        let created = self.store.insert_configuration(&mut tx, &row).await?;
        self.commit(tx, "create_configuration").await?;
        Ok(Configuration {
            id: row.id,
            project: row.project,
            name: row.name,
            description: row.description,
            version_id: version.id,
            version: version.name,
            version_number: version.number,
            datastore_id: datastore.id,
            datastore: datastore.name,
            values: row.values,
            instances: 0,
            created,
            updated: created,
        })
    }

    /// The caller's project's groups (all, for an admin), by id.
    pub async fn list_configurations(&self, caller: &Caller, page: PageRequest) -> Result<Page<Configuration>> {
        let project = (!caller.is_admin()).then_some(&caller.project);
        let limit = page.limit.saturating_add(1);
        let found = self.store.list_configurations(project, page.marker.as_deref(), limit).await?;
        Ok(Page::cut(found, page.limit, |configuration| configuration.id.to_string()))
    }

    /// One of the caller's project's groups (any, for an admin).
    ///
    /// # Errors
    /// 404.
    pub async fn get_configuration(&self, caller: &Caller, id: ConfigurationId) -> Result<Configuration> {
        let found = self.store.get_configuration(id).await?;
        found.filter(|found| is_visible(caller, found)).ok_or_else(|| no_configuration(id))
    }

    /// The instances that have a group, by id.
    ///
    /// # Errors
    /// 404.
    pub async fn list_configuration_instances(
        &self,
        caller: &Caller,
        id: ConfigurationId,
        page: PageRequest,
    ) -> Result<Page<Attached>> {
        self.get_configuration(caller, id).await?;
        let limit = page.limit.saturating_add(1);
        let found = self.store.list_configuration_instances(id, page.marker.as_deref(), limit).await?;
        Ok(Page::cut(found, page.limit, |attached| attached.instance.to_string()))
    }

    /// Changes a group. With new values, which may be those that it has, every instance that has the group is given them.
    ///
    /// # Errors
    /// 400 name and description; 404; 422 names the parameter, the value and what is allowed.
    pub async fn change_configuration(
        &self,
        caller: &Caller,
        request_id: &str,
        id: ConfigurationId,
        change: ConfigurationChange,
    ) -> Result<()> {
        if let Some(name) = &change.name {
            names::check_text("name", name)?;
        }
        check_description(change.description.as_deref())?;
        let version = self.get_configuration(caller, id).await?.version_id;
        let (_, version) = self.get_version_by_id(true, version).await?;
        let known = self.parameters(&version).await?;
        let mut tx = self.store.begin().await?;
        let found = self.store.configuration(&mut tx, id).await?;
        let mut configuration = found.filter(|found| is_visible(caller, found)).ok_or_else(|| no_configuration(id))?;
        configuration.name = change.name.unwrap_or(configuration.name);
        configuration.description = change.description.or(configuration.description);
        let applied = change.values.is_some();
        if let Some(values) = change.values {
            let before = configuration.values;
            configuration.values = values.of(before, |given| parameters::check(&known, &version.name, given))?;
        }
        self.store.change_configuration(&mut tx, &configuration).await?;
        if applied {
            for attached in self.store.attached_instances(&mut tx, id).await? {
                // What is being deleted, or was never made, takes no values any more.
                if !matches!(attached.task, Task::Deleting | Task::BuildingError) {
                    let origin = origin(caller, request_id, attached.instance, attached.project);
                    let operation = apply_configuration::new(origin)?;
                    self.store.enqueue(&mut tx, operation).await?;
                }
            }
        }
        self.commit(tx, "change_configuration").await
    }

    /// Deletes a group that no instance has.
    ///
    /// # Errors
    /// 400 while an instance has it; 404.
    pub async fn delete_configuration(&self, caller: &Caller, id: ConfigurationId) -> Result<()> {
        let mut tx = self.store.begin().await?;
        let found = self.store.configuration(&mut tx, id).await?;
        let configuration = found.filter(|found| is_visible(caller, found)).ok_or_else(|| no_configuration(id))?;
        if configuration.instances > 0 {
            return Err(Error::BadRequest(format!(
                "Configuration group {id} cannot be deleted: {} instances have it.",
                configuration.instances
            )));
        }
        self.store.delete_configuration(&mut tx, id).await?;
        self.store.count_use(&mut tx, &configuration.project, Amounts::configuration().negated()).await?;
        self.commit(tx, "delete_configuration").await
    }
}

impl NewValues {
    /// The values that a group has after the change.
    fn of(self, mut before: Values, check: impl Fn(Map<String, Value>) -> Result<Values>) -> Result<Values> {
        match self {
            Self::Replaced(mut given) => {
                parameters::unmask(&mut given, &before);
                check(given)
            }
            Self::Merged(mut given) => {
                parameters::unmask(&mut given, &before);
                let (gone, kept): (Map<_, _>, Map<_, _>) = given.into_iter().partition(|(_, value)| value.is_null());
                let changed = check(kept)?;
                for name in gone.keys() {
                    if changed.keys().any(|changed| changed.eq_ignore_ascii_case(name)) {
                        return Err(Error::Unprocessable(format!(
                            "The parameter {} is given twice.",
                            names::shown(name)
                        )));
                    }
                    let length = before.len();
                    before.retain(|known, _| !known.eq_ignore_ascii_case(name));
                    if before.len() == length {
                        return Err(Error::Unprocessable(format!(
                            "The parameter {} cannot be taken away: the configuration group does not set it.",
                            names::shown(name)
                        )));
                    }
                }
                before.extend(changed);
                Ok(before)
            }
        }
    }
}

pub(super) fn check_description(description: Option<&str>) -> Result<()> {
    let Some(text) = description else { return Ok(()) };
    if text.chars().count() <= DESCRIPTION && !text.contains('\0') {
        return Ok(());
    }
    Err(Error::BadRequest(format!("description is longer than {DESCRIPTION} characters, or contains NUL.")))
}

/// Whether a group is there for the caller.
pub(super) fn is_visible(caller: &Caller, configuration: &Configuration) -> bool {
    caller.is_admin() || caller.project == configuration.project
}

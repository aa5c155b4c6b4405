//! Databases of an instance. Questions go to the agent; changes are queued in order.

use trove_strategy::Capability;

use super::accounts::{NewDatabase, check_databases};
use super::instances::Accepted;
use super::names::{self, shown};
use super::readiness::{InstanceContext, answer};
use super::{App, Page, PageRequest, marker};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::operations::change_accounts::AccountChange;

pub(super) const CAPABILITY: Capability = Capability::Databases;

impl App {
    /// Databases by name, without the reserved ones.
    ///
    /// # Errors
    /// 404; 422 not ready, or the datastore has none.
    pub async fn list_databases(&self, caller: &Caller, id: InstanceId, page: PageRequest) -> Result<Page<String>> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        self.await_ready(&subject).await?;
        let mut names = self.database_names(&subject).await?;
        names.sort();
        let longest = subject.manifest.identity.databases.max_bytes;
        if let Some(marker) = &page.marker {
            let after = marker::name(marker, longest);
            names.retain(|name| *name > after);
        }
        Ok(Page::cut(names, page.limit, |name| marker::of(name, longest)))
    }

    /// Queues their creation.
    ///
    /// # Errors
    /// 400 name, duplicate or exists; 404; 422.
    pub async fn create_databases(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        mut databases: Vec<NewDatabase>,
    ) -> Result<Accepted> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        if databases.is_empty() {
            return Err(Error::BadRequest("databases is empty.".to_owned()));
        }
        check_databases(&subject.manifest, &mut databases)?;
        self.await_ready(&subject).await?;
        let present = self.database_names(&subject).await?;
        if let Some(twice) = databases.iter().find(|database| present.contains(&database.name)) {
            return Err(Error::BadRequest(format!("A database with the name {} already exists.", shown(&twice.name))));
        }
        let changes = databases.into_iter().map(|database| AccountChange::CreateDatabase(database.into())).collect();
        self.queue(caller, request_id, &subject, changes).await
    }

    /// Queues its removal.
    ///
    /// # Errors
    /// 400 reserved; 404; 422.
    pub async fn delete_database(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        name: &str,
    ) -> Result<Accepted> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        names::check(&subject.manifest.identity.databases, "Database", name)?;
        self.await_ready(&subject).await?;
        self.check_databases_exist(&subject, &[name]).await?;
        self.queue(caller, request_id, &subject, vec![AccountChange::DeleteDatabase(name.to_owned())]).await
    }

    /// The names that are not reserved, asked of the agent.
    pub(super) async fn database_names(&self, subject: &InstanceContext) -> Result<Vec<String>> {
        let id = subject.instance.id;
        let databases = answer(id, self.agents.list_databases(id).await)?;
        let rules = &subject.manifest.identity.databases;
        let names = databases.into_iter().map(|database| database.name);
        Ok(names.filter(|name| !rules.is_reserved(name)).collect())
    }

    /// # Errors
    /// 404 names the first that is not there.
    pub(super) async fn check_databases_exist(&self, subject: &InstanceContext, wanted: &[&str]) -> Result<()> {
        let present = self.database_names(subject).await?;
        match wanted.iter().find(|name| !present.iter().any(|present| present == *name)) {
            Some(missing) => Err(Error::NotFound(format!("Database {} cannot be found.", shown(missing)))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

//! What a project may have, and has.

use super::App;
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::ProjectId;
pub use crate::model::{Quota, Resource};

impl App {
    /// What the configuration allows a project of which nothing else is said.
    pub(super) fn default_limit(&self, resource: Resource) -> i64 {
        self.config.quota.limit(resource)
    }

    /// Every resource, in Trove's order. A project's own; any project's for administrators.
    ///
    /// # Errors
    /// 403.
    pub async fn quotas(&self, caller: &Caller, project: &ProjectId) -> Result<Vec<Quota>> {
        if !caller.is_admin() && caller.project != *project {
            return Err(Error::Forbidden("The quotas of another project are for administrators.".to_owned()));
        }
        self.store.quotas(project, |resource| self.default_limit(resource)).await
    }

    /// Sets limits of a project's own, all or none. What it has above them it keeps.
    ///
    /// # Errors
    /// 400 for less than -1, which is unlimited.
    pub async fn set_quotas(&self, project: &ProjectId, limits: &[(Resource, i64)]) -> Result<()> {
        if let Some((resource, limit)) = limits.iter().find(|(_, limit)| *limit < -1) {
            let resource = resource.tag();
            return Err(Error::BadRequest(format!(
                "The quota of {resource} is {limit}: it must be -1 (unlimited) or more."
            )));
        }
        let mut tx = self.store.begin().await?;
        for (resource, limit) in limits {
            self.store.set_quota(&mut tx, project, *resource, *limit).await?;
        }
        tx.commit().await.map_err(|error| Error::internal("commit the quotas of a project", error))
    }
}

#[cfg(test)]
mod tests;

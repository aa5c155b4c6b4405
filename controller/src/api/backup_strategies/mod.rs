//! Backup strategies: a label for each project, or one of its instances, which Trove's clients set and show. Where backups are
//! stored is the operator's matter.

pub(super) mod create;
pub(super) mod delete;
pub(super) mod list;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::http::auth::Authorized;
use crate::app::backups::BackupStrategy;
use crate::error::{Error, Result};
use crate::ids::ProjectId;

/// A backup strategy.
#[derive(Serialize, ToSchema)]
pub(super) struct StrategyView {
    project_id: String,
    /// Empty: all instances that have none of their own.
    instance_id: String,
    backend: &'static str,
    swift_container: String,
}

impl From<&BackupStrategy> for StrategyView {
    fn from(strategy: &BackupStrategy) -> Self {
        Self {
            project_id: strategy.project.0.clone(),
            instance_id: strategy.instance.map(|id| id.to_string()).unwrap_or_default(),
            backend: "swift",
            swift_container: strategy.swift_container.clone(),
        }
    }
}

#[derive(Deserialize, IntoParams)]
pub(super) struct Wanted {
    /// The strategy of this instance.
    instance_id: Option<String>,
    /// Of another project; for administrators.
    project_id: Option<String>,
}

impl Wanted {
    /// The project whose strategies are meant.
    fn project(&self, authorized: &Authorized) -> Result<ProjectId> {
        let own = &authorized.caller.project;
        match self.project_id.clone().map(ProjectId).filter(|project| project != own) {
            None => Ok(own.clone()),
            Some(other) if authorized.caller.is_admin() => Ok(other),
            Some(_) => {
                Err(Error::Forbidden("The backup strategies of another project are for administrators.".to_owned()))
            }
        }
    }
}

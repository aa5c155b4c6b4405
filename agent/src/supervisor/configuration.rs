//! What the engine is configured with: the assignment in force.

use std::collections::BTreeMap;

use tracing::warn;
use trove_strategy::{Applied, EngineError, Settings, StartMode, StartSpec};

use super::Owner;
use crate::assignment::{Assigned, engine_settings};
use crate::volume::Room;

impl Owner {
    /// What the assignment in force says; `None` when it was lost.
    pub(super) fn settings(&self) -> Result<Option<Settings>, EngineError> {
        let assigned = self.parts.assignments.assigned();
        let Assigned { generation, specification } = &*assigned.borrow();
        if *generation == 0 {
            return Ok(None);
        }
        engine_settings(specification, self.room != Room::Enough).map(Some)
    }

    /// What is run. Without an assignment, what follows from the size alone.
    pub(super) fn start_spec(&self, mode: StartMode) -> Result<StartSpec, EngineError> {
        Ok(self.parts.start_spec(&self.settings()?.unwrap_or_default(), mode))
    }

    pub(super) async fn configure(&mut self) -> Result<(), EngineError> {
        let Some(settings) = self.settings()? else {
            // It was lost. What was written by it last is nearer to it than what nobody has chosen.
            warn!("the engine keeps its configuration until the controller has sent the assignment again");
            return Ok(());
        };
        let (datastore, site) = (&self.parts.datastore, &self.parts.site);
        if let Some(parameters) = datastore.parameters().filter(|_| !settings.parameters.is_empty()) {
            parameters.check(site, &settings.parameters).await?;
        }
        let certificate = self.parts.assignments.assigned().borrow().specification.certificate.clone();
        crate::certificate::write_certificate(site, certificate.as_ref()).await?;
        datastore.engine().configure(site, &settings).await
    }

    pub(super) async fn apply(&mut self) -> Result<BTreeMap<String, Applied>, EngineError> {
        if self.process.is_none() {
            return Ok(BTreeMap::new());
        }
        self.configure().await?;
        let Some(settings) = self.settings()? else { return Ok(BTreeMap::new()) };
        let (datastore, site) = (&self.parts.datastore, &self.parts.site);
        datastore.engine().reload(site, &settings).await?;
        match datastore.parameters() {
            Some(parameters) => parameters.apply(site, &settings).await,
            None => Ok(BTreeMap::new()),
        }
    }
}

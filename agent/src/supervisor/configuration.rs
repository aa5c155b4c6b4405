//! What the engine is configured with: the assignment in force.

use std::collections::BTreeMap;

use tracing::warn;
use trove_strategy::{Applied, EngineError, Kind, Settings, StartMode, StartSpec};

use super::{Owner, pass};
use crate::assignment::{Assigned, engine_settings};
use crate::volume::Room;

impl Owner {
    /// What the assignment in force says, with the parameters that are in force instead of such as were taken back; `None` when
    /// it was lost.
    pub(super) fn settings(&self) -> Result<Option<Settings>, EngineError> {
        let assigned = self.parts.assignments.assigned();
        let Assigned { generation, specification } = &*assigned.borrow();
        if *generation == 0 {
            return Ok(None);
        }
        let mut settings = engine_settings(specification, self.room != Room::Enough)?;
        if let Some(instead) = self.parameter_record.instead_of(&settings.parameters) {
            settings.parameters = instead.clone();
        }
        Ok(Some(settings))
    }

    /// What is run. Without an assignment, what follows from the size alone.
    pub(super) fn start_spec(&self, mode: StartMode) -> Result<StartSpec, EngineError> {
        Ok(self.parts.start_spec(&self.settings()?.unwrap_or_default(), mode))
    }

    pub(super) async fn configure(&mut self) -> Result<(), EngineError> {
        let Some(mut settings) = self.settings()? else {
            // It was lost. What was written by it last is nearer to it than what nobody has chosen.
            warn!("the engine keeps its configuration until the controller has sent the assignment again");
            return Ok(());
        };
        let (datastore, site) = (self.parts.datastore.clone(), self.parts.site());
        if let Some(parameters) = datastore.parameters().filter(|_| !settings.parameters.is_empty()) {
            match parameters.check(&site, &settings.parameters).await {
                Err(refused) if refused.kind() == Kind::Invalid && self.take_back(&refused)? => {
                    settings = self.settings()?.unwrap_or_default();
                }
                checked => checked?,
            }
        }
        pass("agent.parameters.after_check")?;
        let certificate = self.parts.assignments.assigned().borrow().specification.certificate.clone();
        crate::certificate::write_certificate(&site, certificate.as_ref()).await?;
        datastore.engine().configure(&site, &settings).await?;
        pass("agent.parameters.after_write")?;
        self.configured = Some(settings.parameters);
        Ok(())
    }

    pub(super) async fn apply(&mut self) -> Result<BTreeMap<String, Applied>, EngineError> {
        if self.starting.is_some() || (self.process.is_none() && self.wanted && self.room != Room::Over) {
            // A start reads the configuration as it was written before it, and what came since is told afterwards.
            return Err(EngineError::new(Kind::Transient, "the engine does not answer yet"));
        }
        if self.process.is_none() {
            return Ok(BTreeMap::new());
        }
        self.configure().await?;
        let Some(settings) = self.settings()? else { return Ok(BTreeMap::new()) };
        let (datastore, site) = (&self.parts.datastore, &self.parts.site());
        datastore.engine().reload(site, &settings).await?;
        pass("agent.parameters.after_reload")?;
        let became = match datastore.parameters() {
            Some(parameters) => parameters.apply(site, &settings).await?,
            None => BTreeMap::new(),
        };
        pass("agent.parameters.after_apply")?;
        self.record_applied(&settings.parameters, became)
    }
}

//! A datastore whose engine never runs, for tests of the other parts of an agent.

use std::net::Ipv4Addr;
use std::path::Path;

use async_trait::async_trait;
use trove_strategy::{
    Datastore, Engine, EngineError, FirstStart, Health, Host, Identity, Installation, Kind, Metric, Places, RealHost,
    Settings, Site, Size, StartMode, StartSpec,
};

use crate::testing::store::manifest;

/// A datastore without an engine. The agent's supervisor has nothing to start.
pub(crate) struct NoEngine;

impl NoEngine {
    fn installation() -> Installation {
        Installation::new("1", "1", "/nowhere")
    }
}

#[async_trait]
impl Datastore for NoEngine {
    fn identity(&self) -> Identity {
        manifest().identity
    }

    async fn installations(&self, _host: &dyn Host, _bindir: Option<&Path>) -> Result<Vec<Installation>, EngineError> {
        Ok(vec![Self::installation()])
    }

    fn engine(&self) -> &dyn Engine {
        self
    }
}

#[async_trait]
impl Engine for NoEngine {
    async fn initialise(&self, _site: &Site) -> Result<FirstStart, EngineError> {
        Ok(FirstStart::Normal)
    }

    async fn configure(&self, _site: &Site, _settings: &Settings) -> Result<(), EngineError> {
        Ok(())
    }

    fn start_spec(&self, _site: &Site, _settings: &Settings, _mode: StartMode) -> StartSpec {
        StartSpec::new("/nowhere/engine", Vec::new())
    }

    async fn secure(&self, _site: &Site) -> Result<(), EngineError> {
        Ok(())
    }

    async fn probe(&self, _site: &Site) -> Result<Health, EngineError> {
        Err(EngineError::new(Kind::Transient, "there is no engine"))
    }

    async fn metrics(&self, _site: &Site) -> Result<Vec<Metric>, EngineError> {
        Ok(Vec::new())
    }

    async fn reload(&self, _site: &Site, _settings: &Settings) -> Result<(), EngineError> {
        Ok(())
    }
}

/// The site of the engine.
pub(crate) fn site(directory: &Path, host: &RealHost, size: Size) -> Site {
    let at = || directory.to_owned();
    let places = Places { data: at(), config: at(), run: at(), log: at(), secrets: at() };
    Site::new(NoEngine::installation(), places, Ipv4Addr::LOCALHOST.into(), 1, size, host)
}

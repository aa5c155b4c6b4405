//! The guest agent: enrols, dials its controllers and serves them on that connection, and keeps one engine.
//!
//! [`Agent`] is the whole program but for the list of datastores, so that an out-of-tree program is a `main` of ten
//! lines. One task owns the engine ([`supervisor`]); jobs ([`jobs`], recorded in [`journal`]) ask it and wait.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant files and look at them"))]

pub mod assignment;
pub mod bounded;
mod certificate;
mod cli;
pub mod config;
pub mod dial;
pub mod durable;
pub mod engine_log;
pub mod enrol;
pub mod guest;
pub mod identity;
pub mod jobs;
pub mod journal;
pub mod lanes;
mod leftovers;
pub mod link;
pub mod manifest;
pub mod process;
pub mod run;
pub mod service;
pub mod status;
pub mod supervisor;
mod unlinked;
pub mod volume;
pub mod work;

use std::sync::Arc;

use trove_strategy::Datastore;

/// The agent's program: the datastores that it can run.
#[derive(Clone, Default)]
pub struct Agent {
    datastores: Vec<Arc<dyn Datastore>>,
}

impl Agent {
    /// Without any datastore.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    #[must_use]
    pub fn with(mut self, datastore: impl Datastore + 'static) -> Self {
        self.datastores.push(Arc::new(datastore));
        self
    }

    /// All of them.
    pub fn datastores(&self) -> &[Arc<dyn Datastore>] {
        &self.datastores
    }

    /// The one of this name.
    pub fn datastore(&self, name: &str) -> Option<Arc<dyn Datastore>> {
        self.datastores.iter().find(|datastore| datastore.identity().name == name).cloned()
    }

    /// Does what the command line says.
    pub fn main(self) -> std::process::ExitCode {
        cli::main(self)
    }
}

//! The guest agent. It enrols, connects to its controllers, serves their calls on these connections, and runs one
//! engine.
//!
//! [`Agent`] is the whole program except the list of datastores, so a program with other datastores is a `main` of ten
//! lines. One task owns the engine's process ([`supervisor`]); jobs ([`jobs`], recorded in [`journal`]) send it
//! requests.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant files and look at them"))]

pub mod assignment;
pub mod backup;
pub mod bounded;
mod certificate;
mod cli;
pub mod config;
pub mod dial;
pub mod durable;
pub mod enrol;
mod first_boot;
mod freeze;
pub mod guest;
pub mod identity;
mod init;
pub mod jobs;
pub mod journal;
pub mod lanes;
mod leftovers;
pub mod link;
pub mod logs;
pub mod manifest;
pub mod objects;
pub mod output_log;
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

/// The agent's program, with the datastores that it can run.
#[derive(Clone, Default)]
pub struct Agent {
    datastores: Vec<Arc<dyn Datastore>>,
}

impl Agent {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a datastore.
    #[must_use]
    pub fn with(mut self, datastore: impl Datastore + 'static) -> Self {
        self.datastores.push(Arc::new(datastore));
        self
    }

    pub fn datastores(&self) -> &[Arc<dyn Datastore>] {
        &self.datastores
    }

    pub fn datastore(&self, name: &str) -> Option<Arc<dyn Datastore>> {
        self.datastores.iter().find(|datastore| datastore.identity().name == name).cloned()
    }

    /// Parses the command line and runs it.
    pub fn main(self) -> std::process::ExitCode {
        cli::main(self)
    }
}

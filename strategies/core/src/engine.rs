//! What every engine can do. The agent starts, stops and watches; the engine says what and how.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::command::Signal;
use crate::error::EngineError;
use crate::site::{Site, Size};

/// Why the engine is started, which decides where it listens and what it does first. There will be more: whatever is not
/// [`StartMode::Normal`] is for the agent alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartMode {
    /// For tenants: listens on the site's address.
    Normal,
    /// For the agent alone: no network listener at all, only the private socket.
    Private,
}

/// What the agent runs. The program stays in the foreground; its output goes to a file of the agent's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StartSpec {
    /// The server program's whole path.
    pub program: PathBuf,
    /// Its arguments; no secret among them.
    pub args: Vec<String>,
    /// The environment, whole; no secret in it.
    pub env: Vec<(String, String)>,
    /// The signal that asks it to end in an orderly and quick way.
    pub stop: Signal,
    /// After this long the agent kills what is left of it.
    pub stop_deadline: Duration,
    /// How long a start may take, crash recovery included, before it counts as failed.
    pub start_deadline: Duration,
}

impl StartSpec {
    /// A program that SIGTERM stops within a minute, and that answers within ten.
    pub fn new(program: impl Into<PathBuf>, args: Vec<String>) -> Self {
        Self {
            program: program.into(),
            args,
            env: Vec::new(),
            stop: Signal::Terminate,
            stop_deadline: Duration::from_secs(60),
            start_deadline: Duration::from_secs(600),
        }
    }
}

/// What the first start needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstStart {
    /// The data directory is secure as it is: the next start may be a normal one.
    Normal,
    /// The agent's account has yet to be made: start privately, call [`Engine::secure`], stop, start normally.
    Private,
}

/// How connections are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Offered from the first start; a plain TCP connection with a password is accepted too.
    #[default]
    Basic,
    /// Plain TCP is refused.
    Enforced,
}

/// What the configuration is made of besides the site.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// How connections are encrypted.
    pub tls: TlsMode,
    /// Values that an operator or a tenant chose, by the engine's own names; they win over what the size suggests.
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// The volume is full: tenants' sessions begin read-only, and what makes room, such as deleting, stays possible.
    pub read_only: bool,
}

/// What an engine is in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts writes.
    Primary,
    /// Follows a primary.
    Replica,
}

/// The answer of an engine that answers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Health {
    /// What it is in a set.
    pub role: Role,
    /// The version that the running server reports.
    pub version: String,
    /// How far its log has come; opaque outside the strategy.
    pub position: Option<String>,
    /// How far a replica is behind, seconds.
    pub lag_s: Option<f64>,
}

impl Health {
    /// Of a server that follows no other.
    pub fn new(version: impl Into<String>) -> Self {
        Self { role: Role::Primary, version: version.into(), position: None, lag_s: None }
    }
}

/// One number that the engine knows about itself.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// Snake case with the unit as its last word, in the manner of Prometheus: `connections`, `commits_total`.
    pub name: &'static str,
    /// The value.
    pub value: f64,
}

impl Metric {
    /// A number and its name.
    pub fn new(name: &'static str, value: f64) -> Self {
        Self { name, value }
    }
}

/// An engine family's required verbs. Every call may be repeated after a crash at any point of an earlier one.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Makes the data directory, or finds it made. What a crash left half done is removed first. No server answers a
    /// client without authentication at any moment.
    async fn initialise(&self, site: &Site) -> Result<FirstStart, EngineError>;

    /// Writes the configuration files from the site and the settings; called before every start and at each change.
    async fn configure(&self, site: &Site, settings: &Settings) -> Result<(), EngineError>;

    /// What to run. Pure. What the engine takes from its command line follows from the settings; [`Engine::configure`] has
    /// seen them before and refused what it cannot take.
    fn start_spec(&self, site: &Site, settings: &Settings, mode: StartMode) -> StartSpec;

    /// Removes what an earlier life of the engine left and what would hinder a start, such as a file with a process id that
    /// may be another's by now. Called before every start, when no process works in the data directory.
    async fn forget_earlier_life(&self, _site: &Site) -> Result<(), EngineError> {
        Ok(())
    }

    /// Makes the agent's account on the privately started server and verifies that no other can come in. Only called
    /// when [`Engine::initialise`] answered [`FirstStart::Private`].
    async fn secure(&self, site: &Site) -> Result<(), EngineError>;

    /// Puts right what an all-powerful account of a tenant's changed so that the engine does not start, or does not let
    /// the agent in as its own account with all its rights ([`crate::Kind::LockedOut`]). Called while the engine does not
    /// run. Answers what it mended, for a person, or `None` when it found nothing to mend.
    async fn repair(&self, _site: &Site) -> Result<Option<String>, EngineError> {
        Ok(None)
    }

    /// Asks the running server a real question as the agent's account. [`crate::Kind::Transient`] while it starts;
    /// under 2 s always.
    async fn probe(&self, site: &Site) -> Result<Health, EngineError>;

    /// Asks the running server for its numbers; under 2 s.
    async fn metrics(&self, site: &Site) -> Result<Vec<Metric>, EngineError>;

    /// Makes the running server take up certificate files, the TLS mode and [`Settings::read_only`] after
    /// [`Engine::configure`] wrote them, and verifies that it did. Parameters are taken up by
    /// [`crate::Parameters::apply`].
    async fn reload(&self, site: &Site, settings: &Settings) -> Result<(), EngineError>;

    /// Whether what the running server holds now has room in another size, which is asked before it is changed.
    /// [`crate::Kind::Invalid`] with the figures when it has not. An engine whose memory is no bound of its data keeps
    /// this.
    async fn fits(&self, _site: &Site, _size: Size) -> Result<(), EngineError> {
        Ok(())
    }
}

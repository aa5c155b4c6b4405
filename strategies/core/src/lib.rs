//! What the author of a datastore writes against.
//!
//! A datastore is one crate with one value that implements [`Datastore`]. It says *what* to run and how to ask the
//! engine; the agent *does*: processes, users, files, retries and time limits live in the agent, behind [`Host`].
//! Read the modules in this order: [`datastore`], [`site`], [`engine`], [`capability`], [`manifest`],
//! [`location`], [`command`], [`host`], [`stream`].

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant files and look at them"))]

pub mod beneath;
pub mod calls;
pub mod capability;
pub mod command;
pub mod datastore;
pub mod domain;
pub mod engine;
pub mod error;
pub mod failpoint;
pub mod host;
pub mod location;
pub mod manifest;
pub mod password;
pub mod process;
pub mod real_host;
pub mod recording;
pub mod relay;
pub mod site;
pub mod stream;

pub use capability::{
    Applied, Backup, Database, Databases, Grantee, Incremental, LogPiece, Logs, NewUser, PIECE_LIMIT, Parameters,
    PourError, Root, Sink, Source, Taken, User, UserChange, Users, pour,
};
pub use command::{Command, Output, Signal};
pub use datastore::{Client, Datastore, Identity, NameRules, UserTraits};
pub use engine::{Engine, FirstStart, Health, Metric, Role, Settings, StartMode, StartSpec, TlsMode};
pub use error::{EngineError, HostError, Kind};
pub use host::{File, Host, Piece};
pub use location::{Directory, Location, Owner};
pub use manifest::{
    Capability, CharacterSet, Described, INTERFACE, Manifest, ManifestError, Parameter, ParameterType, character_set,
    check_interface,
};
pub use password::PasswordRules;
pub use real_host::{Account, Confinement, Places, RealHost, Trusted};
pub use relay::Relay;
pub use secrecy::{ExposeSecret, SecretString};
pub use site::{Installation, Site, Size, TlsFiles};
pub use stream::{InputStream, OutputStream};

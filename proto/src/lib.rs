//! The wire contract between the controller and its agents: generated from `trove/agent/v1/*.proto`, where every field
//! is documented.

#![warn(missing_docs)]

pub mod backup;
mod secrets;

pub use secrets::without_secrets;

/// Version 1 of the contract.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("trove.agent.v1");
}

include!(concat!(env!("OUT_DIR"), "/debug.rs"));

/// The name under which a connection to the agents' port asks for enrolment.
pub const ALPN_ENROL: &[u8] = b"trove-enrol/1";

/// The name under which a connection to the agents' port becomes the reverse channel.
pub const ALPN_AGENT: &[u8] = b"trove-agent/1";

/// The name under which a connection to the agents' port serves the objects of backups to agents.
pub const ALPN_OBJECTS: &[u8] = b"trove-objects/1";

/// The server name that an agent asks for, whatever address it dials.
pub const CONTROLLER_NAME: &str = "controller";

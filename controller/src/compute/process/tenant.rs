//! Which account and which address a host has, as it was written down for its agent.

#![allow(clippy::disallowed_methods, reason = "what lies right in a host's directory is this account's")]

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::Deserialize;
use trove_strategy::process::if_there;

use crate::ids::InstanceId;

/// The agent's configuration, by which a host can be started.
pub(super) const WHOLE: &str = "agent.toml";
/// The same of one that was stopped: its address stays its own.
pub(super) const WITHDRAWN: &str = "agent.toml.withdrawn";
/// All ports of its engine, one a line, in a file of their own: agents of before refuse a configuration that says more than
/// they know. Hosts of before have none until they are started again.
pub(super) const PORTS: &str = "ports";

/// A host among others on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) instance: InstanceId,
    /// The account of its engine.
    pub(super) uid: u32,
    /// Where its engine listens; `None` where that is no IPv4 address, which this driver gives to nobody.
    pub(super) address: Option<Ipv4Addr>,
    /// The ports that are its engine's there.
    pub(super) ports: Vec<u16>,
}

#[derive(Deserialize)]
struct Written {
    instance_id: InstanceId,
    engine_uid: Option<u32>,
    address: IpAddr,
    port: u16,
}

impl Tenant {
    /// The host in this directory; `None` for one that was not written down yet, or has no account.
    pub(super) fn in_directory(host: &Path) -> io::Result<Option<Self>> {
        for name in [WHOLE, WITHDRAWN] {
            let file = host.join(name);
            let Some(text) = if_there(fs::read_to_string(&file))? else { continue };
            let written: Written =
                toml::from_str(&text).map_err(|error| io::Error::other(format!("read {}: {error}", file.display())))?;
            let address = match written.address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            };
            let file = host.join(PORTS);
            let text = if_there(fs::read_to_string(&file))?;
            let ports = text.map(|text| text.lines().map(str::parse).collect::<Result<Vec<u16>, _>>()).transpose();
            let ports = ports.map_err(|error| io::Error::other(format!("read {}: {error}", file.display())))?;
            let ports = ports.unwrap_or_else(|| vec![written.port]);
            return Ok(written.engine_uid.map(|uid| Self { instance: written.instance_id, uid, address, ports }));
        }
        Ok(None)
    }
}

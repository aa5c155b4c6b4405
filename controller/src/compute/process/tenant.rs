//! Account, address and ports of a host, read from the files that were written for its agent.

#![allow(clippy::disallowed_methods, reason = "what lies right in a host's directory is this account's")]

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::Deserialize;
use trove_strategy::process::if_there;

use crate::ids::InstanceId;

/// File of the agent's configuration. The host is started only if it exists.
pub(super) const WHOLE: &str = "agent.toml";
/// Name of that file while the host is stopped. Its address stays reserved.
pub(super) const WITHDRAWN: &str = "agent.toml.withdrawn";
/// File with all ports of the engine, one per line. It is separate because older agents refuse unknown options in their
/// configuration. Hosts of older versions have no such file until they are started again.
pub(super) const PORTS: &str = "ports";

/// Account and addresses of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) instance: InstanceId,
    /// User id of the engine.
    pub(super) uid: u32,
    /// Address of the engine; `None` if it is not IPv4, which this driver never assigns.
    pub(super) address: Option<Ipv4Addr>,
    /// Ports of the engine.
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
    /// Reads the files of the host in this directory. `None` if it has no configuration yet, or no account.
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

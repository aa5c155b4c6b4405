//! The configuration files: functions of the site and the settings. They lie outside the data directory, and are JSON, which is
//! YAML too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use trove_strategy::{Directory, EngineError, File, Kind, Location, Owner, Settings, Site, Size, TlsMode};

use crate::client::{random_password, socket};
use crate::known::{self, Place};

/// The name of the set of which the server is a member from its first normal start on.
pub(crate) const SET: &str = "trove";

/// The option that the server's memory follows from.
const CACHE: &str = "storage.wiredTiger.engineConfig.cacheSizeGB";

/// The least that the server takes for its cache.
const LEAST_CACHE_GB: f64 = 0.25;
/// The least room for the log of writes that replicas and points in time need, MiB.
const LEAST_OPLOG_MIB: u64 = 64;
const MOST_OPLOG_MIB: u64 = 51_200;
const PEM_BYTES: u64 = 1 << 20;

/// The server program.
pub(crate) fn program(site: &Site) -> PathBuf {
    site.installation.bindir.join("mongod")
}

/// What a server is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For tenants.
    Normal,
    /// For the agent alone.
    Private,
    /// For the agent alone, which nobody has to be let in as.
    Repair,
    /// The same, for data that is being made of a backup.
    Restore,
}

impl Purpose {
    pub(crate) fn file(self) -> Location {
        Directory::Config.join(match self {
            Self::Normal => "mongod.conf",
            Self::Private => "private.conf",
            Self::Repair => "repair.conf",
            Self::Restore => "restore.conf",
        })
    }

    /// As errors say it.
    pub(crate) fn attempt(self) -> &'static str {
        match self {
            Self::Normal | Self::Private => "start",
            Self::Repair => "repair",
            Self::Restore => "restore a backup",
        }
    }
}

/// The server wants its certificate and the key in one file.
pub(crate) fn pem() -> Location {
    Directory::Config.join("server-both.pem")
}

/// The secret that members of a set share. The server wants to own it: on the volume, and of this member alone.
fn key_file() -> Location {
    Directory::Data.join("keyfile")
}

/// Says whether the volume is full.
fn room_file() -> Location {
    Directory::Config.join("room")
}

/// Memory for the server's cache: as much again is needed for sorting, joining and connections, and for the file system's.
fn cache_gb(size: Size) -> f64 {
    let mib = u32::try_from(size.memory_mib).unwrap_or(u32::MAX);
    let gb = f64::from(mib) * 0.4 / 1024.0;
    (gb * 100.0).floor().max(LEAST_CACHE_GB * 100.0) / 100.0
}

/// What the size gives an option that a tenant may set too.
pub(crate) fn sized(name: &str, size: Size) -> Option<Value> {
    (name == CACHE).then(|| json!(cache_gb(size)))
}

/// How others, and the server itself, reach the server.
pub(crate) fn host(site: &Site) -> String {
    std::net::SocketAddr::new(site.address, site.port).to_string()
}

/// What follows from the site and the size, by the engine's names of options in its file.
fn options(site: &Site, tls: TlsMode, purpose: Purpose) -> BTreeMap<&'static str, Value> {
    let path = |at: &Location| Value::from(site.path(at).to_string_lossy().into_owned());
    let own_socket = path(&socket(site));
    let mode = if tls == TlsMode::Enforced { "requireTLS" } else { "preferTLS" };
    let oplog = (site.size.volume_gib * 1024 / 20).clamp(LEAST_OPLOG_MIB, MOST_OPLOG_MIB);
    let mut all = BTreeMap::from([
        ("processManagement.fork", json!(false)),
        ("net.port", json!(site.port)),
        ("net.ipv6", json!(site.address.is_ipv6())),
        ("net.unixDomainSocket.enabled", json!(true)),
        ("net.unixDomainSocket.pathPrefix", json!(site.run.to_string_lossy())),
        ("net.unixDomainSocket.filePermissions", json!(0o700)),
        // Where others have taken all connections there is still one for the agent.
        ("net.maxIncomingConnectionsOverride", json!([own_socket.clone()])),
        ("net.tls.mode", json!(mode)),
        ("net.tls.certificateKeyFile", path(&pem())),
        ("net.tls.CAFile", path(&site.tls.authority)),
        ("net.tls.allowConnectionsWithoutCertificates", json!(true)),
        ("net.tls.disabledProtocols", json!("TLS1_0,TLS1_1")),
        ("storage.dbPath", json!(site.data.to_string_lossy())),
        (CACHE, json!(cache_gb(site.size))),
        ("setParameter.diagnosticDataCollectionEnabled", json!(false)),
        ("setParameter.authenticationMechanisms", json!("SCRAM-SHA-256")),
    ]);
    let own = match purpose {
        Purpose::Normal => vec![
            ("net.bindIp", json!(site.address.to_string())),
            ("security.authorization", json!("enabled")),
            ("security.keyFile", path(&key_file())),
            ("replication.replSetName", json!(SET)),
            ("replication.oplogSizeMB", json!(oplog)),
            ("setParameter.enableLocalhostAuthBypass", json!(false)),
        ],
        // Only who reaches the socket could use that the first account may be made without a login.
        Purpose::Private => vec![("net.bindIp", own_socket), ("security.authorization", json!("enabled"))],
        Purpose::Repair => vec![
            ("net.bindIp", own_socket),
            ("security.authorization", json!("disabled")),
            ("systemLog.quiet", json!(true)),
        ],
        // Nothing expires before all of it is there. It says a line for each collection, and more than that nobody reads.
        Purpose::Restore => vec![
            ("net.bindIp", own_socket),
            ("security.authorization", json!("disabled")),
            ("storage.dbPath", path(&crate::backup::unfinished())),
            ("setParameter.ttlMonitorEnabled", json!(false)),
            ("systemLog.destination", json!("file")),
            ("systemLog.path", json!("/dev/null")),
            ("systemLog.logAppend", json!(true)),
        ],
    };
    all.extend(own);
    all
}

/// The options as the file nests them. Names of parameters have no dots.
fn nested(options: impl IntoIterator<Item = (String, Value)>) -> Value {
    fn put(map: &mut Map<String, Value>, name: &str, value: Value) {
        match name.split_once('.') {
            Some((outer, inner)) => {
                let below = map.entry(outer).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(below) = below {
                    put(below, inner, value);
                }
            }
            None => drop(map.insert(name.to_owned(), value)),
        }
    }
    let mut all = Map::new();
    for (name, value) in options {
        put(&mut all, &name, value);
    }
    Value::Object(all)
}

/// The text of a file.
pub(crate) fn text(site: &Site, settings: &Settings, purpose: Purpose) -> Result<String, EngineError> {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    all.extend(options(site, settings.tls, purpose).into_iter().map(|(name, value)| (name.to_owned(), value)));
    for (known, value) in known::chosen(&settings.parameters)? {
        // What was chosen must not keep a server that mends from starting.
        if purpose != Purpose::Normal {
            continue;
        }
        match known.place {
            Place::File => all.insert(known.name.to_owned(), value),
            Place::Parameter => all.insert(format!("setParameter.{}", known.name), value),
        };
    }
    Ok(format!("# Written by the agent; changes are lost.\n{:#}\n", nested(all)))
}

/// Writes all files.
pub(crate) async fn write(site: &Site, settings: &Settings) -> Result<(), EngineError> {
    for purpose in [Purpose::Normal, Purpose::Private, Purpose::Repair] {
        let contents = text(site, settings, purpose)?.into_bytes();
        site.host.write(File { at: purpose.file(), contents, mode: 0o640, owner: Owner::Agent }).await?;
    }
    let room = if settings.read_only { "full" } else { "enough" };
    site.host.write(File { at: room_file(), contents: room.into(), mode: 0o640, owner: Owner::Agent }).await?;
    if !site.host.exists(&key_file()).await? {
        use secrecy::ExposeSecret;
        let contents = random_password().expose_secret().as_bytes().to_vec();
        site.host.write(File { at: key_file(), contents, mode: 0o400, owner: Owner::Engine }).await?;
    }
    write_pem(site).await
}

/// Writes what a server needs that makes data of a backup; the other files may not be there yet.
pub(crate) async fn write_for_restore(site: &Site) -> Result<(), EngineError> {
    let contents = text(site, &Settings::default(), Purpose::Restore)?.into_bytes();
    site.host.write(File { at: Purpose::Restore.file(), contents, mode: 0o640, owner: Owner::Agent }).await?;
    write_pem(site).await
}

/// Writes certificate and key into one file.
pub(crate) async fn write_pem(site: &Site) -> Result<(), EngineError> {
    let mut both = Vec::new();
    for at in [&site.tls.certificate, &site.tls.key] {
        let missing = || EngineError::new(Kind::Fatal, format!("read {at}: it is not there"));
        both.extend(site.host.read(at, PEM_BYTES).await?.ok_or_else(missing)?);
        both.push(b'\n');
    }
    Ok(site.host.write(File { at: pem(), contents: both, mode: 0o640, owner: Owner::Agent }).await?)
}

/// Whether the volume is full, as the configuration says.
pub(crate) async fn is_full(site: &Site) -> Result<bool, EngineError> {
    Ok(site.host.read(&room_file(), 16).await?.is_some_and(|room| room == b"full"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_nested_by_their_names() {
        let flat = [("a.b.c", json!(1)), ("a.b.d", json!("x: \"y\"\n")), ("e", json!(true))];
        let nested = nested(flat.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(nested, json!({"a": {"b": {"c": 1, "d": "x: \"y\"\n"}}, "e": true}));
    }

    #[test]
    fn the_cache_has_a_part_of_the_memory() {
        let size = |memory_mib| Size { memory_mib, vcpus: 1, volume_gib: 1 };
        for (memory, gb) in [(256, 0.25), (512, 0.25), (1024, 0.4), (4096, 1.6), (16384, 6.4)] {
            assert!((cache_gb(size(memory)) - gb).abs() < 1e-9, "{memory}: {}", cache_gb(size(memory)));
        }
    }
}

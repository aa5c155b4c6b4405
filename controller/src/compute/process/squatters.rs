//! Kills squatters: processes of an instance that have bound the address of another instance, whose engine then cannot
//! start, or an address of the controller.
//!
//! Listening sockets are found in /proc/net/tcp, which is cheap and done periodically. To find the process that has a
//! socket, the sockets of all processes of the account are duplicated (`pidfd_getfd`) to get their addresses; of all
//! instances' accounts, if an address is taken although nothing listens on it, or if no process of the account that made
//! the socket has it. (Engines that were started before there were Landlock domains could pass each other sockets.) If no
//! process is found this way, sock_diag tells which account owns the socket ([`diag`]), and all processes of that
//! account are killed.

#![allow(clippy::disallowed_methods, reason = "/proc")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead as _, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};
use rustix::process::Signal;
use trove_strategy::process::if_there;

use super::cgroup::Part;
use super::diag;
use super::host::Hosts;
use super::kill::strike;
use super::system::{self, ProcessId};
use super::tenant::Tenant;
use crate::compute::Squatter;

/// After so many rounds all processes of an account that still has the address are killed.
const ROUNDS: usize = 3;
/// How long to wait for a killed process. One that takes longer is stuck in the kernel.
const LONGEST_DYING: Duration = Duration::from_secs(5);
/// Greatest number of descriptors of one account that are looked at, which takes about a second. An engine with all its
/// clients has fewer. For an account with more, sock_diag tells whether it has the address.
const LOOKS: usize = 100_000;
/// TCP state LISTEN in /proc/net/tcp. These lines come first.
const LISTENS: &str = "0A";

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    at: SocketAddr,
    uid: u32,
}

/// A tenant whose sockets were looked at.
struct Suspect {
    tenant: Tenant,
    /// Processes that have such a socket. `None` if the account has more than [`LOOKS`] descriptors.
    holders: Option<Vec<ProcessId>>,
    /// Whether the account owns such a socket, according to the kernel's tables.
    has_it: bool,
}

impl Suspect {
    fn of(tenant: &Tenant, is_meant: impl Fn(SocketAddr, bool) -> bool) -> io::Result<Self> {
        let listens = listeners()?.into_iter().any(|it| it.uid == tenant.uid && is_meant(it.at, true));
        let has_it = listens || has(tenant.uid, |at| is_meant(at, false));
        Ok(Self { tenant: tenant.clone(), holders: holders(tenant.uid, &is_meant)?, has_it })
    }

    /// Whether no process was found: the socket is in transit in a socket message, or only a thread other than the
    /// first has it open.
    fn hides(&self) -> bool {
        self.holders.as_ref().is_none_or(Vec::is_empty)
    }

    /// Kills the processes that have such a socket. Returns the name of the last one.
    async fn end(&self, taken: &str) -> io::Result<Option<String>> {
        let mut last = None;
        for process in self.holders.iter().flatten() {
            last = end_one(*process, &self.tenant, taken).await?.or(last);
        }
        Ok(last)
    }
}

/// Runs `look` on a thread for blocking work, since a tenant decides how much there is to be looked at.
async fn off_the_runtime<T: Send + 'static>(look: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
}

/// Finds and kills squatters on addresses of instances.
pub(super) async fn end(hosts: &Hosts, tenants: &[Tenant]) -> io::Result<Vec<Squatter>> {
    let all: Arc<[Tenant]> = tenants.into();
    let mut ended = BTreeMap::new();
    for round in 1..=ROUNDS {
        let (tenants, apart) = (all.clone(), hosts.apart.clone());
        let look = move || {
            let is_engines = |uid| apart.as_ref().is_some_and(|apart| apart.accounts.contain(uid));
            let some = suspects(&tenants, is_engines)?;
            let look_at = |own: &Tenant| Suspect::of(own, |at, listens| is_anothers(at, listens, own, &tenants));
            let look_at_all = |is_one: &dyn Fn(&&Tenant) -> bool| {
                tenants.iter().filter(is_one).map(look_at).collect::<io::Result<Vec<_>>>()
            };
            let found = look_at_all(&|tenant| some.contains(&tenant.uid))?;
            if found.iter().any(|suspect| suspect.has_it && suspect.hides()) && some.len() < tenants.len() {
                return look_at_all(&|_| true);
            }
            Ok(found)
        };
        let suspects = off_the_runtime(look).await?;
        if suspects.is_empty() {
            break;
        }
        let is_found = suspects.iter().any(|suspect| !suspect.hides());
        for suspect in suspects {
            let tenant = &suspect.tenant;
            if let Some(name) = suspect.end("another instance's address").await? {
                ended.insert(tenant.instance, name);
            }
            // A process that starts itself again each time ends here, too.
            if suspect.has_it && (round == ROUNDS || suspect.hides() && !is_found) {
                tracing::warn!(
                    instance_id = %tenant.instance,
                    "this instance does not leave another's address: all that runs as its account is ended"
                );
                strike(tenant.uid, &hosts.groups_of(tenant.instance, Part::Engine)).await?;
                ended.entry(tenant.instance).or_insert_with(|| "not to be named".to_owned());
            }
        }
    }
    Ok(ended.into_iter().map(|(instance, process)| Squatter { instance, process }).collect())
}

/// Kills squatters on an address of the controller: first the processes that have it; if called `again`, all processes
/// of their accounts. Returns whether there were any.
pub(super) async fn end_at(hosts: &Hosts, tenants: &[Tenant], own: SocketAddr, again: bool) -> io::Result<bool> {
    let tenants = tenants.to_vec();
    let look = move || {
        let all = tenants.iter().map(|tenant| Suspect::of(tenant, |at, _| collide(at, own)));
        all.collect::<io::Result<Vec<_>>>()
    };
    let mut found = false;
    for suspect in off_the_runtime(look).await? {
        if suspect.hides() && !suspect.has_it {
            continue;
        }
        found = true;
        suspect.end("an address of this controller").await?;
        if again || suspect.hides() {
            let tenant = &suspect.tenant;
            tracing::warn!(
                instance_id = %tenant.instance,
                "this instance does not leave the controller's address: all that runs as its account is ended"
            );
            strike(tenant.uid, &hosts.groups_of(tenant.instance, Part::Engine)).await?;
        }
    }
    Ok(found)
}

/// Name and pid of any process of the machine that has an address of the controller.
pub(super) fn others_at(own: SocketAddr) -> io::Result<Option<String>> {
    for process in system::processes()? {
        let mut looks = LOOKS;
        if sockets(process.id, &mut looks)?.into_iter().flatten().any(|(at, _)| collide(at, own)) {
            return Ok(Some(described(process.id)?));
        }
    }
    Ok(None)
}

/// Whether a socket bound to `at` may keep another from listening on `there`.
fn collide(at: SocketAddr, there: SocketAddr) -> bool {
    let [one, other] = [at, there].map(|it| it.ip().to_canonical());
    at.port() == there.port() && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// Kills a process and returns its name and pid; `None` if it had ended already.
async fn end_one(process: ProcessId, tenant: &Tenant, taken: &str) -> io::Result<Option<String>> {
    let what = described(process)?;
    let Some(handle) = process.open()? else { return Ok(None) };
    tracing::warn!(instance_id = %tenant.instance, process = what, "a process of this instance has taken {taken} and is ended");
    handle.send(Signal::KILL)?;
    // If it does not end in time, the next round finds it again.
    let _ = tokio::time::timeout(LONGEST_DYING, handle.ended()).await;
    Ok(Some(what))
}

/// Accounts that may have bound another instance's address. Only the engine's own account serves an address; what the
/// machine's own programs listen on is not looked into, as no instance can have it.
fn suspects(tenants: &[Tenant], is_engines: impl Fn(u32) -> bool) -> io::Result<BTreeSet<u32>> {
    let listeners = listeners()?;
    let listen =
        |tenant: &&Tenant| listeners.iter().any(|it| it.uid == tenant.uid && is_anothers(it.at, true, tenant, tenants));
    let found: BTreeSet<u32> = tenants.iter().filter(listen).map(|tenant| tenant.uid).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    for tenant in tenants {
        let Some(address) = tenant.address else { continue };
        for port in tenant.ports.iter().copied() {
            let is_served = listeners.iter().any(|it| {
                let is_it = it.at.port() == port && [Ipv4Addr::UNSPECIFIED, address].contains(&plain(it.at));
                is_it && (it.uid == tenant.uid || !is_engines(it.uid))
            });
            if !is_served && is_taken(address, port)? {
                return Ok(tenants.iter().map(|other| other.uid).collect());
            }
        }
    }
    Ok(found)
}

/// Whether an engine could not bind this address.
fn is_taken(address: Ipv4Addr, port: u16) -> io::Result<bool> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // Engines set SO_REUSEADDR, too, so that connections in TIME_WAIT do not count. The socket does not listen, so no
    // client can connect to it.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    match bind(&socket, &SocketAddr::from((address, port))) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::ADDRINUSE) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Whether a socket of this tenant is in the way of another tenant's engine. The wildcard address is in the way of all.
fn is_anothers(at: SocketAddr, listens: bool, own: &Tenant, tenants: &[Tenant]) -> bool {
    let address = plain(at);
    if address == Ipv4Addr::UNSPECIFIED {
        return at.port() != 0 && (listens || tenants.iter().any(|tenant| tenant.ports.contains(&at.port())));
    }
    tenants.iter().any(|tenant| tenant.uid != own.uid && tenant.address == Some(address))
}

/// The IPv4 address of a socket. Other IPv6 addresses conflict with no engine, so they become 127.0.0.1.
fn plain(at: SocketAddr) -> Ipv4Addr {
    match at.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) if address.is_unspecified() => Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(address) => address.to_ipv4_mapped().unwrap_or(Ipv4Addr::LOCALHOST),
    }
}

/// Whether the account owns such a socket, whichever process has it open.
fn has(uid: u32, is_meant: impl Fn(SocketAddr) -> bool) -> bool {
    match diag::sockets() {
        Ok(all) => all.into_iter().any(|(at, of)| of == uid && is_meant(at)),
        // The kernel may be built without sock_diag. Listening sockets are found all the same.
        Err(error) => {
            tracing::warn!("sockets that are only bound are not seen: ask the kernel (sock_diag): {error}");
            false
        }
    }
}

/// Processes of an account that have such a socket; `is_meant` also gets whether it listens. `None` if the account has
/// more than [`LOOKS`] descriptors.
fn holders(uid: u32, is_meant: impl Fn(SocketAddr, bool) -> bool) -> io::Result<Option<Vec<ProcessId>>> {
    let (mut found, mut looks) = (Vec::new(), LOOKS);
    for process in system::processes_of(uid)? {
        let Some(sockets) = sockets(process, &mut looks)? else { return Ok(None) };
        if sockets.into_iter().any(|(at, listens)| is_meant(at, listens)) {
            found.push(process);
        }
    }
    Ok(Some(found))
}

/// The TCP sockets of a process, and whether each listens. `None` if it has more descriptors than `looks`.
fn sockets(process: ProcessId, looks: &mut usize) -> io::Result<Option<Vec<(SocketAddr, bool)>>> {
    let mut all = Vec::new();
    let Some(handle) = process.open()? else { return Ok(Some(all)) };
    let Some(entries) = if_there(fs::read_dir(format!("/proc/{}/fd", process.pid)))? else { return Ok(Some(all)) };
    for entry in entries {
        // The process has ended meanwhile.
        let Ok(entry) = entry else { break };
        let Some(left) = looks.checked_sub(1) else { return Ok(None) };
        *looks = left;
        let is_socket =
            fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The process has closed the descriptor, or has ended.
        let Some(socket) = is_socket.then(|| handle.descriptor(number).ok()).flatten() else { continue };
        let is_stream = sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM);
        let at = getsockname(&socket).ok().and_then(|at| SocketAddr::try_from(at).ok());
        if let (true, Some(at)) = (is_stream, at) {
            all.push((at, sockopt::socket_acceptconn(&socket).unwrap_or(false)));
        }
    }
    Ok(Some(all))
}

/// Name (printable characters only) and pid of a process.
fn described(process: ProcessId) -> io::Result<String> {
    let said = if_there(fs::read(format!("/proc/{}/comm", process.pid)))?.unwrap_or_default();
    let name: String = said.into_iter().filter(u8::is_ascii_graphic).map(char::from).collect();
    Ok(format!("{name}, process {}", process.pid))
}

/// All listening TCP sockets of the machine.
fn listeners() -> io::Result<Vec<Listener>> {
    let mut all = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // Without IPv6 there is no tcp6.
        let Some(file) = if_there(fs::File::open(table))? else { continue };
        for line in BufReader::new(file).lines().skip(1) {
            let line = line?;
            match parse(&line) {
                Some(listener) => all.push(listener),
                // Connections follow, which may be many.
                None if line.split_ascii_whitespace().nth(3) != Some(LISTENS) => break,
                None => return Err(io::Error::new(ErrorKind::InvalidData, format!("{table} is not understood"))),
            }
        }
    }
    Ok(all)
}

/// Parses a line of /proc/net/tcp: `number: address:port remote state queues timer retransmits uid …`. Addresses are 32
/// bit words in the machine's byte order.
fn parse(line: &str) -> Option<Listener> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    if fields.nth(1)? != LISTENS {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let words = address.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).into(),
    };
    Some(Listener { at: SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?), uid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::InstanceId;

    #[test]
    fn listeners_are_read_from_the_kernels_tables() {
        let line = "   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000 70001        0 1234 1";
        let at = "127.0.0.1:5432".parse().unwrap();
        assert_eq!(parse(line), Some(Listener { at, uid: 70001 }));
        let line =
            "   1: 00000000000000000000000000000000:1538 00000000000000000000000000000000:0000 0A 0:0 00:0 0 70001 0 1";
        assert_eq!(parse(line).map(|it| it.at), Some("[::]:5432".parse().unwrap()));
        let line = "   1: 0000000000000000FFFF00000100007F:1538 0:0000 0A 0:0 00:0 0 70001 0 1";
        assert_eq!(parse(line).map(|it| plain(it.at)), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(parse("   2: 0100007F:1538 0100007F:9999 01 00000000:00000000 00:00000000 0 70001 0 1"), None);
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        assert!(listeners().unwrap().contains(&Listener { at: own.local_addr().unwrap(), uid }));
    }

    #[test]
    fn others_addresses_are_those_of_instances() {
        let tenant = |uid, address: &str| Tenant {
            instance: InstanceId::random(),
            uid,
            address: Some(address.parse().unwrap()),
            ports: vec![5432, 5433],
        };
        let all = [tenant(1, "127.64.0.1"), tenant(2, "127.64.0.2")];
        let is = |at: &str, listens| is_anothers(at.parse().unwrap(), listens, &all[0], &all);
        for (at, listens) in
            [("127.64.0.2:1", true), ("127.64.0.2:5432", false), ("0.0.0.0:9", true), ("[::]:5433", false)]
        {
            assert!(is(at, listens), "{at}");
        }
        for at in ["127.64.0.1:5432", "127.0.0.1:5432", "127.64.0.3:5432", "[::1]:5432"] {
            assert!(!is(at, true), "{at}");
        }
        assert!(!is("0.0.0.0:0", false), "not bound yet");
    }

    #[test]
    fn a_socket_collides_at_its_own_address_and_everywhere_where_it_is_on_the_wildcard() {
        for (at, there, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("127.9.9.9:1", "0.0.0.0:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("127.0.0.1:2", "127.0.0.1:1", false),
            ("127.0.0.2:1", "127.0.0.1:1", false),
            ("[::1]:1", "127.0.0.1:1", false),
        ] {
            assert_eq!(collide(at.parse().unwrap(), there.parse().unwrap()), expected, "{at} {there}");
        }
    }

    #[test]
    fn sockets_that_do_not_listen_are_seen_with_their_process() {
        let mine = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap();
        let port = std::net::TcpListener::bind("127.201.9.9:0").unwrap().local_addr().unwrap().port();
        let held = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let at = SocketAddr::from((Ipv4Addr::new(127, 201, 9, 9), port));
        bind(&held, &at).unwrap();
        assert!(is_taken(Ipv4Addr::new(127, 201, 9, 9), port).unwrap());
        assert!(sockets(mine, &mut 1000).unwrap().unwrap().contains(&(at, false)));
        assert_eq!(sockets(mine, &mut 1).unwrap(), None, "there is more to look at");
        drop(held);
        assert!(!is_taken(Ipv4Addr::new(127, 201, 9, 9), port).unwrap());
    }
}

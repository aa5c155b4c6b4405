//! A packet filter (nftables) for what engines' accounts send. It goes by the account (user id) that owns the sending
//! socket, and drops what is not allowed: an account of the configured range that has no instance sends nothing.
//!
//! Hosts share the machine's network, so a tenant with a shell in his engine's account can listen on another instance's
//! address while that engine is down. One nftables table for all services of the machine drops what he sends from
//! there. The table is made from the reservations of accounts ([`Accounts`]) and from what the services tell
//! ([`Service`]), which are machine-wide, too. With one table per service, a table that a service left behind would
//! drop packets of an account that another service has given to a host since. The table stays without hosts: a socket
//! may outlive the instance that made it, if another process has it.
//!
//! Dropped are, if sent by an account of a service's range:
//! - every packet, if the account has no instance.
//! - TCP packets to an address on which a controller listens. Agents, which have another account, may.
//! - every packet from a loopback address other than its own and 127.0.0.1. (127.0.0.1 is the source address of
//!   connections that a program makes to any loopback address.)
//! - SYN-ACKs, the second step of TCP's handshake, from every other address. So a listener there, or on the wildcard
//!   address, completes no connection, neither by IPv6. Connections that the account itself opens are not affected.
//!
//! Dropped are, if the packet has no owner: SYN-ACKs from an instance's address. When the queue of a listener is full,
//! which any listener can bring about, the kernel sends SYN cookies, and these have no owner. Other packets without
//! owner must pass: what a closed socket has still to send has none, either.
//!
//! Connection tracking (`ct`) is not used, since its table is shared by the whole machine and may be full.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::accounts::Accounts;
use super::services::Service;
use super::tenant::Tenant;

/// Name of the table.
pub(super) const TABLE: &str = "trove-rs";
/// The chain through which all packets pass. `accept` ends only this table's decision; other tables may still drop the
/// packet.
const OUTPUT: &str = "\
    chain output {
        type filter hook output priority filter; policy accept;
        meta skuid @range goto instance
        ip saddr @addresses tcp flags & (syn | ack) == (syn | ack) goto unowned
    }
";
/// The end of the chain for packets of engines' accounts, after the addresses that nobody of them reaches.
const INSTANCE: &str = "\
        meta skuid . ip saddr @own accept
        meta skuid != @accounts drop
        ip saddr 127.0.0.0/8 ip saddr != 127.0.0.1 drop
        tcp flags & (syn | ack) == (syn | ack) drop
    }
";
/// Accepts packets that have an owner, whatever its user id (`>= 0` matches any), and drops the others.
const UNOWNED: &str = "\
    chain unowned {
        meta skuid >= 0 accept
        drop
    }
";

/// The packet filter.
#[derive(Debug)]
pub(super) struct Filter {
    table: String,
    /// This controller.
    service: Service,
    /// Why the filter is not in force, if so.
    obstacle: Mutex<Option<String>>,
}

impl Filter {
    /// Does not touch the table yet.
    pub(super) fn new(table: &str, service: Service) -> Self {
        Self { table: table.to_owned(), service, obstacle: Mutex::default() }
    }

    /// Why the filter is not in force, if so.
    pub(super) fn obstacle(&self) -> Option<String> {
        self.obstacle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the table atomically by one made from the reservations and the services. Called at the start and
    /// periodically, since reloading the machine's firewall (`flush ruleset`) removes the table.
    pub(super) fn renew(&self, accounts: &Accounts) {
        let done = accounts.alone().and_then(|_alone| self.write(accounts));
        self.note(done);
    }

    /// Allows a host to send from its address. If this fails, the host is started all the same, since databases that
    /// are down do more harm; but root cannot be enabled on any instance until the filter works again. If a table is in
    /// force that does not know the host, nobody reaches its engine until then.
    pub(super) fn add(&self, accounts: &Accounts, tenant: &Tenant) {
        let done = accounts.alone().and_then(|_alone| {
            // If the table is missing, or one of an earlier version, write all of it; also for an account of a range
            // that was configured before, which the table need not know.
            if accounts.contain(tenant.uid) && run(&self.adding(tenant)).is_ok() {
                return Ok(());
            }
            self.write(accounts)
        });
        self.note(done);
    }

    /// Removes a host of which no process is left, and whose files no longer say what it was: a renewal at the same
    /// time would add it again.
    pub(super) fn remove(&self, accounts: &Accounts, tenant: &Tenant) {
        let done = accounts.alone().and_then(|_alone| {
            // Add the elements first, because nft fails to delete elements that are not there.
            run(&(self.adding(tenant) + &self.removing(tenant))).or_else(|_| self.write(accounts))
        });
        if let Err(error) = done {
            // Harmless: the account has no processes, and the table is renewed within a minute.
            tracing::warn!("a host is still in the packet filter: {error}");
        }
    }

    fn write(&self, accounts: &Accounts) -> io::Result<()> {
        self.service.announce(accounts.directory())?;
        let services = Service::all(accounts.directory())?;
        let mut tenants = Vec::new();
        for (uid, host) in accounts.all()? {
            let address = Tenant::in_directory(&host)?.and_then(|tenant| tenant.address);
            tenants.extend(address.map(|address| (uid, address)));
        }
        run(&self.whole(&services, &tenants))
    }

    fn note(&self, done: io::Result<()>) {
        let now = done.err().map(|error| error.to_string());
        let mut before = self.obstacle.lock().unwrap_or_else(PoisonError::into_inner);
        match &now {
            Some(obstacle) if before.is_none() => tracing::error!(
                "an instance could answer in the place of another, so root cannot be enabled unless \
                 process.allow_root is set: {obstacle}"
            ),
            None if before.is_some() => tracing::info!("the packet filter between instances holds again"),
            _ => {}
        }
        *before = now;
    }

    fn gone(&self) -> String {
        format!("add table inet {0}\ndelete table inet {0}\n", self.table)
    }

    fn whole(&self, services: &[Service], tenants: &[(u32, Ipv4Addr)]) -> String {
        // Two hosts never have the same account. A map makes sure, since nft refuses duplicate elements.
        let tenants: BTreeMap<u32, Ipv4Addr> = tenants.iter().copied().collect();
        // An account outside of all ranges was reserved before a range was changed.
        let ranges = services.iter().map(|service| service.uids).chain(tenants.keys().map(|uid| (*uid, *uid)));
        let ranges = merged(ranges.collect()).into_iter().map(|range| interval(&range)).collect();
        let addresses: BTreeSet<&Ipv4Addr> = tenants.values().collect();
        let sets: [(&str, &str, Vec<String>); 4] = [
            ("range", "uid; flags interval", ranges),
            ("accounts", "uid", tenants.keys().map(u32::to_string).collect()),
            ("addresses", "ipv4_addr", addresses.iter().map(ToString::to_string).collect()),
            ("own", "uid . ipv4_addr", tenants.iter().map(|(uid, address)| format!("{uid} . {address}")).collect()),
        ];
        let mut text = self.gone();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "table inet {} {{", self.table);
        for (name, kind, elements) in sets {
            let elements = match elements.as_slice() {
                [] => String::new(),
                some => format!(" elements = {{ {} }};", some.join(", ")),
            };
            let _ = writeln!(text, "    set {name} {{ type {kind};{elements} }}");
        }
        text + UNOWNED + "    chain instance {\n" + &closed(services) + INSTANCE + OUTPUT + "}\n"
    }

    /// Fails on the table of an earlier version, which has no such range. A range that is there is no error.
    fn adding(&self, tenant: &Tenant) -> String {
        let range = interval(&self.service.uids);
        format!("add element inet {} range {{ {range} }}\n", self.table) + &self.elements("add", tenant)
    }

    fn removing(&self, tenant: &Tenant) -> String {
        self.elements("delete", tenant)
    }

    fn elements(&self, verb: &str, tenant: &Tenant) -> String {
        let (table, uid) = (&self.table, tenant.uid);
        let mut text = format!("{verb} element inet {table} accounts {{ {uid} }}\n");
        if let Some(address) = tenant.address {
            let _ = writeln!(text, "{verb} element inet {table} addresses {{ {address} }}");
            let _ = writeln!(text, "{verb} element inet {table} own {{ {uid} . {address} }}");
        }
        text
    }
}

/// Rules for packets to the controllers' own addresses. Packets to any address of the machine leave by `lo`.
fn closed(services: &[Service]) -> String {
    let all: BTreeSet<_> = services.iter().flat_map(|service| &service.listens).collect();
    let rule = |at: &&SocketAddr| {
        let port = at.port();
        match at.ip().to_canonical() {
            ip if ip.is_unspecified() => format!("        oif \"lo\" tcp dport {port} drop\n"),
            IpAddr::V4(ip) => format!("        ip daddr {ip} tcp dport {port} drop\n"),
            IpAddr::V6(ip) => format!("        ip6 daddr {ip} tcp dport {port} drop\n"),
        }
    };
    all.iter().map(rule).collect()
}

/// Ranges that overlap become one, since nft refuses them.
fn merged(mut ranges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn interval((first, last): &(u32, u32)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Runs nft with a script, which nft applies atomically. Time limit: ten seconds.
fn run(script: &str) -> io::Result<()> {
    let mut command = Command::new("timeout");
    command.args(["10", "nft", "-f", "-"]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // If nft does not read its input, its exit status and standard error say why.
        let _ = input.write_all(script.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default();
    Err(io::Error::other(format!(
        "change the packet filter with nft (Debian's package nftables): {}: {said}",
        output.status
    )))
}

#[cfg(test)]
mod tests;

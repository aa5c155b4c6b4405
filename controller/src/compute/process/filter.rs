//! A packet filter (nftables) that keeps an instance from serving connections to another instance's address. It goes by
//! the account (user id) that owns the sending socket.
//!
//! Hosts share the machine's network, so a tenant with a shell in his engine's account can listen on another instance's
//! address while that engine is down. One nftables table for all services of the machine drops what he sends from
//! there. The table is made from the reservations of accounts ([`Accounts`]), which are machine-wide, too. With one
//! table per service, a table that a service left behind would drop packets of an account that another service has
//! given to a host since.
//!
//! Dropped are, if sent by an instance's account:
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

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::accounts::Accounts;
use super::tenant::Tenant;

/// Name of the table.
pub(super) const TABLE: &str = "trove-rs";
/// The chains, which follow the sets. `accept` ends only this table's decision; other tables may still drop the packet.
const CHAINS: &str = "\
    chain foreign {
        ip saddr 127.0.0.0/8 ip saddr != 127.0.0.1 drop
        tcp flags & (syn | ack) == (syn | ack) drop
    }
    chain output {
        type filter hook output priority filter; policy accept;
        meta skuid . ip saddr @own accept
        meta skuid @accounts goto foreign
        ip saddr @addresses tcp flags & (syn | ack) == (syn | ack) goto unowned
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
    /// Why the filter is not in force, if so.
    obstacle: Mutex<Option<String>>,
}

impl Filter {
    /// Does not touch the table yet.
    pub(super) fn new(table: &str) -> Self {
        Self { table: table.to_owned(), obstacle: Mutex::default() }
    }

    /// Why the filter is not in force, if so.
    pub(super) fn obstacle(&self) -> Option<String> {
        self.obstacle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the table atomically by one made from the reservations. Called at the start and periodically, since
    /// reloading the machine's firewall (`flush ruleset`) removes the table.
    pub(super) fn renew(&self, accounts: &Accounts) {
        let done = accounts.alone().and_then(|_alone| self.write(accounts));
        self.note(done);
    }

    /// Allows a host to send from its address. If this fails, the host is started all the same, since databases that
    /// are down do more harm; but root cannot be enabled on any instance until the filter works again.
    pub(super) fn add(&self, accounts: &Accounts, tenant: &Tenant) {
        let done = accounts.alone().and_then(|_alone| {
            // If the table is missing, write all of it.
            run(&self.adding(tenant)).or_else(|_| self.write(accounts))
        });
        self.note(done);
    }

    /// Removes a host of which no process is left; removes the table with the last host.
    pub(super) fn remove(&self, accounts: &Accounts, tenant: &Tenant) {
        let done = accounts.alone().and_then(|_alone| {
            let others = accounts.all()?.into_iter().any(|(uid, _)| uid != tenant.uid);
            // Add the elements first, because nft fails to delete elements that are not there.
            if others { run(&(self.adding(tenant) + &self.removing(tenant))) } else { run(&self.gone()) }
        });
        if let Err(error) = done {
            // Harmless: the account has no processes, and the table is renewed within a minute.
            tracing::warn!("a host is still in the packet filter: {error}");
        }
    }

    fn write(&self, accounts: &Accounts) -> io::Result<()> {
        let mut tenants = Vec::new();
        for (uid, host) in accounts.all()? {
            tenants.push((uid, Tenant::in_directory(&host)?.and_then(|tenant| tenant.address)));
        }
        run(&self.whole(&tenants))
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

    fn whole(&self, tenants: &[(u32, Option<Ipv4Addr>)]) -> String {
        // Two hosts never have the same account. A map makes sure, since nft refuses duplicate elements.
        let tenants: BTreeMap<u32, Option<Ipv4Addr>> = tenants.iter().copied().collect();
        let mut text = self.gone();
        let known = || tenants.iter().filter_map(|(uid, address)| Some((uid, (*address)?)));
        let sets = [
            ("accounts", "uid", tenants.keys().map(u32::to_string).collect::<Vec<_>>()),
            ("addresses", "ipv4_addr", known().map(|(_, address)| address.to_string()).collect()),
            ("own", "uid . ipv4_addr", known().map(|(uid, address)| format!("{uid} . {address}")).collect()),
        ];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "table inet {} {{", self.table);
        for (name, kind, elements) in sets {
            let elements = match elements.as_slice() {
                [] => String::new(),
                some => format!(" elements = {{ {} }};", some.join(", ")),
            };
            let _ = writeln!(text, "    set {name} {{ type {kind};{elements} }}");
        }
        text + UNOWNED + CHAINS + "}\n"
    }

    fn adding(&self, tenant: &Tenant) -> String {
        self.elements("add", tenant)
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
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::process::CommandExt as _;
    use std::time::Duration;

    use super::*;
    use crate::ids::InstanceId;

    fn tenant(uid: u32, address: &str) -> Tenant {
        Tenant { instance: InstanceId::random(), uid, address: Some(address.parse().unwrap()), ports: vec![5432] }
    }

    #[test]
    fn scripts_name_each_account_with_its_address() {
        let filter = Filter::new("t");
        let none = filter.whole(&[]);
        assert!(none.starts_with("add table inet t\ndelete table inet t\ntable inet t {\n"), "{none}");
        assert!(none.contains("set own { type uid . ipv4_addr; }") && !none.contains("elements"), "{none}");
        let (a, b) = (Ipv4Addr::new(127, 64, 0, 1), Ipv4Addr::new(127, 64, 0, 2));
        let some = filter.whole(&[(70002, Some(b)), (70001, Some(a)), (70003, None)]);
        for part in [
            "accounts { type uid; elements = { 70001, 70002, 70003 }; }",
            "addresses { type ipv4_addr; elements = { 127.64.0.1, 127.64.0.2 }; }",
            "elements = { 70001 . 127.64.0.1, 70002 . 127.64.0.2 }; }",
        ] {
            assert!(some.contains(part), "{some}");
        }
        let one = filter.adding(&tenant(70001, "127.64.0.1"));
        assert_eq!(
            one,
            "add element inet t accounts { 70001 }\nadd element inet t addresses { 127.64.0.1 }\n\
             add element inet t own { 70001 . 127.64.0.1 }\n"
        );
    }

    /// A program that serves one address with the given account, and prints a line once it listens.
    struct Server(std::process::Child);

    impl Server {
        fn start(uid: u32, family: &str, address: &str, port: u16) -> Self {
            let script = "use Socket qw(:all); my ($family, $at, $port) = @ARGV; \
                socket(my $s, $family eq '6' ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die; \
                setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1); my $raw = inet_pton($family eq '6' ? AF_INET6 : AF_INET, $at); \
                bind($s, $family eq '6' ? pack_sockaddr_in6($port, $raw) : pack_sockaddr_in($port, $raw)) or die $!; \
                listen($s, 8) or die; $| = 1; print \"ready\\n\"; \
                while (accept(my $c, $s)) { syswrite($c, 'hello'); close $c }";
            let mut command = Command::new("perl");
            command.args(["-e", script, family, address, &port.to_string()]).uid(uid).gid(uid).current_dir("/");
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut ready = [0; 6];
            io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
            Self(child)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill().and_then(|()| self.0.wait().map(|_| ()));
        }
    }

    fn answers(address: &str, port: u16) -> bool {
        let at = (address, port);
        let at = std::net::ToSocketAddrs::to_socket_addrs(&at).unwrap().next().unwrap();
        let Ok(mut stream) = TcpStream::connect_timeout(&at, Duration::from_millis(700)) else { return false };
        stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        io::Read::read(&mut stream, &mut [0; 5]).is_ok_and(|count| count == 5)
    }

    #[test]
    fn only_the_own_address_answers() {
        if !nix::unistd::geteuid().is_root() || run("list ruleset\n").is_err() {
            println!("skipped: only root filters packets");
            return;
        }
        let filter = Filter::new(&format!("trove-rs-test-{}", std::process::id()));
        struct Gone<'a>(&'a Filter);
        impl Drop for Gone<'_> {
            fn drop(&mut self) {
                run(&self.0.gone()).unwrap();
            }
        }
        let _gone = Gone(&filter);
        // User ids outside of the usual ranges, so that no host of this machine has them.
        let (mine, other) = (4_000_000_001, 4_000_000_002);
        run(&filter.whole(&[(mine, Some(Ipv4Addr::new(127, 201, 7, 1)))])).unwrap();
        run(&filter.adding(&tenant(other, "127.201.7.2"))).unwrap();
        run(&filter.adding(&tenant(other, "127.201.7.2"))).unwrap();
        let port = TcpListener::bind("127.201.7.3:0").unwrap().local_addr().unwrap().port();
        let tried = |uid, family, at, asked| {
            let _server = Server::start(uid, family, at, port);
            answers(asked, port)
        };
        assert!(tried(mine, "4", "127.201.7.1", "127.201.7.1"), "its own");
        assert!(tried(other, "4", "127.201.7.2", "127.201.7.2"), "the other's own");
        assert!(tried(mine, "4", "0.0.0.0", "127.201.7.1"), "its own by the wildcard");
        for (family, at, asked) in [
            ("4", "127.201.7.2", "127.201.7.2"),
            ("4", "127.201.7.3", "127.201.7.3"),
            ("4", "127.0.0.1", "127.0.0.1"),
            ("4", "0.0.0.0", "127.201.7.2"),
            ("6", "::", "127.201.7.2"),
            ("6", "::1", "::1"),
        ] {
            assert!(!tried(mine, family, at, asked), "{at} answered as {asked}");
        }
        let machines = TcpListener::bind(("127.201.7.2", port)).unwrap();
        let served = std::thread::spawn(move || machines.accept().unwrap().0.write_all(b"hello").unwrap());
        assert!(answers("127.201.7.2", port), "the machine's own programs are not meant");
        served.join().unwrap();
        // Connections that an account opens work, unless it binds another's address as source.
        let ask = |from: &str| {
            let _server = Server::start(other, "4", "127.201.7.2", port);
            let script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => '127.201.7.2', PeerPort => $ARGV[0], \
                $ARGV[1] ? (LocalAddr => $ARGV[1]) : (), Timeout => 1) or exit 1; sysread($s, my $said, 5) == 5 or exit 2";
            let mut command = Command::new("perl");
            command.args(["-e", script, &port.to_string(), from]).uid(mine).gid(mine).current_dir("/");
            command.status().unwrap().success()
        };
        assert!(ask("") && ask("127.201.7.1"));
        assert!(!ask("127.201.7.2") && !ask("127.201.7.3"));
        let both = filter.adding(&tenant(other, "127.201.7.2")) + &filter.removing(&tenant(other, "127.201.7.2"));
        run(&both).unwrap();
        run(&both).unwrap();
        assert!(tried(other, "4", "127.201.7.2", "127.201.7.2"), "it is nobody's now");
    }
}

//! Nobody answers in another instance's place: a packet filter (nftables) by the account that sends.
//!
//! Hosts share the machine's network, so a tenant with a shell as his engine's account can listen on another instance's
//! address while its engine is down. One table of the machine, for all services on it, drops what he sends from there. It is
//! made from the reservations of accounts ([`Accounts`]), which are the machine's too: a table for each service would, left
//! over, drop what an account sends that another service has given to a host since.
//!
//! What is dropped, of an instance's account:
//! - everything from a loopback address that is neither its own nor 127.0.0.1, which the kernel gives to connections that a
//!   program makes to any loopback address;
//! - the second step of TCP's handshake (SYN-ACK) from every other address, so that a listener there, or on the wildcard
//!   address, completes no connection, over IPv6 neither. Connections that the account itself makes are not touched.
//!
//! And of nobody's: SYN-ACKs from an instance's address. The kernel names no account for those that it sends as SYN cookies, when the
//! listener's queue is full, which whoever listens can bring about. No other packet needs that, and none may: what a closed
//! socket has still to send is nobody's too. Connections are not tracked (`ct`) for this, since their table is the machine's and can be full.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::accounts::Accounts;
use super::tenant::Tenant;

/// The table of this machine.
pub(super) const TABLE: &str = "trove-rs";
/// After the definition of the sets. Accepted here is what this table has nothing against; others are asked all the same.
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
/// What belongs to a program has some account, whatever its number.
const UNOWNED: &str = "\
    chain unowned {
        meta skuid >= 0 accept
        drop
    }
";

/// The filter.
#[derive(Debug)]
pub(super) struct Filter {
    table: String,
    /// Why it does not hold, if it does not.
    obstacle: Mutex<Option<String>>,
}

impl Filter {
    /// The filter in this table, which is not looked at yet.
    pub(super) fn new(table: &str) -> Self {
        Self { table: table.to_owned(), obstacle: Mutex::default() }
    }

    /// Why it does not hold, if it does not.
    pub(super) fn obstacle(&self) -> Option<String> {
        self.obstacle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the table what the reservations say, as one step: at the start, and again and again, since whoever loads the
    /// machine's rules anew (`flush ruleset`) takes it away.
    pub(super) fn renew(&self, accounts: &Accounts) {
        let done = accounts.alone().and_then(|_alone| self.write(accounts));
        self.note(done);
    }

    /// Lets a host send from its address. Where that fails the host is started all the same, and root is given to nobody
    /// until it works again: databases that are down do more harm.
    pub(super) fn add(&self, accounts: &Accounts, tenant: &Tenant) {
        let done = accounts.alone().and_then(|_alone| {
            // Without the table, all of it is missing.
            run(&self.adding(tenant)).or_else(|_| self.write(accounts))
        });
        self.note(done);
    }

    /// Forgets a host of which nothing is left, and the table with the last one.
    pub(super) fn remove(&self, accounts: &Accounts, tenant: &Tenant) {
        let done = accounts.alone().and_then(|_alone| {
            let others = accounts.all()?.into_iter().any(|(uid, _)| uid != tenant.uid);
            // What is not there can be removed only after it was added.
            if others { run(&(self.adding(tenant) + &self.removing(tenant))) } else { run(&self.gone()) }
        });
        if let Err(error) = done {
            // An account that is nobody's sends nothing; the table is renewed within a minute.
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
        // Two hosts never have one account: a map keeps what nft would refuse from ever being asked of it.
        let tenants: BTreeMap<u32, Option<Ipv4Addr>> = tenants.iter().copied().collect();
        let mut text = self.gone();
        let known = || tenants.iter().filter_map(|(uid, address)| Some((uid, (*address)?)));
        let sets = [
            ("accounts", "uid", tenants.keys().map(u32::to_string).collect::<Vec<_>>()),
            ("addresses", "ipv4_addr", known().map(|(_, address)| address.to_string()).collect()),
            ("own", "uid . ipv4_addr", known().map(|(uid, address)| format!("{uid} . {address}")).collect()),
        ];
        // Writing to a string does not fail.
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

/// Has nft do all of this as one step, within ten seconds.
fn run(script: &str) -> io::Result<()> {
    let mut command = Command::new("timeout");
    command.args(["10", "nft", "-f", "-"]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that reads nothing says why when it has ended.
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

    /// Serves one address as an account, by a program that says when it listens.
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
        // Accounts beyond any range, so that no host of this machine has them.
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
        // What an account asks of others is answered, unless it asks in another's name.
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

//! Tests of the packet filter, on a table of their own in the real kernel.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use super::*;
use crate::ids::InstanceId;

/// No host of this machine has such user ids, and no other test: its table would drop what they send.
const FIRST: u32 = 4_000_000_000;
/// A user id of no range.
const OUTSIDE: u32 = FIRST - 1;

fn service(uids: (u32, u32), listens: &[SocketAddr]) -> Service {
    Service { state: "/a/state".into(), uids, listens: listens.to_vec() }
}

fn tenant(uid: u32, address: &str) -> Tenant {
    Tenant { instance: InstanceId::random(), uid, address: Some(address.parse().unwrap()), ports: vec![5432] }
}

#[test]
fn scripts_name_each_account_with_its_address() {
    let own = service((70000, 70099), &[]);
    let filter = Filter::new("t", own.clone());
    let none = filter.whole(std::slice::from_ref(&own), &[]);
    assert!(none.starts_with("add table inet t\ndelete table inet t\ntable inet t {\n"), "{none}");
    assert!(none.contains("set own { type uid . ipv4_addr; }") && none.matches("elements").count() == 1, "{none}");
    let (a, b) = (Ipv4Addr::new(127, 64, 0, 1), Ipv4Addr::new(127, 64, 0, 2));
    let listens: Vec<SocketAddr> =
        ["127.0.0.1:8779", "0.0.0.0:8778", "[::]:8777", "[::1]:1"].iter().map(|at| at.parse().unwrap()).collect();
    let others = [service((80000, 80009), &[]), service((70050, 70199), &listens), own];
    let some = filter.whole(&others, &[(70002, b), (70001, a), (999, a)]);
    for part in [
        "range { type uid; flags interval; elements = { 999, 70000-70199, 80000-80009 }; }",
        "accounts { type uid; elements = { 999, 70001, 70002 }; }",
        "addresses { type ipv4_addr; elements = { 127.64.0.1, 127.64.0.2 }; }",
        "elements = { 999 . 127.64.0.1, 70001 . 127.64.0.1, 70002 . 127.64.0.2 }; }",
        "ip daddr 127.0.0.1 tcp dport 8779 drop\n",
        "oif \"lo\" tcp dport 8778 drop\n",
        "oif \"lo\" tcp dport 8777 drop\n",
        "ip6 daddr ::1 tcp dport 1 drop\n",
    ] {
        assert!(some.contains(part), "{part}\n{some}");
    }
    let one = filter.adding(&tenant(70001, "127.64.0.1"));
    assert_eq!(
        one,
        "add element inet t range { 70000-70099 }\nadd element inet t accounts { 70001 }\n\
         add element inet t addresses { 127.64.0.1 }\nadd element inet t own { 70001 . 127.64.0.1 }\n"
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

/// A table of this test's own, which goes with it, and the first user id of its range.
struct Table(Filter, u32);

impl Table {
    /// `None`, with a word why, if this account filters no packets.
    fn new(test: &str, listens: &[SocketAddr]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || run("list ruleset\n").is_err() {
            println!("skipped: only root filters packets");
            return None;
        }
        let name = format!("trove-rs-test-{test}-{}", std::process::id());
        let first = FIRST + 100 * rand::random_range(0..1_000_000);
        Some(Self(Filter::new(&name, service((first, first + 99), listens)), first))
    }

    fn write(&self, tenants: &[(u32, Ipv4Addr)]) {
        run(&self.0.whole(std::slice::from_ref(&self.0.service), tenants)).unwrap();
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        run(&self.0.gone()).unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.201.7.3:0").unwrap().local_addr().unwrap().port()
}

/// Whether an account is answered at an address. It asks from `from`, unless that is empty.
fn is_answered(uid: u32, from: &str, at: &str, port: u16) -> bool {
    let script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1], \
        $ARGV[2] ? (LocalAddr => $ARGV[2]) : (), Timeout => 1) or exit 1; sysread($s, my $said, 5) == 5 or exit 2";
    let mut command = Command::new("perl");
    command.args(["-e", script, at, &port.to_string(), from]).uid(uid).gid(uid).current_dir("/");
    command.status().unwrap().success()
}

#[test]
fn only_the_own_address_answers() {
    let Some(table) = Table::new("own", &[]) else { return };
    let filter = &table.0;
    let (mine, other) = (table.1 + 1, table.1 + 2);
    table.write(&[(mine, Ipv4Addr::new(127, 201, 7, 1))]);
    run(&filter.adding(&tenant(other, "127.201.7.2"))).unwrap();
    run(&filter.adding(&tenant(other, "127.201.7.2"))).unwrap();
    let port = free_port();
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
        is_answered(mine, from, "127.201.7.2", port)
    };
    assert!(ask("") && ask("127.201.7.1"));
    assert!(!ask("127.201.7.2") && !ask("127.201.7.3"));
    let both = filter.adding(&tenant(other, "127.201.7.2")) + &filter.removing(&tenant(other, "127.201.7.2"));
    run(&both).unwrap();
    run(&both).unwrap();
    assert!(!tried(other, "4", "127.201.7.2", "127.201.7.2"), "it has no instance any more");
}

/// Such a socket may outlive its instance: another process may have it.
#[test]
fn an_account_of_the_range_without_an_instance_sends_nothing() {
    let Some(table) = Table::new("nobody", &[]) else { return };
    let (mine, nobody) = (table.1 + 1, table.1 + 2);
    table.write(&[(mine, Ipv4Addr::new(127, 201, 7, 11))]);
    let port = free_port();
    for (family, at, asked) in [
        ("4", "127.201.7.12", "127.201.7.12"),
        ("4", "127.0.0.1", "127.0.0.1"),
        ("4", "0.0.0.0", "127.0.0.1"),
        ("6", "::1", "::1"),
        ("6", "::", "::1"),
    ] {
        let tried = |uid| {
            let _server = Server::start(uid, family, at, port);
            answers(asked, port)
        };
        assert!(!tried(nobody), "{at}");
        assert!(tried(OUTSIDE), "{at}: other accounts of the machine are not meant");
    }
    let _server = Server::start(mine, "4", "127.201.7.11", port);
    assert!(is_answered(OUTSIDE, "", "127.201.7.11", port));
    assert!(
        !is_answered(nobody, "", "127.201.7.11", port) && !is_answered(nobody, "127.201.7.12", "127.201.7.11", port)
    );
    let script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => 'udp', PeerAddr => '127.0.0.1', \
        PeerPort => $ARGV[0]); exit(defined(send($s, 'x', 0)) ? 0 : 1)";
    let heard = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    heard.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let at = heard.local_addr().unwrap().port().to_string();
    for (uid, expected) in [(nobody, false), (mine, true)] {
        let mut command = Command::new("perl");
        command.args(["-e", script, &at]).uid(uid).gid(uid).current_dir("/").status().unwrap();
        assert_eq!(heard.recv(&mut [0; 1]).is_ok(), expected, "a datagram of {uid}");
    }
}

#[test]
fn no_engines_account_reaches_the_controllers_own_addresses() {
    let port = free_port();
    let own: SocketAddr = format!("127.201.7.29:{port}").parse().unwrap();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], free_port()));
    let Some(table) = Table::new("services", &[own, everywhere]) else { return };
    let mine = table.1 + 1;
    table.write(&[(mine, Ipv4Addr::new(127, 201, 7, 21))]);
    let _own = Server::start(0, "4", "127.201.7.29", port);
    let _everywhere = Server::start(0, "4", "0.0.0.0", everywhere.port());
    let _beside = Server::start(0, "4", "127.201.7.28", port);
    for from in ["", "127.201.7.21"] {
        assert!(!is_answered(mine, from, "127.201.7.29", port), "from {from}");
        for at in ["127.0.0.1", "127.201.7.21"] {
            assert!(!is_answered(mine, from, at, everywhere.port()), "from {from} to {at}");
        }
        assert!(is_answered(mine, from, "127.201.7.28", port), "the same port of another address");
    }
    // The agent's account is the controller's.
    assert!(is_answered(0, "", "127.201.7.29", port) && is_answered(0, "", "127.0.0.1", everywhere.port()));
}

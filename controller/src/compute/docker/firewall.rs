//! Rules of the machine's packet filter, in four chains that are always written whole, and two that are kept:
//!
//! - From an instance no service of this machine can be reached but the agents' port of the controller. Answers to
//!   connections that this machine made pass.
//! - From an instance no link-local address is reached, where a cloud tells this machine its secrets, and it has a bounded
//!   part of the kernel's table of connections, which is one for all. The kernel counts by rule and begins anew with a rule
//!   that is written anew, so these rules are in chains of their own, which are made only where they are missing.
//! - Other machines, for which this one has to be the route, reach an instance only if it is public, and only from its
//!   allowed CIDRs. What is no longer allowed ends, since the rules are asked for each packet of a connection.
//! - If allowed CIDRs were given, they hold for this machine, too; its address is then the first one of the network.
//!
//! Docker drops what other machines send to a container, in the chain `FORWARD`, and from version 28 on in the table `raw`,
//! which comes first: what is let in is accepted in both. Where the table `raw` cannot be written the others hold all the same.
//!
//! Instances of one project are on one bridge and always reach each other.

#![allow(clippy::disallowed_methods, reason = "the system's programs")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use ipnet::Ipv4Net;

use crate::compute::ComputeError;
use crate::model::Access;

/// Chain of Docker's that packets between networks pass first.
const DOCKERS: &str = "DOCKER-USER";

/// Clouds tell a machine its secrets there (the metadata service).
const LINK_LOCAL: &str = "169.254.0.0/16";

/// Connections that one instance may have made that are still in the kernel's table: to other machines, and as many again to the
/// agents' port.
const MOST_CONNECTIONS: u32 = 1024;

/// Chains with these limits: to the agents' port, and to other machines.
const LIMITS: [&str; 2] = ["IN-MOST", "FWD-MOST"];

/// Who may connect to an instance.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) address: Ipv4Addr,
    pub(super) ports: Vec<u16>,
    pub(super) access: Option<Access>,
}

pub(super) struct Firewall {
    key: String,
    /// How the names of the bridges begin.
    bridges: String,
    agents_port: u16,
    /// Also serialises the writers.
    obstacles: Mutex<Obstacles>,
}

struct Obstacles {
    /// Why the rules are not in force, if so.
    filter: Option<String>,
    /// Why what they let in is not accepted before Docker's own rules, if so.
    raw: Option<String>,
}

/// The contents of the chains, in the format of iptables-restore(8), which replaces those of a table at once.
struct Rules {
    filter: String,
    raw: String,
}

impl Firewall {
    pub(super) fn new(key: &str, bridges: String, agents_port: u16) -> Self {
        let obstacles = Obstacles { filter: Some("they have not been written yet".to_owned()), raw: None };
        Self { key: key.to_owned(), bridges, agents_port, obstacles: Mutex::new(obstacles) }
    }

    /// Whether the rules are in force.
    pub(super) fn holds(&self) -> bool {
        self.obstacles.lock().unwrap_or_else(PoisonError::into_inner).filter.is_none()
    }

    fn chain(&self, name: &str) -> String {
        format!("TROVE-{}-{name}", self.key)
    }

    /// Writes all rules. Blocks the thread. The doors are read by whoever writes, so that no older ones are written after
    /// newer ones.
    pub(super) fn renew(&self, doors: impl FnOnce() -> Result<Vec<Door>, ComputeError>) {
        let mut obstacles = self.obstacles.lock().unwrap_or_else(PoisonError::into_inner);
        let write = |table: &str, text: &str| {
            run("iptables-restore", &["--wait", "--noflush"], text)?;
            self.enter(table)
        };
        let filter = doors().map_err(|error| error.to_string()).and_then(|doors| {
            let rules = self.rules(&doors);
            self.limit()?;
            write("filter", &rules.filter)?;
            Ok(rules.raw)
        });
        // It only lets in, so it comes after what keeps out.
        let raw = filter.as_ref().map_or(Ok(()), |text| write("raw", text));
        tell(
            &mut obstacles.filter,
            filter.err(),
            "instances are not kept from services of this machine, so root cannot be enabled unless process.allow_root is \
             set, and access rules are not in force",
        );
        tell(&mut obstacles.raw, raw.err(), "public instances may be unreachable from other machines");
    }

    /// Makes the chains with the limits unless they are there.
    fn limit(&self) -> Result<(), String> {
        LIMITS.iter().try_for_each(|name| {
            let chain = ["filter".to_owned(), self.chain(name)];
            let limit = format!("-m connlimit --connlimit-above {MOST_CONNECTIONS} --connlimit-mask 32 -j DROP");
            let rule: Vec<String> = chain.iter().cloned().chain(limit.split(' ').map(str::to_owned)).collect();
            change("-C", &rule).or_else(|_| {
                // An error means that it is there, with another limit or none.
                let _ = change("-N", &chain);
                change("-F", &chain).and_then(|()| change("-A", &rule))
            })
        })
    }

    fn rules(&self, doors: &[Door]) -> Rules {
        let (before, from) = (self.chain("RAW"), self.chain("IN"));
        let (between, to) = (self.chain("FWD"), self.chain("OUT"));
        let [to_here, beyond] = LIMITS.map(|name| self.chain(name));
        let (port, bridges) = (self.agents_port, &self.bridges);
        let mut early = format!("*raw\n:{before} - [0:0]\n");
        let mut text = format!(
            "*filter\n:{from} - [0:0]\n:{between} - [0:0]\n:{to} - [0:0]\n\
             -A {from} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n\
             -A {from} -p tcp --dport {port} -j {to_here}\n\
             -A {from} -p tcp --dport {port} -j RETURN\n-A {from} -j DROP\n\
             -A {between} -i {bridges}+ -d {LINK_LOCAL} -j DROP\n\
             -A {between} -i {bridges}+ -m conntrack --ctstate NEW -j {beyond}\n"
        );
        for Door { address, ports, access } in doors {
            let allowed = access.as_ref().and_then(|access| access.allowed_cidrs.as_deref());
            let is_public = access.as_ref().is_some_and(|access| access.is_public);
            // One text that the program does not read as a network would keep the rules of all instances from being written.
            let sources: Option<Vec<String>> = allowed.map(|all| all.iter().filter_map(|text| source(text)).collect());
            for port in ports {
                let door = format!("-d {address} -p tcp --dport {port}");
                let everywhere = vec!["0.0.0.0/0".to_owned()];
                for source in sources.as_ref().unwrap_or(&everywhere).iter().filter(|_| is_public) {
                    let _ = writeln!(early, "-A {before} {door} -s {source} -j ACCEPT");
                    let _ = writeln!(text, "-A {between} {door} -s {source} -j ACCEPT");
                }
                let _ = writeln!(text, "-A {between} ! -i {bridges}+ {door} -j REJECT --reject-with tcp-reset");
                let Some(sources) = &sources else { continue };
                for source in sources {
                    let _ = writeln!(text, "-A {to} {door} -s {source} -j RETURN");
                }
                let _ = writeln!(text, "-A {to} {door} -j REJECT --reject-with tcp-reset");
            }
        }
        Rules { filter: text + "COMMIT\n", raw: early + "COMMIT\n" }
    }

    /// The rules that lead into the chains, each with its table.
    fn entries(&self) -> [Vec<String>; 4] {
        let words = |text: String| text.split(' ').map(str::to_owned).collect();
        [
            words(format!("raw PREROUTING -j {}", self.chain("RAW"))),
            words(format!("filter INPUT -i {}+ -j {}", self.bridges, self.chain("IN"))),
            words(format!("filter {DOCKERS} -j {}", self.chain("FWD"))),
            words(format!("filter OUTPUT -o {}+ -j {}", self.bridges, self.chain("OUT"))),
        ]
    }

    fn enter(&self, table: &str) -> Result<(), String> {
        self.entries().iter().filter(|entry| entry[0] == table).try_for_each(|entry| {
            // First, before what an administrator's rules let pass.
            change("-C", entry).or_else(|_| change("-I", entry))
        })
    }

    /// Removes the chains and what leads into them. An error means that it is not there.
    pub(super) fn remove(&self) {
        for entry in self.entries() {
            // Two controllers may have put it in at the same time.
            while change("-D", &entry).is_ok() {}
        }
        let chains = [("raw", "RAW"), ("filter", "IN"), ("filter", "FWD"), ("filter", "OUT")];
        // Those that lead into others come first.
        for (table, name) in chains.into_iter().chain(LIMITS.map(|name| ("filter", name))) {
            let chain = [table.to_owned(), self.chain(name)];
            let _ = change("-F", &chain).and_then(|()| change("-X", &chain));
        }
    }
}

/// Logs an obstacle once.
fn tell(known: &mut Option<String>, now: Option<String>, meaning: &str) {
    if let Some(error) = &now
        && known.as_ref() != Some(error)
    {
        tracing::error!("{meaning}: {error}");
    }
    *known = now;
}

/// Changes a table, of which the name comes first.
fn change(verb: &str, words: &[String]) -> Result<(), String> {
    let Some((table, rest)) = words.split_first() else { return Ok(()) };
    let words: Vec<&str> = ["--wait", "-t", table, verb].into_iter().chain(rest.iter().map(String::as_str)).collect();
    run("iptables", &words, "")
}

/// A network of IPv4 as the program reads it. The instances have no IPv6 addresses.
fn source(text: &str) -> Option<String> {
    let network = text.parse::<Ipv4Net>().ok().or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from));
    network.map(|network| network.trunc().to_string())
}

/// Runs a program; the error is what it said.
fn run(program: &str, args: &[&str], input: &str) -> Result<(), String> {
    let done = || -> std::io::Result<Output> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = done().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_access() {
        let firewall = Firewall::new("ab", "trvab".to_owned(), 8778);
        let door = |last, is_public, cidrs: Option<&[&str]>| Door {
            address: Ipv4Addr::new(10, 9, 1, last),
            ports: vec![5432],
            access: Some(Access {
                is_public,
                allowed_cidrs: cidrs.map(|all| all.iter().map(|cidr| (*cidr).to_owned()).collect()),
            }),
        };
        let doors = [
            Door { access: None, ..door(2, false, None) },
            door(3, true, None),
            door(4, true, Some(&["192.0.2.9/024", "192.0.2.9/24", "2001:db8::/32", "x\n-A"])),
            door(5, false, Some(&["198.51.100.7"])),
        ];
        let Rules { filter: text, raw } = firewall.rules(&doors);
        let rules: Vec<&str> = raw.lines().chain(text.lines()).filter(|line| line.contains("10.9.")).collect();
        assert_eq!(
            rules,
            [
                "-A TROVE-ab-RAW -d 10.9.1.3 -p tcp --dport 5432 -s 0.0.0.0/0 -j ACCEPT",
                "-A TROVE-ab-RAW -d 10.9.1.4 -p tcp --dport 5432 -s 192.0.2.0/24 -j ACCEPT",
                "-A TROVE-ab-FWD ! -i trvab+ -d 10.9.1.2 -p tcp --dport 5432 -j REJECT --reject-with tcp-reset",
                "-A TROVE-ab-FWD -d 10.9.1.3 -p tcp --dport 5432 -s 0.0.0.0/0 -j ACCEPT",
                "-A TROVE-ab-FWD ! -i trvab+ -d 10.9.1.3 -p tcp --dport 5432 -j REJECT --reject-with tcp-reset",
                "-A TROVE-ab-FWD -d 10.9.1.4 -p tcp --dport 5432 -s 192.0.2.0/24 -j ACCEPT",
                "-A TROVE-ab-FWD ! -i trvab+ -d 10.9.1.4 -p tcp --dport 5432 -j REJECT --reject-with tcp-reset",
                "-A TROVE-ab-OUT -d 10.9.1.4 -p tcp --dport 5432 -s 192.0.2.0/24 -j RETURN",
                "-A TROVE-ab-OUT -d 10.9.1.4 -p tcp --dport 5432 -j REJECT --reject-with tcp-reset",
                "-A TROVE-ab-FWD ! -i trvab+ -d 10.9.1.5 -p tcp --dport 5432 -j REJECT --reject-with tcp-reset",
                "-A TROVE-ab-OUT -d 10.9.1.5 -p tcp --dport 5432 -s 198.51.100.7/32 -j RETURN",
                "-A TROVE-ab-OUT -d 10.9.1.5 -p tcp --dport 5432 -j REJECT --reject-with tcp-reset",
            ]
        );
        assert!(text.contains("-A TROVE-ab-FWD -i trvab+ -d 169.254.0.0/16 -j DROP\n"), "{text}");
        assert!(text.contains("-A TROVE-ab-IN -p tcp --dport 8778 -j RETURN\n-A TROVE-ab-IN -j DROP\n"), "{text}");
    }
    /// In the network namespace of this thread, of which the programs that it starts have a part.
    fn said(program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Ends a process, and its network namespace with it.
    struct Guest(std::process::Child);

    impl Drop for Guest {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A guest behind a bridge of the driver's, and another machine beyond, in the other network namespace, too.
    fn guest() -> Guest {
        let words = ["--pdeathsig", "KILL", "--", "unshare", "--net", "sh", "-c", "echo; exec sleep 600"];
        let mut guest = Guest(Command::new("setpriv").args(words).stdout(Stdio::piped()).spawn().unwrap());
        // It is in its namespace once it speaks.
        std::io::Read::read_exact(guest.0.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pid = guest.0.id();
        let script = format!(
            "set -e; ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward
             inside() {{ nsenter --net --target {pid} ip \"$@\"; }}
             ip link add trvab0 type veth peer name guest netns {pid}
             ip link add beyond type veth peer name other netns {pid}
             ip address add 10.9.1.1/24 dev trvab0; ip address add 192.0.2.1/24 dev beyond
             for each in trvab0 beyond; do ip link set $each up; done
             inside address add 10.9.1.2/24 dev guest
             for each in guest other; do inside link set $each up; done
             inside route add default via 10.9.1.1
             ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:01 dev beyond
             iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER"
        );
        said("sh", &["-c", &script]);
        guest
    }

    /// How many connections the kernel knows after the guest has tried 1500 new ones.
    fn flood(guest: &Guest, first: u32) -> u32 {
        let script = format!("for port in {{{first}..{}}}; do echo > /dev/udp/192.0.2.9/$port; done", first + 1499);
        said("nsenter", &["--net", "--target", &guest.0.id().to_string(), "bash", "-c", &script]);
        said("cat", &["/proc/sys/net/netfilter/nf_conntrack_count"]).trim().parse().unwrap()
    }

    fn limits_outlive_a_renewal() {
        let guest = guest();
        let firewall = Firewall::new("ab", "trvab".to_owned(), 8778);
        let door = Door { address: Ipv4Addr::new(10, 9, 1, 2), ports: vec![5432], access: None };
        let renew = || {
            firewall.renew(|| Ok(vec![door.clone()]));
            assert!(firewall.holds());
            firewall.obstacles.lock().unwrap().raw.clone()
        };
        // Another program has its own idea of the table `raw`.
        let chain = "{ type filter hook prerouting priority 5; }";
        said("nft", &["add", "table", "ip", "raw"]);
        said("nft", &["add", "chain", "ip", "raw", "PREROUTING", chain]);
        assert!(renew().is_some());
        said("nft", &["delete", "table", "ip", "raw"]);
        assert_eq!(renew(), None);
        let within = MOST_CONNECTIONS / 2..MOST_CONNECTIONS + 64;
        let first = flood(&guest, 1000);
        assert!(within.contains(&first), "{first}");
        assert_eq!(renew(), None);
        let both = flood(&guest, 4000);
        assert!(within.contains(&both), "{first}, and after a renewal {both}");

        // Rules that an administrator has flushed, and entries that two controllers have made.
        said("iptables", &["-F"]);
        said("iptables", &["-A", "FORWARD", "-j", "DOCKER-USER"]);
        assert_eq!(renew(), None);
        for entry in firewall.entries() {
            change("-I", &entry).unwrap();
        }
        let all = || said("iptables", &["-S"]) + &said("iptables", &["-t", "raw", "-S"]);
        assert_eq!(all().matches("--connlimit-above 1024").count(), 2, "{}", all());
        firewall.remove();
        assert!(!all().contains("TROVE-ab"), "{}", all());
    }

    #[test]
    fn the_limits_of_connections_outlive_a_renewal_and_nothing_is_left_when_all_is_removed() {
        let is_there = |name: &str, version: &str| Command::new(name).arg(version).output().is_ok();
        let has_all = is_there("iptables", "--version") && is_there("ip", "-V") && is_there("nft", "--version");
        // With iptables-legacy each change of a table makes all of its rules anew.
        if !nix::unistd::geteuid().is_root() || !has_all || said("iptables", &["--version"]).contains("legacy") {
            println!("skipped: only root, with iptables-nft, has network namespaces with a packet filter");
            return;
        }
        let apart = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            limits_outlive_a_renewal();
        });
        apart.join().unwrap();
    }
}

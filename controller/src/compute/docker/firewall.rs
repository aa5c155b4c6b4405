//! Rules of the machine's packet filter, in four chains that are always written whole:
//!
//! - From an instance no service of this machine can be reached but the agents' port of the controller. Answers to
//!   connections that this machine made pass.
//! - From an instance no link-local address is reached, where a cloud tells this machine its secrets, and it has a bounded
//!   part of the kernel's table of connections, which is one for all.
//! - Other machines, for which this one has to be the route, reach an instance only if it is public, and only from its
//!   allowed CIDRs. What is no longer allowed ends, since the rules are asked for each packet of a connection.
//! - If allowed CIDRs were given, they hold for this machine, too; its address is then the first one of the network.
//!
//! Docker drops what other machines send to a container, in the chain `FORWARD`, and from version 28 on in the table `raw`,
//! which comes first: what is let in is accepted in both.
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
    /// Why the rules are not in force, if so. Also serialises the writers.
    obstacle: Mutex<Option<String>>,
}

impl Firewall {
    pub(super) fn new(key: &str, bridges: String, agents_port: u16) -> Self {
        let obstacle = Mutex::new(Some("they have not been written yet".to_owned()));
        Self { key: key.to_owned(), bridges, agents_port, obstacle }
    }

    /// Whether the rules are in force.
    pub(super) fn holds(&self) -> bool {
        self.obstacle.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn chain(&self, name: &str) -> String {
        format!("TROVE-{}-{name}", self.key)
    }

    /// Writes all rules. Blocks the thread. The doors are read by whoever writes, so that no older ones are written after
    /// newer ones.
    pub(super) fn renew(&self, doors: impl FnOnce() -> Result<Vec<Door>, ComputeError>) {
        let mut obstacle = self.obstacle.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = doors().map_err(|error| error.to_string()).and_then(|doors| {
            run("iptables-restore", &["--wait", "--noflush"], &self.rules(&doors))?;
            self.enter()
        });
        if let Err(error) = &outcome
            && obstacle.as_ref() != Some(error)
        {
            tracing::error!(
                "instances are not kept from services of this machine, so root cannot be enabled unless process.allow_root \
                 is set, and access rules are not in force: {error}"
            );
        }
        *obstacle = outcome.err();
    }

    /// The contents of the chains, in the format of iptables-restore(8), which replaces those of a table at once.
    fn rules(&self, doors: &[Door]) -> String {
        let (before, from) = (self.chain("RAW"), self.chain("IN"));
        let (between, to) = (self.chain("FWD"), self.chain("OUT"));
        let (port, bridges) = (self.agents_port, &self.bridges);
        let too_many = format!("-m connlimit --connlimit-above {MOST_CONNECTIONS} --connlimit-mask 32");
        let mut early = format!("*raw\n:{before} - [0:0]\n");
        let mut text = format!(
            "*filter\n:{from} - [0:0]\n:{between} - [0:0]\n:{to} - [0:0]\n\
             -A {from} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n\
             -A {from} -p tcp --dport {port} {too_many} -j DROP\n\
             -A {from} -p tcp --dport {port} -j RETURN\n-A {from} -j DROP\n\
             -A {between} -i {bridges}+ -d {LINK_LOCAL} -j DROP\n\
             -A {between} -i {bridges}+ -m conntrack --ctstate NEW {too_many} -j DROP\n"
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
        early + "COMMIT\n" + &text + "COMMIT\n"
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

    fn enter(&self) -> Result<(), String> {
        self.entries().iter().try_for_each(|entry| {
            // First, before what an administrator's rules let pass.
            change("-C", entry).or_else(|_| change("-I", entry))
        })
    }

    /// Removes the chains and what leads into them. An error means that it is not there.
    pub(super) fn remove(&self) {
        for entry in self.entries() {
            let _ = change("-D", &entry);
        }
        for (table, name) in [("raw", "RAW"), ("filter", "IN"), ("filter", "FWD"), ("filter", "OUT")] {
            let chain = [table.to_owned(), self.chain(name)];
            let _ = change("-F", &chain).and_then(|()| change("-X", &chain));
        }
    }
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
        let text = firewall.rules(&doors);
        let rules: Vec<&str> = text.lines().filter(|line| line.contains("10.9.")).collect();
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
}

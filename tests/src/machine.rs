//! Another machine, as far as the network tells: a network namespace whose way to everything leads through this machine.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::poll::poll;

pub struct OtherMachine {
    /// Its only process.
    process: Child,
    pub address: Ipv4Addr,
}

impl OtherMachine {
    /// Makes one. Root only.
    pub async fn new() -> Result<Self> {
        let network = Ipv4Addr::new(198, 18, rand::random(), rand::random_range(0..64) * 4).to_bits();
        let (here, address) = (Ipv4Addr::from_bits(network + 1), Ipv4Addr::from_bits(network + 2));
        // It ends also with a test that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "sleep", "infinity"]);
        let process = command.stdin(Stdio::null()).spawn()?;
        let pid = process.id().to_string();
        let machine = Self { process, address };
        let own = fs::read_link("/proc/self/ns/net")?;
        let namespace = async || Ok(fs::read_link(format!("/proc/{pid}/ns/net"))?);
        poll("a network namespace", Duration::from_secs(10), namespace, |namespace| *namespace != own).await?;
        let (near, far) = (format!("near{pid}"), format!("far{pid}"));
        run("ip", &["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &pid])?;
        run("ip", &["address", "add", &format!("{here}/30"), "dev", &near])?;
        run("ip", &["link", "set", &near, "up"])?;
        machine.run(&["ip", "address", "add", &format!("{address}/30"), "dev", &far])?;
        machine.run(&["ip", "link", "set", &far, "up"])?;
        machine.run(&["ip", "route", "add", "default", "via", &here.to_string()])?;
        Ok(machine)
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let pid = self.process.id().to_string();
        run("nsenter", &[&["--net", "--target", &pid][..], words].concat())
    }

    /// Whether a TCP connection can be made from it.
    pub fn reaches(&self, address: &str, port: u16) -> bool {
        self.run(&["timeout", "3", "bash", "-c", &format!("exec 3<>/dev/tcp/{address}/{port}")]).is_ok()
    }
}

impl Drop for OtherMachine {
    /// The network goes with the process.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(program: &str, words: &[&str]) -> Result<()> {
    let output = Command::new(program).args(words).output().with_context(|| format!("start {program}"))?;
    ensure!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

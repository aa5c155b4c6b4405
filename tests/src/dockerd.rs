//! A Docker Engine for a test: the machine's, or else one of its own, without systemd, of which nothing is left.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::poll::poll;
use crate::skip::skipped;

/// The image of the stories: the path of its description. `make image` makes one.
const IMAGE: &str = "TROVE_TEST_IMAGE";

/// Where the machine's engine listens.
const MACHINES: &str = "/run/docker.sock";

pub struct Dockerd {
    socket: PathBuf,
    /// One of the test's own, its directory, and what keeps others from starting one.
    own: Option<(Child, TempDir, Flock<File>)>,
    /// Description of the image that instances are made of.
    pub image: PathBuf,
}

impl Dockerd {
    /// Starts one. `None` where that is impossible; the reason is printed.
    pub async fn start() -> Result<Option<Self>> {
        let skipped = |why: &str| {
            skipped(why);
            Ok(None)
        };
        if !nix::unistd::geteuid().is_root() {
            return skipped("Docker needs root");
        }
        if Command::new("dockerd").arg("--version").stdout(Stdio::null()).status().is_err() {
            return skipped("dockerd is not installed");
        }
        let Some(image) = std::env::var_os(IMAGE) else {
            return skipped("no image is named by TROVE_TEST_IMAGE");
        };
        let machines = Self { socket: MACHINES.into(), own: None, image: image.clone().into() };
        if machines.docker(&["version"]).is_ok() {
            return Ok(Some(machines));
        }
        // Two engines that start at the same time undo each other's rules of iptables. The lock is on a file of all stories.
        let file = File::open(&image).with_context(|| format!("{IMAGE}={}", image.to_string_lossy()))?;
        let alone = tokio::task::spawn_blocking(|| Flock::lock(file, FlockArg::LockExclusive)).await?;
        let alone = alone.map_err(|(_, errno)| errno).context("wait for the stories beside")?;
        let directory = tempfile::Builder::new().prefix("trove-dockerd-").tempdir()?;
        let log = File::create(directory.path().join("log"))?;
        let mut command = Command::new("dockerd");
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(option).arg(directory.path().join(name));
        }
        let socket = directory.path().join("socket");
        // Without a bridge of its own, which would be left.
        command.args(["--bridge", "none", "--host"]).arg(format!("unix://{}", socket.display()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("start dockerd")?;
        let dockerd = Self { socket, own: Some((child, directory, alone)), image: image.into() };
        let ready = async || dockerd.docker(&["version"]);
        poll("Docker", Duration::from_secs(60), ready, |_| true).await.with_context(|| dockerd.log())?;
        Ok(Some(dockerd))
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn log(&self) -> String {
        let log = self.own.as_ref().map(|(_, directory, _)| std::fs::read_to_string(directory.path().join("log")));
        log.and_then(Result::ok).unwrap_or_default()
    }

    /// Runs the command line of Docker, which must succeed, and returns its output.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        let host = format!("unix://{}", self.socket().display());
        let output = Command::new("docker").args(["--host", &host]).args(args).output().context("start docker")?;
        if !output.status.success() {
            bail!("docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Names of all that match.
    pub fn names(&self, args: &[&str], prefix: &str) -> Result<Vec<String>> {
        let all = self.docker(args)?;
        Ok(all.lines().filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// The pid, on this machine, of the first process of a container.
    pub fn pid(&self, container: &str) -> Result<Pid> {
        Ok(Pid::from_raw(self.docker(&["inspect", "--format", "{{.State.Pid}}", container])?.parse()?))
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // The stories have removed their containers and networks.
        let Some((child, ..)) = &mut self.own else { return };
        if let Ok(pid) = i32::try_from(child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = child.wait();
    }
}

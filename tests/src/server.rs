//! A server that is somebody else's program: in a directory of its own, on an address of its own, started by a script that says
//! `serves` once it does.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use tempfile::TempDir;

/// The exit status of a script that cannot run the server here, and has said why.
const UNAVAILABLE: i32 = 75;

/// Which program, and how it is found.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The file below `scripts/`. It is called with `serve`, the cache, a directory for the state, address and port, and with TLS the
    /// certificate and its key.
    pub(crate) script: &'static str,
    /// The variable of the environment that names the directory where it is installed.
    pub(crate) cache: &'static str,
    pub(crate) port: u16,
}

/// The server. Dropping it stops it.
pub(crate) struct Server {
    program: &'static Program,
    directory: TempDir,
    address: Ipv4Addr,
    tls: bool,
    child: Option<Child>,
}

impl Server {
    /// One that does not run yet, and a client that trusts it.
    pub(crate) fn new(program: &'static Program, tls: bool) -> Result<(Self, Client)> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::Builder::new().prefix("trove-server-").tempdir()?;
        let address = Ipv4Addr::new(127, rand::random_range(128..=254), rand::random(), rand::random_range(1..=254));
        let mut builder = Client::builder().pool_max_idle_per_host(0);
        if tls {
            certify(directory.path(), address)?;
            let pem = std::fs::read(directory.path().join("ca.pem"))?;
            builder = builder.tls_certs_only([reqwest::Certificate::from_pem(&pem)?]);
        }
        Ok((Self { program, directory, address, tls, child: None }, builder.build()?))
    }

    /// Starts it, or starts it again with the same state. Returns why it cannot run here, if the script says that.
    pub(crate) fn run(&mut self) -> Result<Option<String>> {
        let Program { name, script, cache, port } = self.program;
        let installed = std::env::var_os(cache).with_context(|| format!("{cache} is not set; run `make test`"))?;
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script));
        command.arg("serve").arg(installed).arg(self.state()).arg(self.address.to_string()).arg(port.to_string());
        if self.tls {
            command.arg(self.file("server.pem")).arg(self.file("server.key"));
        }
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let stdout = child.stdout.take().with_context(|| format!("read {name}'s output"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() == "serves" {
            self.child = Some(child);
            return Ok(None);
        }
        let status = child.wait()?;
        if status.code() == Some(UNAVAILABLE) {
            return Ok(Some(line.trim().to_owned()));
        }
        let log = std::fs::read_to_string(self.state().join("serve.log")).unwrap_or_default();
        bail!("{name} did not come up ({status}): {log}")
    }

    /// Kills it with SIGKILL; its state stays.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.program.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.program.name))?;
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    /// Where its state is.
    pub(crate) fn state(&self) -> PathBuf {
        self.file("state")
    }

    /// A file beside its state.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where it serves, without a path.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}:{}", if self.tls { "https" } else { "http" }, self.address, self.program.port)
    }

    /// The authority that signed its certificate, if it uses TLS.
    pub(crate) fn ca_file(&self) -> Option<PathBuf> {
        self.tls.then(|| self.file("ca.pem"))
    }

    /// The line of a configuration that names its authority, where it has one.
    pub(crate) fn ca_line(&self) -> String {
        self.ca_file().map(|file| format!("ca_file = {file:?}\n")).unwrap_or_default()
    }

    /// A file with a secret, which the service reads at its start.
    pub(crate) fn secret_file(&self, name: &str, secret: &str) -> Result<PathBuf> {
        let file = self.file(name);
        std::fs::write(&file, format!("{secret}\n"))?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        Ok(file)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Nothing can be done about a failure here.
            let _ = self.kill();
        }
    }
}

/// Makes an authority and a certificate for the address.
fn certify(directory: &Path, address: Ipv4Addr) -> Result<()> {
    let openssl = |args: &[&str]| -> Result<()> {
        let output = Command::new("openssl").args(args).current_dir(directory).output().context("start openssl")?;
        ensure!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let authority = ["-subj", "/CN=tests-ca", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&new[..], &authority[..]].concat())?;
    let name = format!("subjectAltName=IP:{address}");
    let server = ["-subj", "/CN=tests", "-keyout", "server.key", "-out", "server.pem", "-addext", &name];
    let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:false"];
    openssl(&[&new[..], &server[..], &signed[..]].concat())
}

//! A PostgreSQL server for the controllers' store, with its own directory and address.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::Shared;

/// Directory of the server's programs in Debian.
const BINDIR: &str = "/usr/lib/postgresql/15/bin";
/// Account that runs the server, which refuses root.
const ACCOUNT: &str = "trove";
const PASSWORD: &str = "store-secret";

/// The server. Dropping it stops it.
pub struct Database {
    directory: TempDir,
    address: Ipv4Addr,
    /// Not the engines' port, which some tests bind on every address.
    port: u16,
    /// Settings on the command line.
    options: String,
}

fn as_account(program: &str) -> Result<Command> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(Command::new(format!("{BINDIR}/{program}")));
    }
    let user = User::from_name(ACCOUNT)?.with_context(|| format!("the account {ACCOUNT}; make setup makes it"))?;
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid), "--clear-groups", "--"]);
    command.arg(format!("{BINDIR}/{program}"));
    Ok(command)
}

impl Database {
    /// Starts a server without fsync, since tests have no power failures.
    pub fn start() -> Result<Self> {
        Self::start_with(&["fsync=off"])
    }

    /// Starts a server with settings, each `name=value`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    /// Starts a server whose files are below `parent`.
    pub fn start_in(parent: &Path, settings: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("trove-store-").tempdir_in(parent)?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let address = Ipv4Addr::new(127, rand::random_range(1..=60), rand::random(), rand::random_range(1..=254));
        let port = rand::random_range(20_000..30_000);
        let mut database = Self { directory, address, port, options: String::new() };
        std::fs::write(database.password_file(), PASSWORD)?;
        let key: [u8; 32] = rand::random();
        std::fs::write(database.path().join("secret.key"), key)?;
        let own = database.path().join("server");
        std::fs::create_dir(&own)?;
        if nix::unistd::geteuid().is_root() {
            let user = User::from_name(ACCOUNT)?.context("the account")?;
            nix::unistd::chown(&own, Some(user.uid), Some(user.gid))?;
        }
        let data = database.data();
        let mut initdb = as_account("initdb")?;
        initdb.arg("-D").arg(&data).args(["-U", "store", "--auth=scram-sha-256", "--no-sync"]);
        initdb.arg(format!("--pwfile={}", database.password_file().display()));
        let made = initdb.stdout(Stdio::null()).output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let settings: String = settings.iter().map(|setting| format!(" -c {setting}")).collect();
        database.options = format!(
            "-c listen_addresses={address} -c port={port} -c unix_socket_directories={} -c max_connections=200{settings}",
            own.display()
        );
        database.start_again()?;
        Ok(database)
    }

    /// Starts it again after it has ended. An error contains the end of its log.
    pub fn start_again(&self) -> Result<()> {
        let log = self.path().join("server/log");
        let mut start = as_account("pg_ctl")?;
        start.args(["start", "-w", "-D"]).arg(self.data()).args(["-o", &self.options, "-l"]).arg(&log);
        let started = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(started.success(), "pg_ctl start: {}", std::fs::read_to_string(log)?);
        Ok(())
    }

    /// Kills all its processes with SIGKILL and waits for their end.
    pub fn kill(&self) -> Result<()> {
        let all = self.signal(Signal::SIGKILL)?;
        let is_there = |pid: &i32| Path::new(&format!("/proc/{pid}/exe")).exists();
        while all.iter().any(is_there) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Sends a signal to all its processes, and returns their pids.
    pub fn signal(&self, signal: Signal) -> Result<Vec<i32>> {
        let first = self.pid()?;
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children"))?;
        let mut all = vec![first];
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        for pid in &all {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        Ok(all)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn data(&self) -> PathBuf {
        self.path().join("server/data")
    }

    fn password_file(&self) -> PathBuf {
        self.path().join("password")
    }

    /// Settings for controllers that share it.
    pub fn shared(&self) -> Shared {
        Shared {
            url: format!("postgres://store@{}:{}/postgres", self.address, self.port),
            password_file: self.password_file(),
            key_file: self.path().join("secret.key"),
            hosts: self.path().join("hosts"),
            backups: self.path().join("backups"),
        }
    }

    /// The same, connecting over a Unix socket.
    pub fn shared_locally(&self) -> Shared {
        let directory = self.path().join("server");
        let url = format!("postgres://store@localhost:{}/postgres?host={}", self.port, directory.display());
        Shared { url, ..self.shared() }
    }

    /// Pid of the postmaster.
    pub fn pid(&self) -> Result<i32> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).context("the server's pid file")?;
        text.lines().next().context("the server's pid")?.parse().context("the server's pid")
    }

    /// Opens a session in the store's database.
    pub async fn connect(&self) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host(self.address.to_string()).port(self.port).user("store").password(PASSWORD).dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut stop) = as_account("pg_ctl") {
            stop.args(["stop", "-m", "immediate", "-D"]).arg(self.data());
            // After a failure a process is left; the next check for leftovers reports it.
            let _ = stop.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

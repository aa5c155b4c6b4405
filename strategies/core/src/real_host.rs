//! The real hands: commands as the engine's account, and files that are replaced as one step.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Pid, Uid, User, chown};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::host::{Command, File, Host, HostError, Output, Owner};

const STDOUT_BYTES: usize = 1 << 20;
const STDERR_BYTES: usize = 64 << 10;

/// An account of the operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: Uid,
    /// Its group id.
    pub gid: Gid,
}

impl Account {
    /// The account of this process.
    ///
    /// # Errors
    /// It has no entry in the system's list of accounts; engines need one.
    pub fn own() -> io::Result<Self> {
        let uid = nix::unistd::geteuid();
        let user = User::from_uid(uid).map_err(io::Error::from)?;
        user.map(Self::from).ok_or_else(|| io::Error::other(format!("uid {uid} has no entry in the list of accounts")))
    }

    /// The account of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> io::Result<Self> {
        let user = User::from_name(name).map_err(io::Error::from)?;
        user.map(Self::from).ok_or_else(|| io::Error::other(format!("there is no account named {name}")))
    }
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Self { name: user.name, uid: user.uid, gid: user.gid }
    }
}

/// Commands and files on this machine. When both accounts are the same nothing is switched.
#[derive(Clone, Debug)]
pub struct RealHost {
    /// Runs the engine and owns its files.
    pub engine: Account,
    /// Runs the agent: this process.
    pub agent: Account,
}

impl RealHost {
    fn account(&self, owner: Owner) -> &Account {
        match owner {
            Owner::Engine => &self.engine,
            Owner::Agent => &self.agent,
        }
    }

    /// Makes a command of the standard library run as this owner: a switch only where it is needed.
    pub fn become_owner(&self, command: &mut std::process::Command, owner: Owner) {
        use std::os::unix::process::CommandExt;
        let account = self.account(owner);
        if account.uid != self.agent.uid {
            command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
        }
    }

    /// By descriptor: in a directory of the engine's the path may lead elsewhere by now, to a file of the system's.
    fn give_open(&self, file: &std::fs::File, owner: Owner) -> io::Result<()> {
        if self.engine.uid == self.agent.uid {
            return Ok(());
        }
        let account = self.account(owner);
        std::os::unix::fs::fchown(file, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
    }

    fn give(&self, path: &Path, owner: Owner) -> io::Result<()> {
        if self.engine.uid == self.agent.uid {
            return Ok(());
        }
        let account = self.account(owner);
        chown(path, Some(account.uid), Some(account.gid)).map_err(io::Error::from)
    }
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostError {
    move |error| HostError::File { attempt, path: path.display().to_string(), reason: error.to_string() }
}

/// File work off the threads that serve.
async fn blocking<T: Send + 'static>(
    attempt: &'static str,
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, HostError> {
    let owned = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&owned)).await;
    done.map_err(io::Error::other).and_then(|result| result).map_err(failed(attempt, path))
}

fn flush_directory(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::File::open(parent)?.sync_all()
}

/// What a stream said, at most `limit` bytes: its beginning, or its end when `keep_end`.
async fn collect(stream: Option<impl AsyncReadExt + Unpin>, limit: usize, keep_end: bool) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let (mut all, mut chunk) = (Vec::new(), vec![0; 8192]);
    // A stream that breaks has said what it said; the exit status decides.
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        all.extend_from_slice(&chunk[..n]);
        if all.len() > limit {
            if keep_end {
                all.drain(..all.len() - limit);
            } else {
                all.truncate(limit);
            }
        }
    }
    String::from_utf8_lossy(&all).trim_end().to_owned()
}

#[async_trait]
impl Host for RealHost {
    async fn run(&self, command: Command) -> Result<Output, HostError> {
        let program = command.program.display().to_string();
        let mut base = std::process::Command::new(&command.program);
        base.args(&command.args).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
        base.envs(command.env.iter().map(|(name, value)| (name, value))).current_dir("/");
        self.become_owner(&mut base, command.user);
        let mut base = tokio::process::Command::from(base);
        let stdin = if command.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        base.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child =
            base.spawn().map_err(|error| HostError::Start { program: program.clone(), reason: error.to_string() })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let (input, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let (Some(mut input), Some(text)) = (input, command.stdin) {
                // A program that does not read its input says so by its exit status.
                let _ = input.write_all(text.expose_secret().as_bytes()).await;
            }
        };
        let all = async {
            tokio::join!(collect(stdout, STDOUT_BYTES, false), collect(stderr, STDERR_BYTES, true), child.wait(), feed)
        };
        let Ok((stdout, stderr, status, ())) = tokio::time::timeout(command.deadline, all).await else {
            if let Some(group) = group {
                // Its children may hold the pipes; the whole group goes.
                let _ = killpg(group, Signal::SIGKILL);
            }
            return Err(HostError::Late { program, seconds: command.deadline.as_secs() });
        };
        let status =
            status.map_err(|error| HostError::Start { program: program.clone(), reason: error.to_string() })?;
        if status.success() {
            return Ok(Output { stdout, stderr });
        }
        let said = if stderr.is_empty() { stdout } else { stderr };
        Err(HostError::Failed { program, status: status.to_string(), stderr: said })
    }

    async fn ensure_directory(&self, path: &Path, mode: u32, owner: Owner) -> Result<(), HostError> {
        let host = self.clone();
        let make = move |path: &Path| {
            std::fs::create_dir_all(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            host.give(path, owner)
        };
        blocking("make directory", path, make).await
    }

    async fn write(&self, file: File) -> Result<(), HostError> {
        let host = self.clone();
        let path = file.path.clone();
        let write = move |path: &Path| {
            use std::io::Write;
            use std::os::unix::fs::OpenOptionsExt;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let beside = path.with_file_name(format!(".{name}.new"));
            // What a crash left may have another owner or mode.
            match std::fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut new = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
            let written = new
                .write_all(&file.contents)
                .and_then(|()| new.set_permissions(std::fs::Permissions::from_mode(file.mode)))
                .and_then(|()| host.give_open(&new, file.owner))
                .and_then(|()| new.sync_all())
                .and_then(|()| std::fs::rename(&beside, path))
                .and_then(|()| flush_directory(path));
            if written.is_err() {
                // On a full disk the half written file is in the way; the first error is the one to tell.
                let _ = std::fs::remove_file(&beside);
            }
            written
        };
        blocking("write", &path, write).await
    }

    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError> {
        let read = |path: &Path| match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        blocking("read", path, read).await
    }

    async fn exists(&self, path: &Path) -> Result<bool, HostError> {
        blocking("look for", path, Path::try_exists).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), HostError> {
        let to: PathBuf = to.to_owned();
        let rename = move |from: &Path| {
            std::fs::rename(from, &to)?;
            flush_directory(&to)
        };
        blocking("rename", from, rename).await
    }

    async fn remove(&self, path: &Path) -> Result<(), HostError> {
        let remove = |path: &Path| {
            let removed = match std::fs::symlink_metadata(path) {
                Ok(facts) if facts.is_dir() => std::fs::remove_dir_all(path),
                Ok(_) => std::fs::remove_file(path),
                Err(error) => Err(error),
            };
            match removed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        };
        blocking("remove", path, remove).await
    }
}

//! The real hands: commands as the engine's account, and files that are replaced as one step.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use nix::unistd::{Gid, Uid, User};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::net::UnixStream;

use crate::beneath::{Dir, Ids};
use crate::command::{Command, Output, Signal};
use crate::error::HostError;
use crate::host::{File, Host, Piece};
use crate::location::{Directory, Location, Owner};
use crate::stream::{InputStream, OutputStream};

mod commands;

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

/// Where the directories of a site are. Everything above them is the agent's or the system's.
#[derive(Clone, Debug)]
pub struct Places {
    /// `<volume>/<major>`.
    pub data: PathBuf,
    /// Configuration.
    pub config: PathBuf,
    /// Sockets.
    pub run: PathBuf,
    /// The engine's output.
    pub log: PathBuf,
    /// The agent's passwords.
    pub secrets: PathBuf,
}

/// Handles of the directories of a site.
#[derive(Debug)]
struct Directories {
    data: Dir,
    config: Dir,
    run: Dir,
    log: Dir,
    secrets: Dir,
}

/// Processes that may be talked to: the engine, with a handle by which it is signalled, since its number may be another's
/// once it has ended, and what [`Host::run`] runs.
type Processes = Arc<Mutex<HashMap<i32, Option<OwnedFd>>>>;

/// A process that [`Host::connect`] takes for this site's own, while this value lives.
#[derive(Debug)]
pub struct Trusted {
    pid: i32,
    processes: Processes,
}

impl Drop for Trusted {
    fn drop(&mut self) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.pid);
    }
}

/// Commands and files on this machine. When both accounts are the same nothing is switched. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RealHost {
    /// Runs the engine and owns its files.
    pub engine: Account,
    /// Runs the agent: this process.
    pub agent: Account,
    directories: Option<Arc<Directories>>,
    processes: Processes,
    confinement: Option<Arc<Confinement>>,
}

/// Where processes of the engine's account are, apart from the agent.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// The directories of their control groups.
    pub groups: Vec<PathBuf>,
    /// A program that goes into these groups and into a [`crate::domain`], becomes the engine's account, and then is what
    /// its last arguments say. So no instant of such a process is counted on the agent.
    pub program: PathBuf,
    /// Its first arguments.
    pub args: Vec<String>,
}

impl RealHost {
    /// For commands alone: it has no directories.
    pub fn new(engine: Account, agent: Account) -> Self {
        Self { engine, agent, directories: None, processes: Processes::default(), confinement: None }
    }

    /// With places of their own for processes of the engine's account, where that is not the agent's.
    #[must_use]
    pub fn confined(mut self, confinement: Confinement) -> Self {
        self.confinement = (!self.is_one_account()).then(|| Arc::new(confinement));
        self
    }

    /// The control groups in which everything of the engine's account is; none where it has none of its own.
    pub fn engine_groups(&self) -> &[PathBuf] {
        self.confinement.as_ref().map_or(&[], |confinement| &confinement.groups)
    }

    /// With the directories of a site, which are made where they are missing, and get their modes and owners.
    ///
    /// # Errors
    /// One of them cannot be made, or is neither the agent's nor the engine's.
    pub fn for_site(engine: Account, agent: Account, places: &Places) -> io::Result<Self> {
        let mut host = Self::new(engine, agent);
        let made = |path: &Path, error: io::Error| io::Error::other(format!("make {}: {error}", path.display()));
        let root = |path: &Path, mode, ids| {
            Dir::make(path, host.mode(mode), ids, &host.owners()).map_err(|error| made(path, error))
        };
        let (engine, agent) = (host.ids(Owner::Engine, None), host.ids(Owner::Agent, None));
        let (volume, major) = (places.data.parent(), places.data.file_name());
        let (Some(volume), Some(major)) = (volume, major) else {
            return Err(io::Error::other(format!("{} is no directory of a volume", places.data.display())));
        };
        // The volume may be a mount whose root was made by somebody else; what tenants change begins below it.
        let volume = root(volume, 0o711, agent)?;
        let data = volume.make_directory(Path::new(major), host.mode(0o700), engine);
        let directories = Directories {
            data: data.map_err(|error| made(&places.data, error))?,
            config: root(&places.config, 0o750, host.ids(Owner::Agent, Some(Directory::Config)))?,
            run: root(&places.run, 0o700, engine)?,
            log: root(&places.log, 0o700, agent)?,
            secrets: root(&places.secrets, 0o700, agent)?,
        };
        host.directories = Some(Arc::new(directories));
        Ok(host)
    }

    fn account(&self, owner: Owner) -> &Account {
        match owner {
            Owner::Engine => &self.engine,
            Owner::Agent => &self.agent,
        }
    }

    fn is_one_account(&self) -> bool {
        self.engine.uid == self.agent.uid
    }

    /// Whose files are worked on.
    fn owners(&self) -> [u32; 2] {
        [self.agent.uid.as_raw(), self.engine.uid.as_raw()]
    }

    /// What a file is given to, where it has to be given at all.
    fn ids(&self, owner: Owner, directory: Option<Directory>) -> Option<Ids> {
        let account = self.account(owner);
        let group = if directory == Some(Directory::Config) { self.engine.gid } else { account.gid };
        (!self.is_one_account()).then_some(Ids { uid: account.uid.as_raw(), gid: group.as_raw() })
    }

    /// The group's bits are for the engine's account where it is another one; engines refuse keys that others can read.
    fn mode(&self, mode: u32) -> u32 {
        if self.is_one_account() { mode & 0o700 } else { mode }
    }

    /// A command of the standard library that runs as this owner, among its own: a switch only where it is needed. What the
    /// agent is denied to gain by a program (`no_new_privs`), its children are denied too.
    pub fn command(&self, program: &Path, owner: Owner) -> std::process::Command {
        use std::os::unix::process::CommandExt;
        let account = self.account(owner);
        if account.uid == self.agent.uid {
            return std::process::Command::new(program);
        }
        if let Some(confinement) = &self.confinement {
            let mut command = std::process::Command::new(&confinement.program);
            command.args(&confinement.args).arg(program);
            return command;
        }
        let mut command = std::process::Command::new(program);
        command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
        command
    }

    /// Takes a process for this site's engine: it may be talked to and signalled.
    pub fn trust(&self, pid: i32) -> Trusted {
        // One that has just ended has no handle, and is not signalled.
        let handle = rustix::process::Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        self.trusted(pid, handle)
    }

    fn trusted(&self, pid: i32, handle: Option<OwnedFd>) -> Trusted {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, handle);
        Trusted { pid, processes: self.processes.clone() }
    }

    fn trusts(&self, pid: i32) -> bool {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&pid)
    }

    fn directory(&self, directory: Directory) -> io::Result<&Dir> {
        let all = self.directories.as_deref().ok_or_else(|| io::Error::other("this host has no site"))?;
        Ok(match directory {
            Directory::Data => &all.data,
            Directory::Config => &all.config,
            Directory::Run => &all.run,
            Directory::Log => &all.log,
            Directory::Secrets => &all.secrets,
        })
    }

    /// Bytes that everything in one of the directories takes on the disk.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn used_bytes(&self, directory: Directory) -> io::Result<u64> {
        let measured = self.directory(directory)?.clone();
        tokio::task::spawn_blocking(move || measured.used_bytes()).await.map_err(io::Error::other)?
    }

    /// File work off the threads that serve.
    async fn files<T: Send + 'static>(
        &self,
        attempt: &'static str,
        at: &Location,
        work: impl FnOnce(&Dir, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, HostError> {
        let Location { directory, path } = at.clone();
        let done = match self.directory(directory).cloned() {
            Ok(dir) => tokio::task::spawn_blocking(move || work(&dir, &path)).await.map_err(io::Error::other),
            Err(error) => Err(error),
        };
        let failed = |error: io::Error| HostError::File { attempt, at: at.clone(), reason: error.to_string() };
        done.and_then(|result| result).map_err(failed)
    }

    /// Connects through a handle: the name may lead elsewhere by now.
    #[allow(clippy::disallowed_methods, reason = "the path names a descriptor of this process")]
    async fn connected(&self, at: &Location, owner: Owner) -> io::Result<UnixStream> {
        let dir = self.directory(at.directory)?;
        let handle = dir.handle(&at.path)?;
        let facts = rustix::fs::fstat(&handle)?;
        if rustix::fs::FileType::from_raw_mode(facts.st_mode) != rustix::fs::FileType::Socket {
            return Err(io::Error::other("it is no socket"));
        }
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let stream = match owner {
            Owner::Engine if !self.is_one_account() => connect_as(self.engine.uid, path).await?,
            _ => UnixStream::connect(path).await?,
        };
        let peer = stream.peer_cred()?;
        let (uid, pid) = (peer.uid(), peer.pid().unwrap_or_default());
        if uid != self.engine.uid.as_raw() {
            return Err(io::Error::other(format!(
                "process {pid} of uid {uid} listens there, which is not the engine's"
            )));
        }
        if !self.trusts(pid) {
            return Err(io::Error::other(format!(
                "process {pid} listens there, which is not the engine that was started"
            )));
        }
        Ok(stream)
    }
}

/// Connects with the credentials of another account: who connects is what the system vouches for at the other end. They are
/// a thread's own (setresuid(2), "C library/kernel differences"), so it is a thread that ends with them. Its real and saved ids
/// stay: nobody else may signal or trace it meanwhile.
#[allow(clippy::disallowed_methods, reason = "the path names a descriptor of this process")]
async fn connect_as(uid: Uid, path: String) -> io::Result<UnixStream> {
    let (done, connected) = tokio::sync::oneshot::channel();
    // It does not wait: where too many wait for the server already, it fails.
    let connect = move || -> io::Result<OwnedFd> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let uid = rustix::process::Uid::from_raw(uid.as_raw());
        rustix::thread::set_thread_res_uid(None, Some(uid), None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    // Whoever waits may have gone.
    let connect = move || drop(done.send(connect()));
    std::thread::Builder::new().name("connect".to_owned()).spawn(connect)?;
    UnixStream::from_std(connected.await.map_err(io::Error::other)??.into())
}

#[async_trait]
impl Host for RealHost {
    async fn run(&self, command: Command) -> Result<Output, HostError> {
        self.run_command(command).await
    }

    async fn read_from(&self, command: Command) -> Result<OutputStream, HostError> {
        self.output_stream(command)
    }

    async fn write_to(&self, command: Command) -> Result<InputStream, HostError> {
        self.input_stream(command)
    }

    #[allow(clippy::disallowed_methods, reason = "a program of the system")]
    async fn has_program(&self, path: &Path) -> Result<bool, HostError> {
        let failed =
            |error: io::Error| HostError::Start { program: path.display().to_string(), reason: error.to_string() };
        tokio::fs::try_exists(path).await.map_err(failed)
    }

    async fn make_directory(&self, at: &Location, mode: u32, owner: Owner) -> Result<(), HostError> {
        let (mode, ids) = (self.mode(mode), self.ids(owner, Some(at.directory)));
        let make = move |dir: &Dir, path: &Path| dir.make_directory(path, mode, ids).map(|_| ());
        self.files("make the directory", at, make).await
    }

    async fn write(&self, file: File) -> Result<(), HostError> {
        let File { at, contents, mode, owner } = file;
        let (mode, ids) = (self.mode(mode), self.ids(owner, Some(at.directory)));
        self.files("write", &at, move |dir, path| dir.write(path, &contents, mode, ids)).await
    }

    async fn read(&self, at: &Location, limit: u64) -> Result<Option<Vec<u8>>, HostError> {
        self.files("read", at, move |dir, path| dir.read(path, limit)).await
    }

    async fn read_at(&self, at: &Location, offset: u64, limit: usize) -> Result<Option<Piece>, HostError> {
        self.files("read", at, move |dir, path| dir.read_at(path, offset, limit)).await
    }

    async fn exists(&self, at: &Location) -> Result<bool, HostError> {
        self.files("look for", at, Dir::exists).await
    }

    async fn rename(&self, from: &Location, to: &Location) -> Result<(), HostError> {
        let (same, to) = (from.directory == to.directory, to.path.clone());
        let rename = move |dir: &Dir, path: &Path| {
            if !same {
                return Err(io::Error::other("it would leave its directory"));
            }
            dir.rename(path, &to)
        };
        self.files("rename", from, rename).await
    }

    async fn remove(&self, at: &Location) -> Result<(), HostError> {
        self.files("remove", at, Dir::remove).await
    }

    async fn connect_as(&self, at: &Location, owner: Owner) -> Result<UnixStream, HostError> {
        let failed = |error: io::Error| HostError::Connect { at: at.clone(), reason: error.to_string() };
        self.connected(at, owner).await.map_err(failed)
    }

    async fn signal(&self, signal: Signal) -> Result<(), HostError> {
        let signal = match signal {
            Signal::Hangup => rustix::process::Signal::HUP,
            Signal::Interrupt => rustix::process::Signal::INT,
            Signal::Quit => rustix::process::Signal::QUIT,
            Signal::Terminate => rustix::process::Signal::TERM,
            Signal::User1 => rustix::process::Signal::USR1,
            Signal::User2 => rustix::process::Signal::USR2,
        };
        let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = processes.values().flatten().next();
        let engine = engine.ok_or_else(|| HostError::Signal { reason: "it does not run".to_owned() })?;
        pidfd_send_signal(engine, signal).map_err(|error| HostError::Signal { reason: error.to_string() })
    }
}

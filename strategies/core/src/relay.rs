//! A socket of the agent's own that leads to the engine's, for drivers and programs that open their connections themselves: what
//! they are led to is what [`crate::Host::connect`] has verified. A program with the agent's rights that looked for the engine's
//! socket itself would follow what a tenant put in its place.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, copy, split};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::error::EngineError;

/// Numbers the sockets of this process, so that each has a name of its own.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A listener without a name in any directory (unix(7), "abstract sockets"). It ends with this value, and so do its connections.
#[derive(Debug)]
pub struct Relay {
    name: String,
    refusal: Arc<Mutex<Option<EngineError>>>,
    task: AbortHandle,
}

impl Relay {
    /// Listens to drivers in this process alone. For each of their connections `reach` makes one to the engine, from which no more
    /// than `limit` bytes are read.
    ///
    /// # Errors
    /// The system gives no socket.
    pub fn open<S, F>(limit: u64, reach: impl Fn() -> F + Send + 'static) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
        F: Future<Output = Result<S, EngineError>> + Send + 'static,
    {
        // The kernel draws a name where none is given.
        Self::listen(&SocketAddr::from_pathname("")?, is_own, limit, reach)
    }

    /// Listens to programs of this process's account, which the engine would let in as well. They look for a socket named `file` in
    /// a directory: [`Relay::directory`] stands for that.
    ///
    /// # Errors
    /// The system gives no socket.
    pub fn for_programs<S, F>(file: &str, reach: impl Fn() -> F + Send + 'static) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
        F: Future<Output = Result<S, EngineError>> + Send + 'static,
    {
        let name = format!("trove-{}-{}/{file}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self::listen(&SocketAddr::from_abstract_name(name)?, is_of_own_account, u64::MAX, reach)
    }

    fn listen<S, F>(
        address: &SocketAddr,
        admits: fn(&UnixStream) -> bool,
        limit: u64,
        reach: impl Fn() -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
        F: Future<Output = Result<S, EngineError>> + Send + 'static,
    {
        let listener = StdListener::bind_addr(address)?;
        let name = listener.local_addr()?.as_abstract_name().map(|name| String::from_utf8_lossy(name).into_owned());
        let name = name.ok_or_else(|| io::Error::other("the system gave the socket no name"))?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let refusal = Arc::new(Mutex::new(None));
        let told = refusal.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            // An error is that of a connection which is gone.
            loop {
                let accepted = listener.accept().await;
                while connections.try_join_next().is_some() {}
                let Some(driver) = accepted.ok().map(|(driver, _)| driver).filter(admits) else { continue };
                let (reached, told) = (reach(), told.clone());
                connections.spawn(async move {
                    match reached.await {
                        Ok(engine) => join(driver, engine, limit).await,
                        Err(error) => *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
                    }
                });
            }
        });
        Ok(Self { name, refusal, task: task.abort_handle() })
    }

    /// The path that a driver connects to: tokio takes one that begins with NUL for an abstract name.
    pub fn path(&self) -> String {
        format!("\0{}", self.name)
    }

    /// The directory of the socket as libpq's programs take it: one that begins with `@` is of an abstract name.
    pub fn directory(&self) -> String {
        format!("@{}", self.name.rsplit_once('/').map_or(self.name.as_str(), |(directory, _)| directory))
    }

    /// Why the last connection that failed led nowhere; a driver hears only that it was closed.
    pub fn refusal(&self) -> Option<EngineError> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether who connects has the account of this process.
fn is_of_own_account(program: &UnixStream) -> bool {
    program.peer_cred().is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw())
}

fn is_own(driver: &UnixStream) -> bool {
    let peer = driver.peer_cred().ok().and_then(|peer| peer.pid());
    peer.and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id())
}

/// Hands on until one of the two ends.
async fn join<S: AsyncRead + AsyncWrite>(driver: UnixStream, engine: S, limit: u64) {
    let (mut from_driver, mut to_driver) = driver.into_split();
    let (from_engine, mut to_engine) = split(engine);
    let mut from_engine = from_engine.take(limit);
    // Whoever is at the other end hears of it by the end of the connection.
    tokio::select! {
        _ = copy(&mut from_engine, &mut to_driver) => {}
        _ = copy(&mut from_driver, &mut to_engine) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::error::Kind;

    /// A relay to somebody who says what is said to him.
    fn to_echo(limit: u64) -> Relay {
        Relay::open(limit, || async {
            let (engine, other) = tokio::io::duplex(64);
            tokio::spawn(async move {
                let (mut heard, mut said) = split(other);
                copy(&mut heard, &mut said).await
            });
            Ok::<_, EngineError>(engine)
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_driver_of_this_process_is_led_to_the_engine_and_not_beyond_the_limit() {
        let relay = to_echo(4);
        let mut driver = UnixStream::connect(relay.path()).await.unwrap();
        driver.write_all(b"five!").await.unwrap();
        let mut heard = Vec::new();
        driver.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"five");
        drop(relay);
    }

    #[tokio::test]
    async fn another_process_is_led_nowhere() {
        let relay = to_echo(100);
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect('\\0'+sys.argv[1]); \
                      s.sendall(b'hello'); print(s.recv(5))";
        let said = tokio::process::Command::new("python3").args(["-c", script, &relay.name]).output().await.unwrap();
        assert!(!String::from_utf8_lossy(&said.stdout).contains("hello"), "{said:?}");
    }

    #[tokio::test]
    async fn it_says_why_it_leads_nowhere_and_ends_with_its_connections() {
        let closed = Relay::open(1, || async { Err::<UnixStream, _>(EngineError::new(Kind::Transient, "not there")) });
        let closed = closed.unwrap();
        let mut driver = UnixStream::connect(closed.path()).await.unwrap();
        assert_eq!(driver.read(&mut [0]).await.unwrap(), 0);
        assert!(closed.refusal().unwrap().chain().contains("not there") && closed.refusal().is_none());

        let relay = to_echo(100);
        let path = relay.path();
        let mut driver = UnixStream::connect(&path).await.unwrap();
        driver.write_all(b"a").await.unwrap();
        assert_eq!(driver.read_u8().await.unwrap(), b'a');
        drop(relay);
        assert_eq!(driver.read(&mut [0]).await.unwrap(), 0);
        assert!(UnixStream::connect(&path).await.is_err());
    }
}

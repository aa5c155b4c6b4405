//! Talking to the server: over the private socket, as `os_admin` with the password that only the agent can read.

use std::path::PathBuf;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, ProtocolVersion, RedisConnectionInfo, RedisError,
    ServerErrorKind,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use trove_strategy::{Directory, EngineError, Kind, Location, Site};

use crate::acl;

const CONNECT: Duration = Duration::from_millis(1500);
/// How long a server takes to refuse.
const REFUSAL: Duration = Duration::from_millis(100);
const REFUSAL_BYTES: u64 = 200;
/// Writing the accounts to a slow disk is the longest that is asked for.
const ANSWER: Duration = Duration::from_secs(30);

/// The private socket.
pub(crate) fn socket() -> Location {
    Directory::Run.join("engine.sock")
}

/// What the agent holds of its server.
#[derive(Debug)]
pub(crate) struct Held {
    /// The last connection, and to which socket. It stays open: when strangers or tenants take all connections that the
    /// server gives, the agent's is one of them.
    connection: Mutex<Option<(PathBuf, MultiplexedConnection)>>,
    /// Whoever writes the file of accounts, or has the server write it.
    pub(crate) saving: Mutex<()>,
}

impl Held {
    pub(crate) const fn nothing() -> Self {
        Self { connection: Mutex::const_new(None), saving: Mutex::const_new(()) }
    }

    /// The connection that is held, or another one. `Transient` while the server does not answer.
    pub(crate) async fn session(&self, site: &Site) -> Result<Session, EngineError> {
        let at = site.path(&socket());
        let mut held = self.connection.lock().await;
        if let Some((_, connection)) = held.as_ref().filter(|(socket, _)| *socket == at) {
            let mut session = Session { connection: connection.clone() };
            if session.is_open().await? {
                return Ok(session);
            }
        }
        *held = None;
        let mut session = match Session::open(site).await {
            Ok(session) => session,
            Err(error) => return Err(refusal(site).await.unwrap_or(error)),
        };
        // Where a tenant limits the memory of all connections together, this one is not closed for it.
        let mut keep = redis::cmd("CLIENT");
        session.ask::<redis::Value>("connect", keep.arg("NO-EVICT").arg("ON")).await?;
        *held = Some((at, session.connection.clone()));
        Ok(session)
    }
}

/// A connection of the agent's.
pub(crate) struct Session {
    connection: MultiplexedConnection,
}

impl Session {
    async fn open(site: &Site) -> Result<Self, EngineError> {
        let password = acl::admin_password(site).await?;
        let password = password.ok_or_else(|| EngineError::new(Kind::Gone, "connect: the engine is not made yet"))?;
        Self::open_at(site, &socket(), acl::ADMIN, &password).await
    }

    /// Whether the server is still at the other end. `Transient` when it does not answer.
    async fn is_open(&mut self) -> Result<bool, EngineError> {
        let ping = redis::cmd("PING");
        let asked = ping.query_async::<redis::Value>(&mut self.connection);
        let late = |_| EngineError::new(Kind::Transient, "connect: no answer within 1.5 s");
        match tokio::time::timeout(CONNECT, asked).await.map_err(late)? {
            Ok(_) => Ok(true),
            // What the server says instead, such as BUSY or LOADING, is for whoever asks.
            Err(error) => Ok(!error.is_unrecoverable_error()),
        }
    }

    /// Connects to a server that has another socket. The password is said to the engine alone, or to a server that this
    /// agent runs: the host has looked who listens.
    pub(crate) async fn open_at(
        site: &Site,
        socket: &Location,
        user: &str,
        password: &SecretString,
    ) -> Result<Self, EngineError> {
        let login = RedisConnectionInfo::default()
            .set_username(user)
            .set_password(password.expose_secret())
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        let limits = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER));
        let connect = async {
            let stream = site.host.connect(socket).await?;
            let opened = MultiplexedConnection::new_with_config(&login, stream, limits).await;
            opened.map_err(|error| explained("connect", &error))
        };
        let late = |_| EngineError::new(Kind::Transient, "connect: no answer");
        let (connection, driver) = tokio::time::timeout(CONNECT, connect).await.map_err(late)??;
        // It ends with the last handle of the connection.
        tokio::spawn(driver);
        Ok(Self { connection })
    }

    /// Sends a command. `attempt` says what for: commands are not shown in errors.
    pub(crate) async fn ask<T: FromRedisValue>(&mut self, attempt: &str, command: &Cmd) -> Result<T, EngineError> {
        command.query_async(&mut self.connection).await.map_err(|error| explained(attempt, &error))
    }

    /// Runs commands as one step, or none of them.
    pub(crate) async fn step(&mut self, attempt: &str, pipeline: &redis::Pipeline) -> Result<(), EngineError> {
        let done: Result<redis::Value, RedisError> = pipeline.query_async(&mut self.connection).await;
        done.map(|_| ()).map_err(|error| explained(attempt, &error))
    }

    /// Parameters as the server has them, by name.
    pub(crate) async fn parameters(
        &mut self,
        attempt: &str,
    ) -> Result<std::collections::BTreeMap<String, String>, EngineError> {
        self.ask(attempt, redis::cmd("CONFIG").arg("GET").arg("*")).await
    }
}

/// Why a server that is full closed the connection: it says so before it is asked, and whoever asks finds a broken pipe.
async fn refusal(site: &Site) -> Option<EngineError> {
    let mut said = Vec::new();
    let mut stream = site.host.connect(&socket()).await.ok()?.take(REFUSAL_BYTES);
    tokio::time::timeout(REFUSAL, stream.read_to_end(&mut said)).await.ok()?.ok()?;
    let said = String::from_utf8(said).ok()?;
    let reason = said.strip_prefix("-ERR ")?.trim_end();
    Some(EngineError::new(Kind::Transient, format!("connect: {reason}")))
}

/// What the server said, without the command.
fn explained(attempt: &str, error: &RedisError) -> EngineError {
    let kind = match error.kind() {
        ErrorKind::Server(ServerErrorKind::ResponseError) => Kind::Invalid,
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain) | ErrorKind::Io => Kind::Transient,
        _ => match error.code() {
            // A disk that is full, a script that runs, memory that is used up: these pass.
            Some("MISCONF" | "BUSY" | "OOM") => Kind::Transient,
            _ => Kind::Fatal,
        },
    };
    let said = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {}", detail.trim()),
        _ => error.to_string(),
    };
    let kind = if said.contains("max number of clients") { Kind::Transient } else { kind };
    EngineError::new(kind, format!("{attempt}: {said}"))
}

//! Talking to the server: over the private socket, as `os_admin` with the password that only the agent can read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisError, ServerErrorKind,
};
use secrecy::{ExposeSecret, SecretString};
use trove_strategy::{EngineError, Kind, Site};

use crate::acl;

const CONNECT: Duration = Duration::from_millis(1500);
/// Writing the accounts to a slow disk is the longest that is asked for.
const ANSWER: Duration = Duration::from_secs(30);

/// The private socket.
pub(crate) fn socket(site: &Site) -> PathBuf {
    site.run.join("engine.sock")
}

/// A connection of the agent's.
pub(crate) struct Session {
    connection: MultiplexedConnection,
}

impl Session {
    /// Connects. `Transient` while the server does not answer.
    pub(crate) async fn open(site: &Site) -> Result<Self, EngineError> {
        let password = acl::admin_password(site).await?;
        let password = password.ok_or_else(|| EngineError::new(Kind::Gone, "connect: the engine is not made yet"))?;
        Self::open_at(&socket(site), acl::ADMIN, &password).await
    }

    /// Connects to a server that has another socket.
    pub(crate) async fn open_at(socket: &Path, user: &str, password: &SecretString) -> Result<Self, EngineError> {
        let login = RedisConnectionInfo::default()
            .set_username(user)
            .set_password(password.expose_secret())
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        let address = ConnectionAddr::Unix(socket.to_owned()).into_connection_info();
        let address = address.map_err(|error| explained("connect", &error))?.set_redis_settings(login);
        let client = redis::Client::open(address).map_err(|error| explained("connect", &error))?;
        let limits =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        let connection = client.get_multiplexed_async_connection_with_config(&limits).await;
        Ok(Self { connection: connection.map_err(|error| explained("connect", &error))? })
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

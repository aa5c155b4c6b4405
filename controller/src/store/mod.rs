//! The only state of the controller, and the only SQL: instances, operations, datastores, agents' links and tokens,
//! authorities, identity tokens. Not stored: heartbeats (only their loss is), engine metrics, logs.
//!
//! One SQL text is to serve SQLite and PostgreSQL: `$1` placeholders, columns of type text, bigint and boolean; times
//! are bigint microseconds since 1970 (UTC); JSON is text. Each query is a named method in the file of its subject.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Row as _, SqlSafeStr, Sqlite, SqliteConnection, Transaction};
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::seal::Seal;
use crate::store::agents::ResetServices;

pub mod agents;
pub mod assignments;
pub mod authorities;
pub mod datastores;
#[cfg(test)]
pub(crate) mod harness;
pub mod hosts;
pub mod identity;
pub mod instances;
pub mod operations;
pub mod queue;
pub mod quota;

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// Any number of readers.
    pub(crate) read: SqlitePool,
    /// The one writer.
    pub(crate) write: SqlitePool,
    /// Seals secrets before they are written.
    pub seal: Seal,
    /// Instances whose stored service is older than what their agent says (`store/agents.rs`).
    pub(crate) reset_services: ResetServices,
}

/// The migrations in their order; append-only.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "instances", include_str!("migrations/0001_instances.sql")),
    (2, "agents", include_str!("migrations/0002_agents.sql")),
    (3, "identity", include_str!("migrations/0003_identity.sql")),
    (4, "operations", include_str!("migrations/0004_operations.sql")),
];

impl Store {
    /// Opens the store in `directory`, making it when absent, and brings its schema up to date.
    ///
    /// # Errors
    /// Internal: the file cannot be opened or a migration fails.
    pub async fn open(directory: &Path, seal: Seal) -> Result<Self> {
        let path = directory.join("trove.sqlite");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A committed operation must be there after a power cut, since hosts are made on its word.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .foreign_keys(true);
        let failed = |error: sqlx::Error| Error::internal(format!("open {}", path.display()), error);
        let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(failed)?;
        let migrations = MIGRATIONS
            .iter()
            .map(|(version, name, sql)| {
                let kind = MigrationType::Simple;
                Migration::new(*version, (*name).into(), kind, AssertSqlSafe(*sql).into_sql_str(), false)
            })
            .collect();
        Migrator::with_migrations(migrations)
            .run(&write)
            .await
            .map_err(|error| Error::internal(format!("migrate {}", path.display()), error))?;
        let read =
            SqlitePoolOptions::new().max_connections(8).connect_with(options.read_only(true)).await.map_err(failed)?;
        Ok(Self { read, write, seal, reset_services: ResetServices::default() })
    }

    /// Begins a transaction that writes; there is one at a time.
    ///
    /// # Errors
    /// Internal.
    pub async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        self.write.begin_with("begin immediate").await.map_err(|error| Error::internal("begin a transaction", error))
    }
}

/// The database's own clock, microseconds since 1970, on which leases and deadlines are measured: controllers on several
/// machines share it.
///
/// # Errors
/// Internal.
pub async fn database_now(conn: &mut SqliteConnection) -> Result<i64> {
    sqlx::query("select cast(unixepoch('subsec') * 1000000 as integer)")
        .fetch_one(conn)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| Error::internal("read the database's clock", error))
}

/// A time as it is stored: microseconds since 1970, UTC.
pub fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

/// A stored time.
pub fn from_micros(micros: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

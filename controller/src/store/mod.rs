//! The store: the only state of the controller, and the only SQL. It has instances, operations, datastores, links and
//! tokens of agents, certificate authorities, users and tokens. Heartbeats (except their loss), engine metrics and logs
//! are not stored.
//!
//! Each SQL text works on SQLite and PostgreSQL (`sql.rs`): it has `$1` placeholders and columns of type text, bigint
//! and boolean. Times are microseconds since 1970 (UTC) as bigint; JSON is text. Columns are named, never `*`, since a
//! newer controller may have added some. Each query is a method in the file of its subject.

use std::fs::Permissions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, SqlSafeStr};
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::seal::Seal;
use crate::store::agents::ResetServices;
#[cfg(test)]
pub(crate) use crate::store::clock::Clock;
#[cfg(not(test))]
use crate::store::clock::Clock;
use crate::store::sql::{Connection, News, Pool, Transaction};

pub mod agents;
pub mod assignments;
pub mod authorities;
pub mod backup_schedules;
mod backup_strategies;
pub mod backups;
mod clock;
pub mod configurations;
pub mod controllers;
pub mod datastores;
mod health;
pub mod hosts;
pub mod identity;
pub mod instances;
pub mod logs;
pub mod operations;
pub mod parameter_rules;
mod parameters;
pub mod queue;
pub mod quota;
pub mod sql;

/// Greatest number of prepared statements of a connection; the store has fewer.
const STATEMENTS: usize = 200;
/// File name of the SQLite database. SQLite's other files begin with it.
pub const DATABASE: &str = "trove.sqlite";
/// Connections to PostgreSQL for reading.
const READERS: u32 = 8;
/// Connections to PostgreSQL for writing. Only one of them writes at a time.
const WRITERS: u32 = 2;
/// After this time PostgreSQL ends an idle transaction, so that a stopped controller does not keep others from writing.
const IDLE_IN_TRANSACTION: &str = "5s";
/// PostgreSQL's time limit of a statement, including its wait for other writers. It is a little shorter than the limit
/// with which controllers wait for the answer ([`sql::answered`]).
const STATEMENT: &str = "9s";
/// PostgreSQL's time limit of a migration, which may rewrite tables, or wait for another controller's migration.
const MIGRATION: &str = "10min";

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// Connections for reading.
    pub(crate) read: Pool,
    /// Connections for writing; one transaction at a time.
    pub(crate) write: Pool,
    /// Encrypts secrets.
    pub seal: Seal,
    clock: Clock,
    /// See `store/agents.rs`.
    pub(crate) reset_services: ResetServices,
    health: health::Health,
}

/// The migrations in order. Append only.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "instances", include_str!("migrations/0001_instances.sql")),
    (2, "agents", include_str!("migrations/0002_agents.sql")),
    (3, "identity", include_str!("migrations/0003_identity.sql")),
    (4, "operations", include_str!("migrations/0004_operations.sql")),
    (5, "controllers", include_str!("migrations/0005_controllers.sql")),
    (6, "token_parents", include_str!("migrations/0006_token_parents.sql")),
    (7, "administration", include_str!("migrations/0007_administration.sql")),
    (8, "events", include_str!("migrations/0008_events.sql")),
    (9, "agent_words", include_str!("migrations/0009_agent_words.sql")),
    (10, "steps", include_str!("migrations/0010_steps.sql")),
    (11, "unregistered", include_str!("migrations/0011_unregistered.sql")),
    (12, "newest_first", include_str!("migrations/0012_newest_first.sql")),
    (13, "engine_uids", include_str!("migrations/0013_engine_uids.sql")),
    (14, "targets", include_str!("migrations/0014_targets.sql")),
    (15, "driver_state", include_str!("migrations/0015_driver_state.sql")),
    (16, "host_fence", include_str!("migrations/0016_host_fence.sql")),
    (17, "requirements", include_str!("migrations/0017_requirements.sql")),
    (18, "configurations", include_str!("migrations/0018_configurations.sql")),
    (19, "server_ids", include_str!("migrations/0019_server_ids.sql")),
    (20, "parameter_rules", include_str!("migrations/0020_parameter_rules.sql")),
    (21, "images", include_str!("migrations/0021_images.sql")),
    (22, "backups", include_str!("migrations/0022_backups.sql")),
    (23, "backup_schedules", include_str!("migrations/0023_backup_schedules.sql")),
    (24, "verifications", include_str!("migrations/0024_verifications.sql")),
    (25, "deletion_protection", include_str!("migrations/0025_deletion_protection.sql")),
    (26, "increments", include_str!("migrations/0026_increments.sql")),
    (27, "schedule_options", include_str!("migrations/0027_schedule_options.sql")),
    (28, "log_shipping", include_str!("migrations/0028_log_shipping.sql")),
    (29, "backup_memory", include_str!("migrations/0029_backup_memory.sql")),
];

fn migrator() -> Migrator {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| {
            let kind = MigrationType::Simple;
            Migration::new(*version, (*name).into(), kind, AssertSqlSafe(*sql).into_sql_str(), false)
        })
        .collect();
    let mut migrator = Migrator::with_migrations(migrations);
    // The schema may be that of a newer controller that shares the store. It works, since migrations only add.
    migrator.set_ignore_missing(true);
    migrator
}

/// Makes the file readable by its owner only, whatever the umask. SQLite makes its other files with the same mode.
#[allow(clippy::disallowed_methods, reason = "the state directory is the controller's alone")]
fn keep_private(path: &Path) -> std::io::Result<()> {
    std::fs::File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::set_permissions(&file, Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Store {
    /// Opens the store on SQLite in `directory`. Makes it if absent, and migrates the schema.
    ///
    /// # Errors
    /// Internal: the file cannot be opened or a migration fails.
    pub async fn open(directory: &Path, seal: Seal) -> Result<Self> {
        let path = directory.join(DATABASE);
        keep_private(&path).map_err(|error| Error::internal(format!("make {}", path.display()), error))?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            // A committed operation must survive a power failure, since hosts may have been made for it.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .statement_cache_capacity(STATEMENTS)
            .foreign_keys(true);
        let failed = |error: sqlx::Error| Error::internal(format!("open {}", path.display()), error);
        let mut first = SqliteConnection::connect_with(&options).await.map_err(failed)?;
        migrator()
            .run(&mut first)
            .await
            .map_err(|error| Error::internal(format!("migrate {}", path.display()), error))?;
        let clock = Clock::new(micros(OffsetDateTime::now_utc()));
        let [read, write] = sql::sqlite_pools(&options, &clock);
        Ok(Self::over(read, write, seal, clock))
    }

    fn over(read: Pool, write: Pool, seal: Seal, clock: Clock) -> Self {
        let reset_services = ResetServices::default();
        Self { read, write, seal, clock, reset_services, health: health::Health::default() }
    }

    /// Opens the store on PostgreSQL at `url`, which must not contain a password, and migrates the schema.
    ///
    /// # Errors
    /// 400 for an invalid URL or one with a password; internal if the database cannot be reached or a migration fails.
    pub async fn connect(url: &str, password: Option<&str>, seal: Seal) -> Result<Self> {
        let mut options = PgConnectOptions::from_str(url)
            .map_err(|error| Error::BadRequest(format!("store.url is not the URL of a PostgreSQL database: {error}.")))?
            .application_name("trove-controller")
            .statement_cache_capacity(STATEMENTS)
            .options([
                ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
                ("statement_timeout", MIGRATION),
                ("default_transaction_isolation", "read committed"),
                // Statements are prepared once; planning one for its values would cost more than executing it.
                ("plan_cache_mode", "force_generic_plan"),
            ]);
        if let Some(password) = password {
            options = options.password(password);
        }
        let place = format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or(""));
        let failed = |error: sqlx::Error| Error::internal(format!("open the store on PostgreSQL at {place}"), error);
        let mut first = sql::answered(PgConnection::connect_with(&options)).await.map_err(failed)?;
        migrator()
            .run(&mut first)
            .await
            .map_err(|error| Error::internal(format!("migrate the store on PostgreSQL at {place}"), error))?;
        drop(first);
        // This overrides the statement_timeout for migrations, which was set above.
        let options = options.options([("statement_timeout", STATEMENT)]);
        let clock = Clock::new(micros(OffsetDateTime::now_utc()));
        // Two pools, since writers wait for each other and must not take the connections of readers.
        let read = Pool::postgres(options.clone(), READERS, clock.clone());
        read.now().await.map_err(failed)?;
        let write = Pool::postgres(options, WRITERS, clock.clone());
        Ok(Self::over(read, write, seal, clock))
    }

    /// The store of one controller on the simulator's database. `clock` is that of its machine.
    #[cfg(test)]
    pub(crate) fn simulated(link: sql::simulated::Link, clock: Clock, seal: Seal) -> Self {
        let pool = Pool::simulated(link, clock.clone());
        Self::over(pool.clone(), pool, seal, clock)
    }

    /// The simulator's database at the time `now` (microseconds since 1970). `more` is additional SQL.
    #[cfg(test)]
    pub(crate) fn simulated_server(now: i64, more: &'static str) -> sql::simulated::Server {
        let schema: Vec<&'static str> = MIGRATIONS.iter().map(|(_, _, sql)| *sql).chain([more]).collect();
        sql::simulated::Server::new(&schema, Clock::simulated(now))
    }

    /// Begins a write transaction. There is one at a time. It is rolled back unless it is committed.
    pub async fn begin(&self) -> Result<Transaction> {
        self.write.begin_write().await.map_err(|error| Error::internal("begin a transaction", error))
    }

    /// The time by the database's clock. Only this clock is used for stored and compared times.
    pub fn now(&self) -> OffsetDateTime {
        from_micros(self.clock.now())
    }

    /// [`Store::now`] as it is stored.
    pub(crate) fn now_micros(&self) -> i64 {
        self.clock.now()
    }

    /// Whether other controllers may use this store, too.
    pub fn is_shared(&self) -> bool {
        self.read.is_shared()
    }

    /// Calls `told` with each notification of the controllers, including this one, as long as the connection lasts.
    ///
    /// # Errors
    /// Internal: the connection was lost. Try again later.
    pub async fn listen(&self, told: impl Fn(News)) -> Result<()> {
        self.read.listen(told).await.map_err(|error| Error::internal("listen to other controllers", error))
    }
}

/// The database's clock, microseconds since 1970. Leases and deadlines use it, since controllers on several machines
/// share it.
pub async fn database_now(conn: &mut Connection) -> Result<i64> {
    conn.now().await.map_err(|error| Error::internal("read the database's clock", error))
}

/// Converts a time for the store: microseconds since 1970, UTC.
pub fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

/// Converts a duration for the store: microseconds. All of them are hours at most.
fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Converts a stored time.
pub fn from_micros(micros: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

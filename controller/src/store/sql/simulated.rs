//! The simulator's database: SQLite that is called synchronously, so that no threads affect the order of events and no
//! simulated time passes. A [`Gate`] injects faults of a server's connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::executor::block_on;
use futures::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, Either, Executor as _, SqlSafeStr, SqlStr};
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::{News, Value, query};
use crate::store::Clock;

/// Idle timeout of a transaction, as on PostgreSQL.
const IDLE: Duration = Duration::from_secs(5);

/// Point at which a connection may stall or break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    /// Before a transaction.
    Begin,
    /// Before a statement.
    Statement,
    /// Before a commit.
    Commit,
    /// After a commit, or a writing statement outside of a transaction, took effect. An error here means an unknown
    /// outcome.
    Committed,
    /// Before a notification is received. An error here means that it was missed.
    News,
}

/// Delays, stalls or fails the database calls of one controller.
pub(crate) type Gate = Arc<dyn Fn(Moment) -> BoxFuture<'static, sqlx::Result<()>> + Send + Sync>;

/// A database.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    reader: Mutex<SqliteConnection>,
    writer: Mutex<SqliteConnection>,
    clock: Clock,
    /// Notifications.
    news: tokio::sync::broadcast::Sender<News>,
    /// Locked by the writer.
    turn: Arc<tokio::sync::Mutex<()>>,
    _directory: TempDir,
}

/// Answer to a statement: number of changed rows, and the rows that it returned.
type Answered = (u64, Vec<SqliteRow>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(connection: &Mutex<SqliteConnection>, sql: SqlStr, values: Vec<Value>) -> sqlx::Result<Answered> {
    let mut connection = lock(connection);
    let mut answers = connection.fetch_many(super::sqlite(sql, values));
    let (mut changed, mut rows) = (0, Vec::new());
    while let Some(answer) = block_on(answers.next()) {
        match answer? {
            Either::Left(done) => changed += done.rows_affected(),
            Either::Right(row) => rows.push(row),
        }
    }
    Ok((changed, rows))
}

/// Executes statements without values.
fn say(connection: &Mutex<SqliteConnection>, sql: impl SqlSafeStr) -> sqlx::Result<()> {
    block_on(lock(connection).execute(sql.into_sql_str())).map(drop)
}

impl Server {
    /// Makes a database with this schema. Its triggers can read from the single row of the table `said` who sent the
    /// current statement (`writer`, see [`Link`]) and when (`clock`, microseconds).
    pub(crate) fn new(schema: &[&'static str], clock: Clock) -> Self {
        let directory = TempDir::new_in("/dev/shm").unwrap();
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("sim.sqlite"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Off)
            .statement_cache_capacity(200);
        let open = || Mutex::new(block_on(SqliteConnection::connect_with(&options)).unwrap());
        let (writer, reader) = (open(), open());
        say(&writer, "create table said (writer bigint, clock bigint); insert into said values (0, 0)").unwrap();
        for sql in schema {
            say(&writer, *sql).unwrap();
        }
        let news = tokio::sync::broadcast::Sender::new(64);
        Self(Arc::new(Inner { reader, writer, clock, news, turn: Arc::default(), _directory: directory }))
    }

    /// The database's clock, microseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.0.clock.now()
    }

    /// Changes the database without any controller's knowledge.
    pub(crate) fn meddle(&self, sql: &str) {
        // Only between transactions, since a writer holds `turn`.
        if let Ok(_turn) = self.0.turn.try_lock() {
            say(&self.0.writer, AssertSqlSafe(sql)).unwrap();
        }
    }

    fn write(&self, by: i64, sql: SqlStr, values: Vec<Value>) -> sqlx::Result<Answered> {
        let said = query("update said set writer = $1, clock = $2").bind(by).bind(self.now());
        run(&self.0.writer, said.sql, said.values)?;
        run(&self.0.writer, sql, values)
    }

    /// Runs a query without a gate, for the checks at the end of a history.
    pub(crate) fn ask(&self, sql: &str) -> Vec<SqliteRow> {
        run(&self.0.reader, AssertSqlSafe(sql).into_sql_str(), Vec::new()).unwrap().1
    }
}

/// Connection of one controller to the database.
#[derive(Clone)]
pub(crate) struct Link {
    server: Server,
    gate: Gate,
    /// Number of this run of the controller.
    writer: i64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    pub(crate) fn new(server: Server, gate: Gate, writer: i64) -> Self {
        Self { server, gate, writer }
    }

    /// Reads the database's clock, and sets the caller's by it.
    pub(super) fn read_clock(&self, clock: &Clock) -> i64 {
        let now = self.server.now();
        clock.set(now);
        now
    }

    /// Calls `told` with each notification.
    pub(super) async fn listen(&self, told: impl Fn(News)) -> sqlx::Result<()> {
        let mut news = self.server.0.news.subscribe();
        told(News::Work);
        loop {
            // The sender lives in `self`, so an error means that notifications were missed.
            let heard = news.recv().await.unwrap_or(News::Work);
            (self.gate)(Moment::News).await?;
            told(heard);
        }
    }

    /// Runs a statement outside of a transaction.
    pub(super) async fn run(&self, sql: SqlStr, values: Vec<Value>) -> sqlx::Result<Answered> {
        (self.gate)(Moment::Statement).await?;
        if sql.as_str().trim_start().starts_with("select") {
            return run(&self.server.0.reader, sql, values);
        }
        let turn = self.server.0.turn.clone().lock_owned().await;
        let done = self.server.write(self.writer, sql, values)?;
        drop(turn);
        (self.gate)(Moment::Committed).await?;
        Ok(done)
    }

    pub(super) async fn begin(&self) -> sqlx::Result<Session> {
        (self.gate)(Moment::Begin).await?;
        let turn = self.server.0.turn.clone().lock_owned().await;
        say(&self.server.0.writer, "begin immediate")?;
        let session =
            Session(Arc::new(Mutex::new(Some(Open { _turn: turn, link: self.clone(), used: Instant::now() }))));
        tokio::spawn(end_idle(Arc::downgrade(&session.0)));
        Ok(session)
    }
}

/// Ends a transaction that is idle, as the server would.
async fn end_idle(session: std::sync::Weak<Mutex<Option<Open>>>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(session) = session.upgrade() else { return };
        let mut session = lock(&session);
        match &*session {
            Some(open) if open.used.elapsed() >= IDLE => {
                *session = None;
                return;
            }
            Some(_) => {}
            None => return,
        }
    }
}

/// An open transaction. Dropping it rolls back.
#[derive(Debug)]
struct Open {
    _turn: OwnedMutexGuard<()>,
    link: Link,
    used: Instant,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Fails after a commit, when there is nothing to roll back.
        let _ = say(&self.link.server.0.writer, "rollback");
    }
}

/// The connection of a transaction.
#[derive(Debug)]
pub(super) struct Session(Arc<Mutex<Option<Open>>>);

impl Session {
    fn gate(&self) -> sqlx::Result<Gate> {
        let closed = || sqlx::Error::Protocol("terminating connection due to idle-in-transaction timeout".to_owned());
        lock(&self.0).as_ref().map(|open| open.link.gate.clone()).ok_or_else(closed)
    }

    pub(super) fn read_clock(&self, clock: &Clock) -> sqlx::Result<i64> {
        let open = lock(&self.0);
        open.as_ref().map(|open| open.link.read_clock(clock)).ok_or(sqlx::Error::PoolClosed)
    }

    pub(super) async fn run(&self, sql: SqlStr, values: Vec<Value>) -> sqlx::Result<Answered> {
        let gate = self.gate()?;
        gate(Moment::Statement).await?;
        self.gate()?;
        let mut open = lock(&self.0);
        let Some(open) = &mut *open else { return Err(sqlx::Error::PoolClosed) };
        open.used = Instant::now();
        open.link.server.write(open.link.writer, sql, values)
    }

    pub(super) async fn commit(self, news: Option<News>) -> sqlx::Result<()> {
        let gate = self.gate()?;
        gate(Moment::Commit).await?;
        self.gate()?;
        if let Some(open) = lock(&self.0).take() {
            say(&open.link.server.0.writer, "commit")?;
            if let Some(news) = news {
                // Fails if nobody listens.
                let _ = open.link.server.0.news.send(news);
            }
        }
        gate(Moment::Committed).await
    }
}

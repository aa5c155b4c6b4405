//! The same SQL on a SQLite that answers at once and on the caller's thread, for the simulator: no thread of a driver
//! decides about the order of events. What can go wrong with a server's connection is decided by a [`Gate`].

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use rusqlite::functions::FunctionFlags;
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

pub(crate) use super::direct::{FromStored, Row};
use super::direct::{failed, keep_plans, lock, run};
use super::{News, Value};
use crate::store::Clock;

/// How long an open transaction may say nothing, as on PostgreSQL.
const IDLE: Duration = Duration::from_secs(5);

/// Where a connection may stall or break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    /// Before a transaction.
    Begin,
    /// Before a statement.
    Statement,
    /// Before a commit.
    Commit,
    /// After a commit, or a statement of its own that writes, took effect: an error here is an outcome that nobody knows.
    Committed,
    /// Before an announcement is heard: an error here is one that was missed.
    News,
}

/// Delays, stops, or breaks what one controller asks of the database.
pub(crate) type Gate = Arc<dyn Fn(Moment) -> BoxFuture<'static, sqlx::Result<()>> + Send + Sync>;

/// One database.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    reader: Mutex<rusqlite::Connection>,
    writer: Mutex<rusqlite::Connection>,
    clock: Clock,
    /// Whose statement runs: triggers read it as `writer()`.
    by: Arc<AtomicI64>,
    /// What is announced.
    news: tokio::sync::broadcast::Sender<News>,
    /// Whoever writes.
    turn: Arc<tokio::sync::Mutex<()>>,
    _directory: TempDir,
}

impl Server {
    /// A new one with this schema, whose triggers may ask `writer()` (which [`Link`] writes) and `clock()` (microseconds).
    pub(crate) fn new(schema: &[&str], clock: Clock) -> Self {
        let directory = TempDir::new_in("/dev/shm").unwrap();
        let open = || {
            let connection = rusqlite::Connection::open(directory.path().join("sim.sqlite")).unwrap();
            let settings = "pragma journal_mode = wal; pragma synchronous = off; pragma foreign_keys = on";
            connection.execute_batch(settings).unwrap();
            connection.set_prepared_statement_cache_capacity(200);
            keep_plans(&connection).unwrap();
            connection
        };
        let (writer, reader) = (open(), open());
        let by = Arc::new(AtomicI64::new(0));
        let (who, time) = (by.clone(), clock.clone());
        let flags = FunctionFlags::SQLITE_UTF8;
        writer.create_scalar_function("writer", 0, flags, move |_| Ok(who.load(Ordering::Relaxed))).unwrap();
        writer.create_scalar_function("clock", 0, flags, move |_| Ok(time.now())).unwrap();
        for sql in schema {
            writer.execute_batch(sql).unwrap();
        }
        let (reader, writer) = (Mutex::new(reader), Mutex::new(writer));
        let news = tokio::sync::broadcast::Sender::new(64);
        Self(Arc::new(Inner { reader, writer, clock, by, news, turn: Arc::default(), _directory: directory }))
    }

    /// Its clock, microseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.0.clock.now()
    }

    /// Changes something behind everybody's back.
    pub(crate) fn meddle(&self, sql: &str) {
        // Between two transactions: whoever writes holds the turn.
        if let Ok(_turn) = self.0.turn.try_lock() {
            lock(&self.0.writer).execute_batch(sql).unwrap();
        }
    }

    fn write(&self, by: i64, sql: &str, values: &[Value]) -> sqlx::Result<(u64, Vec<Row>)> {
        self.0.by.store(by, Ordering::Relaxed);
        run(&lock(&self.0.writer), sql, values)
    }

    /// One answer, without a gate: for the checks at the end of a history.
    pub(crate) fn ask(&self, sql: &str) -> Vec<Row> {
        run(&lock(&self.0.reader), sql, &[]).unwrap().1
    }
}

/// What one controller reaches the database by.
#[derive(Clone)]
pub(crate) struct Link {
    server: Server,
    gate: Gate,
    /// The number of this controller's life.
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

    /// The database's clock, after which the caller's is set.
    pub(super) fn read_clock(&self, clock: &Clock) -> i64 {
        let now = self.server.now();
        clock.set(now);
        now
    }

    /// Calls `told` with every announcement.
    pub(super) async fn listen(&self, told: impl Fn(News)) -> sqlx::Result<()> {
        let mut news = self.server.0.news.subscribe();
        told(News::Work);
        loop {
            // The sender lives in `self`: an error is what was missed.
            let heard = news.recv().await.unwrap_or(News::Work);
            (self.gate)(Moment::News).await?;
            told(heard);
        }
    }

    /// One statement of its own.
    pub(super) async fn run(&self, sql: &str, values: &[Value]) -> sqlx::Result<(u64, Vec<Row>)> {
        (self.gate)(Moment::Statement).await?;
        if sql.trim_start().starts_with("select") {
            return run(&lock(&self.server.0.reader), sql, values);
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
        lock(&self.server.0.writer).execute_batch("begin immediate").map_err(failed)?;
        let session =
            Session(Arc::new(Mutex::new(Some(Open { _turn: turn, link: self.clone(), used: Instant::now() }))));
        tokio::spawn(end_idle(Arc::downgrade(&session.0)));
        Ok(session)
    }
}

/// The server ends a session that is idle in a transaction.
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

/// An open transaction; dropped, it is rolled back.
#[derive(Debug)]
struct Open {
    _turn: OwnedMutexGuard<()>,
    link: Link,
    used: Instant,
}

impl Drop for Open {
    fn drop(&mut self) {
        // After a commit there is nothing to roll back, which the server says.
        let _ = lock(&self.link.server.0.writer).execute_batch("rollback");
    }
}

/// A connection in a transaction.
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

    pub(super) async fn run(&self, sql: &str, values: &[Value]) -> sqlx::Result<(u64, Vec<Row>)> {
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
            lock(&open.link.server.0.writer).execute_batch("commit").map_err(failed)?;
            if let Some(news) = news {
                // Nobody may be listening.
                let _ = open.link.server.0.news.send(news);
            }
        }
        gate(Moment::Committed).await
    }
}

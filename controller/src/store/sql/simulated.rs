//! The same SQL on a SQLite that answers at once and on the caller's thread, for the simulator: no thread of a driver
//! decides about the order of events. What can go wrong with a server's connection is decided by a [`Gate`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::direct::{Row, failed, lock, run};
use super::{News, Value};

/// How long an open transaction may say nothing, as on PostgreSQL.
const IDLE: Duration = Duration::from_secs(5);

/// What may never be written, whoever writes: each is noted where the end of a history looks.
const WATCH: &str = "
create table violation (what text not null);
create trigger step_again after update on operation_step
    when old.status in ('failed', 'undone') and new.status = 'running'
begin insert into violation values ('step ' || new.name || ' of ' || new.operation_id || ': ' || old.status || ', then ' || new.status); end;
create trigger operation_back after update on operation
    when new.fence < old.fence or (new.status = 'running' and new.position < old.position) or old.finished is not null
begin insert into violation values ('operation ' || new.id || ' goes back: ' || old.status || ' ' || old.position || ' ' ||
    old.fence || ', then ' || new.status || ' ' || new.position || ' ' || new.fence); end;
";

/// Where a connection may stall or break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before a transaction.
    Begin,
    /// Before a statement.
    Statement,
    /// Before a commit.
    Commit,
    /// After a commit took effect: an error here is an outcome that nobody knows.
    Committed,
}

/// Delays, stops, or breaks what one controller asks of the database.
pub(crate) type Gate = Arc<dyn Fn(Moment) -> BoxFuture<'static, sqlx::Result<()>> + Send + Sync>;

/// One database.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    reader: Mutex<rusqlite::Connection>,
    writer: Mutex<rusqlite::Connection>,
    /// What is announced.
    news: tokio::sync::broadcast::Sender<News>,
    /// Whoever writes.
    turn: Arc<tokio::sync::Mutex<()>>,
    _directory: TempDir,
}

impl Server {
    /// A new one with this schema.
    pub(crate) fn new(schema: &[&str]) -> Self {
        let directory = TempDir::new_in("/dev/shm").unwrap();
        let open = || {
            let connection = rusqlite::Connection::open(directory.path().join("sim.sqlite")).unwrap();
            let settings = "pragma journal_mode = wal; pragma synchronous = off; pragma foreign_keys = on";
            connection.execute_batch(settings).unwrap();
            connection.set_prepared_statement_cache_capacity(200);
            connection
        };
        let (writer, reader) = (open(), open());
        for sql in schema.iter().chain([&WATCH]) {
            writer.execute_batch(sql).unwrap();
        }
        let (reader, writer) = (Mutex::new(reader), Mutex::new(writer));
        let news = tokio::sync::broadcast::Sender::new(64);
        Self(Arc::new(Inner { reader, writer, news, turn: Arc::default(), _directory: directory }))
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
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    pub(crate) fn new(server: Server, gate: Gate) -> Self {
        Self { server, gate }
    }

    /// Calls `told` with every announcement.
    pub(super) async fn listen(&self, told: impl Fn(News)) -> sqlx::Result<()> {
        let mut news = self.server.0.news.subscribe();
        told(News::Work);
        loop {
            // The sender lives in `self`: an error is what was missed.
            let heard = news.recv().await.unwrap_or(News::Work);
            (self.gate)(Moment::Statement).await?;
            told(heard);
        }
    }

    /// One statement of its own.
    pub(super) async fn run(&self, sql: &str, values: &[Value]) -> sqlx::Result<(u64, Vec<Row>)> {
        (self.gate)(Moment::Statement).await?;
        if sql.trim_start().starts_with("select") {
            return run(&lock(&self.server.0.reader), sql, values);
        }
        let _turn = self.server.0.turn.clone().lock_owned().await;
        run(&lock(&self.server.0.writer), sql, values)
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

    pub(super) async fn run(&self, sql: &str, values: &[Value]) -> sqlx::Result<(u64, Vec<Row>)> {
        let gate = self.gate()?;
        gate(Moment::Statement).await?;
        self.gate()?;
        let mut open = lock(&self.0);
        let Some(open) = &mut *open else { return Err(sqlx::Error::PoolClosed) };
        open.used = Instant::now();
        run(&lock(&open.link.server.0.writer), sql, values)
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

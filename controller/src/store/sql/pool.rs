//! Pools of sqlx, with one addition: a connection goes back to its pool only if it is known to be good. It is closed
//! instead if its transaction was not committed, if a statement failed for another reason than a constraint or was not
//! answered in time, or if the future that used it was dropped. The pool opens a new one when it is needed.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::error::ErrorKind;
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, Postgres};
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqlitePool};
use sqlx::{AssertSqlSafe, Connection as _, Executor, Row as _, SqlSafeStr};
use tokio::time::timeout;

use super::count_statement;
use super::fault::{commit_failed, unanswered};
#[cfg(test)]
use super::simulated;
use crate::store::clock::Clock;

/// How long a caller waits for a connection.
const WAIT: Duration = Duration::from_secs(5);
/// A connection to a server that was idle for longer than this is tested before use.
const FRESH: Duration = Duration::from_secs(1);
/// Time limit for the answer to a statement or commit. A running server ends a long statement earlier
/// (`statement_timeout`); this limit is for a server that is stopped or unreachable.
const ANSWER: Duration = Duration::from_secs(10);
/// Connections to SQLite for reading.
const READERS: u32 = 8;
/// PostgreSQL's notification channel.
const CHANNEL: &str = "trove_news";
/// Key of the advisory lock that each write transaction takes on PostgreSQL ("trove-rs" as a number). So there is one
/// at a time, as on SQLite, and counters, quotas and the order of operations need no other locks.
const WRITER: i64 = 0x7472_6f76_652d_7273;

/// Notification to all controllers, sent with a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// Operations have changed; clients may be watching them.
    Changed,
    /// Operations have changed, and there may be work for runners and reconcilers.
    Work,
}

impl News {
    fn tag(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Work => "work",
        }
    }

    /// An unknown tag, from a newer controller, counts as work.
    fn from_tag(tag: &str) -> Self {
        if tag == Self::Changed.tag() { Self::Changed } else { Self::Work }
    }
}

/// A connection that goes back to its pool only by [`Held::give_back`], and is closed when dropped.
#[derive(Debug)]
pub(super) struct Held<DB: sqlx::Database> {
    connection: PoolConnection<DB>,
    good: bool,
}

impl<DB: sqlx::Database> Held<DB> {
    /// Takes a connection from the pool.
    pub(super) async fn take(pool: &sqlx::Pool<DB>) -> sqlx::Result<Self> {
        Ok(Self { connection: pool.acquire().await?, good: false })
    }

    fn give_back(mut self) {
        self.good = true;
    }

    /// Gives the connection back, unless the answer suggests that it is broken.
    pub(super) fn give_back_after<T>(self, answer: sqlx::Result<T>) -> sqlx::Result<T> {
        let good = match &answer {
            Ok(_) | Err(sqlx::Error::RowNotFound) => true,
            Err(sqlx::Error::Database(error)) => !matches!(error.kind(), ErrorKind::Other),
            Err(_) => false,
        };
        if good {
            self.give_back();
        }
        answer
    }
}

impl<DB: sqlx::Database> Drop for Held<DB> {
    fn drop(&mut self) {
        if !self.good {
            self.connection.close_on_drop();
        }
    }
}

impl<DB: sqlx::Database> Deref for Held<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

impl<DB: sqlx::Database> DerefMut for Held<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }
}

/// The connection of a transaction. It goes back to its pool only after a successful commit.
#[derive(Debug)]
pub(super) struct Session<DB: sqlx::Database> {
    held: Held<DB>,
    /// Whether all statements so far have succeeded. It is checked before the commit, since PostgreSQL answers the
    /// commit of a failed transaction with success and rolls back.
    sound: bool,
    /// Time limit of an answer; `None` for SQLite, which has limits of its own.
    limit: Option<Duration>,
}

/// Awaits an answer of a server, with a time limit.
///
/// # Errors
/// Those of sqlx. A connection whose answer did not come must not be used again.
pub(crate) async fn answered<T>(asked: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    within(Some(ANSWER), asked).await
}

async fn within<T>(limit: Option<Duration>, asked: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let Some(limit) = limit else { return asked.await };
    timeout(limit, asked).await.unwrap_or_else(|_| Err(unanswered(limit)))
}

impl<DB: sqlx::Database> Session<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    async fn begin(pool: &sqlx::Pool<DB>, begin: impl SqlSafeStr, limit: Option<Duration>) -> sqlx::Result<Self> {
        let mut session = Self { held: Held::take(pool).await?, sound: true, limit };
        session.say(begin).await?;
        Ok(session)
    }

    async fn commit(mut self, commit: impl SqlSafeStr) -> sqlx::Result<()> {
        self.check()?;
        self.say(commit).await.map_err(commit_failed)?;
        self.held.give_back();
        Ok(())
    }

    async fn say(&mut self, sql: impl SqlSafeStr) -> sqlx::Result<()> {
        let sql = sql.into_sql_str();
        count_statement();
        let limit = self.limit;
        let answer = within(limit, self.connection()?.execute(sql)).await;
        self.heard(answer).map(drop)
    }

    fn check(&self) -> sqlx::Result<()> {
        if self.sound {
            return Ok(());
        }
        Err(sqlx::Error::Protocol("an earlier statement of the transaction has failed".to_owned()))
    }

    /// The connection, for one statement, whose answer must be passed to [`Session::heard`].
    pub(super) fn connection(&mut self) -> sqlx::Result<&mut DB::Connection> {
        self.check()?;
        self.sound = false;
        Ok(&mut self.held)
    }

    /// Records the answer of a statement.
    pub(super) fn heard<T>(&mut self, answer: sqlx::Result<T>) -> sqlx::Result<T> {
        self.sound = matches!(answer, Ok(_) | Err(sqlx::Error::RowNotFound));
        answer
    }
}

/// A pool of connections to a database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(super) database: Database,
    clock: Clock,
}

#[derive(Clone, Debug)]
pub(super) enum Database {
    #[cfg(test)]
    Simulated(simulated::Link),
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

fn options<DB: sqlx::Database>(most: u32) -> PoolOptions<DB> {
    PoolOptions::new().max_connections(most).acquire_timeout(WAIT).test_before_acquire(false)
}

/// Pools for reading and for writing an existing SQLite file.
pub(crate) fn sqlite_pools(file: &SqliteConnectOptions, clock: &Clock) -> [Pool; 2] {
    let keep = |most| options::<Sqlite>(most).max_lifetime(None).idle_timeout(None);
    let renewed = Arc::new(Mutex::new(Instant::now()));
    let since = renewed.clone();
    let write = keep(1).after_connect(move |_, _| {
        *renewed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Box::pin(async { Ok(()) })
    });
    // Replace readers that are older than the writer's connection. When the writer's connection was closed, its cause
    // may also have removed the WAL files; a reader that still has the old ones open would see no new data.
    let read = keep(READERS).before_acquire(move |_, reader| {
        let since = since.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        Box::pin(async move { Ok(reader.age <= since) })
    });
    let read = read.connect_lazy_with(file.clone().read_only(true));
    let write = write.connect_lazy_with(file.clone());
    [Database::Sqlite(read), Database::Sqlite(write)].map(|database| Pool { database, clock: clock.clone() })
}

impl Pool {
    #[cfg(test)]
    pub(crate) fn simulated(link: simulated::Link, clock: Clock) -> Self {
        Self { database: Database::Simulated(link), clock }
    }

    /// A pool of at most `most` connections to PostgreSQL.
    pub(crate) fn postgres(server: PgConnectOptions, most: u32, clock: Clock) -> Self {
        let pool = options::<Postgres>(most).before_acquire(|connection, idle| {
            Box::pin(async move {
                if idle.idle_for >= FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        });
        Self { database: Database::Postgres(pool.connect_lazy_with(server)), clock }
    }

    /// Whether other controllers may use the same database.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self.database, Database::Sqlite(_))
    }

    /// Calls `told` with each notification, as long as the connection lasts. SQLite has no other controllers.
    pub(crate) async fn listen(&self, told: impl Fn(News)) -> sqlx::Result<()> {
        match &self.database {
            #[cfg(test)]
            Database::Simulated(link) => link.listen(told).await,
            Database::Sqlite(_) => Ok(()),
            Database::Postgres(pool) => {
                let server = pool.connect_options().as_ref().clone();
                let own = PgPoolOptions::new().max_connections(1).connect_lazy_with(server);
                let mut listener = PgListener::connect_with(&own).await?;
                answered(listener.listen(CHANNEL)).await?;
                told(News::Work);
                loop {
                    // `None` means that the connection was lost and opened again; notifications may have been missed.
                    let news = listener.try_recv().await?;
                    told(news.map_or(News::Work, |news| News::from_tag(news.payload())));
                }
            }
        }
    }

    /// Begins a write transaction; there is one at a time among all controllers.
    pub(crate) async fn begin_write(&self) -> sqlx::Result<Transaction> {
        let inner = match &self.database {
            #[cfg(test)]
            Database::Simulated(link) => Inner::Simulated(link.begin().await?),
            Database::Sqlite(pool) => Inner::Sqlite(Session::begin(pool, "begin immediate", None).await?),
            Database::Postgres(pool) => {
                let begin = AssertSqlSafe(format!("begin; select pg_advisory_xact_lock({WRITER})"));
                Inner::Postgres(Session::begin(pool, begin, Some(ANSWER)).await?)
            }
        };
        Ok(Transaction(Connection { inner, clock: self.clock.clone(), news: None }))
    }

    /// The database's clock, microseconds since 1970.
    pub(crate) async fn now(&self) -> sqlx::Result<i64> {
        match &self.database {
            #[cfg(test)]
            Database::Simulated(link) => Ok(link.read_clock(&self.clock)),
            Database::Sqlite(_) => Ok(self.clock.now()),
            Database::Postgres(pool) => {
                let mut held = Held::take(pool).await?;
                let now = answered(read_clock(&mut *held, &self.clock)).await;
                held.give_back_after(now)
            }
        }
    }
}

async fn read_clock<'e>(executor: impl sqlx::PgExecutor<'e>, clock: &Clock) -> sqlx::Result<i64> {
    count_statement();
    let sql = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    let now = sqlx::query(sql).fetch_one(executor).await?.try_get(0)?;
    clock.set(now);
    Ok(now)
}

/// The connection of a transaction.
#[derive(Debug)]
pub struct Connection {
    pub(super) inner: Inner,
    clock: Clock,
    /// Notification to send with the commit.
    news: Option<News>,
}

#[derive(Debug)]
pub(super) enum Inner {
    #[cfg(test)]
    Simulated(simulated::Session),
    Sqlite(Session<Sqlite>),
    Postgres(Session<Postgres>),
}

impl Connection {
    /// The database's clock, microseconds since 1970.
    pub(crate) async fn now(&mut self) -> sqlx::Result<i64> {
        match &mut self.inner {
            #[cfg(test)]
            Inner::Simulated(session) => session.read_clock(&self.clock),
            Inner::Sqlite(_) => Ok(self.clock.now()),
            Inner::Postgres(session) => {
                let now = answered(read_clock(session.connection()?, &self.clock)).await;
                session.heard(now)
            }
        }
    }

    /// Sends a notification to all controllers with the commit.
    pub(crate) fn announce(&mut self, news: News) {
        self.news = self.news.max(Some(news));
    }
}

/// A write transaction. Unless its commit succeeds, its connection is closed and it is rolled back.
#[derive(Debug)]
pub struct Transaction(Connection);

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

impl Transaction {
    /// Commits.
    ///
    /// # Errors
    /// Nothing was written; or it is unknown, if the connection broke at the commit or no answer came
    /// ([`is_of_unknown_outcome`](super::is_of_unknown_outcome)).
    pub async fn commit(self) -> sqlx::Result<()> {
        let Connection { inner, news, .. } = self.0;
        match inner {
            #[cfg(test)]
            Inner::Simulated(session) => session.commit(news).await,
            // SQLite has one controller, which needs no notification.
            Inner::Sqlite(session) => session.commit("commit").await,
            Inner::Postgres(session) => {
                let told = news.map(|news| format!("notify {CHANNEL}, '{}'; ", news.tag())).unwrap_or_default();
                session.commit(AssertSqlSafe(format!("{told}commit"))).await
            }
        }
    }
}

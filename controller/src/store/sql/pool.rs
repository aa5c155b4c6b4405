//! sqlx's pools, and what is added to them: a connection goes back to its pool only when it is known to be good. One whose
//! transaction was not committed, whose statement failed for another reason than a constraint or was not answered in time,
//! or whose user went away in the midst of something, is closed, and the pool makes a new one when it is needed.

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
/// How long a connection to a server that lies idle is taken to be good.
const FRESH: Duration = Duration::from_secs(1);
/// How long a server may take for a statement or a commit. It ends a long one a little earlier itself
/// (`statement_timeout`); this is for a server that is stopped or out of reach and says nothing at all.
const ANSWER: Duration = Duration::from_secs(10);
/// Connections that read an SQLite file.
const READERS: u32 = 8;
/// The channel on which PostgreSQL tells every controller what has happened.
const CHANNEL: &str = "trove_news";
/// What a transaction that writes holds on PostgreSQL ("trove-rs" as a number), so that there is one at a time, as on
/// SQLite: counters, quotas and the order of operations are then exact without a thought in any query.
const WRITER: i64 = 0x7472_6f76_652d_7273;

/// What one controller tells the others when it commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// Operations have changed: somebody may be watching.
    Changed,
    /// There may be work for runners and reconcilers, too.
    Work,
}

impl News {
    fn tag(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Work => "work",
        }
    }

    /// What is not known, a newer controller's word, may be work.
    fn from_tag(tag: &str) -> Self {
        if tag == Self::Changed.tag() { Self::Changed } else { Self::Work }
    }
}

/// A connection that its pool gets back only from [`Held::give_back`]; dropped, it is closed.
#[derive(Debug)]
pub(super) struct Held<DB: sqlx::Database> {
    connection: PoolConnection<DB>,
    good: bool,
}

impl<DB: sqlx::Database> Held<DB> {
    /// A connection that nobody else has.
    pub(super) async fn take(pool: &sqlx::Pool<DB>) -> sqlx::Result<Self> {
        Ok(Self { connection: pool.acquire().await?, good: false })
    }

    fn give_back(mut self) {
        self.good = true;
    }

    /// For the next one, unless the answer leaves doubts about the connection.
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

/// The connection of a transaction. Only a commit that was answered with success gives it back.
#[derive(Debug)]
pub(super) struct Session<DB: sqlx::Database> {
    held: Held<DB>,
    /// Every statement so far was answered, and with success: PostgreSQL takes the commit of a transaction that has failed,
    /// and rolls it back without an error.
    sound: bool,
    /// How long an answer may take; `None` for SQLite, which is on this machine and has limits of its own.
    limit: Option<Duration>,
}

/// What a server answers in time.
///
/// # Errors
/// As sqlx's. A connection whose answer did not come must not be used again.
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

    /// For one statement, whose answer is to be [heard](Session::heard).
    pub(super) fn connection(&mut self) -> sqlx::Result<&mut DB::Connection> {
        self.check()?;
        self.sound = false;
        Ok(&mut self.held)
    }

    /// Goes on after an answer, unless it is a failure.
    pub(super) fn heard<T>(&mut self, answer: sqlx::Result<T>) -> sqlx::Result<T> {
        self.sound = matches!(answer, Ok(_) | Err(sqlx::Error::RowNotFound));
        answer
    }
}

/// Connections to one database. Cheap to clone.
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

/// What reads, and what writes, on the SQLite file that is there.
pub(crate) fn sqlite_pools(file: &SqliteConnectOptions, clock: &Clock) -> [Pool; 2] {
    let keep = |most| options::<Sqlite>(most).max_lifetime(None).idle_timeout(None);
    let renewed = Arc::new(Mutex::new(Instant::now()));
    let since = renewed.clone();
    let write = keep(1).after_connect(move |_, _| {
        *renewed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Box::pin(async { Ok(()) })
    });
    // Whatever made the writer's connection be closed may have taken the files away that lie beside the database: a reader
    // that kept them open would see nothing new.
    let read = keep(READERS).before_acquire(move |_, reader| {
        let since = since.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        Box::pin(async move { Ok(reader.age <= since) })
    });
    let read = read.connect_lazy_with(file.clone().read_only(true));
    let write = write.connect_lazy_with(file.clone());
    [Database::Sqlite(read), Database::Sqlite(write)].map(|database| Pool { database, clock: clock.clone() })
}

impl Pool {
    /// Over the simulator's.
    #[cfg(test)]
    pub(crate) fn simulated(link: simulated::Link, clock: Clock) -> Self {
        Self { database: Database::Simulated(link), clock }
    }

    /// Over PostgreSQL, with so many connections at most.
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

    /// Whether other controllers may be on the same database.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self.database, Database::Sqlite(_))
    }

    /// Calls `told` with what controllers announce, for as long as it can be heard. Over SQLite nobody else is there.
    ///
    /// # Errors
    /// As sqlx's.
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
                    // `None` is a connection that was lost and made anew: something may have been missed.
                    let news = listener.try_recv().await?;
                    told(news.map_or(News::Work, |news| News::from_tag(news.payload())));
                }
            }
        }
    }

    /// Begins a transaction that writes; there is one at a time in the whole service.
    ///
    /// # Errors
    /// As sqlx's.
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

    /// The database's own clock, microseconds since 1970.
    ///
    /// # Errors
    /// As sqlx's.
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

/// A connection in a transaction.
#[derive(Debug)]
pub struct Connection {
    pub(super) inner: Inner,
    clock: Clock,
    /// What controllers are told with the commit.
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
    /// The database's own clock, microseconds since 1970.
    ///
    /// # Errors
    /// As sqlx's.
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

    /// That every controller is told of it with the commit.
    pub(crate) fn announce(&mut self, news: News) {
        self.news = self.news.max(Some(news));
    }
}

/// A transaction that writes. Unless its commit was answered with success, its connection is closed, and what was written
/// in it is undone.
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
    /// Makes what was written true.
    ///
    /// # Errors
    /// As sqlx's: nothing is written, or, when the connection broke at the commit or no answer came, it is not known
    /// ([`is_of_unknown_outcome`](super::is_of_unknown_outcome)).
    pub async fn commit(self) -> sqlx::Result<()> {
        let Connection { inner, news, .. } = self.0;
        match inner {
            #[cfg(test)]
            Inner::Simulated(session) => session.commit(news).await,
            // One controller: it tells itself.
            Inner::Sqlite(session) => session.commit("commit").await,
            Inner::Postgres(session) => {
                let told = news.map(|news| format!("notify {CHANNEL}, '{}'; ", news.tag())).unwrap_or_default();
                session.commit(AssertSqlSafe(format!("{told}commit"))).await
            }
        }
    }
}

//! Connections to PostgreSQL, in place of sqlx's pool: that hands each connection back in a task of its own, and cannot begin a
//! transaction, or end one, together with a statement.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::direct::lock;

/// How long a caller waits for a connection.
const WAIT: Duration = Duration::from_secs(10);
/// How long a connection that lies idle is believed to be good.
const BELIEVED: Duration = Duration::from_secs(1);

/// So many connections at most. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: PgConnectOptions,
    turns: Arc<Semaphore>,
    /// Those that nobody uses, and since when.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

impl Connections {
    /// None is made yet.
    pub(super) fn new(options: PgConnectOptions, most: usize) -> Self {
        Self(Arc::new(Inner { options, turns: Arc::new(Semaphore::new(most)), idle: Mutex::default() }))
    }

    /// How they are made.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.0.options
    }

    /// A connection that nobody else has.
    ///
    /// # Errors
    /// The server does not answer, or none became free in time.
    pub(super) async fn take(&self) -> sqlx::Result<Taken> {
        let taken = tokio::time::timeout(WAIT, async {
            let turn = self.0.turns.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            Ok(Taken { connection: self.connection().await?, from: self.clone(), turn })
        });
        taken.await.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    async fn connection(&self) -> sqlx::Result<PgConnection> {
        loop {
            let Some((mut idle, since)) = lock(&self.0.idle).pop() else { break };
            if since.elapsed() < BELIEVED || idle.ping().await.is_ok() {
                return Ok(idle);
            }
        }
        PgConnection::connect_with(&self.0.options).await
    }
}

/// A connection in use. Dropped in the midst of a statement it is closed, and the server ends what it was doing.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) connection: PgConnection,
    from: Connections,
    turn: OwnedSemaphorePermit,
}

impl Taken {
    /// For the next one.
    fn give_back(self) {
        lock(&self.from.0.idle).push((self.connection, Instant::now()));
        drop(self.turn);
    }

    /// For the next one, unless the connection itself is what failed.
    pub(super) fn give_back_after<T>(self, answer: sqlx::Result<T>) -> sqlx::Result<T> {
        if matches!(answer, Ok(_) | Err(sqlx::Error::Database(_))) {
            self.give_back();
        }
        answer
    }

    async fn say(&mut self, sql: String) -> sqlx::Result<()> {
        super::count_statement();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await.map(drop)
    }
}

/// A transaction; dropped without a commit, it is rolled back.
#[derive(Debug)]
pub(super) struct Session(Option<Taken>);

impl Session {
    /// Begins one that holds this advisory lock.
    pub(super) async fn begin(connections: &Connections, held: i64) -> sqlx::Result<Self> {
        let mut taken = connections.take().await?;
        taken.say(format!("begin; select pg_advisory_xact_lock({held})")).await?;
        Ok(Self(Some(taken)))
    }

    /// Its connection.
    pub(super) fn connection(&mut self) -> sqlx::Result<&mut PgConnection> {
        self.0.as_mut().map(|taken| &mut taken.connection).ok_or(sqlx::Error::PoolClosed)
    }

    /// Makes it true, and tells `news` on a channel with it.
    pub(super) async fn commit(mut self, news: Option<(&str, &str)>) -> sqlx::Result<()> {
        let Some(mut taken) = self.0.take() else { return Err(sqlx::Error::PoolClosed) };
        let told = news.map(|(channel, news)| format!("notify {channel}, '{news}'; ")).unwrap_or_default();
        let committed = taken.say(format!("{told}commit")).await;
        if committed.is_ok() {
            taken.give_back();
        }
        committed
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut taken) = self.0.take() else { return };
        // Without a runtime the connection is closed, which ends the transaction too.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if taken.say("rollback".to_owned()).await.is_ok() {
                taken.give_back();
            }
        });
    }
}

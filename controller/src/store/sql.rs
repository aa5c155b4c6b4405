//! One SQL text on two databases: the queries of the store are written once and run on SQLite and on PostgreSQL.
//!
//! It has the shape of sqlx: `query("… $1 …").bind(x).fetch_one(&pool)`. Values are text, bigint and boolean, as the
//! store's columns are; everything else is written in those.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgListener, PgPoolOptions, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{ColumnIndex, Decode, Row as _, SqlStr, Type};

use super::clock::Clock;

mod direct;
mod server;
#[cfg(test)]
pub(crate) mod simulated;

/// The channel on which PostgreSQL tells every controller what has happened.
const CHANNEL: &str = "trove_news";

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

/// Stands for all that is in the database: nothing was committed between the takings of two that are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(String);

#[cfg(test)]
impl From<String> for Snapshot {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// What a transaction that writes holds on PostgreSQL ("trove-rs" as a number), so that there is one at a time, as on
/// SQLite: counters, quotas and the order of operations are then exact without a thought in any query.
const WRITER: i64 = 0x7472_6f76_652d_7273;

/// A bound value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Text or null.
    Text(Option<String>),
    /// A bigint or null.
    Integer(Option<i64>),
    /// A boolean or null.
    Boolean(Option<bool>),
}

macro_rules! values {
    ($($from:ty => |$value:ident| $to:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $to
            }
        })*
    };
}

values! {
    String => |value| Self::Text(Some(value));
    &String => |value| Self::Text(Some(value.clone()));
    &str => |value| Self::Text(Some(value.to_owned()));
    Option<String> => |value| Self::Text(value);
    &Option<String> => |value| Self::Text(value.clone());
    Option<&str> => |value| Self::Text(value.map(str::to_owned));
    i64 => |value| Self::Integer(Some(value));
    Option<i64> => |value| Self::Integer(value);
    bool => |value| Self::Boolean(Some(value));
    Option<bool> => |value| Self::Boolean(value);
}

/// A statement with its values.
#[derive(Debug)]
pub struct Query {
    sql: SqlStr,
    values: Vec<Value>,
}

/// A statement. A text that is put together must contain nothing that came from outside.
pub fn query(sql: impl sqlx::SqlSafeStr) -> Query {
    Query { sql: sql.into_sql_str(), values: Vec::new() }
}

/// Where a statement runs: on any connection of a pool, or in a transaction.
#[derive(Debug)]
pub enum Target<'a> {
    /// On its own.
    Pool(&'a Pool),
    /// In the transaction of this connection.
    Connection(&'a mut Connection),
}

impl<'a> From<&'a Pool> for Target<'a> {
    fn from(pool: &'a Pool) -> Self {
        Self::Pool(pool)
    }
}

impl<'a> From<&'a mut Connection> for Target<'a> {
    fn from(connection: &'a mut Connection) -> Self {
        Self::Connection(connection)
    }
}

/// Runs one sqlx call on whichever database it is.
macro_rules! on {
    ($query:expr, $target:expr, $call:ident, $row:expr) => {{
        let Query { sql, values } = $query;
        count_statement();
        match $target.into() {
            Target::Pool(pool) => match &pool.database {
                #[cfg(test)]
                Database::Simulated(link) => {
                    let (changed, rows) = link.run(sql.as_str(), &values).await?;
                    $row(Answer::$call(changed, rows)?.into())
                }
                Database::Direct(readers) => {
                    let (changed, rows) = readers.run(sql.as_str(), &values)?;
                    $row(Answer::$call(changed, rows)?.into())
                }
                Database::Sqlite(pool) => $row(sqlite(sql, values).$call(pool).await?.into()),
                Database::Postgres(connections) => {
                    let mut taken = connections.take().await?;
                    let answer = postgres(sql, values).$call(&mut taken.connection).await;
                    $row(taken.give_back_after(answer)?.into())
                }
            },
            Target::Connection(connection) => match &mut connection.inner {
                #[cfg(test)]
                Inner::Simulated(session) => {
                    let (changed, rows) = session.run(sql.as_str(), &values).await?;
                    $row(Answer::$call(changed, rows)?.into())
                }
                Inner::Sqlite(connection) => $row(sqlite(sql, values).$call(&mut **connection).await?.into()),
                Inner::Postgres(session) => $row(postgres(sql, values).$call(session.connection()?).await?.into()),
            },
        }
    }};
}

impl Query {
    /// The next value, `$1` first.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs it and says how many rows it changed.
    ///
    /// # Errors
    /// As sqlx's.
    pub async fn execute<'a>(self, target: impl Into<Target<'a>>) -> sqlx::Result<Done> {
        on!(self, target, execute, Ok)
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// As sqlx's.
    pub async fn fetch_optional<'a>(self, target: impl Into<Target<'a>>) -> sqlx::Result<Option<Row>> {
        on!(self, target, fetch_optional, |row: Maybe| Ok(row.0))
    }

    /// The first row.
    ///
    /// # Errors
    /// As sqlx's: also when there is none.
    pub async fn fetch_one<'a>(self, target: impl Into<Target<'a>>) -> sqlx::Result<Row> {
        on!(self, target, fetch_one, Ok)
    }

    /// Every row.
    ///
    /// # Errors
    /// As sqlx's.
    pub async fn fetch_all<'a>(self, target: impl Into<Target<'a>>) -> sqlx::Result<Vec<Row>> {
        on!(self, target, fetch_all, |rows: All| Ok(rows.0))
    }
}

/// Every statement is a way to the database and back.
fn count_statement() {
    metrics::counter!("trove_store_statements_total").increment(1);
}

fn sqlite(sql: SqlStr, values: Vec<Value>) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
    let query = sqlx::query(sql);
    values.into_iter().fold(query, |query, value| match value {
        Value::Text(value) => query.bind(value),
        Value::Integer(value) => query.bind(value),
        Value::Boolean(value) => query.bind(value),
    })
}

fn postgres(sql: SqlStr, values: Vec<Value>) -> sqlx::query::Query<'static, Postgres, PgArguments> {
    let query = sqlx::query(sql);
    values.into_iter().fold(query, |query, value| match value {
        Value::Text(value) => query.bind(value),
        Value::Integer(value) => query.bind(value),
        Value::Boolean(value) => query.bind(value),
    })
}

/// What a statement changed.
#[derive(Clone, Copy, Debug)]
pub struct Done(u64);

impl Done {
    /// How many rows.
    pub fn rows_affected(self) -> u64 {
        self.0
    }
}

impl From<sqlx::sqlite::SqliteQueryResult> for Done {
    fn from(done: sqlx::sqlite::SqliteQueryResult) -> Self {
        Self(done.rows_affected())
    }
}

impl From<sqlx::postgres::PgQueryResult> for Done {
    fn from(done: sqlx::postgres::PgQueryResult) -> Self {
        Self(done.rows_affected())
    }
}

/// Makes of a direct answer what the same call of sqlx's makes of one.
struct Answer;

impl Answer {
    #[allow(clippy::unnecessary_wraps)]
    fn execute(changed: u64, _rows: Vec<direct::Row>) -> sqlx::Result<Done> {
        Ok(Done(changed))
    }

    #[allow(clippy::unnecessary_wraps)]
    fn fetch_optional(_changed: u64, rows: Vec<direct::Row>) -> sqlx::Result<Option<Row>> {
        Ok(rows.into_iter().next().map(Row::Direct))
    }

    fn fetch_one(_changed: u64, rows: Vec<direct::Row>) -> sqlx::Result<Row> {
        rows.into_iter().next().map(Row::Direct).ok_or(sqlx::Error::RowNotFound)
    }

    #[allow(clippy::unnecessary_wraps)]
    fn fetch_all(_changed: u64, rows: Vec<direct::Row>) -> sqlx::Result<Vec<Row>> {
        Ok(rows.into_iter().map(Row::Direct).collect())
    }
}

/// A row.
pub enum Row {
    /// Of SQLite, on the caller's thread.
    Direct(direct::Row),
    /// Of SQLite, in a transaction.
    Sqlite(SqliteRow),
    /// Of PostgreSQL.
    Postgres(PgRow),
}

impl From<SqliteRow> for Row {
    fn from(row: SqliteRow) -> Self {
        Self::Sqlite(row)
    }
}

impl From<PgRow> for Row {
    fn from(row: PgRow) -> Self {
        Self::Postgres(row)
    }
}

struct Maybe(Option<Row>);

impl<R: Into<Row>> From<Option<R>> for Maybe {
    fn from(row: Option<R>) -> Self {
        Self(row.map(Into::into))
    }
}

struct All(Vec<Row>);

impl<R: Into<Row>> From<Vec<R>> for All {
    fn from(rows: Vec<R>) -> Self {
        Self(rows.into_iter().map(Into::into).collect())
    }
}

/// The type of a column: `String`, `i64`, `bool`, and an `Option` of one where it may be null.
pub trait Column:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> + direct::FromStored
{
}

impl<T> Column for T where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> + direct::FromStored
{
}

/// How a column is named: by its name or its place.
pub trait Index: ColumnIndex<SqliteRow> + ColumnIndex<PgRow> + direct::Place {}

impl<T: ColumnIndex<SqliteRow> + ColumnIndex<PgRow> + direct::Place> Index for T {}

impl Row {
    /// The value of a column, by its name or its place.
    ///
    /// # Errors
    /// As sqlx's: no such column, or another type.
    pub fn try_get<T: Column, I: Index>(&self, index: I) -> sqlx::Result<T> {
        match self {
            Self::Direct(row) => row.try_get(&index),
            Self::Sqlite(row) => row.try_get(index),
            Self::Postgres(row) => row.try_get(index),
        }
    }
}

impl Row {
    /// The text of a column, where it lies.
    ///
    /// # Errors
    /// As [`Row::try_get`].
    pub fn try_text(&self, name: &'static str) -> sqlx::Result<Option<&str>> {
        match self {
            Self::Direct(row) => row.try_text(&name),
            Self::Sqlite(row) => row.try_get(name),
            Self::Postgres(row) => row.try_get(name),
        }
    }
}

impl Row {
    /// What the database held when it was read, of [`Pool::snapshot_column`].
    ///
    /// # Errors
    /// As [`Row::try_get`].
    pub(super) fn snapshot(&self) -> sqlx::Result<Option<Snapshot>> {
        Ok(self.try_text("snapshot")?.map(|text| Snapshot(text.to_owned())))
    }
}

#[cfg(test)]
impl Row {
    /// The value of a column that is there.
    pub(crate) fn get<T: Column, I: Index>(&self, index: I) -> T {
        self.try_get(index).unwrap()
    }
}

/// Connections to one database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    database: Database,
    clock: Clock,
}

#[derive(Clone, Debug)]
enum Database {
    #[cfg(test)]
    Simulated(simulated::Link),
    Direct(direct::Readers),
    Sqlite(SqlitePool),
    Postgres(server::Connections),
}

impl Pool {
    /// For reading, over the SQLite file that is there.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn readers(file: &Path, clock: Clock) -> sqlx::Result<Self> {
        Ok(Self { database: Database::Direct(direct::Readers::open(file)?), clock })
    }

    /// Over SQLite.
    pub(super) fn sqlite(pool: SqlitePool, clock: Clock) -> Self {
        Self { database: Database::Sqlite(pool), clock }
    }

    /// Over the simulator's.
    #[cfg(test)]
    pub(super) fn simulated(link: simulated::Link, clock: Clock) -> Self {
        Self { database: Database::Simulated(link), clock }
    }

    /// Over PostgreSQL, with so many connections at most.
    pub(super) fn postgres(options: PgConnectOptions, most: usize, clock: Clock) -> Self {
        Self { database: Database::Postgres(server::Connections::new(options, most)), clock }
    }

    /// Whether other controllers may be on the same database.
    pub(super) fn is_shared(&self) -> bool {
        !matches!(self.database, Database::Sqlite(_) | Database::Direct(_))
    }

    /// Calls `told` with what controllers announce, for as long as it can be heard. Over SQLite nobody else is there.
    ///
    /// # Errors
    /// As sqlx's.
    pub(super) async fn listen(&self, told: impl Fn(News)) -> sqlx::Result<()> {
        match &self.database {
            #[cfg(test)]
            Database::Simulated(link) => link.listen(told).await,
            Database::Sqlite(_) | Database::Direct(_) => Ok(()),
            Database::Postgres(connections) => {
                let own = PgPoolOptions::new().max_connections(1).connect_lazy_with(connections.options().clone());
                let mut listener = PgListener::connect_with(&own).await?;
                listener.listen(CHANNEL).await?;
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
    pub(super) async fn begin(&self) -> sqlx::Result<Transaction> {
        let inner = match &self.database {
            #[cfg(test)]
            Database::Simulated(link) => Inner::Simulated(link.begin().await?),
            Database::Direct(_) => return Err(sqlx::Error::Protocol("these connections only read".to_owned())),
            Database::Sqlite(pool) => {
                count_statement();
                Inner::Sqlite(pool.begin_with("begin immediate").await?)
            }
            Database::Postgres(connections) => Inner::Postgres(server::Session::begin(connections, WRITER).await?),
        };
        Ok(Transaction(Connection { inner, clock: self.clock.clone(), news: None, after_commit: Vec::new() }))
    }

    /// A column by which a row tells what the database held when it was read, for [`Row::snapshot`].
    pub(super) fn snapshot_column(&self) -> &'static str {
        match self.database {
            Database::Postgres(_) => "pg_current_snapshot()::text as snapshot",
            _ => "null as snapshot",
        }
    }

    /// What the database holds now; `None` where that cannot be told.
    ///
    /// # Errors
    /// As sqlx's.
    pub(super) async fn snapshot(&self) -> sqlx::Result<Option<Snapshot>> {
        match &self.database {
            #[cfg(test)]
            Database::Simulated(_) => Ok(None),
            Database::Sqlite(_) => Ok(None),
            Database::Direct(readers) => Ok(Some(Snapshot(readers.version()?.to_string()))),
            Database::Postgres(_) => {
                // Which transactions can be seen: another one is there, or no longer under way, once one was committed.
                query("select pg_current_snapshot()::text as snapshot").fetch_one(self).await?.snapshot()
            }
        }
    }

    /// The database's own clock, microseconds since 1970.
    ///
    /// # Errors
    /// As sqlx's.
    pub(super) async fn now(&self) -> sqlx::Result<i64> {
        match &self.database {
            #[cfg(test)]
            Database::Simulated(link) => Ok(link.read_clock(&self.clock)),
            Database::Sqlite(_) | Database::Direct(_) => Ok(self.clock.now()),
            Database::Postgres(connections) => {
                let mut taken = connections.take().await?;
                let now = read_clock(&mut taken.connection, &self.clock).await;
                taken.give_back_after(now)
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
    inner: Inner,
    clock: Clock,
    /// What controllers are told with the commit.
    news: Option<News>,
    after_commit: Vec<AfterCommit>,
}

struct AfterCommit(Box<dyn FnOnce() + Send + Sync>);

impl std::fmt::Debug for AfterCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AfterCommit")
    }
}

#[derive(Debug)]
enum Inner {
    #[cfg(test)]
    Simulated(simulated::Session),
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(server::Session),
}

impl Connection {
    /// The database's own clock, microseconds since 1970.
    ///
    /// # Errors
    /// As sqlx's.
    pub(super) async fn now(&mut self) -> sqlx::Result<i64> {
        match &mut self.inner {
            #[cfg(test)]
            Inner::Simulated(session) => session.read_clock(&self.clock),
            Inner::Sqlite(_) => Ok(self.clock.now()),
            Inner::Postgres(session) => read_clock(session.connection()?, &self.clock).await,
        }
    }

    /// That every controller is told of it with the commit.
    pub(super) fn announce(&mut self, news: News) {
        self.news = self.news.max(Some(news));
    }

    /// What is to be done once it may have been committed.
    pub(super) fn after_commit(&mut self, work: impl FnOnce() + Send + Sync + 'static) {
        self.after_commit.push(AfterCommit(Box::new(work)));
    }
}

/// A transaction; dropped without a commit, it is rolled back.
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
    /// As sqlx's: nothing is written, or, when the connection broke at the commit, it is not known.
    pub async fn commit(self) -> sqlx::Result<()> {
        let Connection { inner, news, after_commit, .. } = self.0;
        let committed = match inner {
            #[cfg(test)]
            Inner::Simulated(session) => session.commit(news).await,
            // One controller: it tells itself.
            Inner::Sqlite(tx) => {
                count_statement();
                tx.commit().await
            }
            Inner::Postgres(session) => session.commit(news.map(|news| (CHANNEL, news.tag()))).await,
        };
        // Also when it failed: then it is not known.
        after_commit.into_iter().for_each(|AfterCommit(work)| work());
        committed
    }
}

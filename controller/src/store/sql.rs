//! Runs the same SQL text on SQLite and PostgreSQL.
//!
//! The interface is like that of sqlx: `query("… $1 …").bind(x).fetch_one(&pool)`. Values are text, bigint and boolean,
//! like the columns of the store.

use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{ColumnIndex, Decode, Row as _, SqlStr, Type};

pub use self::pool::{Connection, News, Pool, Transaction};
use self::pool::{Database, Held, Inner};
pub(crate) use self::pool::{answered, sqlite_pools};

mod fault;
mod pool;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod tests;

pub(crate) use self::fault::{is_of_unknown_outcome, is_unavailable};

/// A bound value.
#[derive(Clone, Debug)]
pub enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
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

/// A statement and its bound values.
#[derive(Debug)]
pub struct Query {
    sql: SqlStr,
    values: Vec<Value>,
}

/// Makes a statement. A text that is assembled must contain no input from outside.
pub fn query(sql: impl sqlx::SqlSafeStr) -> Query {
    Query { sql: sql.into_sql_str(), values: Vec::new() }
}

/// Where a statement runs.
#[derive(Debug)]
pub enum Target<'a> {
    /// On any connection of a pool, as a transaction of its own.
    Pool(&'a Pool),
    /// In a transaction.
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

/// Runs one sqlx call on either database.
macro_rules! on {
    ($query:expr, $target:expr, $call:ident, $row:expr) => {{
        let Query { sql, values } = $query;
        count_statement();
        match $target.into() {
            Target::Pool(pool) => match &pool.database {
                #[cfg(test)]
                Database::Simulated(link) => $row(Answer::$call(link.run(sql, values).await?)?.into()),
                Database::Sqlite(pool) => {
                    let mut held = Held::take(pool).await?;
                    let answer = sqlite(sql, values).$call(&mut *held).await;
                    $row(held.give_back_after(answer)?.into())
                }
                Database::Postgres(pool) => {
                    let mut held = Held::take(pool).await?;
                    let answer = answered(postgres(sql, values).$call(&mut *held)).await;
                    $row(held.give_back_after(answer)?.into())
                }
            },
            Target::Connection(connection) => match &mut connection.inner {
                #[cfg(test)]
                Inner::Simulated(session) => $row(Answer::$call(session.run(sql, values).await?)?.into()),
                Inner::Sqlite(session) => {
                    let answer = sqlite(sql, values).$call(session.connection()?).await;
                    $row(session.heard(answer)?.into())
                }
                Inner::Postgres(session) => {
                    let answer = answered(postgres(sql, values).$call(session.connection()?)).await;
                    $row(session.heard(answer)?.into())
                }
            },
        }
    }};
}

impl Query {
    /// Binds the next value, beginning with `$1`.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    pub async fn execute<'a>(self, target: impl Into<Target<'a>>) -> sqlx::Result<Done> {
        on!(self, target, execute, Ok)
    }

    pub async fn fetch_optional<'a>(self, target: impl Into<Target<'a>>) -> sqlx::Result<Option<Row>> {
        on!(self, target, fetch_optional, |row: Maybe| Ok(row.0))
    }

    /// Fetches the first row. No row is an error.
    pub async fn fetch_one<'a>(self, target: impl Into<Target<'a>>) -> sqlx::Result<Row> {
        on!(self, target, fetch_one, Ok)
    }

    pub async fn fetch_all<'a>(self, target: impl Into<Target<'a>>) -> sqlx::Result<Vec<Row>> {
        on!(self, target, fetch_all, |rows: All| Ok(rows.0))
    }
}

/// Counts statements, each of which is a round trip to the database.
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

/// Result of a statement that returns no rows.
#[derive(Clone, Copy, Debug)]
pub struct Done(u64);

impl Done {
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

/// Converts answers of the simulator's database into those of the corresponding sqlx calls.
#[cfg(test)]
struct Answer;

#[cfg(test)]
impl Answer {
    #[allow(clippy::unnecessary_wraps)]
    fn execute((changed, _rows): (u64, Vec<SqliteRow>)) -> sqlx::Result<Done> {
        Ok(Done(changed))
    }

    #[allow(clippy::unnecessary_wraps)]
    fn fetch_optional((_changed, rows): (u64, Vec<SqliteRow>)) -> sqlx::Result<Option<SqliteRow>> {
        Ok(rows.into_iter().next())
    }

    fn fetch_one((_changed, rows): (u64, Vec<SqliteRow>)) -> sqlx::Result<SqliteRow> {
        rows.into_iter().next().ok_or(sqlx::Error::RowNotFound)
    }

    #[allow(clippy::unnecessary_wraps)]
    fn fetch_all((_changed, rows): (u64, Vec<SqliteRow>)) -> sqlx::Result<Vec<SqliteRow>> {
        Ok(rows)
    }
}

/// A row of either database.
pub enum Row {
    Sqlite(SqliteRow),
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

/// Type of a column: `String`, `i64` or `bool`, or an `Option` of it for null.
pub trait Column: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> {}

impl<T> Column for T where T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> {}

/// Name or index of a column.
pub trait Index: ColumnIndex<SqliteRow> + ColumnIndex<PgRow> {}

impl<T: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>> Index for T {}

impl Row {
    /// The value of a column, by name or index.
    pub fn try_get<T: Column, I: Index>(&self, index: I) -> sqlx::Result<T> {
        match self {
            Self::Sqlite(row) => row.try_get(index),
            Self::Postgres(row) => row.try_get(index),
        }
    }

    /// The text of a column, borrowed from the row.
    pub fn try_text(&self, name: &'static str) -> sqlx::Result<Option<&str>> {
        match self {
            Self::Sqlite(row) => row.try_get(name),
            Self::Postgres(row) => row.try_get(name),
        }
    }
}

#[cfg(test)]
impl Row {
    /// The value of a column, for tests; panics on an error.
    pub(crate) fn get<T: Column, I: Index>(&self, index: I) -> T {
        self.try_get(index).unwrap()
    }
}

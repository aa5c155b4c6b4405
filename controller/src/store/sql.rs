//! One SQL text on two databases: the queries of the store are written once and run on SQLite and on PostgreSQL.
//!
//! It has the shape of sqlx: `query("… $1 …").bind(x).fetch_one(&pool)`. Values are text, bigint and boolean, as the
//! store's columns are; everything else is written in those.

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

/// Makes of what the simulator's database answered what the same call of sqlx's answers.
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

/// A row.
pub enum Row {
    /// Of SQLite.
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
pub trait Column: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> {}

impl<T> Column for T where T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> {}

/// How a column is named: by its name or its place.
pub trait Index: ColumnIndex<SqliteRow> + ColumnIndex<PgRow> {}

impl<T: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>> Index for T {}

impl Row {
    /// The value of a column, by its name or its place.
    ///
    /// # Errors
    /// As sqlx's: no such column, or another type.
    pub fn try_get<T: Column, I: Index>(&self, index: I) -> sqlx::Result<T> {
        match self {
            Self::Sqlite(row) => row.try_get(index),
            Self::Postgres(row) => row.try_get(index),
        }
    }

    /// The text of a column, where it lies.
    ///
    /// # Errors
    /// As [`Row::try_get`].
    pub fn try_text(&self, name: &'static str) -> sqlx::Result<Option<&str>> {
        match self {
            Self::Sqlite(row) => row.try_get(name),
            Self::Postgres(row) => row.try_get(name),
        }
    }
}

#[cfg(test)]
impl Row {
    /// The value of a column that is there.
    pub(crate) fn get<T: Column, I: Index>(&self, index: I) -> T {
        self.try_get(index).unwrap()
    }
}

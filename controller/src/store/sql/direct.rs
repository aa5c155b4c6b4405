//! SQLite on the caller's thread. A read of the store is a few microseconds of work on pages that are in memory; to hand it
//! to a thread, and each of its rows back, costs many times that.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rustc_hash::FxHashMap;

use super::Value;

/// How long a reader waits for a file that is being recovered.
const BUSY: Duration = Duration::from_secs(10);
/// Statements that stay prepared; the store has fewer.
const PREPARED: usize = 200;

/// Connections that read one file: as many as there are threads that do so at once.
#[derive(Clone)]
pub(super) struct Readers(Arc<Idle>);

struct Idle {
    file: PathBuf,
    connections: Mutex<Vec<rusqlite::Connection>>,
    /// The one that is asked whether others have written: each counts that for itself.
    watch: Mutex<rusqlite::Connection>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Readers").field(&self.0.file).finish()
    }
}

impl Readers {
    /// Of a file that is there.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(file: &Path) -> sqlx::Result<Self> {
        let watch = Mutex::new(connect(file)?);
        Ok(Self(Arc::new(Idle { file: file.to_owned(), connections: Mutex::default(), watch })))
    }

    /// A number that changes with every commit, whoever made it.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn version(&self) -> sqlx::Result<i64> {
        let watch = lock(&self.0.watch);
        let mut statement = watch.prepare_cached("pragma data_version").map_err(failed)?;
        statement.query_row([], |row| row.get(0)).map_err(failed)
    }

    /// Runs a statement that changes nothing.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn run(&self, sql: &str, values: &[Value]) -> sqlx::Result<(u64, Vec<Row>)> {
        let idle = lock(&self.0.connections).pop();
        let connection = idle.map_or_else(|| connect(&self.0.file), Ok)?;
        let answer = run(&connection, sql, values);
        lock(&self.0.connections).push(connection);
        answer
    }
}

fn connect(file: &Path) -> sqlx::Result<rusqlite::Connection> {
    // One thread at a time has it.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(file, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    keep_plans(&connection)?;
    Ok(connection)
}

/// Lets a plan hold for all values; otherwise a statement is parsed and planned anew whenever one of them has changed.
pub(super) fn keep_plans(connection: &rusqlite::Connection) -> sqlx::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop).map_err(failed)
}

pub(super) fn failed(error: rusqlite::Error) -> sqlx::Error {
    sqlx::Error::Protocol(error.to_string())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a statement: how many rows it changed, and those that it answered.
///
/// # Errors
/// SQLite's.
pub(super) fn run(connection: &rusqlite::Connection, sql: &str, values: &[Value]) -> sqlx::Result<(u64, Vec<Row>)> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    for (n, value) in values.iter().enumerate() {
        // `$1` is a name to SQLite, and one that is not used has no place.
        let Some(place) = statement.parameter_index(&format!("${}", n + 1)).map_err(failed)? else { continue };
        match value {
            Value::Text(text) => statement.raw_bind_parameter(place, text),
            Value::Integer(number) => statement.raw_bind_parameter(place, number),
            Value::Boolean(truth) => statement.raw_bind_parameter(place, truth),
        }
        .map_err(failed)?;
    }
    let names: Names = statement.column_names().into_iter().map(Box::from).zip(0..).collect();
    let width = statement.column_count();
    let (mut text, mut cells, mut count) = (String::new(), Vec::new(), 0);
    let mut found = statement.raw_query();
    while let Some(row) = found.next().map_err(failed)? {
        for n in 0..width {
            cells.push(match row.get_ref(n).map_err(failed)? {
                ValueRef::Null => Cell::Null,
                ValueRef::Integer(number) => Cell::Integer(number),
                ValueRef::Text(bytes) => {
                    let start = text.len();
                    let read = str::from_utf8(bytes).map_err(|error| sqlx::Error::Decode(error.into()))?;
                    text.push_str(read);
                    Cell::Text(start, text.len())
                }
                ValueRef::Real(_) | ValueRef::Blob(_) => Cell::Other,
            });
        }
        count += 1;
    }
    drop(found);
    let answer = Arc::new(Answer { names, width, text, cells });
    Ok((connection.changes(), (0..count).map(|n| Row { answer: answer.clone(), first: n * width }).collect()))
}

/// The places of columns by their names, which are the store's own.
type Names = FxHashMap<Box<str>, usize>;

/// What a statement answered, in few pieces of memory.
struct Answer {
    names: Names,
    width: usize,
    /// All texts, one after the other.
    text: String,
    /// Row by row.
    cells: Vec<Cell>,
}

#[derive(Clone, Copy)]
enum Cell {
    Null,
    Integer(i64),
    /// Where it begins and ends.
    Text(usize, usize),
    /// Nothing that the store's columns are.
    Other,
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored<'a> {
    /// None.
    Null,
    /// A bigint or a boolean.
    Integer(i64),
    /// A text.
    Text(&'a str),
    /// Nothing that the store's columns are.
    Other,
}

/// A row.
pub struct Row {
    answer: Arc<Answer>,
    /// Its first cell.
    first: usize,
}

/// The place of a column.
pub trait Place {
    /// Its index.
    fn find(&self, names: &FxHashMap<Box<str>, usize>) -> Option<usize>;
}

impl Place for usize {
    fn find(&self, _names: &Names) -> Option<usize> {
        Some(*self)
    }
}

impl Place for &str {
    fn find(&self, names: &Names) -> Option<usize> {
        names.get(*self).copied()
    }
}

/// What can be read from a column.
pub trait FromStored: Sized {
    /// The value, if it is of this type.
    fn read(stored: Stored<'_>) -> Option<Self>;
}

impl FromStored for String {
    fn read(stored: Stored<'_>) -> Option<Self> {
        if let Stored::Text(text) = stored { Some(text.to_owned()) } else { None }
    }
}

impl FromStored for i64 {
    fn read(stored: Stored<'_>) -> Option<Self> {
        if let Stored::Integer(number) = stored { Some(number) } else { None }
    }
}

impl FromStored for bool {
    fn read(stored: Stored<'_>) -> Option<Self> {
        i64::read(stored).map(|number| number != 0)
    }
}

impl<T: FromStored> FromStored for Option<T> {
    fn read(stored: Stored<'_>) -> Option<Self> {
        if stored == Stored::Null { Some(None) } else { T::read(stored).map(Some) }
    }
}

impl Row {
    /// The value of a column that is there.
    #[cfg(test)]
    pub(crate) fn read<T: FromStored>(&self, place: usize) -> T {
        self.try_get(&place).unwrap()
    }

    /// The value of a column.
    pub(super) fn try_get<T: FromStored>(&self, place: &impl Place) -> sqlx::Result<T> {
        let stored = self.stored(place)?;
        T::read(stored).ok_or_else(|| unexpected(stored))
    }

    /// The text of a column, where it lies.
    pub(super) fn try_text(&self, place: &impl Place) -> sqlx::Result<Option<&str>> {
        match self.stored(place)? {
            Stored::Null => Ok(None),
            Stored::Text(text) => Ok(Some(text)),
            other => Err(unexpected(other)),
        }
    }

    fn stored(&self, place: &impl Place) -> sqlx::Result<Stored<'_>> {
        let Answer { names, width, text, cells } = &*self.answer;
        let n = place.find(names).ok_or_else(|| sqlx::Error::ColumnNotFound("of a row".to_owned()))?;
        let outside = || sqlx::Error::ColumnIndexOutOfBounds { index: n, len: *width };
        Ok(match *cells.get(self.first + n).filter(|_| n < *width).ok_or_else(outside)? {
            Cell::Null => Stored::Null,
            Cell::Integer(number) => Stored::Integer(number),
            Cell::Text(start, end) => Stored::Text(&text[start..end]),
            Cell::Other => Stored::Other,
        })
    }
}

fn unexpected(stored: Stored<'_>) -> sqlx::Error {
    sqlx::Error::Protocol(format!("a column is {stored:?}"))
}

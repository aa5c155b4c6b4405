//! SQLite on the caller's thread. A read of the store is a few microseconds of work on pages that are in memory; to hand it
//! to a thread, and each of its rows back, costs many times that.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite::types::Value as Stored;

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
        let readers = Self(Arc::new(Idle { file: file.to_owned(), connections: Mutex::default() }));
        let first = readers.connect()?;
        lock(&readers.0.connections).push(first);
        Ok(readers)
    }

    fn connect(&self) -> sqlx::Result<rusqlite::Connection> {
        // One thread at a time has it.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = rusqlite::Connection::open_with_flags(&self.0.file, flags).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        Ok(connection)
    }

    /// Runs a statement that changes nothing.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn run(&self, sql: &str, values: &[Value]) -> sqlx::Result<(u64, Vec<Row>)> {
        let idle = lock(&self.0.connections).pop();
        let connection = idle.map_or_else(|| self.connect(), Ok)?;
        let answer = run(&connection, sql, values);
        lock(&self.0.connections).push(connection);
        answer
    }
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
        let bound = match value {
            Value::Text(text) => text.clone().map_or(Stored::Null, Stored::Text),
            Value::Integer(number) => number.map_or(Stored::Null, Stored::Integer),
            Value::Boolean(truth) => truth.map_or(Stored::Null, |truth| Stored::Integer(truth.into())),
        };
        statement.raw_bind_parameter(place, bound).map_err(failed)?;
    }
    let names = statement.column_names().into_iter().enumerate().map(|(n, name)| (name.to_owned(), n));
    let names: Arc<Names> = Arc::new(names.collect());
    let width = statement.column_count();
    let mut rows = Vec::new();
    let mut found = statement.raw_query();
    while let Some(row) = found.next().map_err(failed)? {
        let values = (0..width).map(|n| row.get(n)).collect::<rusqlite::Result<_>>().map_err(failed)?;
        rows.push(Row { names: names.clone(), values });
    }
    drop(found);
    Ok((connection.changes(), rows))
}

/// The places of columns by their names.
type Names = HashMap<String, usize>;

/// A row.
pub struct Row {
    names: Arc<Names>,
    values: Vec<Stored>,
}

/// The place of a column.
pub trait Place {
    /// Its index.
    fn find(&self, names: &HashMap<String, usize>) -> Option<usize>;
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
    fn read(stored: &Stored) -> Option<Self>;
}

impl FromStored for String {
    fn read(stored: &Stored) -> Option<Self> {
        if let Stored::Text(text) = stored { Some(text.clone()) } else { None }
    }
}

impl FromStored for i64 {
    fn read(stored: &Stored) -> Option<Self> {
        if let Stored::Integer(number) = stored { Some(*number) } else { None }
    }
}

impl FromStored for bool {
    fn read(stored: &Stored) -> Option<Self> {
        i64::read(stored).map(|number| number != 0)
    }
}

impl<T: FromStored> FromStored for Option<T> {
    fn read(stored: &Stored) -> Option<Self> {
        if *stored == Stored::Null { Some(None) } else { T::read(stored).map(Some) }
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
        let n = place.find(&self.names).ok_or_else(|| sqlx::Error::ColumnNotFound("of a row".to_owned()))?;
        let stored =
            self.values.get(n).ok_or(sqlx::Error::ColumnIndexOutOfBounds { index: n, len: self.values.len() })?;
        T::read(stored).ok_or_else(|| sqlx::Error::Protocol(format!("column {n} is {stored:?}")))
    }
}

//! The server's own figures.

use bson::{Bson, Document, doc};
use trove_strategy::{EngineError, Metric};

use crate::client::Session;

/// The name of a figure, and where the server has it.
const FIGURES: [(&str, &[&str]); 20] = [
    ("connections", &["connections", "current"]),
    ("connections_available", &["connections", "available"]),
    ("connections_total", &["connections", "totalCreated"]),
    ("inserts_total", &["opcounters", "insert"]),
    ("queries_total", &["opcounters", "query"]),
    ("updates_total", &["opcounters", "update"]),
    ("deletes_total", &["opcounters", "delete"]),
    ("commands_total", &["opcounters", "command"]),
    ("transactions_committed_total", &["transactions", "totalCommitted"]),
    ("transactions_aborted_total", &["transactions", "totalAborted"]),
    ("collection_scans_total", &["metrics", "queryExecutor", "collectionScans", "total"]),
    ("sorts_without_index_total", &["metrics", "operation", "scanAndOrder"]),
    ("write_conflicts_total", &["metrics", "operation", "writeConflicts"]),
    ("operations_waiting", &["globalLock", "currentQueue", "total"]),
    ("cache_bytes", &["wiredTiger", "cache", "bytes currently in the cache"]),
    ("cache_max_bytes", &["wiredTiger", "cache", "maximum bytes configured"]),
    ("cache_dirty_bytes", &["wiredTiger", "cache", "tracked dirty bytes in the cache"]),
    ("cache_requests_total", &["wiredTiger", "cache", "pages requested from the cache"]),
    ("cache_misses_total", &["wiredTiger", "cache", "pages read into cache"]),
    ("log_written_bytes_total", &["wiredTiger", "log", "log bytes written"]),
];

#[allow(clippy::cast_precision_loss, reason = "figures for a graph")]
fn number(status: &Document, path: &[&str]) -> Option<f64> {
    let (name, rest) = path.split_first()?;
    match (status.get(name)?, rest) {
        (Bson::Document(inner), [_, ..]) => number(inner, rest),
        (Bson::Int32(number), []) => Some((*number).into()),
        (Bson::Int64(number), []) => Some(*number as f64),
        (Bson::Double(number), []) => Some(*number),
        _ => None,
    }
}

/// Asks for them.
pub(crate) async fn read(session: &mut Session) -> Result<Vec<Metric>, EngineError> {
    let status = session.run("read metrics", "admin", doc! {"serverStatus": 1}).await?;
    let mut all: Vec<Metric> =
        FIGURES.into_iter().filter_map(|(name, path)| Some(Metric::new(name, number(&status, path)?))).collect();
    // The position in the log of writes, as the time of its last entry.
    let last = status.get_document("repl").and_then(|repl| repl.get_document("lastWrite"));
    let last = last.and_then(|written| written.get_document("opTime")).and_then(|time| time.get_timestamp("ts"));
    if let Ok(last) = last {
        all.push(Metric::new("log_position_seconds", last.time.into()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_however_deep_they_are() {
        let status = doc! {"a": {"b": 5_i64, "c": {"d": 1.5}}, "e": "text"};
        assert_eq!(number(&status, &["a", "b"]), Some(5.0));
        assert_eq!(number(&status, &["a", "c", "d"]), Some(1.5));
        assert!(
            number(&status, &["a"]).is_none()
                && number(&status, &["e"]).is_none()
                && number(&status, &["a", "x"]).is_none()
        );
    }
}

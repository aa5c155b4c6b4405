//! The figures of a server.

use trove_strategy::{EngineError, Metric};

use crate::Flavour;
use crate::client::Session;

/// Each figure, and the server's name of it.
const FIGURES: [(&str, &str); 14] = [
    ("connections", "Threads_connected"),
    ("connections_refused_total", "Connection_errors_max_connections"),
    ("queries_total", "Questions"),
    ("slow_queries_total", "Slow_queries"),
    ("commits_total", "Handler_commit"),
    ("rollbacks_total", "Handler_rollback"),
    ("blocks_requested_total", "Innodb_buffer_pool_read_requests"),
    ("blocks_read_total", "Innodb_buffer_pool_reads"),
    ("rows_read_total", "Innodb_rows_read"),
    ("row_lock_waits_total", "Innodb_row_lock_waits"),
    ("deadlocks_total", "Innodb_deadlocks"),
    ("log_bytes_total", "Innodb_os_log_written"),
    ("log_position_bytes", "Innodb_lsn_current"),
    ("uptime_seconds", "Uptime"),
];

/// Other names of newer servers for the same.
const RENAMED: [(&str, &str); 1] = [("log_position_bytes", "Innodb_redo_log_current_lsn")];

/// No server counts so far.
const GREATEST: f64 = 1e19;

pub(crate) async fn ask(flavour: Flavour, session: &mut Session<'_>) -> Result<Vec<Metric>, EngineError> {
    let all = || FIGURES.into_iter().chain(RENAMED.into_iter().filter(|_| !flavour.is_mariadb()));
    let names: Vec<String> = all().map(|(_, name)| format!("'{name}'")).collect();
    let sql = format!("show global status where variable_name in ({})", names.join(", "));
    let rows = session.rows("read metrics", &sql).await?;
    let value = |text: &str| text.parse::<f64>().ok().filter(|value| (0.0..GREATEST).contains(value));
    let of = |name: &str| {
        let row = rows.iter().find(|row| row.first().is_some_and(|known| known.eq_ignore_ascii_case(name)))?;
        value(row.get(1)?)
    };
    let mut figures: Vec<Metric> = all().filter_map(|(metric, name)| Some(Metric::new(metric, of(name)?))).collect();
    let most = session.value("read metrics", "select @@global.max_connections").await?;
    figures.extend(most.and_then(|text| value(&text)).map(|value| Metric::new("connections_max", value)));
    Ok(figures)
}

//! The figures of a server, from its catalogs and functions: a superuser of a tenant's can replace its views.

use trove_strategy::{EngineError, Kind, Metric};

/// Each figure, and what is asked for it.
const FIGURES: [(&str, &str); 11] = [
    ("connections", "(select count(*) from pg_stat_get_activity(null) where backend_type = 'client backend')"),
    ("connections_max", "current_setting('max_connections')"),
    ("commits_total", "sum(pg_stat_get_db_xact_commit(oid))"),
    ("rollbacks_total", "sum(pg_stat_get_db_xact_rollback(oid))"),
    ("blocks_read_total", "sum(pg_stat_get_db_blocks_fetched(oid) - pg_stat_get_db_blocks_hit(oid))"),
    ("blocks_hit_total", "sum(pg_stat_get_db_blocks_hit(oid))"),
    ("rows_returned_total", "sum(pg_stat_get_db_tuples_returned(oid))"),
    ("deadlocks_total", "sum(pg_stat_get_db_deadlocks(oid))"),
    (
        "log_position_bytes",
        "pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, '0/0')",
    ),
    (
        "slow_queries",
        "(select count(*) from pg_stat_get_activity(null) where state = 'active' and backend_type = 'client backend' \
         and clock_timestamp() - query_start > interval '1 second')",
    ),
    ("database_bytes", "sum(pg_database_size(oid))"),
];

/// No server counts so far.
const GREATEST: f64 = 1e19;

pub(crate) fn statement() -> String {
    format!("select {} from pg_database", FIGURES.map(|(_, asked)| asked).join(", "))
}

/// What the server answered, which a tenant may have made up: each a number that can be, or none of them.
pub(crate) fn figures(rows: Vec<Vec<String>>) -> Result<Vec<Metric>, EngineError> {
    let wrong = |what: &str| EngineError::new(Kind::Fatal, format!("read metrics: the server answered {what}"));
    let [row] = <[Vec<String>; 1]>::try_from(rows).map_err(|_| wrong("not one row"))?;
    let row = <[String; FIGURES.len()]>::try_from(row).map_err(|_| wrong("a row of other columns"))?;
    let figure = |((name, _), text): ((&'static str, &str), String)| {
        let value = text.parse().ok().filter(|value: &f64| (0.0..GREATEST).contains(value));
        let value = value.ok_or_else(|| wrong(&format!("what is no number of {name}")))?;
        Ok(Metric::new(name, value))
    };
    FIGURES.into_iter().zip(row).map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_no_figure() {
        let answer = |text: &str| {
            let mut row = vec!["7".to_owned(); FIGURES.len()];
            row[3] = text.to_owned();
            figures(vec![row])
        };
        let said = answer("1.8e18").unwrap();
        assert_eq!((said.len(), said[3].name, said[3].value), (FIGURES.len(), "rollbacks_total", 1.8e18));
        for absurd in ["", "-1", "NaN", "inf", "-inf", "1e300", "many", "7 ", "\u{fffd}"] {
            let refused = answer(absurd).unwrap_err();
            assert!(refused.chain().contains("rollbacks_total") && refused.kind() == Kind::Fatal, "{absurd}");
        }
        for rows in [vec![], vec![vec![]], vec![vec!["1".to_owned(); 8]], vec![vec!["1".to_owned(); FIGURES.len()]; 2]]
        {
            assert!(figures(rows).is_err());
        }
    }
}

//! Parameters: as the server describes them, tried before they are kept, with what became of each.

use anyhow::{Context, Result, ensure};
use trove_strategy::{Applied, Datastore, Kind, ParameterType, Settings, StartMode};

use crate::ENGINE;
use crate::shared::*;

/// The server says so only by what it has: that it was started with the value is known to the agent, which reports it as refused.
#[tokio::test]
async fn a_value_that_the_server_adjusts_is_never_called_live() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let parameters = ENGINE.parameters().context("announced")?;
    let chosen = settings(&[("innodb_open_files", 4_000_000_000_i64.into())]);
    let waits = [("innodb_open_files".to_owned(), Applied::NeedsRestart)].into();
    ensure!(bench.take_up(&chosen).await.map_err(plain)? == waits);
    running.stop(&bench).await?;
    let mut running = bench.spawn_with(StartMode::Normal, &chosen)?;
    bench.await_answer(&mut running).await?;
    for _ in 0..2 {
        let became = parameters.apply(&bench.site, &chosen).await.map_err(plain)?;
        ensure!(became == waits, "{became:?}");
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn they_are_the_servers_own_with_ranges_and_values() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let parameters = ENGINE.parameters().context("announced")?;
    let all = parameters.describe(&bench.site).await.map_err(plain)?;
    ensure!(all.len() > 250, "only {} are described", all.len());
    let found = |name: &str| all.iter().find(|known| known.name == name).cloned().context(name.to_owned());
    let connections = found("max_connections")?;
    ensure!(connections.kind == ParameterType::Integer && !connections.restart_required, "{connections:?}");
    ensure!(connections.min == Some(10.into()) && connections.max == Some(100_000.into()), "{connections:?}");
    ensure!(found("tx_isolation").is_err() || found("completion_type")?.allowed.contains(&"CHAIN".to_owned()));
    ensure!(found("event_scheduler")?.allowed.iter().any(|value| value == "ON"));
    ensure!(found("long_query_time")?.kind == ParameterType::Float);
    ensure!(found("slow_query_log")?.kind == ParameterType::Boolean);
    ensure!(found("back_log")?.restart_required && found("innodb_log_file_size").is_ok());
    for name in [
        "plugin_dir",
        "secure_file_priv",
        "init_file",
        "init_connect",
        "general_log_file",
        "log_error",
        "datadir",
        "server_id",
        "read_only",
        "ssl_key",
        "require_secure_transport",
        "skip_grant_tables",
        "wsrep_notify_cmd",
        "log_bin_trust_function_creators",
        "local_infile",
    ] {
        ensure!(found(name).is_err(), "{name} is offered");
    }

    let chosen = [
        ("max_connections", 50.into()),
        ("sql_mode", "ANSI_QUOTES".into()),
        ("long_query_time", 0.5.into()),
        ("slow_query_log", true.into()),
        ("back_log", 77.into()),
        ("innodb_buffer_pool_size", (128 << 20).into()),
        ("event_scheduler", "ON".into()),
    ];
    let applied = bench.take_up(&settings(&chosen)).await.map_err(plain)?;
    for (name, became) in &applied {
        let expected = if name == "back_log" { Applied::NeedsRestart } else { Applied::Live };
        ensure!(*became == expected, "{name}: {became:?}");
    }
    ensure!(applied.len() == chosen.len(), "{applied:?}");
    let value = async |name: &str| -> Result<String> {
        let values = parameters.values(&bench.site).await.map_err(plain)?;
        values.into_iter().find_map(|(known, value)| (known == name).then_some(value)).context(name.to_owned())
    };
    ensure!(value("max_connections").await? == "50" && value("back_log").await? != "77");
    running.stop(&bench).await?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    ensure!(value("back_log").await? == "77" && value("sql_mode").await? == "ANSI_QUOTES");
    ensure!(value("innodb_buffer_pool_size").await? == (128 << 20).to_string());
    // What nobody chooses any more is as the size suggests, or as the server has it.
    let given_up = bench.take_up(&Settings::default()).await.map_err(plain)?;
    ensure!(given_up == [("back_log".to_owned(), Applied::NeedsRestart)].into(), "{given_up:?}");
    ensure!(value("max_connections").await? == "64", "{}", value("max_connections").await?);
    ensure!(value("slow_query_log").await? == "OFF" && value("sql_mode").await?.contains("STRICT_TRANS_TABLES"));

    let before = std::fs::read_to_string(bench.site.config.join("my.cnf"))?;
    for (name, wrong) in [
        ("max_connections", serde_json::Value::from(5)),
        ("max_connections", "many".into()),
        ("sql_mode", "NO_SUCH_MODE".into()),
        ("event_scheduler", "perhaps".into()),
        ("no_such", 1.into()),
        ("max_connection", 50.into()),
        ("plugin_dir", "/tmp".into()),
        ("sql_mode", "x\"\nplugin_dir=/tmp".into()),
    ] {
        let refused = bench.take_up(&settings(&[(name, wrong.clone())])).await;
        ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name} = {wrong} is accepted");
    }
    ensure!(std::fs::read_to_string(bench.site.config.join("my.cnf"))? == before, "a refused value was written");
    running.stop(&bench).await
}

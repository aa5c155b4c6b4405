//! Parameters: as the server describes them, tried before they are kept, with what became of each.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use trove_strategy::{Applied, Datastore, Kind, ParameterType, StartMode};

use crate::ENGINE;
use crate::shared::*;

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
    ensure!(connections.min == Some(1.into()) && connections.max == Some(100_000.into()), "{connections:?}");
    ensure!(connections.default.as_deref() == Some("151"), "{connections:?}");
    for (name, values) in [
        ("completion_type", "NO_CHAIN CHAIN RELEASE"),
        ("transaction_isolation", "READ-UNCOMMITTED READ-COMMITTED REPEATABLE-READ SERIALIZABLE"),
        ("event_scheduler", "OFF ON"),
        ("delay_key_write", "OFF ON ALL"),
        ("log_timestamps", "UTC SYSTEM"),
    ] {
        ensure!(found(name)?.allowed.join(" ") == values, "{:?}", found(name)?);
    }
    ensure!(found("long_query_time")?.kind == ParameterType::Float && found("long_query_time")?.max.is_none());
    ensure!(found("slow_query_log")?.kind == ParameterType::Boolean);
    ensure!(found("back_log")?.restart_required && !found("innodb_redo_log_capacity")?.restart_required);
    let fixed = all.iter().filter(|known| known.restart_required).count();
    ensure!((50..150).contains(&fixed), "{fixed} of {} need a restart", all.len());
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
        "admin_ssl_key",
        "caching_sha2_password_private_key_path",
        "require_secure_transport",
        "mandatory_roles",
        "persisted_globals_load",
        "partial_revokes",
        "log_bin_trust_function_creators",
        "local_infile",
        "version",
        "hostname",
        "gtid_purged",
    ] {
        ensure!(found(name).is_err(), "{name} is offered");
    }
    // Each value of an enumeration is one to the server.
    for known in all.iter().filter(|known| !known.allowed.is_empty()) {
        let last = known.allowed.last().context("a value")?.clone();
        let values = BTreeMap::from([(known.name.clone(), last.into())]);
        parameters.check(&bench.site, &values).await.map_err(plain).with_context(|| known.name.clone())?;
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn each_says_what_became_of_it() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let parameters = ENGINE.parameters().context("announced")?;
    let chosen = [
        ("max_connections", 50.into()),
        ("sql_mode", "ANSI_QUOTES".into()),
        ("long_query_time", 0.5.into()),
        ("slow_query_log", true.into()),
        ("back_log", 77.into()),
        ("innodb_buffer_pool_size", (256 << 20).into()),
        ("event_scheduler", "OFF".into()),
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
    ensure!(value("innodb_buffer_pool_size").await? == (256 << 20).to_string());
    // What nobody chooses any more is as the size suggests, or as the server has it.
    let given_up = bench.take_up(&Default::default()).await.map_err(plain)?;
    ensure!(given_up == [("back_log".to_owned(), Applied::NeedsRestart)].into(), "{given_up:?}");
    ensure!(value("max_connections").await? == "64", "{}", value("max_connections").await?);
    ensure!(value("slow_query_log").await? == "OFF" && value("sql_mode").await?.contains("STRICT_TRANS_TABLES"));

    let before = std::fs::read_to_string(bench.site.config.join("my.cnf"))?;
    for (name, wrong) in [
        ("max_connections", serde_json::Value::from(0)),
        ("max_connections", "many".into()),
        ("sql_mode", "NO_SUCH_MODE".into()),
        ("event_scheduler", "perhaps".into()),
        ("lc_messages", "xx_YY".into()),
        ("no_such", 1.into()),
        ("max_connection", 50.into()),
        ("plugin_dir", "/tmp".into()),
        ("user", "root".into()),
        ("initialize", true.into()),
        ("sql_mode", "x\"\nplugin_dir=/tmp".into()),
    ] {
        let refused = bench.take_up(&settings(&[(name, wrong.clone())])).await;
        let refused = refused.err().with_context(|| format!("{name} = {wrong} is accepted"))?;
        ensure!(refused.kind() == Kind::Invalid, "{name} = {wrong}: {}", refused.chain());
        ensure!(!refused.chain().contains("[ERROR]"), "{}", refused.chain());
    }
    ensure!(std::fs::read_to_string(bench.site.config.join("my.cnf"))? == before, "a refused value was written");
    running.stop(&bench).await
}

//! Metrics for Prometheus, read by its Python parser.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trove_tests::{Clients, Stack, StackOptions, connect, poll, rows};

/// Value of the sample with this name and at least these labels.
fn value(samples: &Value, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |sample: &&Value| sample[0] == name && labels.iter().all(|(label, value)| sample[1][*label] == *value);
    samples.as_array()?.iter().find(fits)?[2].as_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_the_controller_and_every_instance() -> Result<()> {
    let address = Ipv4Addr::new(127, rand::random_range(128..=254), rand::random(), rand::random_range(1..=254));
    let config = format!("[metrics]\nlisten = \"{address}:8777\"");
    let stack = Stack::start_with(StackOptions { config, ..StackOptions::default() }).await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("measured").await?;
    let clients = Clients::new(&stack.clouds_yaml(), "trove")?;
    let url = format!("http://{address}:8777/metrics");
    let read = || -> Result<Value> { serde_json::from_str(&clients.python("figures.py", &[&url])?).context("samples") };

    let own = [("instance_id", id.as_str()), ("project_id", api.project.as_str()), ("datastore", "postgresql")];
    let client = connect(&api.instance(&id).await?, "app", "secret-app-1", "app").await?;
    rows(&client, "create table t as select generate_series(1, 1000) as n").await?;
    let samples = poll(
        "figures of the engine",
        Duration::from_secs(40),
        async || read(),
        |samples| value(samples, "trove_engine_connections", &own).is_some_and(|connections| connections >= 1.0),
    )
    .await?;
    assert_eq!(value(&samples, "trove_instance_healthy", &own), Some(1.0));
    assert_eq!(value(&samples, "trove_instance_volume_size_bytes", &own), Some(1024.0 * 1024.0 * 1024.0));
    for name in ["trove_instance_volume_used_bytes", "trove_instance_memory_used_bytes"] {
        ensure!(value(&samples, name, &own).is_some_and(|bytes| bytes > 1e6), "{name}: {samples}");
    }
    ensure!(value(&samples, "trove_instance_heard_seconds", &own).is_some_and(|seconds| seconds < 30.0));
    assert_eq!(value(&samples, "trove_agents_connected", &[]), Some(1.0));
    let created = [("kind", "create_instance"), ("how", "done")];
    assert_eq!(value(&samples, "trove_operations_ended_total", &created), Some(1.0));
    let orders = [("method", "POST"), ("route", "/v1.0/{project}/instances"), ("status", "200")];
    assert_eq!(value(&samples, "trove_http_requests_total", &orders), Some(1.0), "{samples}");
    ensure!(value(&samples, "process_resident_memory_bytes", &[]).is_some_and(|bytes| bytes > 1e6));
    ensure!(value(&samples, "process_cpu_seconds", &[]).is_some_and(|seconds| seconds > 0.0));
    ensure!(!samples.to_string().contains("secret-app-1"));

    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(&id).await?;
    let samples = read()?;
    assert_eq!(value(&samples, "trove_instance_healthy", &own), None, "what is gone is not there");
    assert_eq!(value(&samples, "trove_agents_connected", &[]), Some(0.0));
    Ok(())
}

#[tokio::test]
async fn figures_are_not_shown_to_everybody_by_mistake() -> Result<()> {
    let config = "[metrics]\nlisten = \"0.0.0.0:8777\"".to_owned();
    let mut stack = Stack::prepare(StackOptions { config, ..StackOptions::default() })?;
    let (status, said) = stack.run_to_end()?;
    ensure!(!status.success() && said.contains("metrics.allow_remote"), "{said}");
    Ok(())
}

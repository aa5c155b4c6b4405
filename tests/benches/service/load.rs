//! Load from clients that send the next request as soon as the last one is answered, each on its own persistent
//! connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::sync::Barrier;
use trove_tests::Api;

/// A request: method, path below the project, body.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

impl Ask {
    /// GET.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None }
    }
}

/// Result of a load.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Median response time, ms.
    pub(crate) p50_ms: f64,
    /// 99th percentile of the response time, ms.
    pub(crate) p99_ms: f64,
    /// Requests that were not answered with 200.
    pub(crate) failed: usize,
}

/// A client with one open connection.
async fn connect(url: &str) -> Result<Client> {
    let client = Client::builder().pool_max_idle_per_host(1).timeout(Duration::from_secs(60)).build()?;
    client.get(format!("{url}/healthcheck")).send().await?.bytes().await?;
    Ok(client)
}

/// Sends `count` requests over `connections` connections. `ask` makes the n-th request.
pub(crate) async fn run(
    url: &str,
    api: &Api,
    connections: usize,
    count: usize,
    ask: impl Fn(usize) -> Ask + Send + Sync + 'static,
) -> Result<Outcome> {
    let (ask, next, begin) = (Arc::new(ask), Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(connections + 1)));
    let mut clients = Vec::new();
    for _ in 0..connections {
        let (client, ask, next, begin) = (connect(url).await?, ask.clone(), next.clone(), begin.clone());
        let (base, token) = (format!("{url}/v1.0/{}", api.project), api.token().to_owned());
        clients.push(tokio::spawn(async move {
            begin.wait().await;
            let mut times = Vec::new();
            let mut failed = 0;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return (times, failed);
                }
                let Ask { method, path, body } = ask(n);
                let mut request = client.request(method, format!("{base}{path}")).header("x-auth-token", &token);
                if let Some(body) = &body {
                    request = request.json(body);
                }
                let begun = Instant::now();
                let answered = async { anyhow::Ok((request.send().await?.error_for_status()?).bytes().await?) };
                failed += usize::from(answered.await.is_err());
                times.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
        }));
    }
    begin.wait().await;
    let begun = Instant::now();
    let (mut times, mut failed) = (Vec::with_capacity(count), 0);
    for client in clients {
        let (own, own_failed) = client.await.context("a client")?;
        times.extend(own);
        failed += own_failed;
    }
    let wall = begun.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let part = |hundredth: usize| times.get(times.len() * hundredth / 100).copied().unwrap_or(f64::NAN);
    Ok(Outcome { rate: real(count) / wall, p50_ms: part(50), p99_ms: part(99), failed })
}

/// Converts a count.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn real(count: usize) -> f64 {
    count as f64
}

//! Measures requests to a service with a thousand instances: CPU time, SQL statements and response times.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reqwest::Method;
use trove_controller::state::HostState;
use trove_tests::{Api, order_body};

use crate::load::{self, Ask, Outcome, real};
use crate::resting;
use crate::seed::Seed;
use crate::service::{Kind, Service};
use crate::table::{Row, Table, number};

/// Number of stored instances; no agent is connected.
pub(crate) const STORED: usize = 1_000;

/// A request, the number of repetitions, and the targets.
struct Subject {
    name: &'static str,
    requests: usize,
    /// CPU seconds per thousand requests, controller and database together, on SQLite and on PostgreSQL.
    targets_s: [f64; 2],
    /// SQL statements per request.
    statements: Option<f64>,
    trove: &'static str,
}

const LIST: Subject = Subject {
    name: "list of 20",
    requests: 3_000,
    targets_s: [0.5, 0.9],
    statements: Some(2.0),
    trove: "197 s, 103 SELECTs",
};
const SHOW: Subject =
    Subject { name: "show", requests: 5_000, targets_s: [0.3, 0.5], statements: None, trove: "14.5 s" };
const DATASTORES: Subject =
    Subject { name: "datastores", requests: 5_000, targets_s: [0.2, 0.3], statements: None, trove: "7.2 s" };
const CREATE: Subject =
    Subject { name: "create", requests: 1_000, targets_s: [2.0, 3.0], statements: None, trove: "55 s" };

/// Concurrency, the same as in the measurement of OpenStack Trove.
const AT_ONCE: usize = 258;

/// Measures all requests on one database.
pub(crate) async fn measure(table: &mut Table, kind: Kind) -> Result<()> {
    let mut service = Service::start(kind, "[operations]\npaused = true\n").await?;
    let ids = seed(&service).await?;
    resting::measure(table, &mut service).await?;
    let api = service.login().await?;
    let ids: Arc<[String]> = ids.into();
    for connections in [1, 32] {
        let load = Load { service: &service, api: &api, connections };
        let ids = ids.clone();
        load.measure(table, &LIST, |_| Ask::get("/instances?limit=20")).await?;
        load.measure(table, &SHOW, move |n| Ask::get(format!("/instances/{}", ids[n % ids.len()]))).await?;
        load.measure(table, &DATASTORES, |_| Ask::get("/datastores")).await?;
        load.measure(table, &CREATE, order).await?;
    }
    at_once(table, &service, &api).await?;
    resting::measure_after(table, &service).await
}

/// Stores instances whose hosts are absent, since the service would start hosts that are stopped.
async fn seed(service: &Service) -> Result<Vec<String>> {
    let api = service.login().await?;
    let seed = Seed::new(service, &api.project).await?;
    let ids = seed.instances(STORED, HostState::Absent).await?;
    for id in &ids {
        seed.agent(*id).await?;
    }
    let answer = api.get("/instances?limit=20").await?;
    let list = answer.body["instances"].as_array().map_or(0, Vec::len);
    ensure!(list == 20 && answer.body["instances"][0]["status"] == "UNKNOWN", "the list: {answer:?}");
    Ok(ids.iter().map(ToString::to_string).collect())
}

fn order(n: usize) -> Ask {
    Ask { method: Method::POST, path: "/instances".to_owned(), body: Some(order_body(&format!("ordered-{n}"))) }
}

struct Load<'a> {
    service: &'a Service,
    api: &'a Api,
    connections: usize,
}

impl Load<'_> {
    async fn measure(
        &self,
        table: &mut Table,
        subject: &Subject,
        ask: impl Fn(usize) -> Ask + Send + Sync + 'static,
    ) -> Result<()> {
        let Self { service, api, connections } = self;
        let url = service.stack.url();
        let ask = Arc::new(ask);
        let warm = ask.clone();
        // Warm up, so that database connections are open and statements prepared.
        load::run(&url, api, *connections, connections * 10, move |n| warm(n)).await?;
        service.settle().await?;
        let (sent, heard, cpu) = (service.statements().await?, service.heard_statements().await?, service.cpu()?);
        let count = subject.requests;
        let outcome = load::run(&url, api, *connections, count, move |n| ask(n)).await?;
        let after = service.cpu()?;
        let sent = (service.statements().await? - sent) / real(count);
        let heard = match (heard, service.heard_statements().await?) {
            (Some(before), Some(after)) => Some((after - before) / real(count)),
            _ => None,
        };
        let thousand = |seconds: f64| seconds * 1000.0 / real(count);
        let (controller, database) =
            (thousand(after.controller_s - cpu.controller_s), thousand(after.database_s - cpu.database_s));
        let name = format!("{}, {}, {connections} conn.", subject.name, service.kind);
        let seconds = match service.kind {
            Kind::Sqlite => "SQLite runs in the controller".to_owned(),
            Kind::Postgresql => format!("controller {} + database {} s", number(controller), number(database)),
        };
        let Outcome { rate, p50_ms, p99_ms, failed } = outcome;
        let wall = format!("{} req/s, p50 {} ms, p99 {} ms", number(rate), number(p50_ms), number(p99_ms));
        let how =
            format!("{count} requests kept busy by {connections} keep-alive connections; utime + stime of proc(5)");
        let mut row = Row::new(&name, controller + database, "CPU s/1,000", how);
        let [sqlite, postgresql] = subject.targets_s;
        row.target = Some(match service.kind {
            Kind::Sqlite => sqlite,
            Kind::Postgresql => postgresql,
        });
        row.trove = subject.trove;
        row.aside = format!("{seconds}; {wall}");
        table.add(row);
        let how = "trove_store_statements_total of /metrics before and after; beside: calls of pg_stat_statements";
        let mut row = Row::new(format!("{name}: statements"), sent, "a request", how);
        row.target = subject.statements;
        row.aside = heard.map(|heard| format!("the server counted {}", number(heard))).unwrap_or_default();
        table.add(row);
        let how = "answers other than 2xx, and none";
        table.add(Row::new(format!("{name}: failures"), real(failed), "requests", how).at_most(0.0));
        Ok(())
    }
}

async fn at_once(table: &mut Table, service: &Service, api: &Api) -> Result<()> {
    let outcome = load::run(&service.stack.url(), api, AT_ONCE, AT_ONCE, order).await?;
    let how = format!("{AT_ONCE} connections, one order each, sent at the same instant");
    let figure = format!("{AT_ONCE} creates at once, {}: failures", service.kind);
    let mut row = Row::new(figure, real(outcome.failed), "requests", how).at_most(0.0);
    row.trove = "111 of 258";
    row.aside = format!("the last was answered after {} ms", number(outcome.p99_ms));
    table.add(row);
    Ok(())
}

//! Metrics for Prometheus: of this controller, and of the instances whose agents are connected to it.
//!
//! Counters and histograms are recorded in the code with the crate `metrics`; everything else is gathered at each
//! scrape.

mod instances;
mod process;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::agents::hub::Hub;
use crate::connections::{self, Gate, Port};
use crate::error::{Error, Result, chain};
use crate::model::InstanceLabels;
use crate::objects::Objects;
use crate::store::Store;
use crate::store::datastores::Unregistered;

/// Bounds of the histograms of durations, seconds.
const DURATIONS: &[f64] =
    &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Active operations by kind and status, instances, and installed engines that could not be registered.
type Stored = (Vec<(String, String, u64)>, Vec<InstanceLabels>, Vec<Unregistered>);

/// Idle timeout of connections; longer than the interval of scrapes.
const IDLE: Duration = Duration::from_secs(90);

#[derive(Clone)]
struct Monitor {
    store: Store,
    hub: Arc<Hub>,
    objects: Objects,
    recorder: PrometheusHandle,
}

/// Installs the recorder of metrics, and serves them until the controller ends.
///
/// # Errors
/// Internal: a recorder is installed already.
pub fn serve(
    listener: TcpListener,
    store: Store,
    hub: Arc<Hub>,
    objects: Objects,
    gate: Arc<Gate>,
    shutdown: CancellationToken,
) -> Result<impl Future<Output = ()>> {
    let builder = PrometheusBuilder::new().set_buckets(DURATIONS);
    let builder = builder.map_err(|error| Error::internal("set up the figures", error))?;
    let recorder = builder.install_recorder().map_err(|error| Error::internal("set up the figures", error))?;
    describe();
    let router = Router::new().route("/metrics", get(show)).with_state(Monitor { store, hub, objects, recorder });
    Ok(connections::serve(Port { listener, tls: None, gate, idle: IDLE }, router, shutdown))
}

fn describe() {
    describe_gauge!("trove_build_info", "Always 1; the version is a label.");
    describe_counter!("trove_http_requests_total", "Requests answered, by method, route and status.");
    describe_histogram!("trove_http_request_duration_seconds", "Time to the answer, by method and route.");
    describe_counter!(
        "trove_operations_ended_total",
        "Operations that this controller brought to their end, by kind and how."
    );
    describe_histogram!("trove_operation_duration_seconds", "Time that this controller worked on one, by kind.");
    describe_counter!("trove_operation_leases_lost_total", "Operations that another controller has taken over.");
    describe_gauge!(
        "trove_operations_active",
        "Operations that have not ended, by kind and status; of all controllers."
    );
    describe_counter!(
        "trove_store_statements_total",
        "Statements that this controller sent to its database, with those that begin and end transactions."
    );
    describe_gauge!("trove_store_writable", "Whether this controller can write its store: 1 or 0.");
    describe_gauge!(
        "trove_backup_storage_there",
        "Whether the directory of backups is there and no other in its place: 1 or 0."
    );
    describe_counter!("trove_connections_refused_total", "Connections that were closed at once, by port: it was full.");
    describe_gauge!("trove_agents_connected", "Agents that this controller hears.");
    process::describe();
    gauge!("trove_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

async fn show(State(monitor): State<Monitor>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], monitor.text().await).into_response()
}

impl Monitor {
    async fn text(&self) -> String {
        let agents = self.hub.heard();
        gauge!("trove_agents_connected").set(figure(agents.len()));
        process::measure();
        let writable = self.store.check_health().await.is_ok();
        gauge!("trove_store_writable").set(f64::from(u8::from(writable)));
        let there = self.objects.check_storage().await.is_ok();
        gauge!("trove_backup_storage_there").set(f64::from(u8::from(there)));
        let stored = self.stored().await;
        self.recorder.run_upkeep();
        let mut text = self.recorder.render();
        match stored {
            Ok((active, tenants, unregistered)) => {
                instances::render_operations(&mut text, &active);
                instances::render_unregistered(&mut text, &unregistered);
                instances::render(&mut text, &agents, &tenants);
            }
            // Serve the controller's own metrics all the same, since they are needed most while the store fails.
            Err(error) => tracing::warn!("the figures lack those of the store: {}", chain(&error)),
        }
        text
    }

    /// Metrics from the store.
    async fn stored(&self) -> Result<Stored> {
        let active = self.store.count_operations().await?;
        Ok((active, self.store.instance_labels().await?, self.store.unregistered().await?))
    }
}

/// Converts a count for Prometheus.
#[allow(clippy::cast_precision_loss)]
fn figure(count: usize) -> f64 {
    count as f64
}

//! The Watch service: reports and certificate requests go to the controller, certificates come back.

#![allow(clippy::disallowed_methods, reason = "/proc and control groups")]

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{error, info};
use trove_proto::v1;
use trove_proto::v1::watch_server::Watch;
use trove_proto::v1::{watch_down, watch_up};
use trove_strategy::{Described, EngineError, Manifest, Metric, Role};

use super::{Connection, Services};
use crate::supervisor::EngineStatus;

const AMISS_AFTER: u32 = 3;

type Up = mpsc::Sender<Result<v1::WatchUp, Status>>;

#[tonic::async_trait]
impl Watch for Connection {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchUp, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<v1::WatchDown>>) -> Result<Response<Self::WatchStream>, Status> {
        self.called.notify_one();
        let (sender, receiver) = mpsc::channel(16);
        let services = self.services.clone();
        tokio::spawn(async move { speak(&services, request.into_inner(), sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn hello(services: &Services) -> v1::Hello {
    let datastore = services.datastore.as_ref();
    let manifest = Manifest::derive(datastore, services.site.installation.clone(), Described::default());
    v1::Hello {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: services.boot_id.clone(),
        datastore: manifest.identity.name,
        capabilities: manifest.capabilities.iter().map(ToString::to_string).collect(),
        assignment_generation: services.assignments.assigned().borrow().generation,
        fence: services.assignments.fence(),
        interface: manifest.interface,
    }
}

async fn say(sender: &Up, kind: watch_up::Kind) -> bool {
    sender.send(Ok(v1::WatchUp { kind: Some(kind) })).await.is_ok()
}

/// Sends a hello, then reports on each change and at each heartbeat, until the connection ends.
async fn speak(services: &Services, mut inbox: Streaming<v1::WatchDown>, sender: Up) {
    if !say(&sender, watch_up::Kind::Hello(hello(services))).await {
        return;
    }
    let (mut status, mut assigned) = (services.supervisor.status(), services.assignments.assigned());
    let mut figures = Figures::default();
    let renewal = renewal_delay(services);
    let renewal = tokio::time::sleep(renewal);
    tokio::pin!(renewal);
    let mut heartbeat = tokio::time::interval(Duration::from_secs(10));
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            changed = status.changed() => if changed.is_err() { return },
            changed = assigned.changed() => {
                if changed.is_err() { return }
                let seconds = assigned.borrow().specification.heartbeat_interval_s;
                if seconds > 0 && heartbeat.period() != Duration::from_secs(seconds.into()) {
                    heartbeat = tokio::time::interval(Duration::from_secs(seconds.into()));
                }
            }
            _ = heartbeat.tick() => figures.take(services).await,
            () = &mut renewal => {
                renewal.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs(3600));
                if !ask_for_certificate(services, &sender).await { return }
                continue;
            }
            message = inbox.next() => match message {
                Some(Ok(v1::WatchDown { kind: Some(watch_down::Kind::Certificate(certificate)) })) => {
                    take_certificate(services, &certificate);
                    renewal.as_mut().reset(tokio::time::Instant::now() + renewal_delay(services));
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
        }
        let sequence = services.reports.fetch_add(1, Ordering::SeqCst) + 1;
        let now = status.borrow_and_update().clone();
        let generation = assigned.borrow_and_update().generation;
        // The detail about a full volume comes from the newest measurement, so report that one, not the one of the
        // heartbeat.
        if let Some(used) = *services.used.borrow() {
            figures.volume_used_bytes = used;
        }
        let trouble = services.log_trouble.borrow().clone();
        if !say(&sender, watch_up::Kind::Report(report(sequence, now, &figures, generation, &trouble))).await {
            return;
        }
    }
}

fn report(
    sequence: u64,
    status: EngineStatus,
    figures: &Figures,
    assignment_generation: u64,
    log_trouble: &str,
) -> v1::Report {
    let health = status.health;
    let role = match health.as_ref().map(|health| health.role) {
        Some(Role::Primary) => v1::Role::Primary,
        Some(Role::Replica) => v1::Role::Replica,
        None => v1::Role::Unspecified,
    };
    let is_well = status.service == v1::ServiceState::Healthy && status.detail.is_empty();
    v1::Report {
        sequence,
        service: status.service.into(),
        detail: match is_well {
            true if figures.amiss.is_empty() => log_trouble.to_owned(),
            true => figures.amiss.clone(),
            false => status.detail,
        },
        role: role.into(),
        position: health.as_ref().and_then(|health| health.position.clone()).unwrap_or_default(),
        lag_s: health.as_ref().and_then(|health| health.lag_s),
        volume_used_bytes: figures.volume_used_bytes,
        memory_used_bytes: figures.memory_used_bytes,
        engine_version: health.map(|health| health.version).unwrap_or_default(),
        metrics: figures.metrics.clone(),
        assignment_generation,
    }
}

/// Measurements made at each heartbeat.
#[derive(Default)]
struct Figures {
    volume_used_bytes: u64,
    memory_used_bytes: u64,
    metrics: Vec<v1::Metric>,
    /// How often in a row a healthy engine failed to return metrics; and, after `AMISS_AFTER` times, the error.
    misses: u32,
    amiss: String,
}

impl Figures {
    async fn take(&mut self, services: &Services) {
        let healthy = services.supervisor.status().borrow().service == v1::ServiceState::Healthy;
        let asked = if healthy { services.datastore.engine().metrics(&services.site).await } else { Ok(Vec::new()) };
        self.hear(asked);
        let mut used = services.used.clone();
        // The first measurement may take a moment. If it does not come, report 0.
        let measured = tokio::time::timeout(Duration::from_secs(2), used.wait_for(Option::is_some)).await;
        self.volume_used_bytes = measured.ok().and_then(|used| used.ok().and_then(|used| *used)).unwrap_or_default();
        self.memory_used_bytes = memory(services);
    }

    fn hear(&mut self, asked: Result<Vec<Metric>, EngineError>) {
        let wire = |metric: Metric| v1::Metric { name: metric.name.to_owned(), value: metric.value };
        (self.metrics, self.misses, self.amiss) = match asked {
            Ok(metrics) => (metrics.into_iter().map(wire).collect(), 0, String::new()),
            // Not reported at the first failure: if the engine has just stopped answering, the probe reports that.
            Err(error) => {
                let misses = self.misses.saturating_add(1);
                let amiss = if misses < AMISS_AFTER { String::new() } else { error.chain() };
                (Vec::new(), misses, amiss)
            }
        };
    }
}

/// Memory in use by the guest, bytes: from its cgroup, or of this process alone if it has none.
fn memory(services: &Services) -> u64 {
    let files = ["memory.current", "memory.usage_in_bytes"];
    let known = services.cgroups.iter().flat_map(|cgroup| files.map(|file| cgroup.join(file)));
    let read = known.into_iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
    read.unwrap_or_else(|| {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let resident: u64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
        resident * 4096
    })
}

/// Time until the certificate is renewed: a random point between a half and two thirds of its lifetime, so that guests
/// do not renew all at once.
fn renewal_delay(services: &Services) -> Duration {
    let Ok(Some(validity)) = services.identity.validity() else { return Duration::from_secs(60) };
    let life = validity.to - validity.from;
    let due = validity.from + life * (0.5 + rand::random::<f64>() / 6.0);
    let left: Duration = (due - time::OffsetDateTime::now_utc()).try_into().unwrap_or_default();
    left.max(Duration::from_secs(1))
}

async fn ask_for_certificate(services: &Services, sender: &Up) -> bool {
    match services.identity.request() {
        Ok(csr_der) => say(sender, watch_up::Kind::CertificateRequest(v1::CertificateRequest { csr_der })).await,
        Err(cause) => {
            error!(error = format!("{cause:#}"), "no certificate can be asked for");
            true
        }
    }
}

fn take_certificate(services: &Services, certificate: &v1::Certificate) {
    match services.identity.accept(&certificate.certificate_pem, &certificate.authority_pem) {
        Ok(()) => info!("the certificate was renewed"),
        Err(cause) => error!(error = format!("{cause:#}"), "the new certificate is not taken up"),
    }
}

#[cfg(test)]
mod tests {
    use trove_strategy::{Health, Kind};

    use super::*;

    #[test]
    fn an_engine_that_answers_without_figures_is_well_with_the_reason() {
        let status = |service| EngineStatus { service, detail: String::new(), health: Some(Health::new("1")) };
        let said = |figures: &Figures, service| report(1, status(service), figures, 1, "").detail;
        let mut figures = Figures::default();
        for detail in ["", "", "read metrics: absurd", "read metrics: absurd"] {
            figures.hear(Err(EngineError::new(Kind::Fatal, "read metrics: absurd")));
            assert_eq!(said(&figures, v1::ServiceState::Healthy), detail);
            assert_eq!(said(&figures, v1::ServiceState::Starting), "");
        }
        figures.hear(Ok(vec![Metric::new("connections", 1.0)]));
        assert_eq!((said(&figures, v1::ServiceState::Healthy).as_str(), figures.metrics.len()), ("", 1));
    }
}

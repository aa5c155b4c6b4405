//! The connections of agents to this controller. Each has a task that opens `Watch`, stores and acknowledges reports,
//! signs certificate requests, and notices at once when the connection ends.
//!
//! ```text
//! certificate verified -> admitted by the store -> Hello received (link usable, row written) -> Reports ... -> link
//! lost, row closed
//! ```
//! Callers can use a link from the Hello on, since a connection may still be refused before. The store is written on
//! change, not at each heartbeat. Of two connections of an agent, the one that was accepted last counts, even if its
//! Hello came first.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use trove_proto::v1;
use trove_proto::v1::watch_down::Kind as Down;
use trove_proto::v1::watch_up::Kind as Up;

use crate::agents::channel::{self, Channel};
use crate::agents::{AgentState, AnswerLogs};
use crate::authority::{AgentName, Authorities, CertificateRequest};
use crate::config::Config;
use crate::error::{Error, Result, chain};
use crate::ids::InstanceId;
use crate::signals::Nudge;
use crate::state::Service;
use crate::store::Store;
use crate::store::agents::{AgentRow, ReportSequence};

/// Time limit for the Hello, which an agent sends at once.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// Queue of messages to an agent that does not read them.
const DOWN_QUEUE: usize = 16;
/// Greatest number of metrics of an engine that are kept.
const METRICS: usize = 200;
/// Pause before another try to store the loss of a link, while the store fails. Until then other controllers take the
/// agent for connected.
const LOSS_PAUSE: Duration = Duration::from_secs(1);
/// The volume's use is stored if it changed by more than this fraction (1/100) of the stored value.
const VOLUME_CHANGE: u64 = 100;

/// The agents' connections of this controller.
pub struct Hub {
    pub(crate) store: Store,
    pub(crate) authorities: Arc<Authorities>,
    pub(crate) controller_id: String,
    config: Arc<Config>,
    nudge: Nudge,
    agents: Mutex<HashMap<InstanceId, Arc<Agent>>>,
    links: AtomicU64,
    /// Answers agents that ship their engines' logs.
    desk: Arc<dyn AnswerLogs>,
}

/// State of one agent, connected or not.
struct Agent {
    state: watch::Sender<AgentState>,
    /// Metrics of the last report. Nobody waits for their change.
    figures: Mutex<Option<Figures>>,
    link: watch::Sender<Option<Link>>,
    /// Locked while the begin or end of a link is stored, so that the store sees them in order.
    row: tokio::sync::Mutex<()>,
}

struct Figures {
    heard: Instant,
    memory_used_bytes: u64,
    metrics: Vec<(String, f64)>,
}

/// Metrics of a connected agent.
#[derive(Clone, Debug)]
pub struct LastSeen {
    pub instance: InstanceId,
    /// Whether the engine answered the last probe.
    pub healthy: bool,
    /// Bytes in use on the data volume.
    pub volume_used_bytes: u64,
    /// Memory of the guest's processes, bytes.
    pub memory_used_bytes: u64,
    /// Time since its last report.
    pub age: Duration,
    /// The engine's metrics, by name.
    pub metrics: Vec<(String, f64)>,
}

/// A connection whose Hello was received.
#[derive(Clone)]
pub(crate) struct Link {
    /// Unique in this process; grows in the order in which connections were accepted.
    pub(crate) number: u64,
    pub(crate) channel: Channel,
    /// Cancelled to end the connection.
    cut: CancellationToken,
}

impl Agent {
    fn new() -> Self {
        Self {
            state: watch::Sender::new(AgentState::unheard()),
            figures: Mutex::default(),
            link: watch::Sender::new(None),
            row: tokio::sync::Mutex::new(()),
        }
    }
}

impl Hub {
    /// `nudge` is called whenever a link or the state of a service changes.
    pub fn new(
        store: Store,
        authorities: Arc<Authorities>,
        config: Arc<Config>,
        controller_id: String,
        nudge: Nudge,
        desk: Arc<dyn AnswerLogs>,
    ) -> Arc<Self> {
        let agents = Mutex::default();
        Arc::new(Self { store, authorities, controller_id, config, nudge, agents, links: AtomicU64::new(1), desk })
    }

    /// Signs a certificate for an agent; returns PEM.
    pub(crate) fn sign(&self, request: &CertificateRequest, name: AgentName) -> Result<String> {
        self.authorities.sign_agent(request, name, self.config.agents.certificate_lifetime)
    }

    pub(crate) fn watch_state(&self, instance: InstanceId) -> watch::Receiver<AgentState> {
        self.agent(instance).state.subscribe()
    }

    pub(crate) fn watch_link(&self, instance: InstanceId) -> watch::Receiver<Option<Link>> {
        self.agent(instance).link.subscribe()
    }

    /// All agents that are connected and have reported.
    pub fn heard(&self) -> Vec<LastSeen> {
        let agents: Vec<(InstanceId, Arc<Agent>)> = {
            let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
            agents.iter().map(|(instance, agent)| (*instance, agent.clone())).collect()
        };
        let heard = |(instance, agent): (InstanceId, Arc<Agent>)| {
            let state = agent.state.borrow().clone();
            let figures = agent.figures.lock().unwrap_or_else(PoisonError::into_inner);
            let figures = figures.as_ref().filter(|_| state.connected)?;
            Some(LastSeen {
                instance,
                healthy: state.service == Service::Healthy,
                volume_used_bytes: state.volume_used_bytes,
                memory_used_bytes: figures.memory_used_bytes,
                age: figures.heard.elapsed(),
                metrics: figures.metrics.clone(),
            })
        };
        agents.into_iter().filter_map(heard).collect()
    }

    /// Removes the agent's state and cuts its connection.
    pub(crate) fn forget_agent(&self, instance: InstanceId) {
        let agent = self.agents.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
        if let Some(link) = agent.and_then(|agent| agent.link.send_replace(None)) {
            link.cut.cancel();
        }
    }

    fn agent(&self, instance: InstanceId) -> Arc<Agent> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(agents.entry(instance).or_insert_with(|| Arc::new(Agent::new())))
    }

    /// Whether an agent whose certificate was verified is the one of its instance. Logs if not.
    pub(crate) async fn admits(&self, name: AgentName, peer: SocketAddr) -> bool {
        let AgentName { instance, generation } = name;
        match self.store.is_current_agent(instance, generation).await {
            Ok(true) => return true,
            Ok(false) => tracing::warn!(
                instance_id = %instance, %peer,
                "agent of instance {instance} at {peer} refused: the instance is gone, or generation {generation} \
                 of its host is over"
            ),
            Err(error) => {
                tracing::error!(instance_id = %instance, "agent of instance {instance} not admitted: {}", chain(&error));
            }
        }
        false
    }

    /// Handles a connection whose certificate was verified, until it ends.
    pub(crate) async fn serve_agent<S>(&self, stream: S, name: AgentName, peer: SocketAddr, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let instance = name.instance;
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        if !self.admits(name, peer).await {
            return;
        }
        let cut = CancellationToken::new();
        let (channel, connection) = match timeout(HELLO_LIMIT, channel::open(stream, cut.clone())).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => {
                tracing::warn!(%peer, "agent of instance {instance} at {peer} refused: {}", chain(&error));
                return;
            }
            Err(_) => return,
        };
        let link = Link { number, channel, cut: cut.clone() };
        let agent = self.agent(instance);
        let conversation = Conversation { hub: self, agent, name, link, row: None, boot_id: String::new() };
        let connection = async {
            let end = tokio::select! {
                biased;
                () = cut.cancelled() => "a newer connection took its place, or its instance is gone".to_owned(),
                () = shutdown.cancelled() => "this controller stops".to_owned(),
                ended = connection => match ended {
                    Ok(()) => "it closed the connection".to_owned(),
                    Err(error) => chain(&error),
                },
            };
            cut.cancel();
            end
        };
        let conversation = async {
            let end = conversation.hold().await;
            cut.cancel();
            end
        };
        // Do not drop the conversation before it ends, since it may be storing the begin of the link.
        tokio::pin!(connection, conversation);
        let end = tokio::select! {
            biased;
            end = &mut connection => { conversation.await; end }
            end = &mut conversation => end,
        };
        self.lose(instance, number, &end).await;
    }

    /// Stores the end of a connection, and retries until that succeeds or another connection is there.
    async fn lose(&self, instance: InstanceId, number: u64, why: &str) {
        // Do not insert an agent here, since that would undo `forget`.
        let known = self.agents.lock().unwrap_or_else(PoisonError::into_inner).get(&instance).cloned();
        let Some(agent) = known else { return };
        loop {
            let row = agent.row.lock().await;
            let was_mine = agent.link.send_if_modified(|link| {
                let mine = link.as_ref().is_some_and(|link| link.number == number);
                if mine {
                    *link = None;
                }
                mine
            });
            if agent.link.borrow().is_some() {
                tracing::debug!(instance_id = %instance, "an older connection of instance {instance} ended: {why}");
                return;
            }
            if was_mine {
                agent.state.send_modify(|state| state.connected = false);
                tracing::info!(instance_id = %instance, "agent of instance {instance} lost: {why}");
            }
            // Also if the link never became usable, since its begin may have been stored.
            match self.store.lose_link(instance, &self.controller_id).await {
                Ok(()) => break,
                Err(error) => tracing::error!(instance_id = %instance, "{}", chain(&error)),
            }
            drop(row);
            tokio::time::sleep(LOSS_PAUSE).await;
        }
        self.nudge.now();
    }
}

/// The exchange of messages on one connection.
struct Conversation<'a> {
    hub: &'a Hub,
    agent: Arc<Agent>,
    name: AgentName,
    link: Link,
    /// The row that this conversation stored last.
    row: Option<AgentRow>,
    /// From the Hello.
    boot_id: String,
}

impl Conversation<'_> {
    /// Runs until the connection ends, and returns the reason.
    async fn hold(mut self) -> String {
        let (down, queue) = mpsc::channel(DOWN_QUEUE);
        let (hello, mut up) = match timeout(HELLO_LIMIT, self.begin(queue)).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(reason)) => return reason,
            Err(_) => return "it said no Hello in time".to_owned(),
        };
        if let Err(reason) = self.register(&hello).await {
            return reason;
        }
        self.boot_id = hello.boot_id;
        let (hub, name) = (self.hub, self.name);
        let logs = super::logs::answer(self.link.channel.clone(), name, &hub.store, &*hub.desk);
        tokio::select! {
            end = self.exchange(&down, &mut up) => end,
            never = logs => match never {},
        }
    }

    /// Hears what comes over Watch until it ends, and returns the reason.
    async fn exchange(&mut self, down: &mpsc::Sender<v1::WatchDown>, up: &mut Streaming<v1::WatchUp>) -> String {
        loop {
            let kind = match up.message().await {
                Ok(Some(v1::WatchUp { kind })) => kind,
                Ok(None) => return "it ended its Watch".to_owned(),
                Err(status) => return format!("its Watch broke: {}", reason(&status)),
            };
            let answer = match kind {
                Some(Up::Report(report)) => Some(self.hear(report).await),
                Some(Up::CertificateRequest(request)) => self.renew(&request.csr_der).await.map(Down::Certificate),
                // A second Hello, or a message kind that only newer agents know.
                Some(Up::Hello(_)) | None => None,
            };
            if let Some(kind) = answer
                && down.send(v1::WatchDown { kind: Some(kind) }).await.is_err()
            {
                return "it stopped reading".to_owned();
            }
        }
    }

    /// Opens Watch and receives the Hello.
    async fn begin(
        &self,
        queue: mpsc::Receiver<v1::WatchDown>,
    ) -> std::result::Result<(v1::Hello, Streaming<v1::WatchUp>), String> {
        let mut client = self.link.channel.watch();
        let mut up = client
            .watch(ReceiverStream::new(queue))
            .await
            .map_err(|status| format!("it refused Watch: {}", reason(&status)))?
            .into_inner();
        match up.message().await {
            Ok(Some(v1::WatchUp { kind: Some(Up::Hello(hello)) })) => Ok((hello, up)),
            Ok(_) => Err("its first word was no Hello".to_owned()),
            Err(status) => Err(format!("its Watch broke: {}", reason(&status))),
        }
    }

    /// Makes this connection the link of its agent.
    async fn register(&self, hello: &v1::Hello) -> std::result::Result<(), String> {
        let instance = self.name.instance;
        if let Err(error) = trove_strategy::check_interface(hello.interface) {
            return Err(format!("its agent, version {}, is newer than this controller: {error}", hello.agent_version));
        }
        let _row = self.agent.row.lock().await;
        // A delayed Hello, sent before the agent reconnected or its host was made again.
        if self.agent.link.borrow().as_ref().is_some_and(|present| present.number > self.link.number) {
            return Err("a newer connection is there".to_owned());
        }
        if let Err(error) = self.hub.store.put_link(instance, &self.hub.controller_id).await {
            tracing::error!(instance_id = %instance, "{}", chain(&error));
            return Err("its link could not be stored".to_owned());
        }
        if let Some(older) = self.agent.link.send_replace(Some(self.link.clone())) {
            older.cut.cancel();
        }
        self.agent.state.send_modify(|state| {
            state.connected = true;
            // The last known state may be outdated. A report follows at once.
            state.service = Service::Unknown;
            state.assignment_generation = hello.assignment_generation;
        });
        tracing::info!(
            instance_id = %instance, agent_version = hello.agent_version, boot_id = hello.boot_id,
            "agent of instance {instance} connected"
        );
        self.hub.nudge.now();
        Ok(())
    }

    /// Stores a report, and returns its acknowledgement.
    async fn hear(&mut self, report: v1::Report) -> Down {
        let sequence = report.sequence;
        let reported = service(report.service());
        let role = report.role();
        let metrics = report.metrics.into_iter().take(METRICS).map(|metric| (metric.name, metric.value)).collect();
        let figures = Figures { heard: Instant::now(), memory_used_bytes: report.memory_used_bytes, metrics };
        *self.agent.figures.lock().unwrap_or_else(PoisonError::into_inner) = Some(figures);
        let row = AgentRow {
            service: reported,
            detail: report.detail,
            engine_version: report.engine_version,
            volume_used_bytes: report.volume_used_bytes,
            assignment_generation: report.assignment_generation,
        };
        // Reconcilers are nudged only for these. The others, such as the volume's use, change all the time.
        let mut is_news = false;
        self.agent.state.send_if_modified(|state| {
            is_news = (state.service, state.assignment_generation, state.role)
                != (row.service, row.assignment_generation, role);
            let heard = AgentState {
                connected: state.connected,
                service: row.service,
                detail: row.detail.clone(),
                assignment_generation: row.assignment_generation,
                volume_used_bytes: row.volume_used_bytes,
                engine_version: row.engine_version.clone(),
                role,
                position: report.position,
                lag_s: report.lag_s,
            };
            let changed = *state != heard;
            *state = heard;
            changed
        });
        let instance = self.name.instance;
        let reset = self.hub.store.reset_services.take(instance);
        if reset || self.row.as_ref().is_none_or(|written| is_worth_a_write(written, &row)) {
            let word = ReportSequence { boot_id: self.boot_id.clone(), sequence };
            match self.hub.store.put_agent(instance, &row, &word).await {
                // `false`: another controller has stored a newer report. The next report is stored in any case.
                Ok(written) => self.row = written.then_some(row),
                // The next report is stored in any case.
                Err(error) => {
                    self.row = None;
                    tracing::error!(instance_id = %instance, "{}", chain(&error));
                }
            }
        }
        if is_news {
            self.hub.nudge.now();
        }
        Down::Acknowledgement(v1::Acknowledgement { sequence })
    }

    /// Signs a certificate for a new key, if the agent is still the one of its instance.
    async fn renew(&self, csr_der: &[u8]) -> Option<v1::Certificate> {
        let instance = self.name.instance;
        let signed = match self.hub.store.is_current_agent(instance, self.name.generation).await {
            Ok(true) => CertificateRequest::parse(csr_der).and_then(|request| self.hub.sign(&request, self.name)),
            Ok(false) => Err(Error::Forbidden(format!("Instance {instance} is gone, or has a newer host."))),
            Err(error) => Err(error),
        };
        match signed {
            Ok(certificate_pem) => {
                let authority_pem = self.hub.authorities.agents_pem().to_owned();
                Some(v1::Certificate { certificate_pem, authority_pem })
            }
            Err(error) => {
                tracing::warn!(
                    instance_id = %instance,
                    "the certificate of the agent of instance {instance} is not renewed: {}", chain(&error)
                );
                None
            }
        }
    }
}

/// Text of a status. For a transport error only the source, which tonic repeats in the status's own text.
fn reason(status: &tonic::Status) -> String {
    std::error::Error::source(status).map_or_else(|| status.message().to_owned(), chain)
}

/// Converts the state. One that only newer agents know becomes unknown.
pub(crate) fn service(state: v1::ServiceState) -> Service {
    match state {
        v1::ServiceState::Unspecified => Service::Unknown,
        v1::ServiceState::New => Service::New,
        v1::ServiceState::Building => Service::Building,
        v1::ServiceState::Starting => Service::Starting,
        v1::ServiceState::Healthy => Service::Healthy,
        v1::ServiceState::Blocked => Service::Blocked,
        v1::ServiceState::Shutdown => Service::Shutdown,
        v1::ServiceState::Crashed => Service::Crashed,
        v1::ServiceState::Failed => Service::Failed,
    }
}

fn is_worth_a_write(written: &AgentRow, heard: &AgentRow) -> bool {
    let volume_differs =
        written.volume_used_bytes.abs_diff(heard.volume_used_bytes) > written.volume_used_bytes / VOLUME_CHANGE;
    let written_now = AgentRow { volume_used_bytes: heard.volume_used_bytes, ..written.clone() };
    volume_differs || written_now != *heard
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(volume_used_bytes: u64) -> AgentRow {
        AgentRow {
            service: Service::Healthy,
            detail: String::new(),
            engine_version: "1".to_owned(),
            volume_used_bytes,
            assignment_generation: 1,
        }
    }

    #[test]
    fn a_heartbeat_is_no_change_but_one_percent_is() {
        assert!(!is_worth_a_write(&row(100_000), &row(100_000)));
        assert!(!is_worth_a_write(&row(100_000), &row(101_000)));
        assert!(is_worth_a_write(&row(100_000), &row(101_001)));
        assert!(is_worth_a_write(&row(100_000), &row(98_000)));
        assert!(is_worth_a_write(&row(0), &row(1)));
        assert!(is_worth_a_write(&row(5), &AgentRow { service: Service::Blocked, ..row(5) }));
        assert!(is_worth_a_write(&row(5), &AgentRow { assignment_generation: 2, ..row(5) }));
    }
}

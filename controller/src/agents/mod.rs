//! Agents: their connections, last reports, and calls to them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use trove_proto::v1;

pub use self::visitor::Visitor;
use crate::ids::{InstanceId, OperationId};
use crate::state::Service;

mod channel;
pub mod client;
mod enrolment;
pub mod hub;
pub mod listener;
mod logs;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod visitor;

/// The last reported state of an agent, as this controller knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentState {
    /// Whether the agent is connected.
    pub connected: bool,
    /// State of the engine.
    pub service: Service,
    /// Reason, if the engine is not healthy.
    pub detail: String,
    /// Generation of the assignment in force.
    pub assignment_generation: u64,
    /// Bytes in use on the volume.
    pub volume_used_bytes: u64,
    /// Version of the engine; empty until it first answered.
    pub engine_version: String,
    /// Role in a replica set; unspecified until it first answered.
    pub role: v1::Role,
    /// Position in the engine's replication log, in the engine's format; empty if unknown.
    pub position: String,
    /// Lag of a replica, seconds; `None` if unknown.
    pub lag_s: Option<f64>,
}

impl AgentState {
    /// State of an agent that never reported.
    pub(crate) fn unheard() -> Self {
        Self {
            connected: false,
            service: Service::New,
            detail: String::new(),
            assignment_generation: 0,
            volume_used_bytes: 0,
            engine_version: String::new(),
            role: v1::Role::Unspecified,
            position: String::new(),
            lag_s: None,
        }
    }
}

/// Error of a call to an agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There was no connection, or it broke. The outcome is unknown; call again with the same key.
    #[error("agent of instance {0} cannot be reached")]
    Unreachable(InstanceId),
    /// The agent did not answer in time. The outcome is unknown.
    #[error("agent of instance {0} did not answer within {1} s")]
    Late(InstanceId, u64),
    /// The agent returned an error.
    #[error("{message}")]
    Refused {
        /// Kind, which says how to react.
        kind: v1::ErrorKind,
        message: String,
    },
}

/// Outcome of a successful job, by kind of work; `None` from older agents.
pub type JobOutcome = Option<v1::result::Outcome>;

/// Callback for the progress of a job.
pub type OnProgress<'a> = &'a (dyn Fn(v1::Progress) + Send + Sync);

/// Answers an agent that asks, over its job, for objects of a backup.
#[async_trait]
pub trait GrantObjects: Send + Sync {
    /// An address for each of the objects of the run, in their order.
    ///
    /// # Errors
    /// They are not this job's, or the storage cannot be asked. The agent's job then fails with it.
    async fn grant(&self, run: &str, objects: &[v1::ObjectNeed]) -> Result<Vec<v1::ObjectGrant>, v1::Error>;
}

/// For jobs that need no objects.
pub struct NoObjects;

#[async_trait]
impl GrantObjects for NoObjects {
    async fn grant(&self, _: &str, _: &[v1::ObjectNeed]) -> Result<Vec<v1::ObjectGrant>, v1::Error> {
        let message = "objects are granted to backups and restores alone".to_owned();
        Err(v1::Error { kind: v1::ErrorKind::Invalid.into(), message })
    }
}

/// Answers agents that ship their engines' logs of writes.
#[async_trait]
pub trait AnswerLogs: Send + Sync {
    /// The answer to a question of this instance's agent; a refusal is one, too.
    async fn answer(&self, instance: InstanceId, question: v1::LogQuestion) -> v1::LogAnswer;
}

/// Serves the objects of backups, over connections of the agents' port that ask for them by ALPN.
#[async_trait]
pub trait ServeObjects: Send + Sync {
    /// Serves a connection until it ends, or until `shutdown`.
    async fn serve_objects(&self, stream: TlsStream<TcpStream>, visitor: Visitor, shutdown: CancellationToken);
}

/// Calls to agents for operations and the API. [`hub::Hub`] implements it; tests of operations have a simulated one.
#[async_trait]
pub trait Agents: Send + Sync {
    /// State of the agent, with notification of changes. Also works before the agent first connects.
    fn state(&self, instance: InstanceId) -> watch::Receiver<AgentState>;
    /// Runs a job and returns its outcome. Waits for a connection, and attaches to the job again when the connection
    /// breaks, until `start.deadline_s` is over. What the job asks for of objects is granted by `objects`.
    async fn run(
        &self,
        instance: InstanceId,
        start: v1::Start,
        progress: OnProgress<'_>,
        objects: &dyn GrantObjects,
    ) -> Result<JobOutcome, AgentError>;
    /// Has the agent end the jobs of an operation that was asked to end. Returns at once: the agent is told when it is reached,
    /// within 300 s. One that is away for longer ends by itself what nobody is attached to.
    fn cancel(&self, instance: InstanceId, operation: OperationId);
    /// Sends the agent an assignment. Returns the generation that is in force then, and what became of each parameter; an error
    /// in the agent's answer is returned as an error.
    async fn assign(&self, instance: InstanceId, request: v1::AssignRequest) -> Result<v1::AssignReply, AgentError>;
    /// Databases, by name. The time limit is 5 s, as for all calls below.
    async fn list_databases(&self, instance: InstanceId) -> Result<Vec<v1::Database>, AgentError>;
    async fn list_users(&self, instance: InstanceId) -> Result<Vec<v1::User>, AgentError>;
    async fn get_user(&self, instance: InstanceId, account: v1::Account) -> Result<Option<v1::User>, AgentError>;
    /// Checks whether the engine's data and settings fit into this memory (MiB) and these cores. Returns the reason if
    /// not.
    async fn check_size(&self, instance: InstanceId, memory_mib: u64, vcpus: u32)
    -> Result<Option<String>, AgentError>;
    /// Asks whether the engine would start with these parameters, which are all that are chosen, each a JSON scalar as text.
    /// Returns the reason if not. The time limit is 10 s.
    async fn check_parameters(
        &self,
        instance: InstanceId,
        parameters: BTreeMap<String, String>,
    ) -> Result<Option<String>, AgentError>;
    /// The value in force of every parameter that can be set, as the engine writes it.
    async fn list_parameters(&self, instance: InstanceId) -> Result<Vec<v1::ParameterValue>, AgentError>;
    /// Checks that the agent answers, whatever the state of its engine.
    async fn ping(&self, instance: InstanceId) -> Result<(), AgentError>;
    /// Figures of the agent's process and its machine.
    async fn diagnose(&self, instance: InstanceId) -> Result<v1::GetDiagnosticsReply, AgentError>;
    /// Removes the state of a deleted instance and cuts its connection.
    fn forget(&self, instance: InstanceId);
}

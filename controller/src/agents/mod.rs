//! The agents: who is connected, what they last said, and the calls to them.

use async_trait::async_trait;
use tokio::sync::watch;
use trove_proto::v1;

use crate::ids::InstanceId;
use crate::state::Service;

mod channel;
pub mod client;
mod enrolment;
pub mod hub;
pub mod listener;
#[cfg(test)]
mod tests;
mod tls;

/// What an agent last said, as this controller heard it.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentState {
    /// Whether its connection lives.
    pub connected: bool,
    /// What it said of the engine.
    pub service: Service,
    /// Why, for a service that is not well.
    pub detail: String,
    /// Generation of the assignment in force.
    pub assignment_generation: u64,
    /// Bytes in use on the volume.
    pub volume_used_bytes: u64,
    /// The version that the engine reports; empty until it answered once.
    pub engine_version: String,
    /// What the engine is in a set; unspecified until it answered once.
    pub role: v1::Role,
    /// How far the engine's log has come, in the engine's own words; empty where it does not say.
    pub position: String,
    /// How far a replica is behind, seconds; `None` where the engine does not say.
    pub lag_s: Option<f64>,
}

impl AgentState {
    /// Of an agent that never spoke.
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

/// What a call to an agent came to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No connection, or it broke: the outcome is unknown, ask again under the same key.
    #[error("agent of instance {0} cannot be reached")]
    Unreachable(InstanceId),
    /// The agent did not answer in time: the outcome is unknown.
    #[error("agent of instance {0} did not answer within {1} s")]
    Late(InstanceId, u64),
    /// The agent answered with an error of this kind.
    #[error("{message}")]
    Refused {
        /// What is to be done about it.
        kind: v1::ErrorKind,
        /// Why.
        message: String,
    },
}

/// What a job that succeeded came to, by the kind of its work; `None` from an agent that does not say.
pub type JobOutcome = Option<v1::result::Outcome>;

/// Progress of a job, as the operation shows it.
pub type OnProgress<'a> = &'a (dyn Fn(v1::Progress) + Send + Sync);

/// What operations and the API ask of agents. The hub is the real one; tests of operations have a simulated one.
#[async_trait]
pub trait Agents: Send + Sync {
    /// What the agent last said, and every change of it. A value is there from the first call, also before the agent
    /// ever connected.
    fn state(&self, instance: InstanceId) -> watch::Receiver<AgentState>;
    /// Runs a job to its end, attaching to it again whenever the connection breaks, until `start.deadline_s` is over.
    /// A connection that is not there is waited for.
    async fn run(
        &self,
        instance: InstanceId,
        start: v1::Start,
        progress: OnProgress<'_>,
    ) -> Result<JobOutcome, AgentError>;
    /// Gives the agent an assignment.
    async fn assign(&self, instance: InstanceId, request: v1::AssignRequest) -> Result<u64, AgentError>;
    /// Databases, by name. Limit 5 s, as for every question below.
    async fn list_databases(&self, instance: InstanceId) -> Result<Vec<v1::Database>, AgentError>;
    /// Accounts, by name and host.
    async fn list_users(&self, instance: InstanceId) -> Result<Vec<v1::User>, AgentError>;
    /// One account.
    async fn get_user(&self, instance: InstanceId, account: v1::Account) -> Result<Option<v1::User>, AgentError>;
    /// Why what the engine holds has no room in this memory (MiB) and these cores; `None`: it has.
    async fn check_size(&self, instance: InstanceId, memory_mib: u64, vcpus: u32)
    -> Result<Option<String>, AgentError>;
    /// Whether the agent hears and answers, whatever its engine does.
    async fn ping(&self, instance: InstanceId) -> Result<(), AgentError>;
    /// Figures of the agent's own process and of its machine.
    async fn diagnose(&self, instance: InstanceId) -> Result<v1::GetDiagnosticsReply, AgentError>;
    /// Forgets an instance that is gone and cuts its connection.
    fn forget(&self, instance: InstanceId);
}

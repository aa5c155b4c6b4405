//! What every question and every change of databases, accounts and root begins with: the instance is there, its
//! datastore can do this, its engine answers, and what was accepted before has been carried out.
//!
//! The last of these makes calls in a row mean what they say: a database is created, then an account with access to it,
//! then the account is shown. Changes are queued, so the agent would not know the database yet when it is asked about it
//! for the second call. Upstream's guest does one thing after another and so answers a question after the change before
//! it; here the call waits for the last change that was queued before it. It could instead guess the outcome from the
//! queue, but would then confirm what may still fail, and show accounts with which nobody can log in yet.

use std::sync::Arc;
use std::time::Duration;

use trove_proto::v1::ErrorKind;
use trove_strategy::{Capability, Manifest};

use super::App;
use super::accounts::unsupported;
use super::host_paths::without_host_paths;
use super::visibility::{may_see, not_found};
use crate::agents::AgentError;
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::model::Instance;
use crate::state::{HostState, Service, Task};

/// How long a call waits for the changes before it; the agent has as long again for its answer.
const EARLIER_CHANGES: Duration = Duration::from_secs(5);

/// The instance that a call is about, with the rules of its datastore.
pub(super) struct InstanceContext {
    pub(super) instance: Instance,
    pub(super) manifest: Arc<Manifest>,
}

impl App {
    /// The instance, if it is the caller's and its datastore announces the capability.
    ///
    /// # Errors
    /// 404; 422 not supported.
    pub(super) async fn open(
        &self,
        caller: &Caller,
        id: InstanceId,
        capability: Capability,
    ) -> Result<InstanceContext> {
        let found = self.store.get_instance_with_manifest(id).await?;
        let (instance, manifest) =
            found.filter(|(instance, _)| may_see(caller, instance)).ok_or_else(|| not_found(id))?;
        if !manifest.has(capability) {
            return Err(unsupported(&instance.datastore, capability));
        }
        Ok(InstanceContext { instance: self.with_expiry(instance), manifest })
    }

    /// Waits until the agent's answer counts what was accepted before this call.
    ///
    /// # Errors
    /// 422 when the engine does not answer, or earlier changes last longer than 5 s.
    pub(super) async fn await_ready(&self, subject: &InstanceContext) -> Result<()> {
        subject.check_ready()?;
        self.await_earlier(subject.instance.id).await.map(drop)
    }

    /// Waits for the changes that were accepted before this call; whether there were any.
    ///
    /// # Errors
    /// 422 when they last longer than 5 s.
    pub(super) async fn await_earlier(&self, id: InstanceId) -> Result<bool> {
        let Some(last) = self.store.last_active(id).await? else { return Ok(false) };
        if self.await_end(last, EARLIER_CHANGES).await?.is_some() {
            return Ok(true);
        }
        Err(Error::Unprocessable(format!("Instance {id} is not ready: earlier changes are still being carried out.")))
    }
}

impl InstanceContext {
    /// # Errors
    /// 422.
    fn check_ready(&self) -> Result<()> {
        let instance = &self.instance;
        let (status, operating_status) = instance.status();
        // A service that waits for a restart answers all the same, though its operating status is empty.
        let task = matches!(instance.task, Task::None | Task::RestartRequired);
        let silent = instance.is_silent();
        if task && instance.host == HostState::Active && instance.service == Service::Healthy && !silent {
            return Ok(());
        }
        let shown = if operating_status.is_empty() { status } else { operating_status };
        Err(Error::Unprocessable(format!("Instance {} is not ready, status: {shown}.", instance.id)))
    }
}

/// What an agent's refusal means to the caller.
pub(super) fn answer<T>(id: InstanceId, result: std::result::Result<T, AgentError>) -> Result<T> {
    let result = result.map_err(|error| match error {
        AgentError::Refused { kind, message } => {
            tracing::debug!(instance_id = %id, "the agent refused: {message}");
            AgentError::Refused { kind, message: without_host_paths(&message) }
        }
        other => other,
    });
    result.map_err(|error| match error {
        AgentError::Unreachable(_) | AgentError::Late(..) => {
            Error::Unprocessable(format!("Instance {id} is not ready: {error}."))
        }
        AgentError::Refused { kind: ErrorKind::Invalid, message } => Error::BadRequest(message),
        AgentError::Refused { kind: ErrorKind::Gone, message } => Error::NotFound(message),
        AgentError::Refused { message, .. } => Error::Unprocessable(format!("Instance {id} is not ready: {message}.")),
    })
}

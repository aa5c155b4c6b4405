//! An agent whose certificate was verified, on a connection that is no link.

use crate::authority::AgentName;
use crate::error::Result;
use crate::ids::InstanceId;
use crate::store::Store;

/// An agent that was let in. Its host can be replaced, and its instance deleted, while it is connected.
pub struct Visitor {
    store: Store,
    name: AgentName,
}

impl Visitor {
    pub(super) fn new(store: Store, name: AgentName) -> Self {
        Self { store, name }
    }

    /// The instance of its certificate.
    pub fn instance(&self) -> InstanceId {
        self.name.instance
    }

    /// Whether its host is still the one of its instance.
    ///
    /// # Errors
    /// Internal: the store cannot be asked.
    pub async fn is_current(&self) -> Result<bool> {
        self.store.is_current_agent(self.name.instance, self.name.generation).await
    }
}

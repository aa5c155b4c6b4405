//! Notifications within a controller: that there may be work, and that operations have changed.

use std::sync::Arc;

use tokio::sync::watch;

/// Wakes the runner and the reconcilers after a commit. Clones share their state.
#[derive(Clone, Default)]
pub struct Nudge(Signal);

impl Nudge {
    /// Notifies that there may be work.
    pub fn now(&self) {
        self.0.send();
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.0.subscribe()
    }
}

/// Notifies of changes of operations, after each commit that changes one. Clones share their state.
#[derive(Clone, Default)]
pub struct Changes(Signal);

impl Changes {
    /// Notifies that operations have changed.
    pub fn bump(&self) {
        self.0.send();
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.0.subscribe()
    }
}

#[derive(Clone)]
struct Signal(Arc<watch::Sender<u64>>);

impl Default for Signal {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Signal {
    fn send(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

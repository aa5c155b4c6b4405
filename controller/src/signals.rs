//! Signals inside one controller: that there may be work, and that operations have changed.

use std::sync::Arc;

use tokio::sync::watch;

/// Wakes the runner and the reconcilers after a commit. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Nudge(Signal);

impl Nudge {
    /// There may be work.
    pub fn now(&self) {
        self.0.send();
    }

    /// Nudges from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.0.subscribe()
    }
}

/// Tells that operations have changed: bumped after every commit of this controller that changes one. Cheap to clone;
/// all clones are one.
#[derive(Clone, Default)]
pub struct Changes(Signal);

impl Changes {
    /// Something has changed.
    pub fn bump(&self) {
        self.0.send();
    }

    /// Changes from now on.
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

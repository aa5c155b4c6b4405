//! Durable operations: asked for once, and they end.

use std::sync::Arc;

use tokio::sync::Notify;

/// Wakes the runner after a commit.
#[derive(Clone, Default)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    /// There may be work.
    pub fn now(&self) {
        self.0.notify_one();
    }

    /// Waits for the next nudge.
    pub async fn wait(&self) {
        self.0.notified().await;
    }
}

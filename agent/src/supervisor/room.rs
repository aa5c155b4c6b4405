//! What follows from the room that the volume has.

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};
use trove_proto::v1::ServiceState;
use trove_strategy::Site;

use super::Owner;
use crate::assignment::Assigned;
use crate::volume::Room;

impl Owner {
    /// Bytes that were ordered; 0 for an engine without a volume.
    pub(super) fn volume_bytes(&self) -> u64 {
        volume_bytes(&self.parts.assignments.assigned().borrow(), &self.parts.site)
    }

    /// What the tenant is told of the room.
    pub(super) fn room_words(&self) -> String {
        self.room.words(self.parts.used.borrow().unwrap_or_default(), self.volume_bytes())
    }

    /// Compares the last measure of the volume with its size, and does what follows; again with the next measure where
    /// that failed.
    pub(super) async fn look_at_volume(&mut self) {
        let Some(used) = *self.parts.used.borrow() else { return };
        let size = self.volume_bytes();
        let room = self.room.next(used, size);
        if room != self.room {
            info!(used, size, ?room, "the volume's room has changed");
            self.room = room;
            self.room_is_told = false;
        }
        // A start reads the configuration as it was written before it; what has changed since is told afterwards.
        if self.room_is_told || (self.starting.is_some() && room != Room::Over) {
            return;
        }
        let told = match room {
            Room::Over => {
                self.halt().await;
                Ok(())
            }
            Room::Enough | Room::Full if self.process.is_some() => self.apply().await.map(drop),
            Room::Enough | Room::Full => {
                if self.wanted && self.restart_at.is_none() {
                    self.restart_at = Some(Instant::now());
                }
                Ok(())
            }
        };
        match told {
            Ok(()) => self.room_is_told = true,
            Err(error) => warn!(error = error.chain(), "the engine is not told what room its volume has"),
        }
        let now = self.status.borrow().clone();
        if let (ServiceState::Healthy, Some(health)) = (now.service, now.health) {
            self.healthy(health);
        }
    }

    /// Stops an engine whose volume is over-full. It stays wanted.
    pub(super) async fn halt(&mut self) {
        if !self.wanted {
            return;
        }
        self.restart_at = None;
        self.stop().await;
    }
}

/// Bytes of the volume, as assigned, else as the guest was made. 0, which is no limit, without an assignment: the volume may
/// have grown since the guest was made, and an engine is not stopped for a size that is not known.
pub fn volume_bytes(assigned: &Assigned, site: &Site) -> u64 {
    match assigned.specification.volume_gib {
        _ if assigned.generation == 0 => 0,
        0 => site.size.volume_gib << 30,
        gib => gib << 30,
    }
}

/// The next measure; never where nobody measures.
pub(super) async fn measured(used: &mut watch::Receiver<Option<u64>>) {
    if used.changed().await.is_err() {
        std::future::pending().await
    }
}

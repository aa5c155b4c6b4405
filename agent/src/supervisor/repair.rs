//! An engine that does not start, or does not let the agent in, is repaired by its strategy: at most once in ten minutes,
//! since that stops it.

use std::time::{Duration, SystemTime};

use tracing::{error, warn};
use trove_proto::v1::ServiceState;
use trove_strategy::{EngineError, StartMode};

use super::Owner;

/// Says when the last repair began: an agent that is started anew keeps to it.
pub(super) const REPAIRED: &str = "repaired";
/// A tenant that spoils it again and again is not served at the cost of everybody else on the machine.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

impl Owner {
    /// Whether a repair can be tried now.
    pub(super) fn may_repair(&self) -> bool {
        // A time to come is of a clock that was wrong.
        self.repaired_at.is_none_or(|at| at.elapsed().map_or(true, |passed| passed >= AGAIN_AFTER))
    }

    /// Restarts an engine that runs and has shut the agent out.
    pub(super) async fn let_in_again(&mut self, refused: &EngineError) {
        self.repair(refused).await;
        if let Err(error) = self.begin_start(StartMode::Normal).await {
            error!(error = error.chain(), "the engine cannot be started");
            self.say(ServiceState::Crashed, &error.chain());
            self.plan_restart();
        }
    }

    /// Stops it and has it mended; answers whether something was.
    pub(super) async fn repair(&mut self, refused: &EngineError) -> bool {
        let now = SystemTime::now();
        self.repaired_at = Some(now);
        if let Err(error) = self.parts.files.write_json(REPAIRED, &now) {
            // It stands in memory.
            warn!(error = format!("{error:#}"), "the time of a repair could not be written down");
        }
        warn!(error = refused.chain(), "the engine is repaired");
        self.stop().await;
        self.say(ServiceState::Starting, &refused.chain());
        match self.parts.datastore.engine().repair(&self.parts.site).await {
            Ok(Some(mended)) => {
                warn!(mended, "the engine was repaired");
                true
            }
            Ok(None) => false,
            Err(error) => {
                error!(error = error.chain(), "the engine cannot be repaired");
                false
            }
        }
    }
}

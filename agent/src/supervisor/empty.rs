//! Empties a host whose engine has never served, so that a backup can be restored there.

use tracing::info;
use trove_proto::v1::ServiceState;
use trove_strategy::{Directory, EngineError, Kind};

use super::{DYING, Owner};

/// The data directory, and where strategies make a new one before they put it in its place.
const DATA: [&str; 2] = ["data", "data.new"];

impl Owner {
    /// Ends what an earlier try left, and removes its data. Refuses where the data may be somebody's.
    pub(super) async fn make_empty(&mut self) -> Result<(), EngineError> {
        if self.has_served || self.process.is_some() {
            let text = "the engine has run here: a backup is restored only where it never did";
            return Err(EngineError::new(Kind::Invalid, text));
        }
        self.say(ServiceState::Building, "");
        self.end_earlier_life(DYING).await;
        for name in DATA {
            self.parts.site.host.remove(&Directory::Data.join(name)).await?;
        }
        info!("the data directory was emptied for a restore");
        Ok(())
    }
}

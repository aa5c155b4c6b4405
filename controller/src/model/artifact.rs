//! What runs in a host.

use std::path::PathBuf;

use trove_strategy::Installation;

/// What runs in a host. An image is none yet; see docs/architecture.md, "The compute boundary".
#[derive(Clone, Debug)]
pub enum Artifact {
    /// Programs of the machine that hosts share.
    Local {
        /// The engine that the version is registered with.
        installation: Installation,
        /// The agent program that the version is registered with; `None` is the one beside the controller.
        agent_program: Option<PathBuf>,
    },
}

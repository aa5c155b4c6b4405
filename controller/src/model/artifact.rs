//! The programs of a host.

use std::path::PathBuf;

use trove_strategy::Installation;

/// Where a host gets its programs. There are no images yet; see docs/architecture.md, "The compute boundary".
#[derive(Clone, Debug)]
pub enum Artifact {
    /// From the machine that hosts share.
    Local {
        /// Engine of the datastore version.
        installation: Installation,
        /// Agent program of the datastore version; `None` is the one in the directory of the controller's program.
        agent_program: Option<PathBuf>,
    },
}

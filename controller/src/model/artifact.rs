//! The programs of a host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trove_strategy::Installation;
use uuid::Uuid;

/// Where a host gets its programs.
#[derive(Clone, Debug)]
pub enum Artifact {
    /// From the machine that hosts share.
    Local {
        /// Engine of the datastore version.
        installation: Installation,
        /// Agent program of the datastore version; `None` is the one in the directory of the controller's program.
        agent_program: Option<PathBuf>,
    },
    /// From an image, which has the agent, too.
    Image {
        /// Engine in the image.
        installation: Installation,
        image: Image,
    },
}

/// Kinds of artifacts. A driver runs one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    Local,
    Image,
}

/// A guest image, as its description said when it was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The id that Trove's API calls an image.
    pub id: Uuid,
    /// Such as `<datastore>-<version>-<suite>`.
    pub name: String,
    /// The same image in several formats.
    pub files: Vec<ImageFile>,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Such as `qcow2`.
    pub format: String,
    /// Absolute.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Hexadecimal.
    pub sha256: String,
}

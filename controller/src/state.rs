//! What an instance is doing: the task of the controller, the service that the agent sees, the state of the host, and
//! the two words that the API makes of them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

macro_rules! tagged {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $tag:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $tag)] $variant),+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The tag under which it is stored.
            pub fn tag(self) -> &'static str {
                match self { $(Self::$variant => $tag),+ }
            }

            /// The one with this tag.
            pub fn from_tag(tag: &str) -> Option<Self> {
                match tag { $($tag => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

tagged!(
    /// What the controller does with an instance.
    Task {
        /// Nothing.
        None = "none",
        /// An operation creates it.
        Building = "building",
        /// An operation restarts its engine.
        Restarting = "restarting",
        /// An operation deletes it.
        Deleting = "deleting",
        /// A change waits for a restart.
        RestartRequired = "restart_required",
        /// Creating it failed: the fault says at which step.
        BuildingError = "building_error",
        /// Another life-cycle operation failed and left it unusable.
        Error = "error",
    }
);

tagged!(
    /// What the agent last said of the engine.
    Service {
        /// Nothing yet.
        New = "new",
        /// Being installed.
        Building = "building",
        /// Starting or recovering.
        Starting = "starting",
        /// Answers.
        Healthy = "healthy",
        /// Runs and does not answer.
        Blocked = "blocked",
        /// Stopped on purpose.
        Shutdown = "shutdown",
        /// Ended by itself; the agent starts it again.
        Crashed = "crashed",
        /// Cannot be installed or started.
        Failed = "failed",
        /// Set by reset_status until the agent says otherwise.
        Unknown = "unknown",
    }
);

tagged!(
    /// What the compute driver last said of the host.
    HostState {
        /// Not there.
        Absent = "absent",
        /// Being made.
        Building = "building",
        /// There and running.
        Active = "active",
        /// There and not running.
        Dead = "dead",
    }
);

/// When a controller last heard the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// No controller ever did.
    Never,
    /// A controller hears it now.
    Now,
    /// The last connection ended then.
    Last(OffsetDateTime),
}

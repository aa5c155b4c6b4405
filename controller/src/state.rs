//! State of an instance: the controller's task, the service as the agent sees it, and the host; and the API's `status`
//! and `operating_status`, which are derived from them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

macro_rules! tagged {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $tag:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $tag)] $variant),+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text by which it is stored.
            pub fn tag(self) -> &'static str {
                match self { $(Self::$variant => $tag),+ }
            }

            pub fn from_tag(tag: &str) -> Option<Self> {
                match tag { $($tag => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

tagged!(
    /// What the controller is doing with an instance.
    Task {
        None = "none",
        /// An operation creates it.
        Building = "building",
        /// An operation restarts its engine.
        Restarting = "restarting",
        /// An operation gives it another flavor or volume.
        Resizing = "resizing",
        /// An operation gives it another version of its datastore.
        Upgrading = "upgrading",
        /// An operation deletes it.
        Deleting = "deleting",
        /// A change takes effect with a restart, which is up to the tenant.
        RestartRequired = "restart_required",
        /// Creating it failed; the fault names the step.
        BuildingError = "building_error",
        /// Another life-cycle operation failed and left it unusable.
        Error = "error",
    }
);

tagged!(
    /// State of the engine as the agent last reported it.
    Service {
        /// Not reported yet.
        New = "new",
        /// Being installed.
        Building = "building",
        /// Starting or recovering.
        Starting = "starting",
        Healthy = "healthy",
        /// Running, but does not answer.
        Blocked = "blocked",
        /// Stopped on purpose.
        Shutdown = "shutdown",
        /// Crashed; the agent starts it again.
        Crashed = "crashed",
        /// It cannot be installed or started.
        Failed = "failed",
        /// Set by reset_status until the agent's next report.
        Unknown = "unknown",
    }
);

tagged!(
    /// State of the host as the compute driver last reported it.
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

/// When an agent was last connected to any controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSeen {
    /// It never was.
    Never,
    /// It is connected now.
    Now,
    /// Its last connection ended at this time.
    Last(OffsetDateTime),
}

impl LastSeen {
    /// Whether the agent was never connected, or not for longer than `expiry`.
    pub fn is_silent(self, now: OffsetDateTime, expiry: Duration) -> bool {
        match self {
            Self::Now => false,
            Self::Never => true,
            Self::Last(then) => now - then > expiry,
        }
    }
}

/// Derives `status` and `operating_status` of the API.
///
/// `status` follows from the task, and without a task from the host:
///
/// | task | `status` |
/// |---|---|
/// | `building_error`, `error` | ERROR |
/// | `building` | BUILD |
/// | `restarting` | REBOOT |
/// | `resizing` | RESIZE |
/// | `upgrading` | UPGRADE |
/// | `deleting` | SHUTDOWN |
/// | `restart_required` | RESTART_REQUIRED |
/// | `none` | BACKUP while a backup is taken; else by host: `active` ACTIVE, `building` BUILD, `dead` SHUTDOWN, `absent` UNKNOWN |
///
/// Instead of ACTIVE and HEALTHY it is RESTART_REQUIRED while a parameter takes effect only with the engine's next
/// start (`pending`).
///
/// `operating_status` is empty unless there is no task and the host is active; a backup leaves it alone. Then it is ERROR if the agent is silent;
/// otherwise it follows from the service. It is finer than upstream's, which has no state for the first start of an
/// engine and for the time between a crash and the restart by the agent:
///
/// | service | `operating_status` |
/// |---|---|
/// | `new`, `building` | BUILD |
/// | `starting`, `shutdown`, `crashed` | SHUTDOWN |
/// | `healthy` | HEALTHY |
/// | `blocked` | BLOCKED |
/// | `failed` | FAILED |
/// | `unknown` | ERROR |
pub fn status(
    task: Task,
    service: Service,
    host: HostState,
    silent: bool,
    pending: bool,
    backup: bool,
) -> (&'static str, &'static str) {
    let status = match (task, host) {
        (Task::BuildingError | Task::Error, _) => "ERROR",
        (Task::Building, _) => "BUILD",
        (Task::Restarting, _) => "REBOOT",
        (Task::Resizing, _) => "RESIZE",
        (Task::Upgrading, _) => "UPGRADE",
        (Task::Deleting, _) => "SHUTDOWN",
        (Task::RestartRequired, _) => "RESTART_REQUIRED",
        (Task::None, _) if backup => "BACKUP",
        (Task::None, HostState::Building) => "BUILD",
        (Task::None, HostState::Dead) => "SHUTDOWN",
        (Task::None, HostState::Active) => "ACTIVE",
        (Task::None, HostState::Absent) => "UNKNOWN",
    };
    let operating_status = match service {
        _ if task != Task::None || host != HostState::Active => "",
        _ if silent => "ERROR",
        Service::New | Service::Building => "BUILD",
        Service::Starting | Service::Shutdown | Service::Crashed => "SHUTDOWN",
        Service::Healthy => "HEALTHY",
        Service::Blocked => "BLOCKED",
        Service::Failed => "FAILED",
        Service::Unknown => "ERROR",
    };
    if pending && operating_status == "HEALTHY" { ("RESTART_REQUIRED", "") } else { (status, operating_status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: bool = true;

    fn status(task: Task, service: Service, host: HostState, silent: bool) -> (&'static str, &'static str) {
        super::status(task, service, host, silent, false, false)
    }

    #[test]
    fn a_healthy_instance_says_when_a_value_waits_for_a_restart() {
        for task in Task::ALL.iter().copied() {
            for service in Service::ALL.iter().copied() {
                for host in HostState::ALL.iter().copied() {
                    for silent in [SILENT, !SILENT] {
                        let without = status(task, service, host, silent);
                        let expected =
                            if without == ("ACTIVE", "HEALTHY") { ("RESTART_REQUIRED", "") } else { without };
                        assert_eq!(
                            super::status(task, service, host, silent, true, false),
                            expected,
                            "{task:?} {service:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn status_is_that_of_the_reference() {
        use HostState::{Absent, Active, Building as HostBuilding, Dead};
        // Task, host and expected status, for every pair.
        let expected = [
            (Task::None, [(Absent, "UNKNOWN"), (HostBuilding, "BUILD"), (Active, "ACTIVE"), (Dead, "SHUTDOWN")]),
            (Task::Building, [(Absent, "BUILD"), (HostBuilding, "BUILD"), (Active, "BUILD"), (Dead, "BUILD")]),
            (Task::Restarting, [(Absent, "REBOOT"), (HostBuilding, "REBOOT"), (Active, "REBOOT"), (Dead, "REBOOT")]),
            (Task::Resizing, [(Absent, "RESIZE"), (HostBuilding, "RESIZE"), (Active, "RESIZE"), (Dead, "RESIZE")]),
            (Task::Upgrading, [(Absent, "UPGRADE"), (HostBuilding, "UPGRADE"), (Active, "UPGRADE"), (Dead, "UPGRADE")]),
            (
                Task::Deleting,
                [(Absent, "SHUTDOWN"), (HostBuilding, "SHUTDOWN"), (Active, "SHUTDOWN"), (Dead, "SHUTDOWN")],
            ),
            (
                Task::RestartRequired,
                [
                    (Absent, "RESTART_REQUIRED"),
                    (HostBuilding, "RESTART_REQUIRED"),
                    (Active, "RESTART_REQUIRED"),
                    (Dead, "RESTART_REQUIRED"),
                ],
            ),
            (Task::BuildingError, [(Absent, "ERROR"), (HostBuilding, "ERROR"), (Active, "ERROR"), (Dead, "ERROR")]),
            (Task::Error, [(Absent, "ERROR"), (HostBuilding, "ERROR"), (Active, "ERROR"), (Dead, "ERROR")]),
        ];
        assert_eq!(expected.len(), Task::ALL.len());
        for (task, hosts) in expected {
            assert_eq!(hosts.len(), HostState::ALL.len());
            for (host, word) in hosts {
                let (status, operating) = status(task, Service::Healthy, host, !SILENT);
                assert_eq!(status, word, "{task:?} {host:?}");
                assert_eq!(operating, if word == "ACTIVE" { "HEALTHY" } else { "" }, "{task:?} {host:?}");
            }
        }
    }

    #[test]
    fn a_backup_shows_where_nothing_else_is_done_and_leaves_the_operating_status() {
        for task in Task::ALL.iter().copied() {
            for service in Service::ALL.iter().copied() {
                for host in HostState::ALL.iter().copied() {
                    for (silent, pending) in [(SILENT, false), (!SILENT, false), (!SILENT, true)] {
                        let (without, operating) = super::status(task, service, host, silent, pending, false);
                        let hidden = task != Task::None || without == "RESTART_REQUIRED";
                        let expected = if hidden { without } else { "BACKUP" };
                        let with = super::status(task, service, host, silent, pending, true);
                        assert_eq!(with, (expected, operating), "{task:?} {service:?} {host:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn operating_status_is_that_of_the_reference() {
        let expected = [
            (Service::New, "BUILD"),
            (Service::Building, "BUILD"),
            (Service::Starting, "SHUTDOWN"),
            (Service::Healthy, "HEALTHY"),
            (Service::Blocked, "BLOCKED"),
            (Service::Shutdown, "SHUTDOWN"),
            (Service::Crashed, "SHUTDOWN"),
            (Service::Failed, "FAILED"),
            (Service::Unknown, "ERROR"),
        ];
        assert_eq!(expected.len(), Service::ALL.len());
        for (service, word) in expected {
            assert_eq!(status(Task::None, service, HostState::Active, !SILENT), ("ACTIVE", word));
            assert_eq!(status(Task::None, service, HostState::Active, SILENT), ("ACTIVE", "ERROR"));
            assert_eq!(status(Task::Building, service, HostState::Active, SILENT), ("BUILD", ""));
        }
    }

    #[test]
    fn an_agent_is_silent_after_its_expiry() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1000);
        let expiry = Duration::from_secs(90);
        assert!(!LastSeen::Now.is_silent(now, expiry));
        assert!(LastSeen::Never.is_silent(now, expiry));
        assert!(!LastSeen::Last(now - Duration::from_secs(90)).is_silent(now, expiry));
        assert!(LastSeen::Last(now - Duration::from_millis(90_001)).is_silent(now, expiry));
        assert!(!LastSeen::Last(now + Duration::from_secs(5)).is_silent(now, expiry), "a clock that was set back");
    }

    #[test]
    fn every_tag_is_read_back() {
        assert!(Task::ALL.iter().all(|task| Task::from_tag(task.tag()) == Some(*task)));
        assert!(Service::ALL.iter().all(|service| Service::from_tag(service.tag()) == Some(*service)));
        assert!(HostState::ALL.iter().all(|host| HostState::from_tag(host.tag()) == Some(*host)));
        assert_eq!(Task::from_tag("None"), None);
    }
}

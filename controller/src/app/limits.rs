//! What a project may have.

use super::App;

/// Absolute limits; -1 is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instances.
    pub instances: i64,
    /// Memory of all instances, MiB.
    pub ram_mib: i64,
    /// Volumes of all instances, GiB.
    pub volumes_gib: i64,
    /// Backups.
    pub backups: i64,
}

impl App {
    /// The limits of every project.
    pub fn limits(&self) -> Limits {
        let quota = &self.config.quota;
        Limits {
            instances: quota.max_instances_per_tenant,
            ram_mib: quota.max_ram_per_tenant,
            volumes_gib: quota.max_volumes_per_tenant,
            backups: quota.max_backups_per_tenant,
        }
    }
}

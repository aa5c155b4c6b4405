//! What a project may have.

use super::App;
pub use crate::model::Limits;

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

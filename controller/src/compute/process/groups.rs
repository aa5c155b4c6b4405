//! The cgroups of a host, and what its agent's configuration says about them.

#![allow(clippy::disallowed_methods, reason = "the agent's configuration lies right in a directory of this account's")]

use std::fs;
use std::path::PathBuf;

use super::cgroup::Part;
use super::host::Hosts;
use crate::compute::ComputeError;
use crate::compute::disk::{failed, write};
use crate::ids::InstanceId;

impl Hosts {
    /// All cgroup directories of the host, whether they exist or not.
    pub(super) fn groups(&self, instance: InstanceId) -> Vec<PathBuf> {
        self.cgroups.as_ref().map(|cgroups| cgroups.all(&instance.to_string())).unwrap_or_default()
    }

    /// Cgroup directories of one part of the host.
    pub(super) fn groups_of(&self, instance: InstanceId, part: Part) -> Vec<PathBuf> {
        self.cgroups.as_ref().map(|cgroups| cgroups.of(&instance.to_string(), part)).unwrap_or_default()
    }

    /// Writes the cgroups into the agent's configuration. Configurations of older versions lack them or name others.
    pub(super) fn renew_groups(&self, instance: InstanceId) -> Result<(), ComputeError> {
        if self.cgroups.is_none() {
            return Ok(());
        }
        let file = self.config_file(instance);
        let text = fs::read_to_string(&file).map_err(failed("read", &file))?;
        let parsed = text.parse::<toml::Table>();
        let mut config = parsed.map_err(|error| failed("read", &file)(std::io::Error::other(error)))?;
        let before = config.clone();
        for (name, part) in [("cgroups", Part::Agent), ("engine_cgroups", Part::Engine)] {
            let groups = self.groups_of(instance, part);
            let groups = groups.iter().map(|group| group.to_string_lossy().into_owned().into()).collect();
            config.insert(name.to_owned(), toml::Value::Array(groups));
        }
        if config == before { Ok(()) } else { write(&file, config.to_string().as_bytes()) }
    }

    /// Sets the limits of a running host again, since an older version may have set others.
    pub(super) fn renew_limits(&self, instance: InstanceId) {
        let Some(cgroups) = &self.cgroups else { return };
        let written = self.written(instance).map_err(|error| error.to_string());
        let renewed = written.and_then(|written| {
            cgroups.ensure(&instance.to_string(), written.limits()).map_err(|error| error.to_string())
        });
        if let Err(error) = renewed {
            // Fails if, for example, the host uses more memory than the new limit. The next start sets the limits.
            tracing::warn!(%instance, "the limits of a host are not renewed: {error}");
        }
    }
}

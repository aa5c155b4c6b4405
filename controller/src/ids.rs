//! A type for each kind of id, so that they cannot be confused.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// Error: the text is not a canonical id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is a UUID in lower case, with hyphens")]
pub struct NotAnId;

/// Parses a UUID in canonical form only. If other forms were accepted, one resource would have several URL paths, which
/// proxies, limits and logs would treat as different resources.
pub fn canonical(text: &str) -> Result<Uuid, NotAnId> {
    let id = Uuid::try_parse(text).map_err(|_| NotAnId)?;
    let is_canonical = id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text;
    is_canonical.then_some(id).ok_or(NotAnId)
}

/// A new random id. In the simulator it is derived from the seed of the history.
fn fresh() -> Uuid {
    #[cfg(test)]
    if let Some(id) = seeded::next() {
        return id;
    }
    Uuid::new_v4()
}

#[cfg(test)]
pub(crate) mod seeded {
    //! Reproducible ids for the simulator.

    use std::cell::RefCell;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    use uuid::Uuid;

    thread_local! {
        static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// Makes ids of this thread reproducible from now on.
    pub(crate) fn start(seed: u64) {
        SEEDED.with_borrow_mut(|rng| *rng = Some(StdRng::seed_from_u64(seed)));
    }

    /// Makes ids of this thread random again.
    pub(crate) fn end() {
        SEEDED.with_borrow_mut(|rng| *rng = None);
    }

    pub(super) fn next() -> Option<Uuid> {
        SEEDED.with_borrow_mut(|rng| rng.as_mut().map(|rng| uuid::Builder::from_random_bytes(rng.random()).into_uuid()))
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            pub fn random() -> Self {
                Self(fresh())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                canonical(text).map(Self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// Id of an instance, a tenant's database server.
    InstanceId
);
id!(
    /// Id of an operation.
    OperationId
);
id!(
    /// Id of a datastore, such as that of `postgresql`.
    DatastoreId
);
id!(
    /// Id of a datastore version.
    VersionId
);
id!(
    /// Id of a configuration group.
    ConfigurationId
);
id!(
    /// Id of a backup.
    BackupId
);
id!(
    /// Id of a schedule of backups.
    ScheduleId
);
id!(
    /// Id of a container of pieces of a log.
    ContainerId
);

impl ContainerId {
    /// The name under which its objects are stored, beside those of backups.
    pub fn objects(self) -> BackupId {
        BackupId(self.0)
    }
}

/// Id of a project (tenant). An opaque string, since not every Keystone uses UUIDs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProjectId(pub String);

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_in_one_way() {
        let id = InstanceId::random();
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(serde_json::from_value::<InstanceId>(serde_json::json!(id)).unwrap(), id);
        let simple = id.0.simple().to_string();
        for other in
            [text.to_uppercase(), format!("{{{text}}}"), format!("urn:uuid:{text}"), simple, format!("{text} ")]
        {
            assert_eq!(other.parse::<InstanceId>(), Err(NotAnId), "{other}");
            assert!(serde_json::from_value::<InstanceId>(serde_json::json!(other)).is_err(), "{other}");
        }
    }
}

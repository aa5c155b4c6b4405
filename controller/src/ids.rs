//! A type for every id, so that none is passed for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// A text that is the id of nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is a UUID in lower case, with hyphens")]
pub struct NotAnId;

/// Reads the one way in which ids are written. A thing that had several names would have several paths, which policies of a
/// proxy, limits and logs would take for several things.
pub fn canonical(text: &str) -> Result<Uuid, NotAnId> {
    let id = Uuid::try_parse(text).map_err(|_| NotAnId)?;
    let is_canonical = id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text;
    is_canonical.then_some(id).ok_or(NotAnId)
}

/// A new random one; in the simulator, the next of the history's seed.
fn fresh() -> Uuid {
    #[cfg(test)]
    if let Some(id) = seeded::next() {
        return id;
    }
    Uuid::new_v4()
}

#[cfg(test)]
pub(crate) mod seeded {
    //! Ids of a history that happens the same way twice.

    use std::cell::RefCell;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    use uuid::Uuid;

    thread_local! {
        static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// From now on, on this thread.
    pub(crate) fn start(seed: u64) {
        SEEDED.with_borrow_mut(|rng| *rng = Some(StdRng::seed_from_u64(seed)));
    }

    /// No more.
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
            /// A new random one.
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
    /// An instance: the database server that a tenant ordered.
    InstanceId
);
id!(
    /// An operation: asked for once, and it ends.
    OperationId
);
id!(
    /// A datastore, such as the one named `postgresql`.
    DatastoreId
);
id!(
    /// A version of a datastore.
    VersionId
);
id!(
    /// A configuration group.
    ConfigurationId
);

/// A project (tenant) of the identity service: an opaque text, since not every Keystone uses UUIDs.
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

//! A type for every id, so that none is passed for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
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

/// A project (tenant) of the identity service: an opaque text, since not every Keystone uses UUIDs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProjectId(pub String);

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

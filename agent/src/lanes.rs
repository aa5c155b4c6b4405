//! Lanes: which kinds of work exclude each other on one engine.

use serde::{Deserialize, Serialize};
use trove_proto::v1::start::Work;

/// A kind of work. Jobs of one lane run one after the other, in the order in which they were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Prepares, starts, stops or reconfigures the engine. Excludes everything.
    LifeCycle,
    /// Changes databases and accounts. May run beside a backup.
    Accounts,
    /// Reads the data for a backup. May run beside changes of accounts.
    Backup,
}

impl Lane {
    pub fn of(work: &Work) -> Self {
        match work {
            Work::Prepare(_) | Work::Restart(_) | Work::Stop(_) | Work::Restore(_) | Work::Check(_) => Self::LifeCycle,
            Work::ChangeAccounts(_) => Self::Accounts,
            Work::Backup(_) => Self::Backup,
        }
    }

    /// Whether jobs of the two lanes must not run at the same time.
    pub fn excludes(self, other: Self) -> bool {
        self == other || self == Self::LifeCycle || other == Self::LifeCycle
    }
}

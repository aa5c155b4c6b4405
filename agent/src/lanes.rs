//! Which kinds of work exclude each other on one engine.

use serde::{Deserialize, Serialize};
use trove_proto::v1::start::Work;

/// A kind of work. Of one lane, jobs run one after the other, in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Makes, starts, stops or assigns the engine: alone.
    LifeCycle,
    /// Changes databases and accounts: beside a backup.
    Accounts,
    /// Reads the data for a backup: beside changes of accounts.
    Backup,
}

impl Lane {
    /// The lane of a work.
    pub fn of(work: &Work) -> Self {
        match work {
            Work::Prepare(_) | Work::Restart(_) | Work::Stop(_) => Self::LifeCycle,
            Work::ChangeAccounts(_) => Self::Accounts,
        }
    }

    /// Whether two works of these lanes must not run at the same time.
    pub fn excludes(self, other: Self) -> bool {
        self == other || self == Self::LifeCycle || other == Self::LifeCycle
    }
}

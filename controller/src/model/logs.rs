//! Logs of writes that are stored, piece by piece, and the moments to which they lead.

use std::time::Duration;

use time::OffsetDateTime;

use crate::ids::{ContainerId, InstanceId, ProjectId};

/// Pieces of a day or less, with a key pair of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogContainer {
    pub id: ContainerId,
    pub instance: InstanceId,
    pub project: ProjectId,
    /// Grows within an instance.
    pub number: u64,
    /// The first of the containers that follow one another without a gap.
    pub chain: ContainerId,
    /// age's public key.
    pub recipient: String,
    /// The secret key, sealed.
    pub identity: String,
    /// Where its first piece begins, and where the last one ends, in the engine's words.
    pub begins: String,
    pub ends: String,
    /// Whatever was acknowledged before this is stored, by the guest's clock.
    pub covered: Option<OffsetDateTime>,
    pub keep: Duration,
    pub pieces: u64,
    /// When its last piece was recorded, or it was made.
    pub recorded: OffsetDateTime,
    pub created: OffsetDateTime,
}

impl LogContainer {
    /// The purpose with which its secret key is sealed, see [`crate::seal::Seal`].
    pub const SEALED: &str = "log key";
}

/// A piece that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPiece {
    /// Its object: the run of the agent that wrote it, and its number within that.
    pub run: String,
    pub object: u32,
    /// Where it begins, and where the next one does.
    pub begins: String,
    pub ends: String,
    pub bytes: u64,
    /// BLAKE3 sum of the object, hex.
    pub sum: String,
    /// What it takes on a volume that it is replayed on.
    pub data_bytes: u64,
}

/// A complete backup on which a log can be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBase {
    pub id: crate::ids::BackupId,
    /// Its order, which is before it looked at the data.
    pub created: OffsetDateTime,
    /// When it was complete.
    pub completed: OffsetDateTime,
}

/// Moments to which an instance can be restored, one after the other without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The log that leads through them.
    pub chain: ContainerId,
    pub from: OffsetDateTime,
    pub until: OffsetDateTime,
    /// The backups from which it does, the oldest first.
    pub bases: Vec<LogBase>,
}

impl Range {
    /// The newest backup from which this moment is reached.
    pub fn base(&self, moment: OffsetDateTime) -> Option<&LogBase> {
        let inside = (self.from..=self.until).contains(&moment);
        self.bases.iter().rev().find(|base| inside && base.completed <= moment)
    }
}

/// The ranges that containers (by number) and complete backups (by their creation) of an instance make.
pub fn ranges(containers: &[LogContainer], bases: &[LogBase]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for chain in containers.chunk_by(|one, next| one.chain == next.chain) {
        let (Some(first), Some(until)) = (chain.first(), chain.iter().filter_map(|of| of.covered).max()) else {
            continue;
        };
        // The engine kept its log since the container was made, and what was written later is in it.
        let leads = |base: &&LogBase| base.created >= first.created && base.completed <= until;
        let mut bases: Vec<LogBase> = bases.iter().filter(leads).cloned().collect();
        bases.sort_by_key(|base| base.completed);
        if let Some(from) = bases.first().map(|base| base.completed) {
            ranges.push(Range { chain: first.chain, from, until, bases });
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BackupId;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000 + second).unwrap()
    }

    fn container(number: u64, chain: ContainerId, created: i64, covered: Option<i64>) -> LogContainer {
        LogContainer {
            id: ContainerId::random(),
            instance: InstanceId::random(),
            project: ProjectId("p".to_owned()),
            number,
            chain,
            recipient: String::new(),
            identity: String::new(),
            begins: String::new(),
            ends: String::new(),
            covered: covered.map(at),
            keep: Duration::from_secs(1),
            pieces: 1,
            recorded: at(created),
            created: at(created),
        }
    }

    fn base(created: i64, completed: i64) -> LogBase {
        LogBase { id: BackupId::random(), created: at(created), completed: at(completed) }
    }

    #[test]
    fn a_range_begins_with_a_backup_and_ends_with_what_is_stored() {
        let (one, two) = (ContainerId::random(), ContainerId::random());
        let containers = [
            container(1, one, 0, Some(100)),
            container(2, one, 100, Some(200)),
            container(3, two, 300, Some(400)),
            container(4, two, 390, None),
        ];
        let bases = [base(-10, 5), base(10, 20), base(150, 160), base(195, 201), base(310, 320)];
        let found = ranges(&containers, &bases);
        let times: Vec<_> = found.iter().map(|range| (range.from, range.until)).collect();
        assert_eq!(
            times,
            [(at(20), at(200)), (at(320), at(400))],
            "before a container, in a gap, beyond its end: none"
        );
        let base_of = |second| found.iter().find_map(|range| range.base(at(second))).map(|base| base.completed);
        assert_eq!(base_of(19), None);
        assert_eq!(base_of(20), Some(at(20)));
        assert_eq!(base_of(160), Some(at(160)));
        assert_eq!(base_of(200), Some(at(160)));
        assert_eq!(base_of(250), None, "in the gap");
        assert_eq!(base_of(400), Some(at(320)));
        assert_eq!(base_of(401), None);
    }

    #[test]
    fn without_its_first_containers_a_chain_begins_later() {
        let one = ContainerId::random();
        let found = ranges(&[container(2, one, 100, Some(200))], &[base(10, 20), base(120, 130)]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].from, found[0].bases.len()), (at(130), 1));
        assert!(ranges(&[container(2, one, 100, None)], &[base(120, 130)]).is_empty());
        assert!(ranges(&[], &[base(120, 130)]).is_empty());
    }
}

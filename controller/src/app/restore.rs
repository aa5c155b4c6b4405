//! An order from a backup: what is checked beyond an ordinary one.

use std::cmp::Ordering;

use trove_strategy::{Capability, Manifest};

use super::App;
use super::backups::no_backup;
use super::datastores::{Datastore, Wanted};
use super::names::shown;
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::BackupId;
use crate::model::backups::Backup;
use crate::operations::restore_instance::{check_complete, least_volume_gib, needed};
use crate::store::sql::Connection;

impl App {
    /// The complete backup of the caller's project that an order names, and what it builds on, the full one first.
    ///
    /// # Errors
    /// 404; 409 when one of them is not complete.
    pub(super) async fn ordered_backup(&self, caller: &Caller, wanted: &str) -> Result<Vec<Backup>> {
        let missing = || Error::NotFound(format!("Backup {} cannot be found.", shown(wanted)));
        let id: BackupId = wanted.parse().map_err(|_| missing())?;
        let chain = self.store.get_backup_chain(id).await?;
        if chain.last().is_none_or(|found| found.project != caller.project) {
            return Err(missing());
        }
        chain.iter().try_for_each(check_complete)?;
        Ok(chain)
    }

    /// Looks again, in the transaction that writes the order: from then on the backup is not deleted.
    ///
    /// # Errors
    /// 404, 409.
    pub(super) async fn check_still_complete(&self, conn: &mut Connection, ordered: Option<&Backup>) -> Result<()> {
        let Some(ordered) = ordered else { return Ok(()) };
        let found = self.store.backup(conn, ordered.id).await?;
        check_complete(&found.ok_or_else(|| no_backup(ordered.id))?)
    }
}

/// The ids of the backup's datastore and version.
pub(super) fn source_ids(backup: &Backup) -> [String; 2] {
    [backup.source.datastore_id.to_string(), backup.source.version_id.to_string()]
}

/// What the order means by datastore and version: those of the backup where it says nothing.
pub(super) fn with_source<'a>(wanted: Wanted<'a>, backup: &'a Backup, ids: &'a [String; 2]) -> Wanted<'a> {
    let source = &backup.source;
    let [datastore, version] = ids;
    let same = wanted.datastore.is_none_or(|said| said == source.datastore || said == datastore);
    Wanted {
        datastore: wanted.datastore.or(Some(datastore)),
        version: wanted.version.or(Some(version.as_str()).filter(|_| same)),
        number: wanted.number,
    }
}

/// Whether an engine of this version takes the backup's data, which come to so many bytes with what it builds on, on a volume of
/// this size.
///
/// # Errors
/// 400 another datastore, major or older version; 403 too small a volume; 501.
pub(super) fn check_restorable(
    backup: &Backup,
    data: u64,
    datastore: &Datastore,
    manifest: &Manifest,
    volume_gib: u64,
) -> Result<()> {
    let (id, source) = (backup.id, &backup.source);
    if source.datastore_id != datastore.id {
        return Err(Error::BadRequest(format!(
            "Backup {id} is of the datastore {}, and cannot be restored to {}.",
            source.datastore, datastore.name
        )));
    }
    if !manifest.has(Capability::Backup) {
        return Err(Error::NotImplemented(format!("Datastore {} does not support backups.", datastore.name)));
    }
    if backup.parent.is_some() && !manifest.has(Capability::Incremental) {
        return Err(Error::NotImplemented(format!("Datastore {} has no incremental backups.", datastore.name)));
    }
    let installed = &manifest.installation;
    let older = compare_versions(&installed.version, &source.version_number) == Ordering::Less;
    if installed.major != source.major || older {
        return Err(Error::BadRequest(format!(
            "Backup {id} is of {} {}, and cannot be restored to {}: it needs the same major version and no older one.",
            source.datastore, source.version_number, installed.version
        )));
    }
    if volume_gib > 0 && needed(data) > volume_gib << 30 {
        return Err(Error::Forbidden(format!(
            "Backup {id} is too large for a volume of {volume_gib} GB: it holds {} MiB of data, and needs {} GB at least.",
            data >> 20,
            least_volume_gib(data)
        )));
    }
    Ok(())
}

/// Compares the leading numbers of two versions such as `15.18`; what is missing is 0.
fn compare_versions(one: &str, other: &str) -> Ordering {
    let (one, other) = (numbers(one), numbers(other));
    let longest = one.len().max(other.len());
    let at = |numbers: &[u64], n: usize| numbers.get(n).copied().unwrap_or(0);
    (0..longest).map(|n| at(&one, n).cmp(&at(&other, n))).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// `10.11.6-MariaDB` is 10, 11, 6.
fn numbers(version: &str) -> Vec<u64> {
    let start = version.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    start.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (one, other, order) in [
            ("15.18", "15.18", Ordering::Equal),
            ("15.9", "15.18", Ordering::Less),
            ("15.19", "15.18", Ordering::Greater),
            ("8.0.40", "8.0", Ordering::Greater),
            ("10.11.6-MariaDB", "10.11.6", Ordering::Equal),
            ("7.0.15~1", "7.0.9", Ordering::Greater),
            ("x", "", Ordering::Equal),
        ] {
            assert_eq!(compare_versions(one, other), order, "{one} {other}");
        }
    }
}

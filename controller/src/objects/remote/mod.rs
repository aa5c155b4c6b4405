//! A bucket of S3 or a container of Swift. Agents read and write it by signed addresses, and this program by the same.
//!
//! An object's name is `<backup>/<run>/<name>`. As in a directory, small objects say what holds for all controllers:
//! `storage` names the storage by a number that the store knows, `<backup>.deleted` says that nothing of the backup is written any
//! more, `<backup>/sealed` the same, and which run is kept.
//!
//! An address that was signed before a deletion is good for some minutes after it, and nobody can take it back. What comes in by it
//! the sweep removes, as long as `<backup>.deleted` is there; that goes after a day, which no request outlives.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use trove_proto::v1;

use self::client::{Client, Entry};
use super::directory::{Held, Place, is_run};
use super::grants::Access;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::BackupId;

mod client;
mod s3;
mod swift;

/// The object that names the storage.
const STORAGE: &str = "storage";
/// The end of the name of the object that says that a backup was deleted.
const DELETED: &str = ".deleted";
/// The object of a backup that names the run that is kept.
const SEALED: &str = "sealed";
/// After this no request of before a deletion can be there any more.
const SETTLED: Duration = Duration::from_secs(24 * 3600);
/// Objects that are removed at once.
const AT_ONCE: usize = 8;

/// The storage. Cheap to clone.
#[derive(Clone)]
pub(super) struct Remote {
    client: Arc<Client>,
    /// The number that names it.
    number: i64,
    /// How long what agents are given is good.
    lifetime: Duration,
}

fn deleted(backup: BackupId) -> String {
    format!("{backup}{DELETED}")
}

fn sealed(backup: BackupId) -> String {
    format!("{backup}/{SEALED}")
}

fn key(place: &Place) -> String {
    format!("{}/{}/{}", place.backup(), place.run(), place.name())
}

/// The backup and the run that an object is of, and its name.
fn parts(key: &str) -> Option<(BackupId, &str, &str)> {
    let (backup, rest) = key.split_once('/')?;
    let (run, name) = rest.split_once('/')?;
    Some((backup.parse().ok()?, run, name)).filter(|(_, run, _)| is_run(run))
}

impl Remote {
    /// Opens the storage that is configured. Without the number that is expected it is named by the one that is in it, which is drawn
    /// where there is none.
    ///
    /// # Errors
    /// 400 if a file that the configuration names cannot be read. Internal: the storage cannot be asked for its number.
    pub(super) async fn open(config: &Config, expected: Option<i64>) -> Result<Self> {
        let (client, lifetime) = (Arc::new(Client::new(config)?), config.backups.grant_lifetime);
        let number = match expected {
            Some(number) => number,
            None => {
                let failed = |error| Error::internal("open the storage of backups", error);
                first_named(&client).await.map_err(failed)?
            }
        };
        Ok(Self { client, number, lifetime })
    }

    /// The number that names it.
    pub(super) fn number(&self) -> i64 {
        self.number
    }

    /// Whether it is the one that was opened first.
    pub(super) async fn check(&self) -> io::Result<()> {
        let (found, expected) = (named(&self.client).await?, self.number);
        if found == Some(expected) {
            return Ok(());
        }
        let found = found.map_or_else(|| format!("has no object {STORAGE:?}"), |found| format!("is storage {found}"));
        Err(io::Error::other(format!(
            "{} is not where this service keeps its backups: it {found} and not {expected}. Where it takes the other's place for \
             good, write {expected} into that object",
            self.client.name()
        )))
    }

    /// What lets an agent read or write an object, of this size if it writes.
    pub(super) fn grant(&self, access: Access, place: &Place, bytes: u64) -> v1::ObjectGrant {
        self.client.grant(access, &key(place), bytes, self.lifetime)
    }

    /// Whether nothing of the backup may be written any more.
    pub(super) async fn is_closed(&self, backup: BackupId) -> io::Result<bool> {
        let (deleted, sealed) = (deleted(backup), sealed(backup));
        // A storage that is another one says nothing.
        let (deleted, sealed, ()) =
            tokio::try_join!(self.client.text(&deleted), self.client.text(&sealed), self.check())?;
        Ok(deleted.is_some() || sealed.is_some())
    }

    /// Opens an object, and tells its size; `None` if it is not there.
    pub(super) async fn open_object(&self, place: &Place) -> io::Result<Option<(u64, reqwest::Response)>> {
        match self.client.get(&key(place)).await? {
            Some(opened) => Ok(Some(opened)),
            None => self.check().await.map(|()| None),
        }
    }

    /// Removes the backup, and sees to it that nothing of it is granted any more.
    pub(super) async fn delete(&self, backup: BackupId) -> io::Result<()> {
        self.check().await?;
        self.client.put_new(&deleted(backup), "deleted").await?;
        self.remove(&format!("{backup}/"), |_| true).await
    }

    /// Removes every run of the backup but this one, and sees to it that nothing of it is granted any more.
    pub(super) async fn keep_only(&self, backup: BackupId, run: &str) -> io::Result<()> {
        self.check().await?;
        let there = self.client.page(&format!("{backup}/{run}/"), None).await?;
        if !is_run(run) || there.entries.is_empty() {
            return Err(io::Error::new(ErrorKind::NotFound, "there is no such run"));
        }
        // Of two controllers one writes it, and both read what is there.
        self.client.put_new(&sealed(backup), run).await?;
        match self.kept(backup).await? {
            Some(kept) if kept == run => {}
            Some(kept) => return Err(io::Error::other(format!("run {kept} is the one that is kept"))),
            None => return Err(io::Error::other(format!("{SEALED} of backup {backup} is gone again"))),
        }
        if let Err(error) = self.remove_others(backup, run).await {
            // The sweep tries again. The backup is good without it.
            tracing::warn!("other runs of backup {backup} could not be removed: {error}");
        }
        Ok(())
    }

    /// The run that is kept, once that is decided.
    async fn kept(&self, backup: BackupId) -> io::Result<Option<String>> {
        match self.client.text(&sealed(backup)).await? {
            Some(run) if !is_run(&run) => Err(io::Error::other(format!("{SEALED} of backup {backup} names no run"))),
            kept => Ok(kept),
        }
    }

    /// Removes the objects of every run of the backup but this one.
    pub(super) async fn remove_others(&self, backup: BackupId, kept: &str) -> io::Result<()> {
        let is_other = |key: &str| parts(key).is_some_and(|(_, run, _)| run != kept);
        self.remove(&format!("{backup}/"), is_other).await
    }

    /// Removes the objects whose names begin like this and that are unwanted.
    async fn remove(&self, prefix: &str, is_unwanted: impl Fn(&str) -> bool) -> io::Result<()> {
        let mut from = None;
        loop {
            let page = self.client.page(prefix, from).await?;
            let unwanted = page.entries.iter().filter(|entry| is_unwanted(&entry.key));
            self.remove_all(unwanted.map(|entry| entry.key.clone()).collect()).await?;
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    async fn remove_all(&self, keys: Vec<String>) -> io::Result<()> {
        let removals = stream::iter(keys).map(|key| async move { self.client.delete(&key).await });
        removals.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// See [`super::Objects::sweep`]. The names come sorted: what marks a deletion before the objects of that backup.
    pub(super) async fn sweep(&self) -> io::Result<Vec<Held>> {
        self.check().await?;
        let (mut marked, mut found, mut from) = (BTreeMap::new(), BTreeMap::<BackupId, Found>::new(), None);
        loop {
            let page = self.client.page("", from).await?;
            let mut late = Vec::new();
            for Entry { key, bytes, age } in page.entries {
                if let Some(Ok(backup)) = key.strip_suffix(DELETED).map(str::parse::<BackupId>) {
                    marked.insert(backup, age);
                } else if let Some(Ok(backup)) = key.split_once('/').map(|(backup, _)| backup.parse::<BackupId>()) {
                    if marked.contains_key(&backup) {
                        late.push(key);
                    } else {
                        found.entry(backup).or_default().add(&key, bytes, age);
                    }
                }
            }
            self.remove_all(late).await?;
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let settled = marked.into_iter().filter(|(_, age)| *age > SETTLED);
        self.remove_all(settled.map(|(backup, _)| deleted(backup)).collect()).await?;
        let mut held = Vec::new();
        for (backup, Found { bytes, age, runs }) in found {
            if runs.len() > 1
                && let Err(error) = self.sweep_runs(backup).await
            {
                tracing::error!("the runs of backup {backup} cannot be looked through: {error}");
            }
            held.push(Held { backup, bytes, age: age.unwrap_or_default() });
        }
        Ok(held)
    }

    async fn sweep_runs(&self, backup: BackupId) -> io::Result<()> {
        match self.kept(backup).await? {
            Some(kept) => self.remove_others(backup, &kept).await,
            None => Ok(()),
        }
    }
}

/// What a sweep has seen of a backup.
#[derive(Default)]
struct Found {
    bytes: u64,
    /// Since the newest of its objects was written.
    age: Option<Duration>,
    /// The runs of which there is something: the first two.
    runs: Vec<String>,
}

impl Found {
    fn add(&mut self, key: &str, bytes: u64, age: Duration) {
        self.age = Some(self.age.map_or(age, |youngest| youngest.min(age)));
        let Some((_, run, _)) = parts(key) else { return };
        self.bytes += bytes;
        if self.runs.len() < 2 && !self.runs.iter().any(|known| known == run) {
            self.runs.push(run.to_owned());
        }
    }
}

/// The number in the object that names the storage, where there is one.
async fn named(client: &Client) -> io::Result<Option<i64>> {
    let Some(text) = client.text(STORAGE).await? else { return Ok(None) };
    let wrong = |_| io::Error::other(format!("the object {STORAGE:?} in {} has no number", client.name()));
    text.trim().parse().map(Some).map_err(wrong)
}

/// The number that names the storage; one is drawn where there is none, also where another controller does so.
async fn first_named(client: &Client) -> io::Result<i64> {
    if let Some(number) = named(client).await? {
        return Ok(number);
    }
    client.put_new(STORAGE, &rand::random_range(1..=i64::MAX).to_string()).await?;
    named(client).await?.ok_or_else(|| io::Error::other(format!("{} keeps nothing", client.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objects_name_has_three_parts_and_that_of_a_mark_has_not() {
        let backup = BackupId::random();
        let run = "0123456789abcdef0123456789abcdef";
        let place = Place::new(backup, run, "00000007").unwrap();
        assert_eq!(parts(&key(&place)), Some((backup, run, "00000007")));
        for other in [sealed(backup), deleted(backup), format!("{backup}/no-run/00000007"), STORAGE.to_owned()] {
            assert_eq!(parts(&other), None, "{other}");
        }
        // So that a sweep knows of a deletion before it meets what is left of the backup.
        assert!(deleted(backup) < key(&place) && key(&place) < sealed(backup));
    }

    #[test]
    fn of_a_backup_the_newest_object_and_two_runs_are_kept_in_mind() {
        let (backup, mut found) = (BackupId::random(), Found::default());
        for (number, age) in [(1, 30), (2, 10), (3, 20)] {
            found.add(&format!("{backup}/{number:032}/00000000"), 5, Duration::from_secs(age));
        }
        found.add(&sealed(backup), 32, Duration::from_secs(40));
        assert_eq!((found.bytes, found.age, found.runs.len()), (15, Some(Duration::from_secs(10)), 2));
    }
}

//! Where backups lie: objects in a directory, which this program serves to agents on their own port. An agent gets at one object
//! for a few minutes by a grant ([`GrantObjects`](crate::agents::GrantObjects)), and has no other credential.
//!
//! An object's place is `<directory>/<backup>/<run>/<name>`. A run is one try of an agent to take the backup: it draws the run's name,
//! writes each object once, and the manifest last. The run that its job ended with is the backup; all others are removed.
//!
//! Several controllers may serve one directory, so what must hold between them is told by files: `<backup>.deleted` says that
//! nothing may be written any more, `<backup>/sealed` the same, and which run is kept.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use trove_proto::backup::Manifest;

use self::directory::Directory;
pub use self::directory::Held;
pub use self::grants::Granter;
use self::grants::Grants;
pub use self::keys::Key;
use self::visits::Visits;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::{BackupId, InstanceId};
use crate::seal::Seal;

mod check;
mod directory;
mod grants;
mod keys;
mod server;
#[cfg(test)]
mod tests;
mod visits;

/// How long a look at the directory may take: a network file system without its server does not answer.
const LOOK: Duration = Duration::from_secs(3);

/// Why a run is no whole backup.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// What is stored is not what was written: names the object, and what is wrong with it.
    #[error("{0}")]
    Damaged(String),
    /// The storage could not be asked.
    #[error("{0}")]
    Unavailable(String),
}

/// The objects of all backups. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

struct Inner {
    directory: Directory,
    grants: Grants,
    visits: Visits,
    patience: Patience,
}

/// How long the server waits for an agent.
#[derive(Clone, Copy)]
struct Patience {
    /// For the head of the next request.
    head: Duration,
    /// For the next byte of a body, either way.
    body: Duration,
    /// For a whole body. It is shorter than the life of what marks a deletion, which so outlives every request.
    request: Duration,
}

impl Patience {
    const USUAL: Self =
        Self { head: Duration::from_secs(10), body: Duration::from_secs(60), request: Duration::from_secs(3600) };
}

impl Objects {
    /// Opens the directory, and makes it if absent; it is closed to other accounts. Grants are sealed by `seal`, so that any
    /// controller with the same key serves them.
    ///
    /// # Errors
    /// Internal: it cannot be made, or belongs to another account.
    pub fn open(directory: PathBuf, seal: Seal, config: &Config) -> Result<Self> {
        Self::open_with(directory, None, seal, config, Patience::USUAL)
    }

    /// The same for the directory that the store knows by this number. Where another one is in its place, every call fails until
    /// that is mended; this one does not.
    ///
    /// # Errors
    /// As above.
    pub fn open_known(directory: PathBuf, storage: i64, seal: Seal, config: &Config) -> Result<Self> {
        Self::open_with(directory, Some(storage), seal, config, Patience::USUAL)
    }

    fn open_with(
        directory: PathBuf,
        storage: Option<i64>,
        seal: Seal,
        config: &Config,
        patience: Patience,
    ) -> Result<Self> {
        let failed = format!("open the directory of backups {}", directory.display());
        let directory = Directory::open(directory, storage).map_err(|error| Error::internal(failed, error))?;
        let grants = Grants::new(seal, config.backups.grant_lifetime);
        Ok(Self { inner: Arc::new(Inner { directory, grants, visits: Visits::default(), patience }) })
    }

    /// The number that names the directory.
    pub fn storage(&self) -> i64 {
        self.inner.directory.storage()
    }

    /// Looks whether the directory is there and no other in its place.
    ///
    /// # Errors
    /// Internal: it is not, or cannot be read within 3 s.
    pub async fn check_directory(&self) -> Result<()> {
        let attempt = || "look at the directory of backups".to_owned();
        let late = |error| Error::internal(attempt(), error);
        tokio::time::timeout(LOOK, self.blocking(attempt(), Directory::check)).await.map_err(late)?
    }

    /// Lets the agent of the instance write objects of any run of the backup, the objects of a run with at most so many bytes.
    pub fn writer(&self, backup: BackupId, instance: InstanceId, most: u64) -> Granter {
        Granter::writer(self.clone(), backup, instance, most)
    }

    /// Lets the agent of the instance write objects of any run, beside those of others that stay.
    pub fn appender(&self, backup: BackupId, instance: InstanceId) -> Granter {
        Granter::appender(self.clone(), backup, instance)
    }

    /// Lets the agent of the instance read the objects of these runs, each of its backup.
    pub fn reader(&self, runs: HashMap<String, BackupId>, instance: InstanceId) -> Granter {
        Granter::reader(self.clone(), runs, instance)
    }

    /// Reads the manifest and every object of the run, and compares all sums.
    ///
    /// # Errors
    /// Damaged: the first object that is missing or another than was written.
    pub async fn check(
        &self,
        backup: BackupId,
        run: &str,
        manifest_sum: &str,
    ) -> std::result::Result<Manifest, CheckError> {
        check::run(self.inner.directory.clone(), backup, run.to_owned(), manifest_sum.to_owned()).await
    }

    /// Removes every run of the backup but this one. From now on nothing of the backup is written.
    ///
    /// # Errors
    /// Internal: the storage could not be asked, or another run was kept before.
    pub async fn delete_other_runs(&self, backup: BackupId, run: &str) -> Result<()> {
        let (attempt, run) = (format!("keep run {run} alone of backup {backup}"), run.to_owned());
        self.blocking(attempt, move |directory| directory.keep_only(backup, &run)).await
    }

    /// Removes every object of the backup. What is not there counts as removed. From now on nothing of the backup is written.
    ///
    /// # Errors
    /// Internal: the storage could not be asked.
    pub async fn delete_backup(&self, backup: BackupId) -> Result<()> {
        self.blocking(format!("remove the objects of backup {backup}"), move |directory| directory.delete(backup)).await
    }

    /// Removes what killed processes have left: unfinished files after an hour, runs that are not kept, and objects of deleted
    /// backups; and what marks a deletion, after a day. Returns every backup of which there are objects. Those whose row is not
    /// in the store (which is to be asked *afterwards*: the row is there before the first object) are leftovers.
    ///
    /// # Errors
    /// Internal: the storage could not be asked.
    pub async fn sweep(&self) -> Result<Vec<Held>> {
        self.blocking("sweep the directory of backups".to_owned(), |directory| directory.sweep()).await
    }

    /// Works on the directory on a thread where that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        attempt: String,
        work: impl FnOnce(&Directory) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let directory = self.inner.directory.clone();
        match tokio::task::spawn_blocking(move || work(&directory)).await {
            Ok(done) => done.map_err(|error| Error::internal(attempt, error)),
            Err(error) => Err(Error::internal(attempt, error)),
        }
    }
}

//! Where backups lie: objects in a directory, which this program serves to agents on their own port, or in a storage of S3 or Swift,
//! which agents reach by themselves ([`storage`]). An agent gets at one object for a few minutes by a grant
//! ([`GrantObjects`](crate::agents::GrantObjects)), and has no other credential.
//!
//! An object's place is `<backup>/<run>/<name>`. A run is one try of an agent to take the backup: it draws the run's name,
//! writes each object once, and the manifest last. The run that its job ended with is the backup; all others are removed.
//!
//! Several controllers may serve one storage, so what must hold between them is told by objects or files: `<backup>.deleted` says
//! that nothing may be written any more, `<backup>/sealed` the same, and which run is kept.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use trove_proto::backup::Manifest;

use self::check::Check;
use self::directory::Directory;
pub use self::directory::Held;
pub use self::grants::Granter;
use self::grants::Grants;
pub use self::keys::Key;
use self::remote::Remote;
use self::storage::Storage;
use self::visits::Visits;
use crate::config::{Config, StorageKind};
use crate::error::{Error, Result};
use crate::ids::{BackupId, InstanceId};
use crate::seal::Seal;

mod check;
mod directory;
mod grants;
mod keys;
mod remote;
mod server;
mod storage;
#[cfg(test)]
mod tests;
mod visits;

/// How long a look at the directory may take: a network file system without its server does not answer.
const LOOK: Duration = Duration::from_secs(3);
/// The same for a storage that is asked over a network, perhaps after a login.
const LOOK_AFAR: Duration = Duration::from_secs(10);

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
    storage: Storage,
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
    /// Opens the storage that is configured; a directory is made if absent, and closed to other accounts. Grants for a directory are
    /// sealed by `seal`, so that any controller with the same key serves them.
    ///
    /// `known` is the number of the storage as the store knows it. Where another storage is in its place, or it is away, every call
    /// fails until that is mended; this one does not.
    ///
    /// # Errors
    /// 400 if the configuration names a file that cannot be used. Internal: a directory cannot be made, or belongs to another
    /// account; a storage whose number is not known cannot be asked.
    pub async fn open(directory: PathBuf, known: Option<i64>, seal: Seal, config: &Config) -> Result<Self> {
        if config.backups.storage == StorageKind::Fs {
            return Self::open_directory(directory, known, seal, config);
        }
        let remote = Remote::open(config, known).await?;
        Ok(Self::with(Storage::Remote(remote), seal, config, Patience::USUAL))
    }

    /// The same for a directory, whatever is configured.
    ///
    /// # Errors
    /// As above.
    pub fn open_directory(directory: PathBuf, known: Option<i64>, seal: Seal, config: &Config) -> Result<Self> {
        let failed = format!("open the directory of backups {}", directory.display());
        let directory = Directory::open(directory, known).map_err(|error| Error::internal(failed, error))?;
        Ok(Self::with(Storage::Directory(directory), seal, config, Patience::USUAL))
    }

    fn with(storage: Storage, seal: Seal, config: &Config, patience: Patience) -> Self {
        let grants = Grants::new(seal, config.backups.grant_lifetime);
        Self { inner: Arc::new(Inner { storage, grants, visits: Visits::default(), patience }) }
    }

    /// The number that names the storage.
    pub fn storage(&self) -> i64 {
        self.inner.storage.number()
    }

    /// Looks whether the storage is there and no other in its place.
    ///
    /// # Errors
    /// Internal: it is not, or does not answer in time.
    pub async fn check_storage(&self) -> Result<()> {
        let storage = &self.inner.storage;
        let limit = if storage.directory().is_some() { LOOK } else { LOOK_AFAR };
        let failed =
            |error: Box<dyn std::error::Error + Send + Sync>| Error::internal("look at the storage of backups", error);
        let looked = tokio::time::timeout(limit, storage.check()).await.map_err(|late| failed(late.into()))?;
        looked.map_err(|error| failed(error.into()))
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
        let check = Check { storage: self.inner.storage.clone(), backup, run: run.to_owned() };
        check.all(manifest_sum).await
    }

    /// Removes every run of the backup but this one. From now on nothing of the backup is written.
    ///
    /// # Errors
    /// Internal: the storage could not be asked, or another run was kept before.
    pub async fn delete_other_runs(&self, backup: BackupId, run: &str) -> Result<()> {
        let kept = self.inner.storage.keep_only(backup, run.to_owned()).await;
        kept.map_err(|error| Error::internal(format!("keep run {run} alone of backup {backup}"), error))
    }

    /// Removes every object of the backup. What is not there counts as removed. From now on nothing of the backup is written.
    ///
    /// # Errors
    /// Internal: the storage could not be asked.
    pub async fn delete_backup(&self, backup: BackupId) -> Result<()> {
        let deleted = self.inner.storage.delete(backup).await;
        deleted.map_err(|error| Error::internal(format!("remove the objects of backup {backup}"), error))
    }

    /// Removes what killed processes have left: unfinished files after an hour, runs that are not kept, and objects of deleted
    /// backups; and what marks a deletion, after a day. Returns every backup of which there are objects. Those whose row is not
    /// in the store (which is to be asked *afterwards*: the row is there before the first object) are leftovers.
    ///
    /// # Errors
    /// Internal: the storage could not be asked.
    pub async fn sweep(&self) -> Result<Vec<Held>> {
        let swept = self.inner.storage.sweep().await;
        swept.map_err(|error| Error::internal("sweep the storage of backups", error))
    }
}

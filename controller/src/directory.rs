//! The state directory: lock, encryption key, id of the controller, and store.

#![allow(clippy::disallowed_methods, reason = "the state directory is the controller's alone")]

use std::ffi::OsStr;
use std::fs::{File, Metadata, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use trove_strategy::beneath;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::OperationId;
use crate::seal::Seal;
use crate::store::{DATABASE, Store};

/// The state directory of a controller.
pub struct StateDirectory {
    path: PathBuf,
}

/// How long the result of a search through the open files is used. There are as many files as connections.
const SEARCH_LIFETIME: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(1) };

/// Holds the lock of the directory, and notices when the directory or a file of the database in it is deleted or
/// replaced. What is written then goes to unlinked files and would be lost at the next start.
pub struct Presence {
    path: PathBuf,
    directory: File,
    lock: Flock<File>,
    gone: AtomicBool,
    database: Mutex<Option<(Instant, bool)>>,
}

impl Presence {
    /// Checks that the directory, its lock and the database's files are still those that this process opened. Logs each
    /// change.
    ///
    /// # Errors
    /// 503 if they are not; then nothing may be written.
    pub fn check(&self) -> Result<()> {
        let directory = is_another(self.directory.metadata(), &self.path)
            || is_another(self.lock.metadata(), &self.path.join("lock"));
        let gone = directory || self.has_lost_database();
        if gone != self.gone.swap(gone, Ordering::AcqRel) {
            let path = self.path.display();
            if gone {
                let what = if directory { "" } else { "a file of the database in " };
                tracing::error!(
                    "{what}the state directory {path} was deleted or replaced while this service runs: it refuses to \
                     change anything until the directory is back, or the service is started again"
                );
            } else {
                tracing::warn!("the state directory {path} is back: changes are accepted again");
            }
        }
        if !gone {
            return Ok(());
        }
        let message = if directory {
            "The state directory of this service was deleted while it runs: nothing can be changed until its operator has \
             put it back or started the service again."
        } else {
            "A file of this service's database was deleted while it runs: nothing can be changed until its operator has \
             started the service again."
        };
        Err(Error::Unavailable { message: message.to_owned(), retry_after_s: 30 })
    }

    /// Whether an open file of the database was unlinked. All open files are searched, since SQLite makes the files
    /// beside the database again whenever all its connections were closed.
    fn has_lost_database(&self) -> bool {
        let mut last = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, lost)) = *last
            && at.elapsed() < SEARCH_LIFETIME
        {
            return lost;
        }
        // If the search fails, assume that nothing is lost.
        let lost = lost_files(&self.path.join(DATABASE)).unwrap_or_default();
        *last = Some((Instant::now(), lost));
        lost
    }
}

/// Whether this process has an unlinked file open whose name began with that of the database.
fn lost_files(database: &Path) -> std::io::Result<bool> {
    let known = std::fs::canonicalize(database.parent().unwrap_or(database))?;
    let known = known.join(database.file_name().unwrap_or_default());
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let opened = entry?.path();
        // The descriptor was closed meanwhile.
        let Ok(target) = std::fs::read_link(&opened) else { continue };
        let Some(name) = target.as_os_str().as_bytes().strip_suffix(b" (deleted)") else { continue };
        // Only stat the file. Opening and closing it would drop the locks that SQLite holds on it (fcntl(2)).
        if name.starts_with(known.as_os_str().as_bytes())
            && is_another(std::fs::metadata(opened), Path::new(OsStr::from_bytes(name)))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a path leads to another file than the opened one. If that cannot be found out, assume that it does not.
fn is_another(opened: std::io::Result<Metadata>, path: &Path) -> bool {
    match (opened, std::fs::metadata(path)) {
        (Ok(opened), Ok(there)) => (opened.dev(), opened.ino()) != (there.dev(), there.ino()),
        (_, Err(error)) => error.kind() == std::io::ErrorKind::NotFound,
        (Err(_), Ok(_)) => false,
    }
}

fn failed(attempt: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::internal(format!("{attempt} {}", path.display()), error)
}

impl StateDirectory {
    /// Opens the directory, and makes it if absent. Other accounts may traverse it, as engines must, but not list it.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(failed("find", path))?;
        for directory in [path.clone(), path.join("hosts")] {
            std::fs::create_dir_all(&directory).map_err(failed("make", &directory))?;
            std::fs::set_permissions(&directory, Permissions::from_mode(0o711)).map_err(failed("close", &directory))?;
        }
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Locks the directory until the result is dropped.
    ///
    /// # Errors
    /// 409 if another controller has locked it; the message names its pid.
    pub fn lock(&self) -> Result<Flock<File>> {
        let path = self.path.join("lock");
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        match Flock::lock(file.map_err(failed("open", &path))?, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                let own = std::process::id().to_string();
                let written =
                    lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(own.as_bytes()));
                written.map_err(failed("write", &path))?;
                Ok(lock)
            }
            Err((mut file, _)) => {
                let mut pid = String::new();
                // The pid is only for the message.
                let _ = file.read_to_string(&mut pid);
                Err(Error::Conflict(format!(
                    "The state directory {} is in use by another controller (pid {}). Stop that one, or name another \
                     directory with --state.",
                    self.path.display(),
                    pid.trim()
                )))
            }
        }
    }

    /// Makes a [`Presence`] from the lock of this directory.
    pub fn presence(&self, lock: Flock<File>) -> Result<Arc<Presence>> {
        let directory = File::open(&self.path).map_err(failed("open", &self.path))?;
        Ok(Arc::new(Presence {
            path: self.path.clone(),
            directory,
            lock,
            gone: AtomicBool::new(false),
            database: Mutex::default(),
        }))
    }

    /// The directory of backups.
    pub fn objects(&self, config: &Config) -> PathBuf {
        config.backups.directory.clone().unwrap_or_else(|| self.path.join("objects"))
    }

    /// Opens the configured store with the encryption key of the directory, or with the one in the file that
    /// `TROVE_SECRET_KEY_FILE` names.
    pub async fn store(&self, config: &Config) -> Result<Store> {
        let seal = Seal::new(&self.key()?);
        let Some(url) = &config.store.url else { return Store::open(&self.path, seal).await };
        let password = match &config.store.password_file {
            Some(file) => Some(std::fs::read_to_string(file).map_err(failed("read store.password_file", file))?),
            None => None,
        };
        Store::connect(url, password.as_deref().map(|text| text.trim_end_matches('\n')), seal).await
    }

    fn key(&self) -> Result<[u8; 32]> {
        let named = std::env::var_os("TROVE_SECRET_KEY_FILE").map(PathBuf::from);
        let path = named.clone().unwrap_or_else(|| self.path.join("secret.key"));
        if named.is_none() && !path.exists() {
            let key: [u8; 32] = rand::random();
            beneath::replace(&path, &key).map_err(failed("write", &path))?;
        }
        let bytes = std::fs::read(&path).map_err(failed("read the key", &path))?;
        let wrong = |_| Error::Internal { attempt: format!("{}: a key has 32 bytes", path.display()), source: None };
        bytes.try_into().map_err(wrong)
    }

    /// The id of this controller, which is made at the first start. Leases and links contain it.
    pub fn controller_id(&self) -> Result<String> {
        let path = self.path.join("controller-id");
        if !path.exists() {
            let id = OperationId::random().to_string();
            beneath::replace(&path, id.as_bytes()).map_err(failed("write", &path))?;
        }
        let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
        Ok(text.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_controller_and_keeps_its_name_and_key() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(&scratch.path().join("state")).unwrap();
        let lock = state.lock().unwrap();
        let refused = state.lock().unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()) && refused.contains("another controller"));
        drop(lock);
        assert!(state.lock().is_ok());
        assert_eq!(state.controller_id().unwrap(), state.controller_id().unwrap());
        assert_eq!(state.key().unwrap(), state.key().unwrap());
        let mode = std::fs::metadata(state.path().join("secret.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_directory_that_was_deleted_or_replaced_is_noticed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state");
        let state = StateDirectory::open(&path).unwrap();
        let presence = state.presence(state.lock().unwrap()).unwrap();
        presence.check().unwrap();
        let aside = scratch.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        assert!(matches!(presence.check(), Err(Error::Unavailable { .. })), "it is gone");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("lock"), "").unwrap();
        assert!(presence.check().is_err(), "another stands in its place");
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        presence.check().unwrap();
        std::fs::remove_file(path.join("lock")).unwrap();
        assert!(presence.check().is_err(), "another controller could lock it");
    }

    /// Files that SQLite closes and makes again are not lost. Files that are deleted while they are open are.
    #[tokio::test]
    async fn files_of_the_database_that_were_deleted_are_noticed() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(&scratch.path().join("state")).unwrap();
        let presence = state.presence(state.lock().unwrap()).unwrap();
        let store = Store::open(state.path(), Seal::new(&state.key().unwrap())).await.unwrap();
        for name in ["trove.sqlite-wal", "trove.sqlite-shm", "trove.sqlite"] {
            store.check_health().await.unwrap();
            presence.check().unwrap();
            let (path, aside) = (state.path().join(name), scratch.path().join("aside"));
            std::fs::hard_link(&path, &aside).unwrap();
            std::fs::remove_file(&path).unwrap();
            let refused = presence.check().unwrap_err();
            assert!(refused.to_string().contains("A file of this service's database"), "{name}: {refused}");
            std::fs::rename(&aside, &path).unwrap();
        }
    }
}

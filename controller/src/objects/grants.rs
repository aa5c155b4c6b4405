//! Grants: for a few minutes a right to one object. For a directory they are sealed, so that no controller has to remember them; for
//! another storage they are what that has its addresses signed with.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use trove_proto::backup::{MANIFEST_LIMIT, MANIFEST_NAME, SEGMENT_LIMIT};
use trove_proto::v1;

use super::Objects;
use super::directory::{Place, is_run};
use super::storage::Storage;
use crate::agents::GrantObjects;
use crate::error::{Error, Result, chain};
use crate::ids::{BackupId, InstanceId};
use crate::seal::Seal;

/// See [`Seal::seal`].
const PURPOSE: &str = "object grant";
/// The scheme of the header field with a grant.
const SCHEME: &str = "Trove ";
/// Objects that are granted at once.
const MOST: usize = 64;
/// Used grants that are remembered of one instance until they expire.
const REMEMBERED: usize = 16_384;

/// What an object may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Access {
    Read,
    Write,
}

/// What is sealed in a grant.
#[derive(Serialize, Deserialize)]
struct Token {
    access: Access,
    backup: BackupId,
    run: String,
    name: String,
    /// The object's size, of a write.
    bytes: u64,
    instance: InstanceId,
    /// Milliseconds since 1970.
    expires: u64,
    nonce: u64,
}

/// A verified grant.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) place: Place,
    /// The object's size, of a write.
    pub(super) bytes: u64,
}

/// Why a grant is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not good, or no more.
    Forbidden(&'static str),
    /// So many were used that no more can be remembered.
    TooMany,
}

/// Makes and verifies grants.
pub(super) struct Grants {
    seal: Seal,
    lifetime: Duration,
    /// Grants to read that were used, with the time of their expiry.
    used: Mutex<HashMap<InstanceId, BTreeSet<(u64, u64)>>>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Grants {
    pub(super) fn new(seal: Seal, lifetime: Duration) -> Self {
        Self { seal, lifetime, used: Mutex::default() }
    }

    pub(super) fn issue(
        &self,
        access: Access,
        place: &Place,
        bytes: u64,
        instance: InstanceId,
    ) -> Result<v1::ObjectGrant> {
        let token = Token {
            access,
            backup: place.backup(),
            run: place.run().to_owned(),
            name: place.name().to_owned(),
            bytes,
            instance,
            expires: now_ms().saturating_add(u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX)),
            nonce: rand::random(),
        };
        let text = serde_json::to_string(&token).map_err(|error| Error::internal("write a grant", error))?;
        let sealed = self.seal.seal(PURPOSE, &SecretString::from(text))?;
        let headers = [("authorization".to_owned(), format!("{SCHEME}{sealed}"))];
        let headers = headers.into_iter().collect();
        Ok(v1::ObjectGrant { url: place.url(), headers, authorities_pem: String::new() })
    }

    /// Whether the header field grants this access to what the path names, to the agent of this instance. A grant to read is
    /// used up by this; one to write is by the object that is made of it.
    pub(super) fn verify(
        &self,
        authorization: Option<&str>,
        access: Access,
        path: &str,
        instance: InstanceId,
    ) -> std::result::Result<Granted, Refusal> {
        let foreign = Refusal::Forbidden("it is no grant for this");
        let sealed = authorization.and_then(|value| value.strip_prefix(SCHEME));
        let opened = sealed.and_then(|sealed| self.seal.open(PURPOSE, sealed).ok());
        let token = opened.and_then(|text| serde_json::from_str::<Token>(text.expose_secret()).ok());
        let Some(token) = token else { return Err(Refusal::Forbidden("it is no grant of this service")) };
        // The path of the file comes from the grant; that of the request is only compared.
        let place = Place::new(token.backup, &token.run, &token.name).filter(|place| place.url() == path);
        let Some(place) = place.filter(|_| token.access == access) else { return Err(foreign) };
        if token.instance != instance {
            return Err(Refusal::Forbidden("it is another instance's grant"));
        }
        let now = now_ms();
        if token.expires <= now {
            return Err(Refusal::Forbidden("the grant has expired"));
        }
        if access == Access::Read {
            self.use_up(&token, now)?;
        }
        Ok(Granted { place, bytes: token.bytes })
    }

    fn use_up(&self, token: &Token, now: u64) -> std::result::Result<(), Refusal> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, grants| {
            while grants.first().is_some_and(|(expires, _)| *expires <= now) {
                grants.pop_first();
            }
            !grants.is_empty()
        });
        let grants = used.entry(token.instance).or_default();
        if grants.len() >= REMEMBERED {
            return Err(Refusal::TooMany);
        }
        match grants.insert((token.expires, token.nonce)) {
            true => Ok(()),
            false => Err(Refusal::Forbidden("the grant was used already")),
        }
    }
}

/// Grants one agent objects of backups.
pub struct Granter {
    objects: Objects,
    instance: InstanceId,
    may: May,
}

/// What a job may do with objects.
enum May {
    /// Read these runs, each of its backup.
    Read(HashMap<String, BackupId>),
    /// Write to any run.
    Append(BackupId),
    /// Write one run after the other.
    Write {
        backup: BackupId,
        /// How many bytes a run may have.
        most: u64,
        /// The run that is written, and how many bytes of it may still be granted.
        written: tokio::sync::Mutex<(String, u64)>,
    },
}

fn invalid(message: String) -> v1::Error {
    v1::Error { kind: v1::ErrorKind::Invalid.into(), message }
}

impl Granter {
    pub(super) fn reader(objects: Objects, runs: HashMap<String, BackupId>, instance: InstanceId) -> Self {
        Self { objects, instance, may: May::Read(runs) }
    }

    /// Objects that are asked for twice count twice.
    pub(super) fn writer(objects: Objects, backup: BackupId, instance: InstanceId, most: u64) -> Self {
        Self { objects, instance, may: May::Write { backup, most, written: tokio::sync::Mutex::default() } }
    }

    pub(super) fn appender(objects: Objects, backup: BackupId, instance: InstanceId) -> Self {
        Self { objects, instance, may: May::Append(backup) }
    }

    fn transient(&self, backup: BackupId, error: &Error) -> v1::Error {
        tracing::error!(instance_id = %self.instance, "objects of backup {backup}: {}", chain(error));
        let message = "the storage of backups cannot be asked".to_owned();
        v1::Error { kind: v1::ErrorKind::Transient.into(), message }
    }

    /// What is told of a storage that could not be asked. One that refuses this service refuses it the next time, too.
    fn unasked(&self, backup: BackupId, attempt: &str, error: io::Error) -> v1::Error {
        let is_remote = self.objects.inner.storage.directory().is_none();
        let refused = is_remote && error.kind() == io::ErrorKind::PermissionDenied;
        let told = self.transient(backup, &Error::internal(attempt, error));
        if !refused {
            return told;
        }
        let message = "the storage of backups refuses this service's credentials".to_owned();
        v1::Error { kind: v1::ErrorKind::Fatal.into(), message }
    }

    /// Makes room for what is to be written. When another run begins the earlier ones are removed: an agent works on one at a time.
    async fn count(&self, backup: BackupId, run: &str, bytes: u64) -> std::result::Result<(), v1::Error> {
        let May::Write { most, written, .. } = &self.may else { return Ok(()) };
        let storage = &self.objects.inner.storage;
        let closed = storage.is_closed(backup).await;
        if closed.map_err(|error| self.unasked(backup, "look whether it is closed", error))? {
            let message = format!("nothing is written to backup {backup} any more");
            return Err(v1::Error { kind: v1::ErrorKind::Gone.into(), message });
        }
        let mut written = written.lock().await;
        if written.0 != run {
            let begun = storage.begin_run(backup, run.to_owned()).await;
            begun.map_err(|error| self.unasked(backup, &format!("begin run {run}"), error))?;
            *written = (run.to_owned(), *most);
        }
        match written.1.checked_sub(bytes) {
            Some(left) => {
                written.1 = left;
                Ok(())
            }
            None => Err(invalid(format!("a backup of this instance may have {} MiB", most >> 20))),
        }
    }
}

impl May {
    fn access(&self) -> Access {
        match self {
            Self::Read(_) => Access::Read,
            Self::Append(_) | Self::Write { .. } => Access::Write,
        }
    }

    /// Of which backup this job may have objects of the run.
    fn backup(&self, run: &str) -> std::result::Result<BackupId, v1::Error> {
        match self {
            Self::Read(runs) => runs.get(run).copied().ok_or_else(|| invalid("this job reads another run".to_owned())),
            Self::Append(backup) | Self::Write { backup, .. } => Ok(*backup),
        }
    }

    /// What is needed, if this job may have it.
    fn checked(
        &self,
        backup: BackupId,
        run: &str,
        need: &v1::ObjectNeed,
    ) -> std::result::Result<(Place, u64), v1::Error> {
        let access = match need.access() {
            v1::ObjectAccess::Read => Some(Access::Read),
            v1::ObjectAccess::Write => Some(Access::Write),
            v1::ObjectAccess::Unspecified => None,
        };
        if access != Some(self.access()) {
            let may = if self.access() == Access::Read { "reads" } else { "writes" };
            return Err(invalid(format!("this job {may} objects, and nothing else")));
        }
        let Some(place) = Place::new(backup, run, &need.name) else {
            return Err(invalid(format!("{:?} is no name of an object", need.name)));
        };
        if self.access() == Access::Read {
            return Ok((place, 0));
        }
        let most = if need.name == MANIFEST_NAME { MANIFEST_LIMIT } else { SEGMENT_LIMIT };
        if need.bytes > most {
            return Err(invalid(format!("object {} may have {most} bytes, not {}", need.name, need.bytes)));
        }
        Ok((place, need.bytes))
    }
}

#[async_trait]
impl GrantObjects for Granter {
    async fn grant(&self, run: &str, needs: &[v1::ObjectNeed]) -> std::result::Result<Vec<v1::ObjectGrant>, v1::Error> {
        if !is_run(run) {
            return Err(invalid("a run's name has 32 digits, 0-9 and a-f".to_owned()));
        }
        let backup = self.may.backup(run)?;
        if needs.is_empty() || needs.len() > MOST {
            return Err(invalid(format!("{MOST} objects are granted at once, and at least one")));
        }
        let checked = needs.iter().map(|need| self.may.checked(backup, run, need));
        let checked = checked.collect::<std::result::Result<Vec<_>, _>>()?;
        self.count(backup, run, checked.iter().map(|(_, bytes)| bytes).sum()).await?;
        let (grants, access) = (&self.objects.inner.grants, self.may.access());
        let storage = &self.objects.inner.storage;
        let issue = |(place, bytes): &(Place, u64)| match storage {
            Storage::Directory(_) => grants.issue(access, place, *bytes, self.instance),
            Storage::Remote(remote) => Ok(remote.grant(access, place, *bytes)),
        };
        let issued = checked.iter().map(issue).collect::<Result<Vec<_>>>();
        issued.map_err(|error| self.transient(backup, &error))
    }
}

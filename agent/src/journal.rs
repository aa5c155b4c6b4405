//! The journal of jobs: what was asked under which key, and what became of it. It outlives the agent; it holds no
//! secrets, only a sum over the work without them.

#![allow(clippy::disallowed_methods, reason = "a directory of the agent alone, 0700")]

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use prost::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use trove_proto::v1;

use crate::durable::Durable;

const KEPT: usize = 1000;
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was begun; when no task runs it, it was cut off by the agent's death.
    Begun,
    /// It succeeded.
    Done,
    /// It failed.
    Failed {
        /// Number of the kind on the wire.
        kind: i32,
        /// Why.
        message: String,
    },
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Sum over the work without its secrets.
    pub fingerprint: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// The journal: a file an entry.
pub struct Journal {
    files: Durable,
    directory: std::path::PathBuf,
}

impl Journal {
    /// In this directory. Old entries go.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: &Path) -> Result<Self> {
        let journal = Self { files: Durable::open(directory)?, directory: directory.to_owned() };
        journal.prune().context("prune the journal of jobs")?;
        Ok(journal)
    }

    /// The entry of a key. One that is damaged counts as absent, so that the job runs again as one that was cut off does.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn entry(&self, key: &v1::JobKey) -> Result<Option<Entry>> {
        self.files.read_json(&name(key))
    }

    /// Writes an entry; it is on the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn record(&self, key: &v1::JobKey, fingerprint: &str, outcome: Outcome) -> Result<()> {
        self.files.write_json(&name(key), &Entry { fingerprint: fingerprint.to_owned(), outcome })
    }

    fn prune(&self) -> Result<()> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.directory)?.flatten() {
            let written = entry.metadata().and_then(|facts| facts.modified());
            entries.push((written.unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
        }
        entries.sort();
        let now = SystemTime::now();
        let surplus = entries.len().saturating_sub(KEPT);
        for (n, (written, path)) in entries.into_iter().enumerate() {
            if n < surplus || now.duration_since(written).is_ok_and(|age| age > KEPT_FOR) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn name(key: &v1::JobKey) -> String {
    let digest = Sha256::digest(key.encode_to_vec());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}.json")
}

/// A sum over the work without its secrets: passwords and keys are left out, so that the journal says nothing about
/// them.
pub fn fingerprint(work: &v1::start::Work) -> String {
    let mut work = work.clone();
    match &mut work {
        v1::start::Work::Prepare(prepare) => {
            prepare.root_password = prepare.root_password.take().map(|_| String::new());
            prepare.users.iter_mut().for_each(|user| user.password.clear());
            let specification = prepare.specification.as_mut();
            if let Some(certificate) = specification.and_then(|specification| specification.certificate.as_mut()) {
                certificate.key_pem.clear();
            }
            // Maps have no order on the wire.
            if let Some(specification) = prepare.specification.as_mut() {
                specification.parameters.clear();
            }
        }
        v1::start::Work::ChangeAccounts(changes) => {
            use v1::account_change::Kind;
            for change in &mut changes.changes {
                match &mut change.kind {
                    Some(Kind::CreateUser(user)) => user.password.clear(),
                    Some(Kind::ChangeUser(change)) => {
                        change.new_password = change.new_password.take().map(|_| String::new());
                    }
                    Some(Kind::EnableRoot(root)) => root.password.clear(),
                    _ => {}
                }
            }
        }
        v1::start::Work::Restart(_) | v1::start::Work::Stop(_) => {}
    }
    let start = v1::Start { key: None, fence: 0, deadline_s: 0, work: Some(work) };
    Sha256::digest(start.encode_to_vec()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(attempt: u32) -> v1::JobKey {
        v1::JobKey { operation: "o".into(), step: "s".into(), target: "t".into(), attempt }
    }

    #[test]
    fn an_entry_is_found_again_by_its_key_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let journal = Journal::open(scratch.path()).unwrap();
        journal.record(&key(1), "f", Outcome::Begun).unwrap();
        journal.record(&key(1), "f", Outcome::Done).unwrap();
        let again = Journal::open(scratch.path()).unwrap();
        assert_eq!(again.entry(&key(1)).unwrap().unwrap().outcome, Outcome::Done);
        assert!(again.entry(&key(2)).unwrap().is_none());
    }

    #[test]
    fn an_entry_that_is_cut_off_at_any_length_counts_as_absent() {
        let scratch = tempfile::tempdir().unwrap();
        let journal = Journal::open(scratch.path()).unwrap();
        journal.record(&key(1), "f", Outcome::Done).unwrap();
        let path = scratch.path().join(name(&key(1)));
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(journal.entry(&key(1)).unwrap().is_none(), "{length}");
        }
        journal.record(&key(1), "f", Outcome::Begun).unwrap();
        assert_eq!(journal.entry(&key(1)).unwrap().unwrap().outcome, Outcome::Begun);
    }

    #[test]
    fn a_fingerprint_does_not_depend_on_secrets() {
        let with = |password: &str, name: &str| {
            let account = Some(v1::Account { name: name.into(), host: "%".into() });
            let user = v1::NewUser { account, password: password.into(), databases: vec![] };
            let kind = Some(v1::account_change::Kind::CreateUser(user));
            fingerprint(&v1::start::Work::ChangeAccounts(v1::ChangeAccounts {
                changes: vec![v1::AccountChange { kind }],
            }))
        };
        assert_eq!(with("one", "a"), with("two", "a"));
        assert_ne!(with("one", "a"), with("one", "b"));
    }
}

//! The journal of jobs: for each key a fingerprint of the work and its outcome. It survives a restart of the agent. It
//! holds no secrets: the fingerprint is computed without them.

#![allow(clippy::disallowed_methods, reason = "a directory of the agent alone, 0700")]

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use prost::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use trove_proto::v1;

use crate::durable::Durable;

const KEPT: usize = 1000;
/// Entries written between two prunings.
const BETWEEN_PRUNES: u32 = 100;
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Outcome of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The job began. If no task runs it, it was interrupted by the end of the agent.
    Begun,
    /// It succeeded; written by older agents, which kept no result.
    Done,
    Succeeded {
        /// The protobuf message `Result`, in hex.
        result: String,
    },
    Failed {
        /// Number of the protobuf `ErrorKind`.
        kind: i32,
        message: String,
    },
}

impl Outcome {
    /// Outcome of a job that succeeded.
    pub fn succeeded(outcome: v1::result::Outcome) -> Self {
        let result = v1::Result { error: None, outcome: Some(outcome) };
        Self::Succeeded { result: hex::encode(result.encode_to_vec()) }
    }

    /// The message for the controller; `None` while the job has not ended.
    pub fn result(&self) -> Result<Option<v1::Result>> {
        Ok(match self {
            Self::Begun => None,
            Self::Done => Some(v1::Result::default()),
            Self::Succeeded { result } => {
                let bytes = hex::decode(result).context("read the result of a job")?;
                Some(v1::Result::decode(bytes.as_slice()).context("read the result of a job")?)
            }
            Self::Failed { kind, message } => {
                let error = v1::Error { kind: *kind, message: message.clone() };
                Some(v1::Result { error: Some(error), outcome: None })
            }
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Fingerprint of the work without its secrets.
    pub fingerprint: String,
    pub outcome: Outcome,
}

/// The journal: one file per entry.
pub struct Journal {
    files: Durable,
    directory: std::path::PathBuf,
    written: AtomicU32,
}

impl Journal {
    /// Opens the journal and prunes old entries.
    pub fn open(directory: &Path) -> Result<Self> {
        let journal =
            Self { files: Durable::open(directory)?, directory: directory.to_owned(), written: AtomicU32::new(0) };
        journal.prune().context("prune the journal of jobs")?;
        Ok(journal)
    }

    /// The entry of a key. A damaged one counts as absent: the job then runs again, like an interrupted one.
    pub fn entry(&self, key: &v1::JobKey) -> Result<Option<Entry>> {
        self.files.read_json(&name(key))
    }

    /// Writes an entry. It is durable when this returns.
    pub fn record(&self, key: &v1::JobKey, fingerprint: &str, outcome: Outcome) -> Result<()> {
        self.files.write_json(&name(key), &Entry { fingerprint: fingerprint.to_owned(), outcome })?;
        if (self.written.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(BETWEEN_PRUNES) {
            self.prune().context("prune the journal of jobs")?;
        }
        Ok(())
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
                match std::fs::remove_file(path) {
                    // A temporary file that was renamed meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
        }
        Ok(())
    }
}

fn name(key: &v1::JobKey) -> String {
    format!("{}.json", hex::encode(Sha256::digest(key.encode_to_vec())))
}

pub fn fingerprint(work: &v1::start::Work) -> Result<String> {
    let start = v1::Start { work: Some(work.clone()), ..v1::Start::default() };
    let scrubbed = trove_proto::without_secrets(&start).context("take the secrets out of the work")?;
    Ok(hex::encode(Sha256::digest(scrubbed.encode_to_vec())))
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
    fn no_more_than_a_thousand_entries_and_the_newest_are_kept_also_without_a_restart() {
        let scratch = tempfile::tempdir().unwrap();
        let journal = Journal::open(scratch.path()).unwrap();
        for attempt in 0..1000 {
            std::fs::write(scratch.path().join(name(&key(attempt))), "{}").unwrap();
        }
        for attempt in 1000..1100 {
            journal.record(&key(attempt), "f", Outcome::Done).unwrap();
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), KEPT);
        assert!(journal.entry(&key(1000)).unwrap().is_some());
    }

    #[test]
    fn an_outcome_is_given_again_as_it_was() {
        let scratch = tempfile::tempdir().unwrap();
        let journal = Journal::open(scratch.path()).unwrap();
        let outcome = v1::result::Outcome::Prepared(v1::Prepared { engine_version: "15.4 \u{e9}".to_owned() });
        journal.record(&key(1), "f", Outcome::succeeded(outcome.clone())).unwrap();
        let again = journal.entry(&key(1)).unwrap().unwrap().outcome;
        assert_eq!(again.result().unwrap(), Some(v1::Result { error: None, outcome: Some(outcome) }));
        let earlier: Outcome = serde_json::from_str("\"done\"").unwrap();
        assert_eq!(earlier.result().unwrap(), Some(v1::Result::default()));
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
            .unwrap()
        };
        assert_eq!(with("one", "a"), with("two", "a"));
        assert_ne!(with("one", "a"), with("one", "b"));
    }
}

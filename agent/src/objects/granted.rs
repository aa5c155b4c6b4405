//! The objects of one run of a job: each request has a grant of its own, which is asked for over the job, and what
//! fails is tried again with growing pauses, with a new grant, at the next controller.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use hyper::body::Bytes;
use tokio::time::Instant;
use tracing::warn;
use trove_proto::v1;
use trove_strategy::{EngineError, Kind};

use super::{Failure, Objects};
use crate::backup::Storage;
use crate::dial::Backoff;
use crate::jobs::Job;

/// So many new grants that are refused one after the other have not expired on the way: the storage accepts none.
const REFUSALS: u32 = 5;

/// Whoever can be asked for access to objects. The agent asks over the job that runs.
#[async_trait]
pub trait AskGrants: Send + Sync {
    /// One grant for each of the needs, in their order. Waits as long as it takes.
    async fn ask(&self, run: &str, needs: Vec<v1::ObjectNeed>) -> Result<Vec<v1::ObjectGrant>, v1::Error>;
}

#[async_trait]
impl AskGrants for Job {
    async fn ask(&self, run: &str, needs: Vec<v1::ObjectNeed>) -> Result<Vec<v1::ObjectGrant>, v1::Error> {
        self.grants(run, needs).await
    }
}

/// The storage of a run.
pub struct RunObjects<'a> {
    /// The client.
    pub objects: &'a Objects,
    /// Who is asked.
    pub grants: &'a dyn AskGrants,
    /// The run's name.
    pub run: &'a str,
    /// The last failure of the object that is at hand.
    trouble: Mutex<Option<String>>,
}

impl<'a> RunObjects<'a> {
    /// The storage of the run of this name.
    pub fn new(objects: &'a Objects, grants: &'a dyn AskGrants, run: &'a str) -> Self {
        Self { objects, grants, run, trouble: Mutex::default() }
    }

    /// Notes why the object at hand has to be tried again, or that it has not.
    fn note(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    async fn grant(&self, need: &v1::ObjectNeed) -> Result<v1::ObjectGrant, Failure> {
        let grants = self.grants.ask(self.run, vec![need.clone()]).await.map_err(Failure::Refused)?;
        grants.into_iter().next().ok_or(Failure::Unusable("the controller granted nothing"))
    }
}

#[async_trait]
impl Storage for RunObjects<'_> {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), EngineError> {
        let access = v1::ObjectAccess::Write.into();
        let need = v1::ObjectNeed { name: name.to_owned(), access, bytes: bytes.len() as u64 };
        let mut tries = Tries::new("write it", self.objects.limits.patience);
        // Whether the object may be there by an earlier one of these tries.
        let mut may_be_stored = false;
        loop {
            let failure = match self.grant(&need).await {
                Err(failure) => failure,
                Ok(grant) => match tries.time(self.objects.put(&grant, bytes.clone())).await {
                    Ok(()) => {
                        self.note(None);
                        return Ok(());
                    }
                    Err(failure) => failure,
                },
            };
            // The run's name is drawn at random, so nobody else writes under it: it is this object.
            if may_be_stored && failure.status() == Some(StatusCode::PRECONDITION_FAILED) {
                self.note(None);
                return Ok(());
            }
            may_be_stored |= failure.is_unclear();
            self.note(Some(format!("{}: {failure}", tries.what)));
            tries.again(failure).await?;
        }
    }

    async fn get(&self, name: &str, limit: u64, into: &mut Vec<u8>) -> Result<(), EngineError> {
        let access = v1::ObjectAccess::Read.into();
        let need = v1::ObjectNeed { name: name.to_owned(), access, bytes: 0 };
        let mut tries = Tries::new("read it", self.objects.limits.patience);
        loop {
            let failure = match self.grant(&need).await {
                Err(failure) => failure,
                Ok(grant) => match tries.time(self.objects.get(&grant, limit, into)).await {
                    Ok(()) => {
                        self.note(None);
                        return Ok(());
                    }
                    Err(failure) => failure,
                },
            };
            self.note(Some(format!("{}: {failure}", tries.what)));
            tries.again(failure).await?;
        }
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The tries of one object that failed.
struct Tries {
    what: &'static str,
    patience: Duration,
    count: u32,
    /// How many of the last ones were refused, each with a grant of its own.
    refused: u32,
    /// How long they and the pauses between them took. Not how long a grant was waited for: a controller that is away
    /// is waited for as long as the job may take.
    failing: Duration,
    pauses: Backoff,
}

impl Tries {
    fn new(what: &'static str, patience: Duration) -> Self {
        Self {
            what,
            patience,
            count: 0,
            refused: 0,
            failing: Duration::ZERO,
            pauses: Backoff::new(rand::random::<u64>()),
        }
    }

    async fn time<T>(&mut self, attempt: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = attempt.await;
        self.failing += begun.elapsed();
        done
    }

    /// Pauses before the next try.
    ///
    /// # Errors
    /// There is none: the failure is final, or they have failed for too long.
    async fn again(&mut self, failure: Failure) -> Result<(), EngineError> {
        self.count += 1;
        if let Some(kind) = is_final(&failure) {
            return Err(EngineError::new(kind, format!("{}: {}", self.what, in_words(&failure))));
        }
        let is_refused = matches!(failure.status(), Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN));
        self.refused = if is_refused { self.refused + 1 } else { 0 };
        if self.refused >= REFUSALS {
            let text = format!("{}: {REFUSALS} grants in a row were refused, the last one: {failure}", self.what);
            return Err(EngineError::new(Kind::Fatal, text));
        }
        if self.failing >= self.patience {
            let (count, seconds) = (self.count, self.failing.as_secs());
            let text = format!("{}: {count} tries in {seconds} s failed, the last one: {failure}", self.what);
            return Err(EngineError::new(Kind::Transient, text));
        }
        if self.count == 1 {
            warn!("an object is tried again: {}: {failure}", self.what);
        }
        let pause = self.pauses.next_delay();
        self.failing += pause;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The kind of a failure that another try does not mend.
fn is_final(failure: &Failure) -> Option<Kind> {
    match failure {
        Failure::Unreached(_) | Failure::Unanswered(_) => None,
        Failure::Refused(error) => match error.kind() {
            v1::ErrorKind::Transient | v1::ErrorKind::Busy => None,
            v1::ErrorKind::Invalid => Some(Kind::Invalid),
            v1::ErrorKind::Gone => Some(Kind::Gone),
            // The job knows by itself that it is cancelled.
            v1::ErrorKind::Cancelled => Some(Kind::Transient),
            _ => Some(Kind::Fatal),
        },
        Failure::Answered(_, StatusCode::NOT_FOUND, _) => Some(Kind::Gone),
        Failure::Answered(_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::REQUEST_TIMEOUT, _) => None,
        // A conflict is what some storages call two requests for one object at a time, one of which was given up here.
        Failure::Answered(_, StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT, _) => None,
        // So S3 calls a body that came too slowly.
        Failure::Answered(_, StatusCode::BAD_REQUEST, words) if words == "RequestTimeout" => None,
        // Trying again fills nothing less: somebody must make room.
        Failure::Answered(_, StatusCode::INSUFFICIENT_STORAGE, _) => Some(Kind::Fatal),
        Failure::Answered(_, status, _) if status.is_server_error() => None,
        Failure::Larger(_) => Some(Kind::Invalid),
        Failure::Answered(..) | Failure::Unusable(_) => Some(Kind::Fatal),
    }
}

fn in_words(failure: &Failure) -> String {
    match failure.status() {
        Some(StatusCode::NOT_FOUND) => "it is not there".to_owned(),
        Some(StatusCode::INSUFFICIENT_STORAGE) => format!("the storage of backups is full ({failure})"),
        Some(StatusCode::PRECONDITION_FAILED) => format!("an object of this name is there already ({failure})"),
        _ => failure.to_string(),
    }
}

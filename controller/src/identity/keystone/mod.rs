//! Validates tokens at a real Keystone, with the service's own credentials, and caches the results.

mod cache;
mod client;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cache::{Cache, Key};
use client::{Client, Unavailable, Verdict};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::{Caller, unauthorized};
use crate::config;
use crate::error::{Error, Result};

/// How long an invalid token is refused without asking Keystone again.
const REFUSED: Duration = Duration::from_secs(10);
/// Greatest number of concurrent requests to Keystone.
const AT_ONCE: usize = 16;
/// Greatest number of tokens that are being validated or wait for it.
const WAITING: usize = 512;
/// `Retry-After` while Keystone is unavailable, seconds.
const RETRY_S: u64 = 5;

type Outcome = std::result::Result<Verdict, Unavailable>;

/// Validator of tokens.
pub(super) struct Keystone {
    client: Client,
    /// Time limit of one validation: waiting for a turn, login and request, and the last two once more.
    deadline: Duration,
    lifetime: Duration,
    turns: Semaphore,
    accepted: Cache<Verdict>,
    /// Invalid tokens. A cache of its own, so that a flood of invalid tokens does not evict valid ones.
    refused: Cache<()>,
    /// Validations in progress. Locked while the caches are read, so that no token is validated twice.
    asked: Mutex<HashMap<Key, Shared<BoxFuture<'static, Outcome>>>>,
}

impl Keystone {
    /// Logs in in the background, since Keystone may come up later than this service.
    ///
    /// # Errors
    /// 400 if a file of the section is wrong.
    pub(super) fn new(settings: &config::Keystone) -> Result<Arc<Self>> {
        let size = settings.cache_size;
        let this = Arc::new(Self {
            client: Client::new(settings)?,
            deadline: settings.timeout * 2,
            lifetime: settings.cache_lifetime,
            turns: Semaphore::new(AT_ONCE),
            accepted: cache::of(size),
            refused: cache::of(size),
            asked: Mutex::default(),
        });
        let greeter = this.clone();
        tokio::spawn(async move { greeter.client.greet().await });
        Ok(this)
    }

    /// The caller whose token this is, usually from the cache. The policy decides later whether the caller is an
    /// administrator.
    ///
    /// # Errors
    /// 401; 403 for a token without a project; 503 if Keystone cannot be asked.
    pub(super) async fn validate(self: &Arc<Self>, token: &str) -> Result<Caller> {
        match self.verdict(token).await? {
            Verdict::Valid(bearer) => {
                Ok(Caller { user_id: bearer.user_id, project: bearer.project, roles: bearer.roles, admin: false })
            }
            Verdict::Unscoped => {
                Err(Error::Forbidden("The token is not for a project. Log in with a project.".to_owned()))
            }
            Verdict::Invalid => Err(unauthorized()),
        }
    }

    async fn verdict(self: &Arc<Self>, token: &str) -> Result<Verdict> {
        if token.is_empty() {
            return Ok(Verdict::Invalid);
        }
        let key: Key = Sha256::digest(token.as_bytes()).into();
        let asked = {
            let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((verdict, _)) = self.accepted.get(&key) {
                return Ok(verdict);
            }
            if self.refused.contains_key(&key) {
                return Ok(Verdict::Invalid);
            }
            match all.get(&key) {
                Some(asked) => asked.clone(),
                None if all.len() >= WAITING => {
                    return Err(unavailable("Too many new tokens are being checked at Keystone.", 1));
                }
                None => {
                    let asked = self.ask(key, token.to_owned());
                    all.insert(key, asked.clone());
                    asked
                }
            }
        };
        let outcome = asked.await;
        if outcome.is_err() {
            // A task that panicked has not removed its entry.
            let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if all.get(&key).is_some_and(|asked| asked.peek().is_some()) {
                all.remove(&key);
            }
        }
        outcome.map_err(|_| unavailable("Keystone, which knows who you are, cannot be asked at present.", RETRY_S))
    }

    /// Validates a token in a task that all callers with this token share. It goes on if they stop waiting.
    fn ask(self: &Arc<Self>, key: Key, token: String) -> Shared<BoxFuture<'static, Outcome>> {
        let this = self.clone();
        let task = tokio::spawn(async move {
            let question = async {
                let turn = this.turns.acquire().await;
                let _turn = turn.map_err(|_| Unavailable("the service ends".to_owned()))?;
                this.client.validate(&token).await
            };
            let late = |_| Err(Unavailable(format!("Keystone did not answer within {:?}", this.deadline)));
            let found = tokio::time::timeout(this.deadline, question).await.unwrap_or_else(late);
            if let Err(error) = &found {
                tracing::error!(error = %error, "a token cannot be checked");
            }
            this.learn(key, found)
        });
        let ended = |ended: std::result::Result<Outcome, _>| {
            ended.unwrap_or_else(|_| Err(Unavailable("the question was cut off".to_owned())))
        };
        task.map(ended).boxed().shared()
    }

    fn learn(&self, key: Key, found: std::result::Result<(Verdict, Instant), Unavailable>) -> Outcome {
        let now = Instant::now();
        let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&key);
        let (verdict, end) = found?;
        if verdict == Verdict::Invalid {
            self.refused.insert(key, ((), now + self.lifetime.min(REFUSED)));
        } else {
            self.accepted.insert(key, (verdict.clone(), end.min(now + self.lifetime)));
        }
        Ok(verdict)
    }
}

fn unavailable(message: &str, retry_after_s: u64) -> Error {
    Error::Unavailable { message: format!("{message} Try again."), retry_after_s }
}

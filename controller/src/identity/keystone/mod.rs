//! Tokens of a real Keystone: asked with the service's own credentials, and believed for a while.

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

/// A token that Keystone does not know is refused without asking for at most this time.
const REFUSED: Duration = Duration::from_secs(10);
/// Questions that Keystone gets at once.
const AT_ONCE: usize = 16;
/// Tokens that are asked about or wait for it at most.
const WAITING: usize = 512;
/// When to try again while Keystone is not there.
const RETRY_S: u64 = 5;

type Outcome = std::result::Result<Verdict, Unavailable>;

/// The tokens of one Keystone.
pub(super) struct Keystone {
    client: Client,
    /// For everything that one token needs: a turn, a login, a question, and both again.
    deadline: Duration,
    lifetime: Duration,
    turns: Semaphore,
    accepted: Cache<Verdict>,
    /// Apart, so that a flood of made-up tokens drives out no real one.
    refused: Cache<()>,
    /// Those that are being asked about. Whoever looks into the others holds this, so that none is asked about that is known.
    asked: Mutex<HashMap<Key, Shared<BoxFuture<'static, Outcome>>>>,
}

impl Keystone {
    /// Asks in the background whether this service can log in: a Keystone that is away may come up later.
    ///
    /// # Errors
    /// 400: a file of the section is wrong.
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

    /// The caller that a token stands for; its admin context is the policy's to say. Usually nothing is asked.
    ///
    /// # Errors
    /// 401, 403 for a token without a project, 503 when Keystone cannot be asked.
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
            // A question that panicked has not taken itself off.
            let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if all.get(&key).is_some_and(|asked| asked.peek().is_some()) {
                all.remove(&key);
            }
        }
        outcome.map_err(|_| unavailable("Keystone, which knows who you are, cannot be asked at present.", RETRY_S))
    }

    /// Asks once for all who wait, and to the end, whether they go on waiting or not.
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

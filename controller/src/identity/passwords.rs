//! Passwords: argon2id, on threads of their own, few at once, and slower after failures.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// Each takes 19 MiB and a core for a while.
const AT_ONCE: usize = 2;
/// Wrong passwords in a row before a user has to wait.
const FAILURES: u32 = 10;
/// Logins that wait for their turn at most.
const WAITING: usize = 64;
/// How long.
const PAUSE: Duration = Duration::from_secs(30);
/// Users whose failures are remembered at most.
const REMEMBERED: usize = 1000;

pub(super) struct Passwords {
    turns: Semaphore,
    /// Those who have a turn or wait for one.
    places: Semaphore,
    /// What an unknown user's password is compared with, so that it takes the same time.
    nobody: String,
    failures: Mutex<HashMap<String, (u32, Instant)>>,
}

pub(super) fn hash(password: &str) -> Result<String> {
    let hashed = Argon2::default().hash_password(password.as_bytes());
    let failed = |error| Error::Internal { attempt: format!("hash a password: {error}"), source: None };
    hashed.map(|hash| hash.to_string()).map_err(failed)
}

/// Whether the password is the one of the hash. Takes a core for a while.
pub(super) fn matches(hash: &str, password: &str) -> bool {
    let parsed = PasswordHash::new(hash);
    parsed.is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

impl Passwords {
    pub(super) fn new() -> Result<Self> {
        let nobody = hash("nobody has this password")?;
        Ok(Self {
            turns: Semaphore::new(AT_ONCE),
            places: Semaphore::new(AT_ONCE + WAITING),
            nobody,
            failures: Mutex::default(),
        })
    }

    /// Whether the password is the one of the hash; `None` (an unknown user) never is.
    pub(super) async fn verify(&self, user: &str, hash: Option<String>, password: SecretString) -> Result<bool> {
        self.admit(user)?;
        let full = |_| Error::Unavailable {
            message: "Too many log in at once. Try again in a second.".to_owned(),
            retry_after_s: 1,
        };
        let _place = self.places.try_acquire().map_err(full)?;
        let turn = self.turns.acquire().await.map_err(|error| Error::internal("check a password", error))?;
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        let check = tokio::task::spawn_blocking(move || matches(&hash, password.expose_secret()));
        let right = check.await.map_err(|error| Error::internal("check a password", error))? && known;
        drop(turn);
        self.remember(user, right);
        Ok(right)
    }

    fn admit(&self, user: &str) -> Result<()> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.get(user) {
            Some((count, since)) if *count >= FAILURES && since.elapsed() < PAUSE => Err(Error::OverLimit {
                message: "Too many wrong passwords. Wait before the next try.".to_owned(),
                retry_after_s: Some((PAUSE - since.elapsed()).as_secs() + 1),
            }),
            _ => Ok(()),
        }
    }

    fn remember(&self, user: &str, right: bool) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if right {
            failures.remove(user);
            return;
        }
        if failures.len() >= REMEMBERED {
            failures.retain(|_, (_, since)| since.elapsed() < PAUSE);
        }
        if failures.len() < REMEMBERED {
            let entry = failures.entry(user.to_owned()).or_insert((0, Instant::now()));
            *entry = (entry.0 + 1, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_right() {
        let passwords = Passwords::new().unwrap();
        let hash = hash("sesame").unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(passwords.verify("a", Some(hash.clone()), "sesame".into()).await.unwrap());
        assert!(!passwords.verify("a", Some(hash), "sesam".into()).await.unwrap());
        assert!(!passwords.verify("b", None, "nobody has this password".into()).await.unwrap());
    }

    #[tokio::test]
    async fn no_more_wait_than_there_is_room_for() {
        let passwords = Passwords::new().unwrap();
        let many = (0..AT_ONCE + WAITING + 3).map(|_| passwords.verify("a", None, "x".into()));
        let ends = futures::future::join_all(many).await;
        let refused = ends.iter().filter(|end| matches!(end, Err(Error::Unavailable { retry_after_s: 1, .. })));
        assert_eq!(refused.count(), 3);
        assert!(passwords.verify("b", None, "x".into()).await.is_ok(), "there is room again");
    }

    #[tokio::test]
    async fn many_failures_make_a_user_wait() {
        let passwords = Passwords::new().unwrap();
        for _ in 0..FAILURES {
            passwords.remember("a", false);
        }
        assert!(matches!(passwords.verify("a", None, "x".into()).await, Err(Error::OverLimit { .. })));
        assert!(passwords.verify("b", None, "x".into()).await.is_ok());
    }
}

//! Checks passwords (argon2id) on separate threads. Sources take turns, and failures are limited ([`Failures`]).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::oneshot;

use super::failures::Failures;
use crate::connections::Source;
use crate::error::{Error, Result};

/// Number of threads. Each check takes 19 MiB and a core for tens of milliseconds.
const THREADS: usize = 2;
/// Greatest number of waiting logins of one source.
const WAITING_OF_SOURCE: usize = 64;
/// Greatest number of waiting logins. Above it, a login of the source with the most is refused.
const WAITING: usize = 1024;

pub(super) fn hash(password: &str) -> Result<String> {
    let hashed = Argon2::default().hash_password(password.as_bytes());
    let failed = |error| Error::Internal { attempt: format!("hash a password: {error}"), source: None };
    hashed.map(|hash| hash.to_string()).map_err(failed)
}

/// Whether the password has this hash. Takes a core for tens of milliseconds.
pub(super) fn matches(hash: &str, password: &str) -> bool {
    let parsed = PasswordHash::new(hash);
    parsed.is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// A login attempt.
pub(super) struct Attempt {
    pub(super) source: Source,
    /// Name of the account; for an unknown account, a string derived from the given name.
    pub(super) account: String,
    /// Hash that the password is checked against. For an unknown account it is another account's, so that the check
    /// takes the same time.
    pub(super) hash: String,
    pub(super) known: bool,
    pub(super) password: SecretString,
}

/// Checks passwords on threads that end when this is dropped.
pub(super) struct Passwords(Arc<Shared>);

struct Shared {
    turns: Mutex<Turns>,
    more: Condvar,
    failures: Mutex<Failures>,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A waiting attempt and where to send its result.
struct Waiting {
    attempt: Attempt,
    answer: oneshot::Sender<Result<bool>>,
}

/// A queue in which sources take turns, so that a source with many logins delays only its own.
#[derive(Default)]
struct Turns {
    waiting: HashMap<Source, VecDeque<Waiting>>,
    order: VecDeque<Source>,
    count: usize,
    ended: bool,
}

fn full() -> Error {
    Error::Unavailable { message: "Too many log in at once. Try again in a second.".to_owned(), retry_after_s: 1 }
}

impl Turns {
    fn push(&mut self, next: Waiting) -> Result<()> {
        let source = next.attempt.source;
        if self.waiting.get(&source).is_some_and(|waiting| waiting.len() >= WAITING_OF_SOURCE) {
            return Err(full());
        }
        if self.count >= WAITING
            && let Some(longest) = self.waiting.values_mut().max_by_key(|waiting| waiting.len())
            && longest.len() > 1
        {
            // Its waiter gets the error "too many log in", since the sender is dropped.
            longest.pop_back();
            self.count -= 1;
        }
        let waiting = self.waiting.entry(source).or_default();
        if waiting.is_empty() {
            self.order.push_back(source);
        }
        waiting.push_back(next);
        self.count += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<Waiting> {
        let source = self.order.pop_front()?;
        let waiting = self.waiting.get_mut(&source)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&source);
        } else {
            self.order.push_back(source);
        }
        self.count -= usize::from(next.is_some());
        next
    }
}

impl Shared {
    /// Waits for the next attempt; `None` when the threads must end.
    fn next(&self) -> Option<Waiting> {
        let mut turns = hold(&self.turns);
        loop {
            if turns.ended {
                return None;
            }
            if let Some(next) = turns.pop() {
                return Some(next);
            }
            turns = self.more.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        while let Some(Waiting { attempt, answer }) = self.next() {
            if !answer.is_closed() {
                // The waiter may be gone.
                let _ = answer.send(self.check(&attempt));
            }
        }
    }

    fn check(&self, attempt: &Attempt) -> Result<bool> {
        // Check again: other attempts of the source may have failed while this one waited.
        hold(&self.failures).admit(attempt.source, &attempt.account, Instant::now())?;
        let right = matches(&attempt.hash, attempt.password.expose_secret()) && attempt.known;
        hold(&self.failures).remember(attempt.source, &attempt.account, right, Instant::now());
        Ok(right)
    }
}

impl Passwords {
    pub(super) fn new() -> Result<Self> {
        let shared = Arc::new(Shared { turns: Mutex::default(), more: Condvar::new(), failures: Mutex::default() });
        let passwords = Self(shared);
        for _ in 0..THREADS {
            let shared = passwords.0.clone();
            let thread = std::thread::Builder::new().name("passwords".to_owned());
            thread
                .spawn(move || shared.work())
                .map_err(|error| Error::internal("start a thread for passwords", error))?;
        }
        Ok(passwords)
    }

    /// Whether the password is right. For an unknown account always `false`.
    pub(super) async fn verify(&self, attempt: Attempt) -> Result<bool> {
        hold(&self.0.failures).admit(attempt.source, &attempt.account, Instant::now())?;
        let (answer, answered) = oneshot::channel();
        hold(&self.0.turns).push(Waiting { attempt, answer })?;
        self.0.more.notify_one();
        answered.await.unwrap_or_else(|_| Err(full()))
    }
}

impl Drop for Passwords {
    fn drop(&mut self) {
        hold(&self.0.turns).ended = true;
        self.0.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(last: u8, hash: &str, password: &str) -> Attempt {
        let source = Source::of([127, 0, 0, last].into());
        Attempt { source, account: "a".into(), hash: hash.into(), known: true, password: password.into() }
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_right() {
        let passwords = Passwords::new().unwrap();
        let hash = hash("sesame").unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(passwords.verify(attempt(1, &hash, "sesame")).await.unwrap());
        assert!(!passwords.verify(attempt(1, &hash, "sesam")).await.unwrap());
        let unknown = Attempt { known: false, ..attempt(1, &hash, "sesame") };
        assert!(!passwords.verify(unknown).await.unwrap());
    }

    #[tokio::test]
    async fn many_from_one_source_wait_behind_themselves() {
        let passwords = Passwords::new().unwrap();
        let hash = hash("sesame").unwrap();
        // A different account each time, since one account would be refused after some attempts.
        let flood = (0..WAITING_OF_SOURCE + THREADS + 5)
            .map(|n| passwords.verify(Attempt { account: format!("a{n}"), ..attempt(1, &hash, "open") }));
        let owner = async {
            let right = passwords.verify(attempt(2, &hash, "sesame")).await.unwrap();
            (right, hold(&passwords.0.turns).count)
        };
        let (ends, (right, left)) = futures::future::join(futures::future::join_all(flood), owner).await;
        assert!(right && left > WAITING_OF_SOURCE / 2, "{left} of the flood were left when the owner was in");
        let refused = ends.iter().filter(|end| matches!(end, Err(Error::Unavailable { retry_after_s: 1, .. }))).count();
        assert!((5..=5 + THREADS).contains(&refused), "{refused}");
    }

    #[test]
    fn sources_take_turns_and_the_longest_queue_gives_way() {
        let mut turns = Turns::default();
        let mut told = Vec::new();
        let mut push = |turns: &mut Turns, last| {
            let (answer, answered) = oneshot::channel();
            told.push((last, answered));
            turns.push(Waiting { attempt: attempt(last, "", ""), answer }).is_ok()
        };
        for _ in 0..3 {
            assert!(push(&mut turns, 1));
        }
        assert!(push(&mut turns, 2) && push(&mut turns, 3));
        let next = std::iter::from_fn(|| turns.pop()).map(|next| next.attempt.source).collect::<Vec<_>>();
        let expected = [1, 2, 3, 1, 1].map(|last| attempt(last, "", "").source);
        assert_eq!(next, expected);
        assert!(turns.waiting.is_empty() && turns.order.is_empty() && turns.count == 0);
        for n in 0..WAITING {
            assert!(push(&mut turns, u8::try_from(n / WAITING_OF_SOURCE).unwrap()));
        }
        assert!(!push(&mut turns, 1), "its own queue is full");
        assert!(push(&mut turns, 200), "another's gives way");
        assert_eq!(turns.count, WAITING);
    }
}

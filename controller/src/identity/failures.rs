//! Limits wrong passwords, per source and per source and account. A source without wrong passwords is never refused, so
//! nobody can lock the owner out by guessing at his account.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::connections::Source;
use crate::error::{Error, Result};

/// A token bucket: `times` wrong passwords at once, and one more each `every`.
struct Allowance {
    times: u32,
    every: Duration,
}

/// For one source and one account.
const PAIR: Allowance = Allowance { times: 10, every: Duration::from_secs(3) };
/// For one source and one account, while the account is attacked.
const ATTACKED: Allowance = Allowance { times: 3, every: PAIR.every };
/// For one source, all accounts together.
const SOURCE: Allowance = Allowance { times: 60, every: Duration::from_secs(1) };
/// For one account, all sources together. An account that exceeds it counts as attacked.
const ACCOUNT: Allowance = Allowance { times: 100, every: Duration::from_millis(600) };
/// With more entries than this, expired ones are removed. The rest is bounded by the number of passwords that can be
/// checked in a minute.
const MANY: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Of {
    Source(Source),
    Account(String),
    Pair(Source, String),
}

/// For each bucket that is not full, the time at which it will be.
#[derive(Default)]
pub(super) struct Failures(HashMap<Of, Instant>);

impl Failures {
    /// How long until the bucket allows another wrong password.
    fn wait(&self, of: &Of, allowance: &Allowance, now: Instant) -> Duration {
        let owed = self.0.get(of).map_or(Duration::ZERO, |whole| whole.saturating_duration_since(now));
        (owed + allowance.every).saturating_sub(allowance.every * allowance.times)
    }

    /// Checks whether the source may try the account now.
    ///
    /// # Errors
    /// 413 with `Retry-After`.
    pub(super) fn admit(&self, source: Source, account: &str, now: Instant) -> Result<()> {
        let attacked = !self.wait(&Of::Account(account.to_owned()), &ACCOUNT, now).is_zero();
        let pair = if attacked { &ATTACKED } else { &PAIR };
        let of_pair = self.wait(&Of::Pair(source, account.to_owned()), pair, now);
        let wait = of_pair.max(self.wait(&Of::Source(source), &SOURCE, now));
        if wait.is_zero() {
            return Ok(());
        }
        let message = "Too many wrong passwords. Wait before the next try.".to_owned();
        Err(Error::OverLimit { message, retry_after_s: Some(wait.as_secs() + 1) })
    }

    /// Records the result of an attempt.
    pub(super) fn remember(&mut self, source: Source, account: &str, right: bool, now: Instant) {
        let pair = Of::Pair(source, account.to_owned());
        if right {
            self.0.remove(&pair);
            return;
        }
        if self.0.len() > MANY {
            self.0.retain(|_, whole| *whole > now);
        }
        for (of, allowance) in [(pair, PAIR), (Of::Source(source), SOURCE), (Of::Account(account.to_owned()), ACCOUNT)]
        {
            let whole = self.0.entry(of).or_insert(now);
            *whole = (*whole).max(now) + allowance.every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of([127, 0, 0, last].into())
    }

    fn wait(failures: &Failures, last: u8, account: &str, now: Instant) -> Option<u64> {
        failures.admit(source(last), account, now).err().and_then(|error| error.retry_after_s())
    }

    #[test]
    fn ten_wrong_ones_close_an_account_to_their_source_alone() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for _ in 0..PAIR.times {
            assert_eq!(wait(&failures, 1, "ann", now), None);
            failures.remember(source(1), "ann", false, now);
        }
        assert_eq!(wait(&failures, 1, "ann", now), Some(4));
        assert_eq!(wait(&failures, 2, "ann", now), None, "her own source is quiet");
        assert_eq!(wait(&failures, 1, "ben", now), None);
        let later = now + PAIR.every;
        assert_eq!(wait(&failures, 1, "ann", later), None, "one more");
        failures.remember(source(1), "ann", true, later);
        assert!(!failures.0.contains_key(&Of::Pair(source(1), "ann".to_owned())));
    }

    #[test]
    fn an_account_that_all_guess_at_is_open_to_quiet_sources() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for n in 0..ACCOUNT.times {
            failures.remember(source(u8::try_from(n % 50).unwrap()), "ann", false, now);
        }
        assert_eq!(wait(&failures, 200, "ann", now), None);
        for _ in 0..ATTACKED.times {
            failures.remember(source(200), "ann", false, now);
        }
        assert!(wait(&failures, 200, "ann", now).is_some());
    }

    #[test]
    fn a_source_that_guesses_at_many_accounts_has_to_wait() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for n in 0..SOURCE.times {
            failures.remember(source(1), &format!("a{n}"), false, now);
        }
        assert_eq!(wait(&failures, 1, "ann", now), Some(2));
        assert_eq!(wait(&failures, 1, "ann", now + Duration::from_secs(1)), None);
    }
}

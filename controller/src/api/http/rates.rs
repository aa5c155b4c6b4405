//! How often a project may ask: so many requests a minute of each kind, counted by each controller alone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::Method;

use crate::config::RateLimits;
use crate::error::{Error, Result};
use crate::ids::ProjectId;

const MINUTE: Duration = Duration::from_secs(60);
/// Above so many counts, those of projects that have not asked for a minute are forgotten.
const MANY: usize = 10_000;

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::api) enum Kind {
    Post,
    Put,
    Delete,
    Get,
    /// POST below `/mgmt`.
    MgmtPost,
}

impl Kind {
    /// In Trove's order.
    pub(in crate::api) const ALL: [Self; 5] = [Self::Post, Self::Put, Self::Delete, Self::Get, Self::MgmtPost];

    /// The kind of a request by its path below the project; PATCH and the rest are not limited.
    pub(in crate::api) fn of(method: &Method, path: &str) -> Option<Self> {
        let management = path.starts_with("/mgmt/");
        match *method {
            Method::POST if management => Some(Self::MgmtPost),
            Method::POST => Some(Self::Post),
            Method::PUT => Some(Self::Put),
            Method::DELETE => Some(Self::Delete),
            // A HEAD costs what its GET does.
            Method::GET | Method::HEAD => Some(Self::Get),
            _ => None,
        }
    }

    /// Verb, URI and pattern, as Trove shows them.
    pub(in crate::api) fn shown(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Post => ("POST", "*", ".*"),
            Self::Put => ("PUT", "*", ".*"),
            Self::Delete => ("DELETE", "*", ".*"),
            Self::Get => ("GET", "*", ".*"),
            Self::MgmtPost => ("POST", "*/mgmt", "^/mgmt"),
        }
    }
}

/// What a project has left of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) struct Left {
    /// Requests a minute.
    pub(in crate::api) value: u32,
    /// Requests that may come at once.
    pub(in crate::api) remaining: u32,
    /// Until the next one may come.
    pub(in crate::api) wait: Duration,
}

/// The counts. For each project and kind the instant at which its allowance is whole again.
pub(in crate::api) struct Rates {
    limits: RateLimits,
    whole: Mutex<HashMap<(ProjectId, Kind), Instant>>,
}

impl Rates {
    pub(in crate::api) fn new(limits: RateLimits) -> Self {
        Self { limits, whole: Mutex::default() }
    }

    fn limit(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Post => self.limits.post,
            Kind::Put => self.limits.put,
            Kind::Delete => self.limits.delete,
            Kind::Get => self.limits.get,
            Kind::MgmtPost => self.limits.mgmt_post,
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// 413, with the seconds after which one may come.
    pub(in crate::api) fn take(&self, project: &ProjectId, kind: Kind, now: Instant) -> Result<()> {
        let value = self.limit(kind);
        if value == 0 {
            return Ok(());
        }
        let mut all = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > MANY {
            all.retain(|_, whole| *whole > now);
        }
        let whole = all.entry((project.clone(), kind)).or_insert(now);
        let next = (*whole).max(now) + MINUTE / value;
        let wait = (next - now).saturating_sub(MINUTE);
        if wait.is_zero() {
            *whole = next;
            return Ok(());
        }
        let (verb, uri, _) = kind.shown();
        let message =
            format!("This request was rate-limited: only {value} {verb} requests can be made to {uri} every minute.");
        Err(Error::OverLimit { message, retry_after_s: Some(wait.as_secs().saturating_add(1)) })
    }

    /// What is left; `None` where nothing is counted.
    pub(in crate::api) fn left(&self, project: &ProjectId, kind: Kind, now: Instant) -> Option<Left> {
        let value = self.limit(kind);
        if value == 0 {
            return None;
        }
        let all = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let owed =
            all.get(&(project.clone(), kind)).map_or(Duration::ZERO, |whole| whole.saturating_duration_since(now));
        let one = MINUTE / value;
        let free = MINUTE.saturating_sub(owed);
        let remaining = u32::try_from(free.as_nanos() / one.as_nanos().max(1)).unwrap_or(value).min(value);
        Some(Left { value, remaining, wait: one.saturating_sub(free) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        Rates::new(RateLimits { get: 6, post: 2, put: 0, delete: 200, mgmt_post: 1 })
    }

    #[test]
    fn an_allowance_is_used_up_and_comes_back_bit_by_bit() {
        let (rates, now) = (rates(), Instant::now());
        let (demo, other) = (ProjectId("demo".to_owned()), ProjectId("other".to_owned()));
        for n in 0..6 {
            assert_eq!(rates.left(&demo, Kind::Get, now).unwrap().remaining, 6 - n);
            rates.take(&demo, Kind::Get, now).unwrap();
        }
        let left = rates.left(&demo, Kind::Get, now).unwrap();
        assert_eq!((left.remaining, left.wait), (0, Duration::from_secs(10)));
        match rates.take(&demo, Kind::Get, now).unwrap_err() {
            Error::OverLimit { retry_after_s: Some(seconds), .. } => assert_eq!(seconds, 11),
            error => panic!("{error}"),
        }
        rates.take(&other, Kind::Get, now).unwrap();
        rates.take(&demo, Kind::Delete, now).unwrap();
        let later = now + Duration::from_secs(10);
        rates.take(&demo, Kind::Get, later).unwrap();
        assert!(rates.take(&demo, Kind::Get, later).is_err());
        assert_eq!(rates.left(&demo, Kind::Get, later + MINUTE).unwrap().remaining, 6);
    }

    #[test]
    fn zero_is_unlimited_and_kinds_are_told_apart() {
        let (rates, now) = (rates(), Instant::now());
        let demo = ProjectId("demo".to_owned());
        for _ in 0..1000 {
            rates.take(&demo, Kind::Put, now).unwrap();
        }
        assert_eq!(rates.left(&demo, Kind::Put, now), None);
        assert_eq!(Kind::of(&Method::POST, "/mgmt/instances/i/action"), Some(Kind::MgmtPost));
        assert_eq!(Kind::of(&Method::POST, "/instances"), Some(Kind::Post));
        assert_eq!(Kind::of(&Method::GET, "/mgmt/instances"), Some(Kind::Get));
        assert_eq!(Kind::of(&Method::HEAD, "/instances"), Some(Kind::Get));
        assert_eq!(Kind::of(&Method::PATCH, "/instances/i"), None);
    }
}

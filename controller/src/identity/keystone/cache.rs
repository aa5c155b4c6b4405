//! A cache of tokens, bounded in time and size.

use std::time::{Duration, Instant};

use moka::Expiry;
use moka::policy::EvictionPolicy;

/// SHA-256 of a token, so that the cache holds no tokens.
pub(super) type Key = [u8; 32];

/// Values with the time at which they expire.
pub(super) type Cache<V> = moka::sync::Cache<Key, (V, Instant)>;

struct UntilEnd;

impl<V> Expiry<Key, (V, Instant)> for UntilEnd {
    fn expire_after_create(&self, _: &Key, (_, end): &(V, Instant), now: Instant) -> Option<Duration> {
        Some(end.saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        key: &Key,
        fact: &(V, Instant),
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, fact, now)
    }
}

/// A cache of about `size` entries, which evicts the least recently used.
pub(super) fn of<V: Clone + Send + Sync + 'static>(size: usize) -> Cache<V> {
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    Cache::builder().max_capacity(size).eviction_policy(EvictionPolicy::lru()).expire_after(UntilEnd).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_end_and_are_bounded() {
        let cache = of(2);
        let (start, long) = (Instant::now(), Duration::from_secs(600));
        let known = |key: u8| cache.get(&[key; 32]).map(|(fact, _)| fact);
        cache.insert([1; 32], ("a", start + long));
        cache.insert([2; 32], ("b", start));
        assert_eq!((known(1), known(2)), (Some("a"), None), "what had ended is not known");
        cache.insert([2; 32], ("c", start + long));
        assert_eq!(known(2), Some("c"), "a new end counts");
        cache.insert([1; 32], ("d", start));
        assert_eq!(known(1), None, "an earlier one too");
        for key in 3..=6 {
            cache.insert([key; 32], ("e", start + long));
            cache.run_pending_tasks();
        }
        assert_eq!((3..=6).filter_map(known).count(), 2);
        assert_eq!((known(5), known(6)), (Some("e"), Some("e")), "the last two are there");
    }
}

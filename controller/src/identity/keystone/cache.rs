//! What is known of tokens, for a bounded time and of a bounded number.

use std::collections::HashMap;
use std::time::Instant;

/// A token by its sum, so that this memory holds none.
pub(super) type Key = [u8; 32];

/// Facts with their ends. When it is full, what would end first goes first.
pub(super) struct Cache<V> {
    entries: HashMap<Key, (Instant, V)>,
    size: usize,
}

impl<V: Clone> Cache<V> {
    /// Of at most `size` facts.
    pub(super) fn new(size: usize) -> Self {
        Self { entries: HashMap::new(), size }
    }

    /// The fact of a token, if it holds at this time.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<V> {
        match self.entries.get(key) {
            Some((end, value)) if *end > now => Some(value.clone()),
            Some(_) => {
                self.entries.remove(key);
                None
            }
            None => None,
        }
    }

    /// Keeps a fact until its end.
    pub(super) fn insert(&mut self, key: Key, value: V, end: Instant, now: Instant) {
        if self.entries.len() >= self.size && !self.entries.contains_key(&key) {
            self.entries.retain(|_, (end, _)| *end > now);
        }
        if self.entries.len() >= self.size && !self.entries.contains_key(&key) {
            let first = self.entries.iter().min_by_key(|(_, (end, _))| *end).map(|(key, _)| *key);
            first.and_then(|first| self.entries.remove(&first));
        }
        self.entries.insert(key, (end, value));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn facts_end_and_are_bounded() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut cache = Cache::new(2);
        cache.insert([1; 32], "a", at(10), at(0));
        cache.insert([2; 32], "b", at(5), at(0));
        assert_eq!((cache.get(&[1; 32], at(9)), cache.get(&[1; 32], at(10))), (Some("a"), None));
        cache.insert([1; 32], "a", at(20), at(0));
        cache.insert([3; 32], "c", at(30), at(1));
        assert_eq!(cache.entries.len(), 2);
        assert_eq!(cache.get(&[2; 32], at(1)), None, "the one that would end first went");
        cache.insert([3; 32], "d", at(40), at(1));
        assert_eq!((cache.get(&[1; 32], at(1)), cache.get(&[3; 32], at(1))), (Some("a"), Some("d")));
        cache.insert([4; 32], "e", at(50), at(25));
        assert_eq!((cache.get(&[3; 32], at(25)), cache.entries.len()), (Some("d"), 2), "what had ended went first");
    }
}

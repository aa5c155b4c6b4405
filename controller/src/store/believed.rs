//! What is asked with every order and changes a few times a year: datastores and manifests, believed for a moment.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;

/// How long another controller's change may stay unseen. This one's own is seen at once.
const BELIEVED: Duration = Duration::from_secs(2);

/// Answers of the store by what was asked. The clones share them.
#[derive(Debug)]
pub(super) struct Believed<K, V>(Arc<Mutex<Entries<K, V>>>);

#[derive(Debug)]
struct Entries<K, V> {
    known: HashMap<K, (Instant, V)>,
    /// How often all was forgotten: what was asked for before that is not believed after it.
    forgotten: u64,
}

impl<K, V> Clone for Believed<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Believed<K, V> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Entries { known: HashMap::new(), forgotten: 0 })))
    }
}

impl<K: Hash + Eq, V: Clone> Believed<K, V> {
    fn entries(&self) -> MutexGuard<'_, Entries<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is believed, or what `ask` answers, which is believed from then on.
    ///
    /// # Errors
    /// Those of `ask`.
    pub(super) async fn get(&self, key: K, ask: impl Future<Output = Result<V>>) -> Result<V> {
        let (asked, forgotten) = {
            let entries = self.entries();
            if let Some((since, value)) = entries.known.get(&key)
                && since.elapsed() < BELIEVED
            {
                return Ok(value.clone());
            }
            (Instant::now(), entries.forgotten)
        };
        let value = ask.await?;
        let mut entries = self.entries();
        if entries.forgotten == forgotten {
            entries.known.insert(key, (asked, value.clone()));
        }
        Ok(value)
    }

    /// Something has changed.
    pub(super) fn forget(&self) {
        let mut entries = self.entries();
        entries.known.clear();
        entries.forgotten += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_believed_for_a_moment_and_until_something_changes() {
        let believed = Believed::<u8, u8>::default();
        assert_eq!(believed.get(1, async { Ok(1) }).await.unwrap(), 1);
        assert_eq!(believed.get(1, async { Ok(2) }).await.unwrap(), 1);
        assert_eq!(believed.get(2, async { Ok(3) }).await.unwrap(), 3);
        tokio::time::advance(BELIEVED).await;
        assert_eq!(believed.get(1, async { Ok(4) }).await.unwrap(), 4);
        believed.forget();
        assert_eq!(believed.get(1, async { Ok(5) }).await.unwrap(), 5);
        let changing = believed.clone();
        let asking = async move {
            changing.forget();
            Ok(6)
        };
        assert_eq!(believed.get(2, asking).await.unwrap(), 6);
        assert_eq!(believed.get(2, async { Ok(7) }).await.unwrap(), 7, "asked for before the change");
    }
}

//! Counts the connections of each instance's agent, so that one cannot take all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::InstanceId;

/// Connections of one agent at a time. It works with one or two.
const LIMIT: usize = 4;

/// The connections that are open.
#[derive(Clone, Default)]
pub(super) struct Visits {
    open: Arc<Mutex<HashMap<InstanceId, usize>>>,
}

/// One connection. It counts until this is dropped.
pub(super) struct Visit {
    visits: Visits,
    instance: InstanceId,
}

impl Visits {
    /// Counts one more; `None` if there are enough.
    pub(super) fn admit(&self, instance: InstanceId) -> Option<Visit> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(instance).or_default();
        if *count >= LIMIT {
            return None;
        }
        *count += 1;
        Some(Visit { visits: self.clone(), instance })
    }
}

#[cfg(test)]
impl Visits {
    /// Connections that are open.
    pub(super) fn count(&self) -> usize {
        self.open.lock().unwrap().values().sum()
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut open = self.visits.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.instance) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.instance);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_four_connections_and_takes_none_of_anothers() {
        let visits = Visits::default();
        let (one, two) = (InstanceId::random(), InstanceId::random());
        let mut held: Vec<_> = (0..LIMIT).map(|_| visits.admit(one).unwrap()).collect();
        assert!(visits.admit(one).is_none());
        assert!(visits.admit(two).is_some());
        held.pop();
        assert!(visits.admit(one).is_some());
        held.clear();
        assert!(visits.open.lock().unwrap().is_empty());
    }
}

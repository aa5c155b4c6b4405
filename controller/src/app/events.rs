//! What changes in a project: the state of its instances and the steps of its operations, as it is now.
//!
//! Nothing is logged for those who may come: a watcher compares what there is with what it said last. So it says each state
//! that lasts, may leave out one that did not, and forgets nothing, however slow its reader. Operations are numbered at each
//! change (`change` counter of the store), by which a reader that comes back goes on where it was.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::App;
use crate::error::Result;
use crate::ids::{InstanceId, ProjectId};
use crate::model::Instance;
use crate::model::operations::ChangedOperation;

/// Time brings changes of its own: an agent that is silent for long makes its instance an error.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// What happens within this is told together.
const TOGETHER: Duration = Duration::from_millis(100);
/// Operations that are read at once.
const OPERATIONS: u32 = 100;

/// Something that is otherwise than it was said to be.
#[derive(Clone, Debug)]
pub enum Event {
    /// An instance, as it is now.
    Instance(Box<Instance>),
    /// An instance is gone.
    Deleted(InstanceId),
    /// An operation, as it is now.
    Operation(Box<ChangedOperation>),
}

/// What is compared of an instance: what its views show.
#[derive(PartialEq, Eq)]
struct Seen {
    name: String,
    status: (&'static str, &'static str),
    flavor: String,
    volume_gib: u64,
    address: Option<IpAddr>,
    fault: Option<String>,
}

impl Seen {
    fn of(instance: &Instance) -> Self {
        Self {
            name: instance.name.clone(),
            status: instance.status(),
            flavor: instance.flavor.id.clone(),
            volume_gib: instance.volume_gib,
            address: instance.address,
            fault: instance.shown_fault().map(|fault| fault.message),
        }
    }
}

/// Tells what changes, from the state of everything at first.
pub struct Watcher {
    app: App,
    project: Option<ProjectId>,
    /// Number of the last change of an operation that was told.
    cursor: Option<i64>,
    seen: HashMap<InstanceId, Seen>,
    changes: tokio::sync::watch::Receiver<u64>,
    nudges: tokio::sync::watch::Receiver<u64>,
    /// There is something already.
    at_once: bool,
}

impl App {
    /// Watches a project, or all of them. With `since`, the number of a change that was told before, operations that have
    /// changed after it are told too, ended ones among them; without it those that have not ended.
    pub fn watch(&self, project: Option<ProjectId>, since: Option<i64>) -> Watcher {
        Watcher {
            app: self.clone(),
            project,
            cursor: since,
            seen: HashMap::new(),
            changes: self.changes.subscribe(),
            nudges: self.runner.subscribe(),
            at_once: true,
        }
    }
}

impl Watcher {
    /// What is otherwise now; returns when there is something, or after 15 s with nothing.
    pub async fn next(&mut self) -> Result<Vec<Event>> {
        if !self.at_once {
            let wait = tokio::time::timeout(LOOK_AGAIN, async {
                // The senders live as long as the application.
                tokio::select! {
                    _ = self.changes.changed() => {}
                    _ = self.nudges.changed() => {}
                }
            });
            if wait.await.is_ok() {
                tokio::time::sleep(TOGETHER).await;
            }
        }
        self.changes.mark_unchanged();
        self.nudges.mark_unchanged();
        let mut events = Vec::new();
        // An instance that a reader sees ACTIVE has no step that it has not been told of: instances are read first, and told
        // last.
        let instances = self.app.store.present_instances(self.project.as_ref()).await?;
        self.at_once = self.look_at_operations(&mut events).await?;
        if !self.at_once {
            self.tell_instances(instances, &mut events);
        }
        Ok(events)
    }

    /// Whether there are more of them.
    async fn look_at_operations(&mut self, events: &mut Vec<Event>) -> Result<bool> {
        let store = &self.app.store;
        let changed = match self.cursor {
            Some(cursor) => store.changed_operations(self.project.as_ref(), cursor, OPERATIONS).await?,
            None => {
                // Drawn first: what changes between the two is told twice rather than never.
                self.cursor = Some(store.last_change().await?);
                store.active_operations(self.project.as_ref()).await?
            }
        };
        let more = changed.len() >= usize::try_from(OPERATIONS).unwrap_or(usize::MAX);
        self.cursor = self.cursor.max(changed.iter().map(|operation| operation.changed).max());
        events.extend(changed.into_iter().map(Box::new).map(Event::Operation));
        Ok(more)
    }

    fn tell_instances(&mut self, instances: Vec<Instance>, events: &mut Vec<Event>) {
        let there: HashSet<InstanceId> = instances.iter().map(|instance| instance.id).collect();
        let gone: Vec<InstanceId> = self.seen.keys().filter(|id| !there.contains(id)).copied().collect();
        for id in gone {
            self.seen.remove(&id);
            events.push(Event::Deleted(id));
        }
        for instance in instances {
            let instance = self.app.with_expiry(instance);
            let now = Seen::of(&instance);
            if self.seen.get(&instance.id) != Some(&now) {
                self.seen.insert(instance.id, now);
                events.push(Event::Instance(Box::new(instance)));
            }
        }
    }

    /// The number by which a reader goes on later.
    pub fn cursor(&self) -> i64 {
        self.cursor.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

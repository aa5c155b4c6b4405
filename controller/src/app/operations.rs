//! Operations of an instance or of a backup, as they are shown.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::App;
use super::backups::{is_of, no_backup};
use crate::error::Result;
use crate::identity::Caller;
use crate::ids::{BackupId, InstanceId};
pub use crate::model::operations::{Operation, Step};

/// The longest that an answer is held.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What operations are shown of.
#[derive(Clone, Copy)]
enum Of {
    Instance(InstanceId),
    Backup(BackupId),
}

impl App {
    /// Newest first, with the version of the answer. With `since` the answer is held until the version is another, or
    /// `wait_s` seconds are over (60 at most); an instance that is deleted meanwhile is answered once more.
    ///
    /// # Errors
    /// 404.
    pub async fn list_operations(
        &self,
        caller: &Caller,
        id: InstanceId,
        since: Option<String>,
        wait_s: u64,
    ) -> Result<(Vec<Operation>, String)> {
        self.get_instance(caller, id).await?;
        self.hold_operations(Of::Instance(id), since, wait_s).await
    }

    /// The operation that takes a backup and the last one that verifies it, as [`App::list_operations`].
    ///
    /// # Errors
    /// 404.
    pub async fn list_backup_operations(
        &self,
        caller: &Caller,
        id: BackupId,
        since: Option<String>,
        wait_s: u64,
    ) -> Result<(Vec<Operation>, String)> {
        let found = self.store.get_backup(id).await?;
        if !found.is_some_and(|found| is_of(caller, &found.project)) {
            return Err(no_backup(id));
        }
        self.hold_operations(Of::Backup(id), since, wait_s).await
    }

    async fn hold_operations(&self, of: Of, since: Option<String>, wait_s: u64) -> Result<(Vec<Operation>, String)> {
        let deadline = Instant::now() + Duration::from_secs(wait_s).min(LONGEST_WAIT);
        // Before the first look, so that no change falls between that and the wait.
        let mut changes = self.changes.subscribe();
        loop {
            let (operations, version) = match of {
                Of::Instance(id) => self.store.list_operations(id).await?,
                Of::Backup(id) => self.store.list_backup_operations(id).await?,
            };
            let version = version.to_string();
            if since.as_ref() != Some(&version) || Instant::now() >= deadline {
                return Ok((operations, version));
            }
            // At the deadline it is looked once more: another controller may have changed something.
            let _ = timeout_at(deadline, changes.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::operations::{NewOperation, Origin, delete_instance};
    use crate::testing::app::{caller, world};

    fn operation(id: InstanceId) -> NewOperation {
        let project = crate::ids::ProjectId("p".to_owned());
        delete_instance::new(Origin {
            targets: vec![id],
            project,
            request_id: "req".to_owned(),
            user_id: "u".to_owned(),
        })
    }

    #[tokio::test]
    async fn the_answer_is_held_until_something_changes() {
        let world = world().await;
        let id = world.fixture.insert("p").await;
        let (none, first) = world.app.list_operations(&caller("p"), id, None, 0).await.unwrap();
        assert!(none.is_empty());

        let app = world.app.clone();
        let since = Some(first.clone());
        let waiting = tokio::spawn(async move { app.list_operations(&caller("p"), id, since, 60).await });
        let mut tx = world.fixture.store.begin().await.unwrap();
        let queued = world.fixture.store.enqueue(&mut tx, operation(id)).await.unwrap();
        tx.commit().await.unwrap();
        world.app.changes.bump();
        let (operations, second) = waiting.await.unwrap().unwrap();
        assert_ne!(first, second);
        assert_eq!(operations[0].id, queued);
        assert_eq!((operations[0].kind.as_str(), operations[0].status.as_str()), ("delete_instance", "queued"));
        let steps: Vec<&str> = operations[0].steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(steps, ["stop_engine", "delete_host", "forget"]);
        assert!(operations[0].steps.iter().all(|step| step.status == "pending"));

        let begun = Instant::now();
        let (_, third) = world.app.list_operations(&caller("p"), id, Some(second.clone()), 1).await.unwrap();
        assert_eq!(third, second);
        assert!(begun.elapsed() >= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn another_projects_operations_are_not_found() {
        let world = world().await;
        let id = world.fixture.insert("p").await;
        let refused = world.app.list_operations(&caller("q"), id, None, 0).await;
        assert!(matches!(refused, Err(Error::NotFound(_))));
    }
}

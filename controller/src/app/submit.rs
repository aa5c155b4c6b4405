//! The end of every use case that changes something: its operation is written with it in one transaction, and the runner
//! is woken once that is committed.

use std::time::Duration;

use trove_strategy::failpoint;

use super::App;
use super::host_paths::without_host_paths;
use super::readiness::InstanceContext;
use super::visibility::not_found;
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::{InstanceId, OperationId, ProjectId};
use crate::operations::change_accounts::{self, AccountChange};
use crate::operations::{NewOperation, Origin};
use crate::state::Task;
use crate::store::sql::Transaction;

/// What an accepted change answers with.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The operation that carries it out, for the header `x-trove-operation-id`.
    pub operation: OperationId,
}

/// Who asks for an operation, and on what.
pub(super) fn origin(caller: &Caller, request_id: &str, instance: InstanceId, project: ProjectId) -> Origin {
    Origin { targets: vec![instance], project, request_id: request_id.to_owned(), user_id: caller.user_id.clone() }
}

impl App {
    /// Writes the operation and commits.
    pub(super) async fn submit(&self, mut tx: Transaction, operation: NewOperation) -> Result<Accepted> {
        let kind = operation.kind;
        let operation = self.store.enqueue(&mut tx, operation).await?;
        self.commit(tx, kind).await?;
        Ok(Accepted { operation })
    }

    /// Commits what concerns operations, and tells those who wait for that.
    pub(super) async fn commit(&self, tx: Transaction, kind: &str) -> Result<()> {
        let failed = |error| Error::internal(format!("order {kind}"), error);
        failpoint::pass(&format!("enqueue.{kind}.before_commit")).map_err(failed)?;
        tx.commit().await.map_err(|error| Error::internal(format!("commit {kind}"), error))?;
        self.changes.bump();
        self.runner.now();
        failpoint::pass(&format!("enqueue.{kind}.after_commit")).map_err(failed)
    }

    /// Queues changes of databases and accounts.
    pub(super) async fn queue(
        &self,
        caller: &Caller,
        request_id: &str,
        subject: &InstanceContext,
        changes: Vec<AccountChange>,
    ) -> Result<Accepted> {
        let instance = &subject.instance;
        let origin = origin(caller, request_id, instance.id, instance.project.clone());
        let operation = change_accounts::new(origin, changes)?;
        let mut tx = self.store.begin().await?;
        // It may have been deleted since it was read: the delete has ended what was queued, and nothing may follow.
        match self.store.task(&mut tx, instance.id).await? {
            None => Err(not_found(instance.id)),
            Some(Task::Deleting) => Err(Error::Unprocessable(format!("Instance {} is being deleted.", instance.id))),
            Some(_) => self.submit(tx, operation).await,
        }
    }

    /// Waits until what was accepted acts, for as long as an answer may take; what lasts longer goes on.
    ///
    /// # Errors
    /// 422: it failed, and why.
    pub async fn await_effect(&self, accepted: &Accepted) -> Result<()> {
        let operation = accepted.operation;
        match self.await_end(operation, self.config.api.answer_within).await {
            Ok(Some(Err(reason))) => Err(Error::Unprocessable(format!("Operation {operation} has failed: {reason}"))),
            Ok(Some(Ok(())) | None) => Ok(()),
            Err(error) => {
                // It is accepted all the same.
                tracing::warn!(error = crate::error::chain(&error), "the end of operation {operation} was not seen");
                Ok(())
            }
        }
    }

    /// Waits for the end of an operation: `Some(Err)` is why it failed, `None` that it has not ended within the limit.
    pub(super) async fn await_end(
        &self,
        operation: OperationId,
        limit: Duration,
    ) -> Result<Option<std::result::Result<(), String>>> {
        let mut changes = self.changes.subscribe();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(end) = self.store.operation_end(operation).await? {
                return Ok(Some(end.map_err(|reason| without_host_paths(&reason))));
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return Ok(None);
            }
        }
    }
}

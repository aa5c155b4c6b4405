//! Gives up instances that no tenant has ordered and nobody works with: scratch instances of verifications whose operation was
//! ended by something else than itself. They are marked deleted; the reconciler of hosts removes what is behind them.

use crate::error::{Error, Result};
use crate::operations::{RunnerContext, delete_instance};

/// Gives up once.
///
/// # Errors
/// Internal: the store failed.
pub async fn reconcile(context: &RunnerContext) -> Result<()> {
    let store = &context.store;
    for instance in store.list_orphans().await? {
        let mut tx = store.begin().await?;
        if store.is_busy(&mut tx, instance).await? {
            continue;
        }
        tracing::warn!(instance_id = %instance, "nobody works with the scratch instance {instance}; it is given up");
        delete_instance::deleted(store, &mut tx, instance).await?;
        store.end_orphaned_verifications(&mut tx, "The verification was given up.").await?;
        tx.commit().await.map_err(|error| Error::internal(format!("give up instance {instance}"), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Purpose;
    use crate::model::backups::VerificationState;
    use crate::model::operations::Lane;
    use crate::operations::verify_backup;
    use crate::store::instances::NewRow;
    use crate::testing::operations::Stage;

    #[tokio::test]
    async fn what_nobody_works_with_is_given_up_and_what_is_worked_with_is_not() {
        let stage = Stage::ordered().await;
        let (store, backup) = (&stage.context.store, stage.stored_backup().await);
        let row = NewRow { purpose: Some(Purpose::Verification), ..stage.fixture.new_row("p") };
        let mut tx = store.begin().await.unwrap();
        store.insert_instance(&mut tx, &row).await.unwrap();
        let mut origin = stage.origin();
        origin.targets = vec![row.id];
        let operation = store.enqueue(&mut tx, verify_backup::new(origin, backup.id).unwrap()).await.unwrap();
        store.begin_verification(&mut tx, &backup, operation).await.unwrap();
        tx.commit().await.unwrap();
        reconcile(&stage.context).await.unwrap();
        let state = async || store.get_backup(backup.id).await.unwrap().unwrap().verification.unwrap().state;
        assert_eq!(state().await, VerificationState::Running);
        assert!(store.get_instance(row.id).await.unwrap().unwrap().deleted.is_none());

        let mut tx = store.begin().await.unwrap();
        store.cancel_active(&mut tx, row.id, &[Lane::Lifecycle]).await.unwrap();
        tx.commit().await.unwrap();
        reconcile(&stage.context).await.unwrap();
        assert_eq!(state().await, VerificationState::Failed);
        assert!(store.get_instance(row.id).await.unwrap().unwrap().deleted.is_some());
        assert!(stage.row().await.deleted.is_none(), "a tenant's stays");
        reconcile(&stage.context).await.unwrap();
    }
}

//! An instance and a runner for its operations.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::agents::FakeAgents;
use super::hosts::FakeCompute;
use crate::authority::Authorities;
use crate::compute::Compute as _;
use crate::config::Config;
use crate::ids::{ConfigurationId, InstanceId, OperationId, ProjectId};
use crate::model::Instance;
use crate::model::backups::{Backup, StoredBackup};
use crate::model::operations::Operation;
use crate::operations::points::{Hook, Points};
use crate::operations::steps::{Operation as _, Registered};
use crate::operations::timing::Timing;
use crate::operations::{
    Changes, NewOperation, Nudge, Origin, Runner, RunnerContext, create_backup, create_instance, registry,
    restore_instance, verify_backup,
};
use crate::state::Task;
use crate::store::Store;
use crate::store::backups::NewRow as NewBackup;
use crate::store::configurations::NewRow as NewGroup;
use crate::testing::store::{Fixture, fixture};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Durations that are short enough for tests.
pub(crate) const QUICK: Timing = Timing {
    lease: Duration::from_secs(30),
    renew: Duration::from_secs(10),
    first_delay: Duration::from_millis(2),
    greatest_delay: Duration::from_millis(16),
    parked: Duration::from_millis(50),
    undo_deadline: Duration::from_secs(1),
    grace: Duration::from_secs(30),
};

/// An instance of project `p`, with a store, a fake agent and a fake driver.
pub(crate) struct Stage {
    pub(crate) fixture: Fixture,
    pub(crate) context: RunnerContext,
    pub(crate) agents: Arc<FakeAgents>,
    pub(crate) compute: Arc<FakeCompute>,
    pub(crate) instance: InstanceId,
}

/// A running runner. Dropping it is like killing its process.
pub(crate) struct Running {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
    store: Store,
}

impl Running {
    /// Stops it gracefully.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap();
    }

    /// Ends it like `kill -9`.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.is_err_and(|error| error.is_cancelled()));
        // The database may still process the last statement. Wait for that here; a real successor waits for the end of
        // the lease.
        drop(self.store.begin().await.unwrap());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    /// With an instance as a create request inserts it.
    pub(crate) async fn ordered() -> Self {
        let fixture = fixture().await;
        let agents = Arc::new(FakeAgents::storing_in(fixture.objects_directory()));
        let compute = Arc::new(FakeCompute::new(agents.clone()));
        let context = RunnerContext {
            store: fixture.store.clone(),
            agents: agents.clone(),
            compute: compute.clone(),
            authorities: Arc::new(Authorities::load(&fixture.store).await.unwrap()),
            config: Arc::new(Config::default()),
            objects: fixture.objects(),
            controller_id: "one".to_owned(),
            nudge: Nudge::default(),
            changes: Changes::default(),
        };
        let instance = fixture.insert("p").await;
        Self { fixture, context, agents, compute, instance }
    }

    /// With a created instance.
    pub(crate) async fn created() -> Self {
        let stage = Self::ordered().await;
        let operation = create_instance::new(stage.origin(), create_instance::Params::default()).unwrap();
        stage.complete(operation).await.unwrap();
        stage.agents.starts.lock().unwrap().clear();
        stage
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin {
            targets: vec![self.instance],
            project: ProjectId("p".to_owned()),
            request_id: "req-1".to_owned(),
            user_id: "user".to_owned(),
        }
    }

    /// Sets the task and enqueues the operation in one transaction, as a use case does.
    pub(crate) async fn submit(&self, operation: NewOperation) -> crate::error::Result<OperationId> {
        let task = match operation.kind {
            "restart_instance" => Some(Task::Restarting),
            "delete_instance" => Some(Task::Deleting),
            "reboot_instance" => Some(Task::Restarting),
            "resize_flavor" | "resize_volume" => Some(Task::Resizing),
            "upgrade_instance" => Some(Task::Upgrading),
            _ => None,
        };
        let mut tx = self.context.store.begin().await?;
        let backup = (operation.kind == create_backup::CreateBackup::KIND).then(|| operation.state.clone());
        let verified = (operation.kind == verify_backup::VerifyBackup::KIND).then(|| operation.state.clone());
        let id = self.context.store.enqueue(&mut tx, operation).await?;
        if let Some(params) = verified {
            let backup = serde_json::from_value::<restore_instance::Params>(params).unwrap().backup;
            let backup = self.context.store.backup(&mut tx, backup).await?.unwrap();
            self.context.store.begin_verification(&mut tx, &backup, id).await?;
        }
        if let Some(params) = backup {
            let backup = serde_json::from_value::<create_backup::Params>(params).unwrap().backup;
            let row = self.fixture.new_backup("p", self.instance, id);
            self.context.store.insert_backup(&mut tx, &NewBackup { id: backup, ..row }).await?;
        }
        if let Some(task) = task {
            self.context.store.set_task(&mut tx, self.instance, task).await?;
        }
        tx.commit().await.unwrap();
        self.context.nudge.now();
        Ok(id)
    }

    pub(crate) fn start(&self, hook: Option<Hook>) -> Running {
        self.start_as(self.context.clone(), registry(), QUICK, hook)
    }

    pub(crate) fn start_as(
        &self,
        context: RunnerContext,
        registry: Vec<Arc<dyn Registered>>,
        timing: Timing,
        hook: Option<Hook>,
    ) -> Running {
        let shutdown = CancellationToken::new();
        let store = context.store.clone();
        let runner = Runner::with(context, registry, timing, Points { hook });
        Running { task: tokio::spawn(runner.run(shutdown.clone())), shutdown, store }
    }

    /// Waits for the end of an operation.
    pub(crate) async fn end(&self, id: OperationId) -> Result<(), String> {
        let mut changes = self.context.changes.subscribe();
        let ended = async {
            loop {
                if let Some(end) = self.context.store.operation_end(id).await.unwrap() {
                    return end;
                }
                changes.changed().await.unwrap();
            }
        };
        let Ok(end) = tokio::time::timeout(LIMIT, ended).await else {
            panic!("operation {id} has not ended: {:#?}", self.operations().await)
        };
        end
    }

    /// Submits an operation and waits for its end.
    pub(crate) async fn complete(&self, operation: NewOperation) -> Result<(), String> {
        let running = self.start(None);
        let id = self.submit(operation).await.unwrap();
        let end = self.end(id).await;
        running.stop().await;
        end
    }

    /// Attaches a group of these values to the instance, or changes the values of the one that it has; `null` detaches it.
    pub(crate) async fn configure(&self, values: serde_json::Value) {
        let store = &self.context.store;
        let mut tx = store.begin().await.unwrap();
        let attached = self.row().await.configuration;
        match (values, attached) {
            (serde_json::Value::Null, _) => store.set_configuration(&mut tx, self.instance, None).await.unwrap(),
            (values, Some(group)) => {
                let mut group = store.configuration(&mut tx, group.id).await.unwrap().unwrap();
                group.values = serde_json::from_value(values).unwrap();
                store.change_configuration(&mut tx, &group).await.unwrap();
            }
            (values, None) => {
                let group = NewGroup {
                    id: ConfigurationId::random(),
                    project: ProjectId("p".to_owned()),
                    name: "group".to_owned(),
                    description: None,
                    version: self.fixture.version,
                    values: serde_json::from_value(values).unwrap(),
                };
                store.insert_configuration(&mut tx, &group).await.unwrap();
                store.set_configuration(&mut tx, self.instance, Some(group.id)).await.unwrap();
            }
        }
        tx.commit().await.unwrap();
    }

    /// Stops the host without the store's knowledge.
    pub(crate) async fn stop_host(&self) {
        let mut tx = self.context.store.begin().await.unwrap();
        let fence = self.context.store.draw_fence(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        self.compute.stop_host(self.instance, fence.unsigned_abs()).await.unwrap();
    }

    /// A complete backup of which there is only the row.
    pub(crate) async fn stored_backup(&self) -> Backup {
        let (store, row) = (&self.context.store, self.fixture.new_backup("p", self.instance, OperationId::random()));
        let stored = StoredBackup {
            run: "0123456789abcdef0123456789abcdef".to_owned(),
            manifest_sum: "00".to_owned(),
            data_bytes: 3,
            stored_bytes: 2,
            position: None,
            checkpoint: None,
            memory_bytes: None,
        };
        let mut tx = store.begin().await.unwrap();
        store.insert_backup(&mut tx, &row).await.unwrap();
        assert!(store.complete_backup(&mut tx, row.id, &stored).await.unwrap());
        tx.commit().await.unwrap();
        store.get_backup(row.id).await.unwrap().unwrap()
    }

    pub(crate) async fn row(&self) -> Instance {
        self.context.store.get_instance(self.instance).await.unwrap().unwrap()
    }

    pub(crate) async fn operations(&self) -> Vec<Operation> {
        self.context.store.list_operations(self.instance).await.unwrap().0
    }

    /// Asserts that nothing is left of the host, and no operation is active.
    pub(crate) async fn assert_nothing_left(&self) {
        assert!(self.compute.hosts.lock().unwrap().is_empty(), "a host is left");
        assert!(self.context.store.get_assignment(self.instance).await.unwrap().is_none(), "an assignment is left");
        assert!(self.context.store.get_agent(self.instance).await.unwrap().is_none(), "an agent is left");
        for table in ["enrolment_token", "agent_link"] {
            let count = self.context.store.number(&format!("select count(*) from {table}")).await;
            assert_eq!(count, 0, "{table}");
        }
        self.assert_settled().await;
    }

    /// Asserts that no operation is active, and that ended ones have no state, which could contain secrets.
    pub(crate) async fn assert_settled(&self) {
        let count = self
            .context
            .store
            .number(
                "select (select count(*) from operation where finished is null or state <> '{}') \
             + (select count(*) from operation_target where active or exclusive or state <> 'null')",
            )
            .await;
        assert_eq!(count, 0, "{:#?}", self.operations().await);
    }
}

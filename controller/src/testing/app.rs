//! Support for tests of the use cases: a real store, a fake agent and a fake driver.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;
use trove_proto::v1;

use super::store::{Fixture, fixture};
use crate::agents::{AgentError, AgentState, Agents, GrantObjects, JobOutcome, OnProgress};
use crate::app::App;
use crate::app::accounts::{NewDatabase, NewUser};
use crate::app::instances::NewInstance;
use crate::compute::{Compute, ComputeError, HostSpec, Placement};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::{InstanceId, OperationId, ProjectId};
use crate::model::{ArtifactKind, Requirements};
use crate::state::{HostState, Service, Task};
use crate::store::sql::query;

/// Tables that a refused create request must not change.
const TABLES: [&str; 8] = [
    "instance",
    "configuration",
    "backup",
    "backup_schedule",
    "usage",
    "operation",
    "operation_step",
    "operation_target",
];

/// An application with its own store.
pub(crate) struct World {
    pub(crate) app: App,
    pub(crate) fixture: Fixture,
    pub(crate) agent: Arc<FakeAgent>,
}

/// An application with a changed configuration.
pub(crate) async fn world_with(change: impl FnOnce(&mut Config)) -> World {
    let fixture = fixture().await;
    let mut config = Config::default();
    change(&mut config);
    let agent = Arc::new(FakeAgent::default());
    let app = App {
        store: fixture.store.clone(),
        agents: agent.clone(),
        compute: Arc::new(FakeHost(ArtifactKind::Local)),
        config: Arc::new(config),
        runner: crate::operations::Nudge::default(),
        changes: crate::operations::Changes::default(),
        registered: tokio::sync::watch::channel(true).1,
    };
    World { app, fixture, agent }
}

/// An application with the default configuration.
pub(crate) async fn world() -> World {
    world_with(|_| ()).await
}

/// A member of a project.
pub(crate) fn caller(project: &str) -> Caller {
    caller_with(project, "member")
}

/// An administrator, in a project of his own.
pub(crate) fn admin() -> Caller {
    caller_with("administration", "admin")
}

fn caller_with(project: &str, role: &str) -> Caller {
    Caller {
        user_id: format!("user-of-{project}"),
        project: ProjectId(project.to_owned()),
        roles: vec![role.to_owned()],
        admin: role == "admin",
    }
}

/// A minimal create request.
pub(crate) fn order() -> NewInstance {
    NewInstance {
        name: "test".to_owned(),
        flavor: "1".to_owned(),
        volume_gib: Some(1),
        datastore: None,
        version: None,
        version_number: None,
        configuration: None,
        backup: None,
        moment: None,
        databases: Vec::new(),
        users: Vec::new(),
        requirements: Requirements::default(),
        region: None,
        deletion_protection: false,
        may_have_root: true,
    }
}

pub(crate) fn database(name: &str) -> NewDatabase {
    NewDatabase { name: name.to_owned(), character_set: None, collation: None }
}

/// A new user with access to these databases.
pub(crate) fn user(name: &str, databases: &[&str]) -> NewUser {
    NewUser {
        name: name.to_owned(),
        host: "%".to_owned(),
        password: "a secret word".into(),
        databases: databases.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// The HTTP status of a result's error.
pub(crate) fn code<T>(result: &Result<T>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(Error::BadRequest(_)) => 400,
        Err(Error::Unauthorized(_)) => 401,
        Err(Error::Forbidden(_)) => 403,
        Err(Error::NotFound(_)) => 404,
        Err(Error::Conflict(_)) => 409,
        Err(Error::OverLimit { .. }) => 413,
        Err(Error::BadMediaType(_)) => 415,
        Err(Error::Unprocessable(_)) => 422,
        Err(Error::NotImplemented(_)) => 501,
        Err(Error::Unavailable { .. }) => 503,
        Err(Error::Internal { .. }) => 500,
    }
}

impl World {
    /// Inserts an instance that is active, healthy and connected, without operations.
    pub(crate) async fn healthy(&self, project: &str) -> InstanceId {
        let id = self.fixture.insert(project).await;
        self.set(id, Task::None, HostState::Active).await;
        self.says(id, Service::Healthy).await;
        self.run("insert into agent_link (instance_id, controller_id, connected_at) values ($1, 'c', 1)", id).await;
        id
    }

    /// Sets the state of an instance.
    pub(crate) async fn set(&self, id: InstanceId, task: Task, host: HostState) {
        let store = &self.app.store;
        let mut tx = store.begin().await.unwrap();
        store.set_task(&mut tx, id, task).await.unwrap();
        store.set_host(&mut tx, id, host).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Stores a report of the agent.
    pub(crate) async fn says(&self, id: InstanceId, service: Service) {
        let agent = query(
            "insert into agent (instance_id, service, service_detail, service_updated, engine_version, \
             volume_used_bytes, assignment_generation) values ($1, $2, '', 1, '15.18', 0, 1) \
             on conflict (instance_id) do update set service = excluded.service",
        );
        agent.bind(id.to_string()).bind(service.tag()).execute(&self.app.store.write).await.unwrap();
    }

    /// Runs a statement for an instance or an operation.
    pub(crate) async fn run(&self, sql: &'static str, id: impl ToString) {
        query(sql).bind(id.to_string()).execute(&self.app.store.write).await.unwrap();
    }

    /// Ends an operation, as the runner does.
    pub(crate) async fn end(&self, operation: OperationId, status: &'static str, error: Option<&'static str>) {
        let update = query("update operation set status = $2, error = $3, active = false where id = $1");
        let update = update.bind(operation.to_string()).bind(status).bind(error);
        update.execute(&self.app.store.write).await.unwrap();
        self.run("update operation_target set active = false, exclusive = false where operation_id = $1", operation)
            .await;
        self.app.changes.bump();
    }

    /// Kind, status and state of an operation.
    pub(crate) async fn operation(&self, id: OperationId) -> (String, String, String) {
        let query = query("select kind, status, state from operation where id = $1").bind(id.to_string());
        let row = query.fetch_one(&self.app.store.read).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    }

    /// Number of rows in each table, and use of quotas.
    pub(crate) async fn rows(&self) -> Vec<(&'static str, i64)> {
        let mut counts = Vec::new();
        for table in TABLES {
            let sql = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
            counts.push((table, query(sql).fetch_one(&self.app.store.read).await.unwrap().get(0)));
        }
        let used = query("select cast(coalesce(sum(in_use), 0) as bigint) from usage");
        counts.push(("in use", used.fetch_one(&self.app.store.read).await.unwrap().get(0)));
        counts
    }
}

/// An agent with given answers or errors.
#[derive(Default)]
pub(crate) struct FakeAgent {
    pub(crate) databases: Mutex<Vec<String>>,
    pub(crate) users: Mutex<Vec<v1::User>>,
    /// Answer to `check_size`.
    pub(crate) size_refusal: Mutex<Option<String>>,
    /// Parameters in force in its engine.
    pub(crate) parameters: Mutex<Vec<v1::ParameterValue>>,
    /// Error of each call, while it is set.
    pub(crate) error: Mutex<Option<fn() -> AgentError>>,
    pub(crate) calls: Mutex<u32>,
}

impl FakeAgent {
    /// Sets the agent's databases.
    pub(crate) fn has_databases(&self, names: &[&str]) {
        *self.databases.lock().unwrap() = names.iter().map(|name| (*name).to_owned()).collect();
    }

    /// Adds an account to the agent.
    pub(crate) fn has_user(&self, name: &str, host: &str, databases: &[&str]) {
        let databases = databases.iter().map(|name| (*name).to_owned()).collect();
        let account = Some(v1::Account { name: name.to_owned(), host: host.to_owned() });
        self.users.lock().unwrap().push(v1::User { account, databases });
    }

    fn call(&self) -> std::result::Result<(), AgentError> {
        *self.calls.lock().unwrap() += 1;
        match *self.error.lock().unwrap() {
            Some(error) => Err(error()),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Agents for FakeAgent {
    fn state(&self, _: InstanceId) -> watch::Receiver<AgentState> {
        unreachable!("use cases read what the agent said from the store")
    }
    async fn run(
        &self,
        _: InstanceId,
        _: v1::Start,
        _: OnProgress<'_>,
        _: &dyn GrantObjects,
    ) -> std::result::Result<JobOutcome, AgentError> {
        unreachable!("use cases start no jobs")
    }
    fn cancel(&self, _: InstanceId, _: OperationId) {
        unreachable!("use cases start no jobs")
    }
    async fn assign(&self, _: InstanceId, _: v1::AssignRequest) -> std::result::Result<v1::AssignReply, AgentError> {
        unreachable!("use cases assign nothing")
    }
    async fn check_parameters(
        &self,
        _: InstanceId,
        _: BTreeMap<String, String>,
    ) -> std::result::Result<Option<String>, AgentError> {
        unreachable!("a step's work")
    }
    async fn list_parameters(&self, _: InstanceId) -> std::result::Result<Vec<v1::ParameterValue>, AgentError> {
        self.call()?;
        Ok(self.parameters.lock().unwrap().clone())
    }
    async fn list_databases(&self, _: InstanceId) -> std::result::Result<Vec<v1::Database>, AgentError> {
        self.call()?;
        let names = self.databases.lock().unwrap().clone();
        let database = |name| v1::Database { name, character_set: None, collation: None };
        Ok(names.into_iter().map(database).collect())
    }
    async fn list_users(&self, _: InstanceId) -> std::result::Result<Vec<v1::User>, AgentError> {
        self.call()?;
        Ok(self.users.lock().unwrap().clone())
    }
    async fn get_user(&self, _: InstanceId, account: v1::Account) -> std::result::Result<Option<v1::User>, AgentError> {
        self.call()?;
        Ok(self.users.lock().unwrap().iter().find(|user| user.account.as_ref() == Some(&account)).cloned())
    }
    async fn check_size(&self, _: InstanceId, _: u64, _: u32) -> std::result::Result<Option<String>, AgentError> {
        self.call()?;
        Ok(self.size_refusal.lock().unwrap().clone())
    }
    async fn ping(&self, _: InstanceId) -> std::result::Result<(), AgentError> {
        self.call()
    }
    async fn diagnose(&self, _: InstanceId) -> std::result::Result<v1::GetDiagnosticsReply, AgentError> {
        self.call()?;
        Ok(v1::GetDiagnosticsReply { version: "1.2.3".to_owned(), threads: 4, ..v1::GetDiagnosticsReply::default() })
    }
    fn forget(&self, _: InstanceId) {}
}

/// A driver without hosts, which would run these.
pub(crate) struct FakeHost(pub(crate) ArtifactKind);

#[async_trait]
impl Compute for FakeHost {
    fn artifacts(&self) -> ArtifactKind {
        self.0
    }
    fn check_order(&self, requirements: &Requirements) -> std::result::Result<(), String> {
        match &requirements.volume_type {
            Some(unknown) if unknown != "ssd" => Err(format!("volume.type {unknown} is unknown; there is ssd.")),
            _ => Ok(()),
        }
    }
    async fn choose_address(&self, _: InstanceId, _: &ProjectId, _: u16) -> std::result::Result<IpAddr, ComputeError> {
        unreachable!("a step's work")
    }
    fn separates_tenants(&self) -> std::result::Result<(), &'static str> {
        Err("there is no wall")
    }
    async fn ensure_host(&self, _: &HostSpec) -> std::result::Result<Placement, ComputeError> {
        unreachable!("a step's work")
    }
    async fn stop_host(&self, _: InstanceId, _: u64) -> std::result::Result<(), ComputeError> {
        unreachable!("a step's work")
    }
    async fn delete_host(&self, _: InstanceId, _: u64) -> std::result::Result<(), ComputeError> {
        unreachable!("a step's work")
    }
    async fn describe(&self, _: InstanceId) -> std::result::Result<HostState, ComputeError> {
        Ok(HostState::Absent)
    }
    async fn list(&self) -> std::result::Result<Vec<InstanceId>, ComputeError> {
        unreachable!("a reconciler's work")
    }
}

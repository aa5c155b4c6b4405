//! The work of jobs: calls into the strategy and the supervisor.

mod backups;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use trove_proto::v1;
use trove_proto::v1::ServiceState;
use trove_proto::v1::account_change::Kind as Change;
use trove_strategy::{Database, Datastore, EngineError, Grantee, Kind, NewUser, SecretString, Site, UserChange, Users};

use crate::assignment::AssignmentStore;
use crate::jobs::{Job, Outcome, Worker};
use crate::objects::Objects;
use crate::supervisor::{SupervisedEngine as _, Supervisor};

/// How long a change is retried on an engine that refuses it with a transient error, while it does not restart.
const PATIENCE: Duration = Duration::from_secs(50);
/// Pause between two tries.
const NOTICE: Duration = Duration::from_secs(2);

/// The [`crate::jobs::Worker`] of the agent.
pub struct EngineWork {
    pub datastore: Arc<dyn Datastore>,
    pub site: Site,
    pub supervisor: Supervisor,
    pub assignments: Arc<AssignmentStore>,
    /// The way to the objects of backups.
    pub objects: Arc<Objects>,
}

#[async_trait]
impl Worker for EngineWork {
    async fn work(&self, job: &Job, work: v1::start::Work) -> Result<Outcome, v1::Error> {
        let supervisor = &self.supervisor;
        match work {
            v1::start::Work::Prepare(prepare) => self.prepare(job, prepare).await,
            v1::start::Work::Restart(_) => {
                job.stage("restart", "stop", supervisor.stop_for_a_while()).await?;
                let start = async {
                    supervisor.configure().await?;
                    job.unless_cancelled(supervisor.start()).await
                };
                job.stage("restart", "start", start).await?;
                Ok(Outcome::Restarted(v1::Restarted { engine_version: self.engine_version() }))
            }
            v1::start::Work::Stop(_) => {
                job.stage("stop", "stop", supervisor.stop()).await?;
                Ok(Outcome::Stopped(v1::Stopped {}))
            }
            v1::start::Work::ChangeAccounts(changes) => self.change_all(job, changes.changes).await,
            v1::start::Work::Backup(backup) => self.back_up(job, backup).await,
            v1::start::Work::Restore(restore) => self.restore(job, restore).await,
            v1::start::Work::Check(_) => self.check(job).await,
        }
    }
}

impl EngineWork {
    /// Version that the engine reported last.
    fn engine_version(&self) -> String {
        self.supervisor.status().borrow().health.as_ref().map(|health| health.version.clone()).unwrap_or_default()
    }

    fn assign(&self, generation: u64, specification: Option<v1::Specification>) -> Result<(), EngineError> {
        let assigned = self.assignments.assign(generation, specification.unwrap_or_default());
        assigned.map_err(|cause| EngineError::new(Kind::Transient, format!("{cause:#}")))?;
        Ok(())
    }

    async fn change_all(&self, job: &Job, changes: Vec<v1::AccountChange>) -> Result<Outcome, v1::Error> {
        let total = changes.len();
        for (n, change) in changes.into_iter().enumerate() {
            let stage = n.to_string();
            let change = async {
                job.progress(&stage, n as u64, Some(total as u64), "items");
                self.change_once_up(job, &stage, change).await?;
                job.progress(&stage, n as u64 + 1, Some(total as u64), "items");
                Ok(())
            };
            job.stage("change_accounts", &stage, change).await?;
        }
        let changes = u32::try_from(total).unwrap_or(u32::MAX);
        Ok(Outcome::AccountsChanged(v1::AccountsChanged { changes }))
    }

    async fn prepare(&self, job: &Job, prepare: v1::Prepare) -> Result<Outcome, v1::Error> {
        let supervisor = &self.supervisor;
        let assign = async { self.assign(prepare.generation, prepare.specification) };
        job.stage("prepare", "assign", assign).await?;
        job.stage("prepare", "initialise", supervisor.initialise()).await?;
        job.stage("prepare", "configure", supervisor.configure()).await?;
        job.stage("prepare", "start", job.unless_cancelled(supervisor.start())).await?;
        let accounts = async {
            for database in prepare.databases {
                self.change(v1::AccountChange { kind: Some(Change::CreateDatabase(database)) }).await?;
            }
            for user in prepare.users {
                self.change(v1::AccountChange { kind: Some(Change::CreateUser(user)) }).await?;
            }
            if let Some(password) = prepare.root_password {
                let kind = Some(Change::EnableRoot(v1::EnableRoot { password }));
                self.change(v1::AccountChange { kind }).await?;
            }
            Ok(())
        };
        job.stage("prepare", "accounts", accounts).await?;
        Ok(Outcome::Prepared(v1::Prepared { engine_version: self.engine_version() }))
    }

    /// Makes a change of accounts. Waits for an engine that is starting or recovering, also when it crashes during the
    /// change, until the job's deadline. Does not wait for a stopped engine: the job that starts it would wait for this
    /// one.
    async fn change_once_up(&self, job: &Job, stage: &str, change: v1::AccountChange) -> Result<(), EngineError> {
        let mut status = self.supervisor.status();
        let mut end = Instant::now() + PATIENCE;
        loop {
            if is_coming(status.borrow_and_update().service) {
                job.note("waits for the engine, which recovers");
                let up = async {
                    // Cannot fail: the sender lives as long as the agent.
                    let _ = status.wait_for(|status| !is_coming(status.service)).await;
                    Ok(())
                };
                job.unless_cancelled(up).await?;
                job.note(stage);
                end = Instant::now() + PATIENCE;
            }
            if status.borrow().service == ServiceState::Shutdown {
                return Err(EngineError::new(Kind::Fatal, "the engine is stopped: ask again once it is started"));
            }
            let error = match self.change(change.clone()).await {
                Err(error) if error.kind() == Kind::Transient && !job.cancel().is_cancelled() => error,
                done => return done,
            };
            // The supervisor notices the end of the process a moment after its connections break.
            let coming =
                status.wait_for(|status| is_coming(status.service) || status.service == ServiceState::Shutdown);
            if tokio::time::timeout(NOTICE, coming).await.is_err() && Instant::now() > end {
                // Give up, so that later jobs of this lane need not wait until this job's deadline, which allows for a
                // recovery.
                let text = format!("{} (tried for {} s)", error.chain(), PATIENCE.as_secs());
                return Err(EngineError::new(Kind::Fatal, text));
            }
        }
    }

    async fn change(&self, change: v1::AccountChange) -> Result<(), EngineError> {
        let site = &self.site;
        let none =
            |capability: &str| EngineError::new(Kind::Invalid, format!("the datastore does not announce {capability}"));
        let databases = || self.datastore.databases().ok_or_else(|| none("databases"));
        let root = || self.datastore.root().ok_or_else(|| none("root"));
        match change.kind {
            Some(Change::CreateDatabase(database)) => {
                let v1::Database { name, character_set, collation } = database;
                databases()?.create(site, &Database { name, character_set, collation }).await
            }
            Some(Change::DeleteDatabase(name)) => databases()?.delete(site, &name).await,
            Some(Change::Grant(v1::Grant { account, databases: names })) => {
                databases()?.grant(site, &grantee(account)?, &names).await
            }
            Some(Change::Revoke(v1::Revoke { account, database })) => {
                databases()?.revoke(site, &grantee(account)?, &database).await
            }
            Some(Change::EnableRoot(v1::EnableRoot { password })) => {
                root()?.enable(site, &SecretString::from(password)).await
            }
            Some(Change::DisableRoot(_)) => root()?.disable(site).await,
            Some(other) => {
                let users = self.datastore.users().ok_or_else(|| none("users"))?;
                change_user(users, site, other).await
            }
            None => Err(EngineError::new(Kind::Invalid, "change accounts: an empty change")),
        }
    }
}

/// Whether the engine does not answer now, but will without help.
fn is_coming(service: ServiceState) -> bool {
    matches!(service, ServiceState::Starting | ServiceState::Crashed)
}

fn grantee(account: Option<v1::Account>) -> Result<Grantee, EngineError> {
    let missing = || EngineError::new(Kind::Invalid, "change accounts: the account is missing");
    let v1::Account { name, host } = account.ok_or_else(missing)?;
    Ok(Grantee { name, host })
}

async fn change_user(users: &dyn Users, site: &Site, change: Change) -> Result<(), EngineError> {
    match change {
        Change::CreateUser(user) => {
            let password = SecretString::from(user.password);
            let user = NewUser { id: grantee(user.account)?, password, databases: user.databases };
            users.create(site, &user).await
        }
        Change::DeleteUser(account) => users.delete(site, &grantee(Some(account))?).await,
        Change::ChangeUser(v1::ChangeUser { account, new_name, new_host, new_password }) => {
            let password = new_password.map(SecretString::from);
            let change = UserChange { name: new_name, host: new_host, password };
            users.change(site, &grantee(account)?, &change).await
        }
        _ => Err(EngineError::new(Kind::Fatal, "change accounts: this is no change of an account")),
    }
}

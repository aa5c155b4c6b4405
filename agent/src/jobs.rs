//! Jobs: started once a key, attached to as often as wanted, recorded in the journal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};
use trove_proto::v1;
use trove_proto::v1::account_change::Kind as Change;
use trove_strategy::{Database, Datastore, EngineError, Grantee, Kind, NewUser, SecretString, Site, UserChange, Users};

use crate::driver::{Driver, pass};
use crate::journal::{Entry, Journal, Outcome, fingerprint};
use crate::settings::Keeper;
use crate::status::wire_error;

/// What a job is doing.
#[derive(Clone, Debug, Default)]
pub struct JobState {
    /// The stage it is in.
    pub stage: String,
    /// How it ended: `Some(None)` is success.
    pub ended: Option<Option<v1::Error>>,
}

struct Running {
    fingerprint: String,
    state: watch::Receiver<JobState>,
    cancel: CancellationToken,
}

/// All jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    datastore: Arc<dyn Datastore>,
    site: Site,
    driver: Driver,
    keeper: Arc<Keeper>,
    journal: Journal,
    running: Mutex<HashMap<Vec<u8>, Running>>,
    /// One job at a time: they all work on one engine.
    turn: tokio::sync::Mutex<()>,
}

/// What is heard of a job, and the way to cancel it.
pub struct Attached {
    /// Its state, and every change of it.
    pub state: watch::Receiver<JobState>,
    /// Cancels it at its next safe point.
    pub cancel: CancellationToken,
}

fn error(kind: v1::ErrorKind, message: impl Into<String>) -> v1::Error {
    v1::Error { kind: kind.into(), message: message.into() }
}

fn ended(outcome: Option<v1::Error>) -> Attached {
    let state = JobState { stage: String::new(), ended: Some(outcome) };
    Attached { state: watch::channel(state).1, cancel: CancellationToken::new() }
}

impl Jobs {
    /// With nothing running; what the journal has as begun was cut off.
    pub fn new(
        datastore: Arc<dyn Datastore>,
        site: Site,
        driver: Driver,
        keeper: Arc<Keeper>,
        journal: Journal,
    ) -> Self {
        let (running, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { datastore, site, driver, keeper, journal, running, turn }))
    }

    /// Starts a job, attaches to it, or answers with what became of it.
    pub fn start(&self, start: v1::Start) -> Attached {
        match self.try_start(start) {
            Ok(attached) => attached,
            Err(refused) => ended(Some(refused)),
        }
    }

    fn try_start(&self, start: v1::Start) -> Result<Attached, v1::Error> {
        let invalid = |what: &str| error(v1::ErrorKind::Invalid, format!("start a job: {what}"));
        let broken = |cause: anyhow::Error| error(v1::ErrorKind::Transient, format!("{cause:#}"));
        let key = start.key.clone().ok_or_else(|| invalid("the key is missing"))?;
        let work = start.work.ok_or_else(|| invalid("the work is missing"))?;
        if !self.0.keeper.admit(start.fence).map_err(broken)? {
            let seen = self.0.keeper.fence();
            return Err(error(v1::ErrorKind::Fenced, format!("fence {} is older than {seen}", start.fence)));
        }
        let sum = fingerprint(&work);
        let id = prost::Message::encode_to_vec(&key);
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = running.get(&id) {
            if known.fingerprint != sum {
                return Err(invalid("another job has this key"));
            }
            return Ok(Attached { state: known.state.clone(), cancel: known.cancel.clone() });
        }
        match self.0.journal.entry(&key).map_err(broken)? {
            Some(Entry { fingerprint, .. }) if fingerprint != sum => return Err(invalid("another job has this key")),
            Some(Entry { outcome: Outcome::Done, .. }) => return Ok(ended(None)),
            Some(Entry { outcome: Outcome::Failed { kind, message }, .. }) => {
                return Ok(ended(Some(v1::Error { kind, message })));
            }
            Some(Entry { outcome: Outcome::Begun, .. }) => info!(?key, "a job that was cut off runs again"),
            None => {}
        }
        self.0.journal.record(&key, &sum, Outcome::Begun).map_err(broken)?;
        let (sender, state) = watch::channel(JobState::default());
        let cancel = CancellationToken::new();
        running.insert(id.clone(), Running { fingerprint: sum.clone(), state: state.clone(), cancel: cancel.clone() });
        drop(running);
        let span = info_span!("job", operation = key.operation, step = key.step, attempt = key.attempt);
        let job = Job { jobs: self.clone(), state: sender, cancel: cancel.clone() };
        let deadline = Duration::from_secs(start.deadline_s.max(1).into());
        tokio::spawn(job.run(key, id, sum, work, deadline).instrument(span));
        Ok(Attached { state, cancel })
    }
}

struct Job {
    jobs: Jobs,
    state: watch::Sender<JobState>,
    cancel: CancellationToken,
}

impl Job {
    async fn run(self, key: v1::JobKey, id: Vec<u8>, sum: String, work: v1::start::Work, deadline: Duration) {
        let inner = &self.jobs.0;
        let outcome = {
            let _turn = inner.turn.lock().await;
            tokio::time::timeout(deadline, self.work(work)).await
        };
        let late = || error(v1::ErrorKind::Transient, format!("the job did not end within {} s", deadline.as_secs()));
        let failed = outcome.unwrap_or_else(|_| Err(late())).err();
        let recorded = match &failed {
            None => Some(Outcome::Done),
            // What may work when it is asked again under the same key is not written down as its end.
            Some(e) if e.kind() == v1::ErrorKind::Transient => None,
            Some(e) => Some(Outcome::Failed { kind: e.kind, message: e.message.clone() }),
        };
        let written = recorded.map(|outcome| inner.journal.record(&key, &sum, outcome));
        if let Some(Err(cause)) = written {
            error!(error = format!("{cause:#}"), "a job's end could not be written down: asked again, it runs again");
        }
        match &failed {
            None => info!("done"),
            Some(e) => info!(error = e.message, "failed"),
        }
        inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.state.send_modify(|state| state.ended = Some(failed));
    }

    /// A stage with failpoints around it; the cancellation takes effect before it.
    async fn stage(
        &self,
        job: &str,
        stage: &str,
        work: impl Future<Output = Result<(), EngineError>>,
    ) -> Result<(), v1::Error> {
        if self.cancel.is_cancelled() {
            return Err(error(v1::ErrorKind::Cancelled, format!("cancelled before {stage}")));
        }
        self.state.send_modify(|state| stage.clone_into(&mut state.stage));
        let all = async {
            pass(&format!("agent.{job}.before_{stage}"))?;
            work.await?;
            pass(&format!("agent.{job}.after_{stage}"))
        };
        all.await.map_err(|cause| {
            let mut wire = wire_error(&cause);
            wire.message = format!("{stage}: {}", wire.message);
            wire
        })
    }

    async fn work(&self, work: v1::start::Work) -> Result<(), v1::Error> {
        let driver = &self.jobs.0.driver;
        match work {
            v1::start::Work::Prepare(prepare) => self.prepare(prepare).await,
            v1::start::Work::Restart(_) => {
                self.stage("restart", "stop", driver.stop_for_a_while()).await?;
                let start = async {
                    driver.configure().await?;
                    driver.start().await
                };
                self.stage("restart", "start", start).await
            }
            v1::start::Work::Stop(_) => self.stage("stop", "stop", driver.stop()).await,
            v1::start::Work::ChangeAccounts(changes) => {
                for (n, change) in changes.changes.into_iter().enumerate() {
                    self.stage("change_accounts", &n.to_string(), self.change(change)).await?;
                }
                Ok(())
            }
        }
    }

    async fn prepare(&self, prepare: v1::Prepare) -> Result<(), v1::Error> {
        let inner = &self.jobs.0;
        let driver = &inner.driver;
        let assign = async {
            let specification = prepare.specification.unwrap_or_default();
            let assigned = inner.keeper.assign(prepare.generation, specification);
            assigned.map_err(|cause| EngineError::new(Kind::Transient, format!("{cause:#}")))?;
            Ok(())
        };
        self.stage("prepare", "assign", assign).await?;
        self.stage("prepare", "initialise", driver.initialise()).await?;
        self.stage("prepare", "configure", driver.configure()).await?;
        self.stage("prepare", "start", driver.start()).await?;
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
        self.stage("prepare", "accounts", accounts).await
    }

    async fn change(&self, change: v1::AccountChange) -> Result<(), EngineError> {
        let inner = &self.jobs.0;
        let site = &inner.site;
        let none =
            |capability: &str| EngineError::new(Kind::Invalid, format!("the datastore does not announce {capability}"));
        let databases = || inner.datastore.databases().ok_or_else(|| none("databases"));
        let root = || inner.datastore.root().ok_or_else(|| none("root"));
        match change.kind {
            Some(Change::CreateDatabase(database)) => {
                let v1::Database { name, character_set, collation } = database;
                databases()?.create(site, &Database { name, character_set, collation }).await
            }
            Some(Change::DeleteDatabase(name)) => databases()?.delete(site, &name).await,
            Some(Change::EnableRoot(v1::EnableRoot { password })) => {
                root()?.enable(site, &SecretString::from(password)).await
            }
            Some(Change::DisableRoot(_)) => root()?.disable(site).await,
            Some(other) => {
                let users = inner.datastore.users().ok_or_else(|| none("users"))?;
                change_user(users, site, other).await
            }
            None => Err(EngineError::new(Kind::Invalid, "change accounts: an empty change")),
        }
    }
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
        Change::Grant(v1::Grant { account, databases }) => users.grant(site, &grantee(account)?, &databases).await,
        Change::Revoke(v1::Revoke { account, database }) => users.revoke(site, &grantee(account)?, &database).await,
        Change::CreateDatabase(_) | Change::DeleteDatabase(_) | Change::EnableRoot(_) | Change::DisableRoot(_) => {
            Err(EngineError::new(Kind::Fatal, "change accounts: this is no change of an account"))
        }
    }
}

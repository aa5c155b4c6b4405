//! What tests of operations stand on: a real store, an agent and a driver that do as they are told and count what they
//! did, and the checks that every operation passes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trove_proto::v1;

use super::points::{Hold, Hook, Points};
use super::steps::Registered;
use super::timing::Timing;
use super::{NewOperation, Origin, Runner, RunnerContext, Stage as PlannedStage};
use crate::agents::{AgentError, AgentState, Agents, JobOutcome, OnProgress};
use crate::app::instances::Instance;
use crate::authority::Authorities;
use crate::compute::{Compute, ComputeError, HostSpec, Placement};
use crate::config::Config;
use crate::ids::{InstanceId, OperationId, ProjectId};
use crate::model::operations::Operation;
use crate::state::{HostState, Service, Task};
use crate::store::Store;
use crate::store::harness::{Fixture, fixture};

const LIMIT: Duration = Duration::from_secs(60);

/// Durations under which a test does not wait.
pub(super) const QUICK: Timing = Timing {
    lease: Duration::from_secs(30),
    renew: Duration::from_secs(10),
    first_delay: Duration::from_millis(2),
    greatest_delay: Duration::from_millis(16),
    parked: Duration::from_millis(50),
    undo_deadline: Duration::from_secs(1),
    grace: Duration::from_secs(30),
};

/// An agent of every instance, as the hub shows them: with a journal and a fence, which go with the host.
#[derive(Default)]
pub(crate) struct FakeAgents {
    agents: Mutex<HashMap<InstanceId, FakeAgent>>,
    /// Errors that the next jobs end with, by the name of the work; recorded in the journal as a real agent does.
    pub(crate) failures: Mutex<HashMap<&'static str, VecDeque<AgentError>>>,
    /// How often each work was really done.
    pub(crate) done: Mutex<HashMap<&'static str, usize>>,
    /// The starts as they came.
    pub(crate) starts: Mutex<Vec<v1::Start>>,
    /// What was assigned.
    pub(crate) assigned: Mutex<Vec<v1::AssignRequest>>,
    /// Whether a new host's agent stays away.
    pub(crate) silent: AtomicBool,
    /// What the engine is after a job that starts it; healthy unless set.
    pub(crate) service: Mutex<Option<Service>>,
}

struct FakeAgent {
    state: watch::Sender<AgentState>,
    journal: HashMap<String, Option<(v1::ErrorKind, String)>>,
    fence: u64,
}

impl Default for FakeAgent {
    fn default() -> Self {
        Self { state: watch::Sender::new(AgentState::unheard()), journal: HashMap::new(), fence: 0 }
    }
}

impl FakeAgents {
    pub(crate) fn connect(&self, instance: InstanceId, connected: bool) {
        self.change(instance, |state| state.connected = connected);
    }

    pub(crate) fn change(&self, instance: InstanceId, change: impl FnOnce(&mut AgentState)) {
        self.agents.lock().unwrap().entry(instance).or_default().state.send_modify(change);
    }

    /// How often this work was done.
    pub(crate) fn count(&self, work: &str) -> usize {
        self.done.lock().unwrap().get(work).copied().unwrap_or_default()
    }

    pub(crate) fn fail_next(&self, work: &'static str, error: AgentError) {
        self.failures.lock().unwrap().entry(work).or_default().push_back(error);
    }

    fn boot(&self, instance: InstanceId) {
        self.agents.lock().unwrap().remove(&instance);
        if !self.silent.load(Ordering::SeqCst) {
            self.connect(instance, true);
        }
    }

    /// The agent of a host that was stopped, with its journal; its engine comes up with it.
    fn start(&self, instance: InstanceId) {
        if !self.silent.load(Ordering::SeqCst) {
            let service = self.service.lock().unwrap().unwrap_or(Service::Healthy);
            self.change(instance, |state| {
                state.connected = true;
                state.service = service;
            });
        }
    }

    fn do_work(&self, instance: InstanceId, start: &v1::Start) -> Result<(), AgentError> {
        let work = start.work.as_ref().map(name).unwrap();
        let key = format!("{:?}", start.key);
        if let Some(outcome) = self.recorded(instance, &key, start.fence)? {
            return outcome;
        }
        if let Some(error) = self.failures.lock().unwrap().get_mut(work).and_then(VecDeque::pop_front) {
            if let AgentError::Refused { kind, message } = &error
                && *kind != v1::ErrorKind::Interrupted
            {
                let outcome = Some((*kind, message.clone()));
                self.agents.lock().unwrap().entry(instance).or_default().journal.insert(key, outcome);
            }
            return Err(error);
        }
        *self.done.lock().unwrap().entry(work).or_default() += 1;
        self.agents.lock().unwrap().entry(instance).or_default().journal.insert(key, None);
        let service = self.service.lock().unwrap().unwrap_or(Service::Healthy);
        match start.work.as_ref().unwrap() {
            v1::start::Work::Prepare(prepare) => self.change(instance, |state| {
                state.service = service;
                state.assignment_generation = prepare.generation;
            }),
            v1::start::Work::Restart(_) => self.change(instance, |state| state.service = service),
            v1::start::Work::Stop(_) => self.change(instance, |state| state.service = Service::Shutdown),
            v1::start::Work::ChangeAccounts(_) => {}
        }
        Ok(())
    }

    #[allow(clippy::type_complexity)]
    fn recorded(
        &self,
        instance: InstanceId,
        key: &str,
        fence: u64,
    ) -> Result<Option<Result<(), AgentError>>, AgentError> {
        let mut agents = self.agents.lock().unwrap();
        let agent = agents.entry(instance).or_default();
        if fence < agent.fence {
            return Err(AgentError::Refused { kind: v1::ErrorKind::Fenced, message: "fenced".to_owned() });
        }
        agent.fence = fence;
        Ok(agent.journal.get(key).cloned().map(|outcome| match outcome {
            None => Ok(()),
            Some((kind, message)) => Err(AgentError::Refused { kind, message }),
        }))
    }
}

fn name(work: &v1::start::Work) -> &'static str {
    match work {
        v1::start::Work::Prepare(_) => "prepare",
        v1::start::Work::Restart(_) => "restart",
        v1::start::Work::Stop(_) => "stop",
        v1::start::Work::ChangeAccounts(_) => "change_accounts",
    }
}

fn outcome(work: &v1::start::Work) -> v1::result::Outcome {
    use v1::result::Outcome;
    let engine_version = || "15".to_owned();
    match work {
        v1::start::Work::Prepare(_) => Outcome::Prepared(v1::Prepared { engine_version: engine_version() }),
        v1::start::Work::Restart(_) => Outcome::Restarted(v1::Restarted { engine_version: engine_version() }),
        v1::start::Work::Stop(_) => Outcome::Stopped(v1::Stopped {}),
        v1::start::Work::ChangeAccounts(changes) => {
            Outcome::AccountsChanged(v1::AccountsChanged { changes: u32::try_from(changes.changes.len()).unwrap() })
        }
    }
}

#[async_trait]
impl Agents for FakeAgents {
    fn state(&self, instance: InstanceId) -> watch::Receiver<AgentState> {
        self.agents.lock().unwrap().entry(instance).or_default().state.subscribe()
    }

    async fn run(
        &self,
        instance: InstanceId,
        start: v1::Start,
        progress: OnProgress<'_>,
    ) -> Result<JobOutcome, AgentError> {
        self.starts.lock().unwrap().push(start.clone());
        let mut state = self.state(instance);
        let limit = Duration::from_secs(start.deadline_s.into());
        if tokio::time::timeout(limit, state.wait_for(|state| state.connected)).await.is_err() {
            return Err(AgentError::Unreachable(instance));
        }
        for stage in ["one", "two"] {
            progress(v1::Progress { stage: stage.to_owned(), ..v1::Progress::default() });
        }
        self.do_work(instance, &start).map(|()| start.work.as_ref().map(outcome))
    }

    async fn assign(&self, instance: InstanceId, request: v1::AssignRequest) -> Result<u64, AgentError> {
        let generation = request.generation;
        self.assigned.lock().unwrap().push(request);
        self.change(instance, |state| state.assignment_generation = generation);
        Ok(generation)
    }

    async fn list_databases(&self, _instance: InstanceId) -> Result<Vec<v1::Database>, AgentError> {
        Ok(Vec::new())
    }

    async fn list_users(&self, _instance: InstanceId) -> Result<Vec<v1::User>, AgentError> {
        Ok(Vec::new())
    }

    async fn get_user(&self, _instance: InstanceId, _account: v1::Account) -> Result<Option<v1::User>, AgentError> {
        Ok(None)
    }

    async fn check_size(&self, _: InstanceId, _: u64, _: u32) -> Result<Option<String>, AgentError> {
        Ok(None)
    }

    async fn ping(&self, _instance: InstanceId) -> Result<(), AgentError> {
        Ok(())
    }

    async fn diagnose(&self, _instance: InstanceId) -> Result<v1::GetDiagnosticsReply, AgentError> {
        Ok(v1::GetDiagnosticsReply::default())
    }

    fn forget(&self, instance: InstanceId) {
        self.agents.lock().unwrap().remove(&instance);
    }
}

/// A driver of hosts that are names in a set.
pub(crate) struct FakeCompute {
    agents: Arc<FakeAgents>,
    pub(crate) hosts: Mutex<HashSet<InstanceId>>,
    /// How often a host was made that was not there, and how often one was removed that was.
    pub(crate) made: Mutex<usize>,
    pub(crate) removed: Mutex<usize>,
    /// Those that were stopped and not started since, and how often one was.
    halted: Mutex<HashSet<InstanceId>>,
    pub(crate) stopped: Mutex<usize>,
    /// Errors of the next calls, by verb.
    pub(crate) failures: Mutex<HashMap<&'static str, VecDeque<ComputeError>>>,
    pub(crate) specs: Mutex<Vec<HostSpec>>,
    pub(crate) address: Mutex<u8>,
    pub(crate) dead: AtomicBool,
    /// The greatest fence of each host.
    fences: Mutex<HashMap<InstanceId, u64>>,
    /// Holds the next request for a host back, as a network or a controller's stall does, until the second is notified; the
    /// first says that there is one.
    pub(crate) late: Mutex<Option<(Arc<Notify>, Arc<Notify>)>>,
}

impl FakeCompute {
    pub(crate) fn fail_next(&self, verb: &'static str, error: ComputeError) {
        self.failures.lock().unwrap().entry(verb).or_default().push_back(error);
    }

    fn scripted(&self, verb: &str) -> Result<(), ComputeError> {
        self.failures.lock().unwrap().get_mut(verb).and_then(VecDeque::pop_front).map_or(Ok(()), Err)
    }

    fn admit(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        let mut fences = self.fences.lock().unwrap();
        let seen = fences.entry(instance).or_default();
        if fence < *seen {
            return Err(ComputeError::Fenced { fence, seen: *seen });
        }
        *seen = fence;
        Ok(())
    }
}

#[async_trait]
impl Compute for FakeCompute {
    async fn choose_address(&self, _instance: InstanceId, _port: u16) -> Result<IpAddr, ComputeError> {
        self.scripted("choose_address")?;
        let mut address = self.address.lock().unwrap();
        *address += 1;
        Ok(Ipv4Addr::new(127, 0, 7, *address).into())
    }

    fn separates_tenants(&self) -> bool {
        true
    }

    async fn ensure_host(&self, spec: &HostSpec) -> Result<Placement, ComputeError> {
        let late = self.late.lock().unwrap().take();
        if let Some((there, go_on)) = late {
            there.notify_one();
            go_on.notified().await;
        }
        self.scripted("ensure_host")?;
        self.admit(spec.instance, spec.fence)?;
        self.specs.lock().unwrap().push(spec.clone());
        if self.hosts.lock().unwrap().insert(spec.instance) {
            *self.made.lock().unwrap() += 1;
            self.agents.boot(spec.instance);
        } else if self.halted.lock().unwrap().remove(&spec.instance) {
            self.agents.start(spec.instance);
        }
        // As a cloud's driver does, which finds its server again by what it said before.
        let driver_state = serde_json::json!({"server": spec.instance});
        assert!(spec.driver_state.is_null() || spec.driver_state == driver_state, "{:?}", spec.driver_state);
        Ok(Placement { addresses: vec![spec.network.address], driver_state })
    }

    async fn stop_host(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        self.scripted("stop_host")?;
        self.admit(instance, fence)?;
        if self.hosts.lock().unwrap().contains(&instance) && self.halted.lock().unwrap().insert(instance) {
            *self.stopped.lock().unwrap() += 1;
            self.agents.change(instance, |state| state.connected = false);
        }
        Ok(())
    }

    async fn delete_host(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        self.scripted("delete_host")?;
        self.admit(instance, fence)?;
        self.fences.lock().unwrap().remove(&instance);
        if self.hosts.lock().unwrap().remove(&instance) {
            *self.removed.lock().unwrap() += 1;
            self.agents.change(instance, |state| state.connected = false);
        }
        Ok(())
    }

    async fn describe(&self, instance: InstanceId) -> Result<HostState, ComputeError> {
        self.scripted("describe")?;
        let there = self.hosts.lock().unwrap().contains(&instance);
        let halted = self.halted.lock().unwrap().contains(&instance);
        Ok(match (there, halted || self.dead.load(Ordering::SeqCst)) {
            (false, _) => HostState::Absent,
            (true, true) => HostState::Dead,
            (true, false) => HostState::Active,
        })
    }

    async fn list(&self) -> Result<Vec<InstanceId>, ComputeError> {
        Ok(self.hosts.lock().unwrap().iter().copied().collect())
    }
}

/// One instance of project `p`, and everything around it.
pub(crate) struct Stage {
    pub(crate) fixture: Fixture,
    pub(crate) context: RunnerContext,
    pub(crate) agents: Arc<FakeAgents>,
    pub(crate) compute: Arc<FakeCompute>,
    pub(crate) instance: InstanceId,
}

/// A runner at work; dropped, it is as if its process were killed.
pub(crate) struct Running {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
    store: Store,
}

impl Running {
    /// Ends it as a signal does.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap();
    }

    /// Ends it as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.is_err_and(|error| error.is_cancelled()));
        // A server goes on with what it was sent last; a real next life, too, waits a lease for a claim that came so late.
        drop(self.store.begin().await.unwrap());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    /// With the row that an order has inserted.
    pub(crate) async fn ordered() -> Self {
        let fixture = fixture().await;
        let agents = Arc::new(FakeAgents::default());
        let compute = Arc::new(FakeCompute {
            agents: agents.clone(),
            hosts: Mutex::default(),
            made: Mutex::default(),
            removed: Mutex::default(),
            halted: Mutex::default(),
            stopped: Mutex::default(),
            failures: Mutex::default(),
            specs: Mutex::default(),
            address: Mutex::default(),
            dead: AtomicBool::default(),
            fences: Mutex::default(),
            late: Mutex::default(),
        });
        let context = RunnerContext {
            store: fixture.store.clone(),
            agents: agents.clone(),
            compute: compute.clone(),
            authorities: Arc::new(Authorities::load(&fixture.store).await.unwrap()),
            config: Arc::new(Config::default()),
            controller_id: "one".to_owned(),
            nudge: super::Nudge::default(),
            changes: super::Changes::default(),
        };
        let instance = fixture.insert("p").await;
        Self { fixture, context, agents, compute, instance }
    }

    /// With an instance that has been created.
    pub(crate) async fn created() -> Self {
        let stage = Self::ordered().await;
        let operation = super::create_instance::new(stage.origin(), super::create_instance::Params::default()).unwrap();
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

    /// As a use case does: the task and the operation in one transaction.
    pub(crate) async fn submit(&self, operation: NewOperation) -> crate::error::Result<OperationId> {
        let task = match operation.kind {
            "restart_instance" => Some(Task::Restarting),
            "delete_instance" => Some(Task::Deleting),
            "reboot_instance" => Some(Task::Restarting),
            "resize_flavor" | "resize_volume" => Some(Task::Resizing),
            _ => None,
        };
        let mut tx = self.context.store.begin().await?;
        let id = self.context.store.enqueue(&mut tx, operation).await?;
        if let Some(task) = task {
            self.context.store.set_task(&mut tx, self.instance, task).await?;
        }
        tx.commit().await.unwrap();
        self.context.nudge.now();
        Ok(id)
    }

    pub(super) fn start(&self, hook: Option<Hook>) -> Running {
        self.start_as(self.context.clone(), super::registry(), QUICK, hook)
    }

    pub(super) fn start_as(
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

    /// Waits until an operation has ended.
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

    /// Runs one operation to its end.
    pub(crate) async fn complete(&self, operation: NewOperation) -> Result<(), String> {
        let running = self.start(None);
        let id = self.submit(operation).await.unwrap();
        let end = self.end(id).await;
        running.stop().await;
        end
    }

    /// Stops the host behind the store's back.
    pub(crate) async fn stop_host(&self) {
        let mut tx = self.context.store.begin().await.unwrap();
        let fence = self.context.store.draw_fence(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        self.compute.stop_host(self.instance, fence.unsigned_abs()).await.unwrap();
    }

    pub(crate) async fn row(&self) -> Instance {
        self.context.store.get_instance(self.instance).await.unwrap().unwrap()
    }

    pub(crate) async fn operations(&self) -> Vec<Operation> {
        self.context.store.list_operations(self.instance).await.unwrap().0
    }

    /// Nothing is left of a host, and no operation is active.
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

    /// No operation is active, and none that has ended keeps its state, where the secrets were.
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

/// A hook that holds the runner at one point, once, and a way to wait for that.
pub(super) fn hold_at(point: String, hold: Hold) -> (Hook, Arc<Notify>) {
    let there = Arc::new(Notify::new());
    let notify = there.clone();
    let used = AtomicBool::new(false);
    let hook = move |name: &str, _: InstanceId| {
        if name != point || used.swap(true, Ordering::SeqCst) {
            return Hold::Pass;
        }
        notify.notify_one();
        hold
    };
    (Arc::new(hook), there)
}

/// Waits until the runner is at that point.
pub(super) async fn reached(there: &Notify, point: &str) {
    assert!(tokio::time::timeout(LIMIT, there.notified()).await.is_ok(), "the runner never came to {point}");
}

/// Kills the runner before and after every step, which runs each step twice, and lets another one go on: the operation
/// ends as if nothing had happened.
pub(super) async fn killed_anywhere(make: impl AsyncFn() -> (Stage, NewOperation), check: impl AsyncFn(&Stage, &str)) {
    let (_, operation) = make().await;
    for PlannedStage { step, .. } in operation.plan {
        for place in ["before", "after"] {
            let (stage, operation) = make().await;
            let point = format!("operation.{}.{step}.{place}", operation.kind);
            let (hook, there) = hold_at(point.clone(), Hold::Forever);
            let running = stage.start(Some(hook));
            let id = stage.submit(operation).await.unwrap();
            reached(&there, &point).await;
            running.kill().await;
            let running = stage.start(None);
            assert_eq!(stage.end(id).await, Ok(()), "{point}");
            running.stop().await;
            check(&stage, &point).await;
        }
    }
}

/// Fails every step before and after its effect; and again with a kill before and after each undo that follows.
pub(super) async fn failed_anywhere(make: impl AsyncFn() -> (Stage, NewOperation), check: impl AsyncFn(&Stage, &str)) {
    let (_, operation) = make().await;
    let kind = operation.kind;
    let steps: Vec<String> = operation.plan.into_iter().map(|stage| stage.step).collect();
    for (n, step) in steps.iter().enumerate() {
        for place in ["before", "after"] {
            let point = format!("operation.{kind}.{step}.{place}");
            fail_at(&make, &check, &point, None).await;
            for undone in &steps[..=n] {
                for undo in ["undo_before", "undo_after"] {
                    let kill = format!("operation.{kind}.{undone}.{undo}");
                    fail_at(&make, &check, &point, Some(kill)).await;
                }
            }
        }
    }
}

async fn fail_at(
    make: &impl AsyncFn() -> (Stage, NewOperation),
    check: &impl AsyncFn(&Stage, &str),
    point: &str,
    kill: Option<String>,
) {
    let (stage, operation) = make().await;
    let fail = point.to_owned();
    let there = Arc::new(Notify::new());
    let (notify, killed_at) = (there.clone(), kill.clone());
    let hook: Hook = Arc::new(move |name: &str, _: InstanceId| {
        if name == fail {
            return Hold::Fail;
        }
        if Some(name) == killed_at.as_deref() {
            notify.notify_one();
            return Hold::Forever;
        }
        Hold::Pass
    });
    let mut running = stage.start(Some(hook));
    let id = stage.submit(operation).await.unwrap();
    if kill.is_some() {
        // A step without undo has no such point: then the operation just ends.
        let ended = tokio::select! {
            () = there.notified() => false,
            _ = stage.end(id) => true,
        };
        if !ended {
            running.kill().await;
            running = stage.start(None);
        }
    }
    let error = stage.end(id).await.unwrap_err();
    assert!(error.contains(point), "{error}");
    running.stop().await;
    check(&stage, &format!("failed at {point}, killed at {kill:?}")).await;
}

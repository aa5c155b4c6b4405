//! The agents, as one controller hears them: requests and answers are lost, come twice, or come when nobody waits for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use trove_agent::jobs::Attached;
use trove_agent::lanes::Lane;
use trove_proto::v1;

use super::engine::Fact;
use super::guest::Guest;
use super::world::{Cut, Machine, World};
use crate::agents::{AgentError, AgentState, Agents, JobOutcome, OnProgress};
use crate::ids::InstanceId;

/// For how long a question waits for an answer, and for an agent that is away.
const QUESTION: Duration = Duration::from_secs(5);
/// How often a job says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);
/// What an agent's verdict is worth more than "did not answer".
const VERDICT: Duration = Duration::from_secs(3);

/// The connections of one life of a controller.
pub(super) struct Network {
    pub(super) world: Arc<World>,
    pub(super) machine: Machine,
    states: Mutex<BTreeMap<InstanceId, watch::Sender<AgentState>>>,
}

impl Network {
    pub(super) fn new(world: Arc<World>, machine: Machine) -> Self {
        Self { world, machine, states: Mutex::default() }
    }

    fn sender(&self, instance: InstanceId) -> watch::Sender<AgentState> {
        let new = || watch::Sender::new(AgentState::unheard());
        self.states.lock().unwrap().entry(instance).or_insert_with(new).clone()
    }

    /// What is heard of an agent now, as far as it changed.
    pub(super) fn hear(&self, instance: InstanceId) {
        let guest = self.world.connected(self.machine.name, instance);
        let mute = self.world.cut(self.machine.name, instance) == Some(Cut::Replies);
        self.sender(instance).send_if_modified(|state| {
            let before = state.clone();
            state.connected = guest.is_some();
            if let Some(guest) = guest.filter(|_| !mute) {
                state.service = guest.service();
                state.assignment_generation = guest.generation();
            }
            *state != before
        });
    }

    /// A moment on the way, in either direction.
    async fn travel(&self) {
        self.machine.runs().await;
        self.world.rng.delay(1, 50).await;
        self.machine.runs().await;
    }

    fn is_cut(&self, instance: InstanceId, way: Cut) -> bool {
        let cut = self.world.cut(self.machine.name, instance);
        cut == Some(way) || cut == Some(Cut::Both)
    }

    fn loses(&self, what: &str) -> bool {
        let lost = self.world.fails(10);
        if lost {
            self.world.rng.fault("messages that were lost", format!("{what} is lost at {}", self.machine.name));
        }
        lost
    }

    /// The agent, once a request has come to it. `None`: it never will.
    async fn reach(&self, instance: InstanceId) -> Option<Guest> {
        self.travel().await;
        let guest = self.world.connected(self.machine.name, instance)?;
        if self.is_cut(instance, Cut::Requests) || self.loses("a request") { None } else { Some(guest) }
    }

    /// The answer, if it comes.
    async fn answer<T>(&self, instance: InstanceId, answer: T) -> Option<T> {
        self.travel().await;
        if self.is_cut(instance, Cut::Replies) || self.loses("an answer") { None } else { Some(answer) }
    }

    /// Nothing comes for as long as the connection seems to stand and is none.
    async fn notice(&self, instance: InstanceId) {
        let mut reach = self.world.reach.subscribe();
        while matches!(self.world.cut(self.machine.name, instance), Some(Cut::Requests | Cut::Replies)) {
            // The sender lives in the world.
            let _ = reach.changed().await;
        }
    }

    /// A start comes to the agent.
    fn deliver(&self, guest: &Guest, start: &v1::Start) -> Option<Attached> {
        let life = guest.life()?;
        let attached = life.jobs.start(start.clone());
        self.world.rng.mark((self.machine.name, start.fence));
        let newest = {
            let mut engine = guest.engine.lock().unwrap();
            engine.fence = engine.fence.max(start.fence);
            engine.fence
        };
        let ended = attached.state.borrow().ended.clone();
        let error = ended.and_then(|ended| ended.error);
        let refused = error.is_some_and(|error| error.kind() == v1::ErrorKind::Fenced);
        if refused != (start.fence < newest) {
            let (instance, fence) = (guest.instance, start.fence);
            self.world.violated(format!("{instance} has seen {newest} and takes {fence}: refused {refused}"));
        }
        Some(attached)
    }

    /// The same start comes once more, when its sender may be gone, and what it was for too.
    fn come_again(&self, guest: &Guest, start: &v1::Start) {
        let late = Self::new(self.world.clone(), self.machine.clone());
        let (guest, start) = (guest.clone(), start.clone());
        tokio::spawn(async move {
            late.world.rng.delay(1000, 120_000).await;
            let what = format!("a start of {} comes late to {}", late.machine.name, guest.instance);
            late.world.rng.fault("requests that came late", what);
            late.deliver(&guest, &start);
        });
    }

    /// Asks once for a job and hears of its end, unless something gets lost.
    async fn ask(&self, instance: InstanceId, start: &v1::Start) -> Option<Result<JobOutcome, v1::Error>> {
        let guest = self.reach(instance).await?;
        let life = guest.life()?;
        let mut attached = self.deliver(&guest, start)?;
        if self.world.fails(10) {
            self.world.rng.fault("requests that came twice", format!("a start comes twice to {instance}"));
            attached = self.deliver(&guest, start)?;
        }
        if self.world.fails(10) {
            self.come_again(&guest, start);
        }
        if self.world.fails(15) {
            self.world.cut_link(self.machine.name, instance);
        }
        if self.loses("a call") {
            return None;
        }
        let ended = tokio::select! {
            biased;
            () = life.end.cancelled() => return None,
            ended = attached.state.wait_for(|state| state.ended.is_some()) => ended.ok()?.ended.clone()?,
        };
        self.world.changed();
        self.answer(instance, ended.error.map_or(Ok(ended.outcome), Err)).await
    }

    /// One question, asked again on the next connection when the one it was asked on broke.
    async fn question<T>(&self, instance: InstanceId, read: impl Fn(&Guest) -> T + Sync) -> Result<T, AgentError> {
        let asked = async {
            loop {
                if let Some(guest) = self.reach(instance).await
                    && let Some(answer) = self.answer(instance, read(&guest)).await
                {
                    return answer;
                }
                self.notice(instance).await;
                self.world.rng.delay(100, 500).await;
            }
        };
        timeout(QUESTION, asked).await.map_err(|_| AgentError::Late(instance, QUESTION.as_secs()))
    }
}

#[async_trait]
impl Agents for Network {
    fn state(&self, instance: InstanceId) -> watch::Receiver<AgentState> {
        let receiver = self.sender(instance).subscribe();
        self.hear(instance);
        receiver
    }

    async fn run(
        &self,
        instance: InstanceId,
        start: v1::Start,
        progress: OnProgress<'_>,
    ) -> Result<JobOutcome, AgentError> {
        let deadline = Instant::now() + Duration::from_secs(start.deadline_s.into()) + VERDICT;
        progress(v1::Progress { stage: "sent".to_owned(), ..v1::Progress::default() });
        let mut state = self.state(instance);
        let asked = async {
            loop {
                if state.wait_for(|state| state.connected).await.is_err() {
                    std::future::pending::<()>().await;
                }
                if let Some(ended) = self.ask(instance, &start).await {
                    return ended;
                }
                self.notice(instance).await;
                self.world.rng.delay(10, 500).await;
            }
        };
        let tells = async {
            for done in 1.. {
                tokio::time::sleep(PROGRESS).await;
                progress(v1::Progress { done: Some(done), unit: "items".to_owned(), ..v1::Progress::default() });
            }
            std::future::pending().await
        };
        let ended = async {
            tokio::select! {
                biased;
                ended = asked => ended,
                never = tells => never,
            }
        };
        match timeout_at(deadline, ended).await {
            Err(_) => Err(AgentError::Unreachable(instance)),
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => Err(AgentError::Refused { kind: error.kind(), message: error.message }),
        }
    }

    async fn assign(&self, instance: InstanceId, request: v1::AssignRequest) -> Result<u64, AgentError> {
        let gone = || AgentError::Unreachable(instance);
        let guest = self.reach(instance).await.ok_or_else(gone)?;
        let life = guest.life().ok_or_else(gone)?;
        let refused = |kind, message: String| AgentError::Refused { kind, message };
        let admitted = life.assignments.admit(Lane::LifeCycle, request.fence);
        if !admitted.map_err(|error| refused(v1::ErrorKind::Transient, error.to_string()))? {
            return Err(refused(v1::ErrorKind::Fenced, "fenced".to_owned()));
        }
        {
            let mut engine = guest.engine.lock().unwrap();
            engine.fence = engine.fence.max(request.fence);
        }
        let assigned = life.assignments.assign(request.generation, request.specification.unwrap_or_default());
        assigned.map_err(|error| refused(v1::ErrorKind::Transient, error.to_string()))?;
        self.world.changed();
        let in_force = life.assignments.assigned().borrow().generation;
        self.answer(instance, in_force).await.ok_or_else(gone)
    }

    async fn list_databases(&self, instance: InstanceId) -> Result<Vec<v1::Database>, AgentError> {
        let database = |fact: &Fact| match fact {
            Fact::Database(name) => Some(v1::Database { name: name.clone(), ..v1::Database::default() }),
            _ => None,
        };
        self.question(instance, |guest| guest.engine.lock().unwrap().facts.iter().filter_map(database).collect()).await
    }

    async fn list_users(&self, instance: InstanceId) -> Result<Vec<v1::User>, AgentError> {
        let users = |guest: &Guest| {
            let engine = guest.engine.lock().unwrap();
            let user = |fact: &Fact| match fact {
                Fact::User(name) => Some(v1::User {
                    account: Some(v1::Account { name: name.clone(), host: "%".to_owned() }),
                    databases: engine.grants(name),
                }),
                _ => None,
            };
            engine.facts.iter().filter_map(user).collect()
        };
        self.question(instance, users).await
    }

    async fn get_user(&self, instance: InstanceId, account: v1::Account) -> Result<Option<v1::User>, AgentError> {
        let users = self.list_users(instance).await?;
        Ok(users.into_iter().find(|user| user.account.as_ref().is_some_and(|known| known.name == account.name)))
    }

    async fn check_size(&self, instance: InstanceId, _: u64, _: u32) -> Result<Option<String>, AgentError> {
        self.question(instance, |_| None).await
    }

    async fn ping(&self, instance: InstanceId) -> Result<(), AgentError> {
        self.question(instance, |_| ()).await
    }

    async fn diagnose(&self, instance: InstanceId) -> Result<v1::GetDiagnosticsReply, AgentError> {
        self.question(instance, |_| v1::GetDiagnosticsReply::default()).await
    }

    fn forget(&self, instance: InstanceId) {
        self.states.lock().unwrap().remove(&instance);
    }
}

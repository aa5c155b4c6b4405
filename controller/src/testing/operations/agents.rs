//! Fake agents.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use trove_proto::backup::{FORMAT, MANIFEST_NAME, Manifest, Segment, segment_name};
use trove_proto::v1;

use crate::agents::{AgentError, AgentState, Agents, GrantObjects, JobOutcome, OnProgress};
use crate::ids::{InstanceId, OperationId};
use crate::state::Service;

/// An agent for every instance, with a journal and a fence, which are deleted with the host.
#[derive(Default)]
pub(crate) struct FakeAgents {
    agents: Mutex<HashMap<InstanceId, FakeAgent>>,
    /// Errors of the next jobs, by name of the work. They are recorded in the journal, as by a real agent.
    pub(crate) failures: Mutex<HashMap<&'static str, VecDeque<AgentError>>>,
    /// The directory of the objects of backups, into which they write without the controller's help.
    backups: PathBuf,
    /// How often each work was carried out.
    pub(crate) done: Mutex<HashMap<&'static str, usize>>,
    /// All received starts.
    pub(crate) starts: Mutex<Vec<v1::Start>>,
    /// Whose jobs were to end.
    pub(crate) cancelled: Mutex<Vec<(InstanceId, OperationId)>>,
    /// All received assignments.
    pub(crate) assigned: Mutex<Vec<v1::AssignRequest>>,
    /// Parameters that the running engine refuses, with its messages.
    pub(crate) refused: Mutex<BTreeMap<String, String>>,
    /// Answer to a check of parameters: why the engine would not start with them.
    pub(crate) check_refusal: Mutex<Option<String>>,
    /// Whether the agents of new hosts do not connect.
    pub(crate) silent: AtomicBool,
    /// State of the engine after a job that starts it; healthy unless set.
    pub(crate) service: Mutex<Option<Service>>,
}

struct FakeAgent {
    state: watch::Sender<AgentState>,
    journal: HashMap<String, Option<(v1::ErrorKind, String)>>,
    fence: u64,
    /// Assigned parameters, and those with which the engine was started.
    parameters: BTreeMap<String, String>,
    started_with: BTreeMap<String, String>,
}

impl Default for FakeAgent {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(AgentState::unheard()),
            journal: HashMap::new(),
            fence: 0,
            parameters: BTreeMap::new(),
            started_with: BTreeMap::new(),
        }
    }
}

impl FakeAgents {
    /// Agents that write the objects of their backups into this directory.
    pub(super) fn storing_in(backups: PathBuf) -> Self {
        Self { backups, ..Self::default() }
    }

    pub(crate) fn connect(&self, instance: InstanceId, connected: bool) {
        self.change(instance, |state| state.connected = connected);
    }

    pub(crate) fn change(&self, instance: InstanceId, change: impl FnOnce(&mut AgentState)) {
        self.agents.lock().unwrap().entry(instance).or_default().state.send_modify(change);
    }

    /// How often this work was carried out.
    pub(crate) fn count(&self, work: &str) -> usize {
        self.done.lock().unwrap().get(work).copied().unwrap_or_default()
    }

    pub(crate) fn fail_next(&self, work: &'static str, error: AgentError) {
        self.failures.lock().unwrap().entry(work).or_default().push_back(error);
    }

    pub(super) fn boot(&self, instance: InstanceId) {
        self.agents.lock().unwrap().remove(&instance);
        if !self.silent.load(Ordering::SeqCst) {
            self.connect(instance, true);
        }
    }

    /// Starts the agent of a stopped host, with its journal; the engine starts, too.
    pub(super) fn start(&self, instance: InstanceId) {
        if !self.silent.load(Ordering::SeqCst) {
            let service = self.service.lock().unwrap().unwrap_or(Service::Healthy);
            self.change(instance, |state| {
                state.connected = true;
                state.service = service;
            });
            self.start_engine(instance);
        }
    }

    /// Starts the engine with the assigned parameters.
    fn start_engine(&self, instance: InstanceId) {
        let mut agents = self.agents.lock().unwrap();
        let agent = agents.entry(instance).or_default();
        agent.started_with = agent.parameters.clone();
    }

    /// What becomes of the parameters: those whose names begin with `cold` need a start, and one that is stopped says
    /// nothing.
    fn apply(&self, instance: InstanceId) -> Vec<v1::AppliedParameter> {
        let refused = self.refused.lock().unwrap();
        let mut agents = self.agents.lock().unwrap();
        let agent = agents.entry(instance).or_default();
        if agent.state.borrow().service == Service::Shutdown {
            return Vec::new();
        }
        let became = |(name, value): (&String, &String)| {
            let (state, reason) = match refused.get(name) {
                Some(said) => (v1::AppliedState::Refused, said.clone()),
                None if name.starts_with("cold") && agent.started_with.get(name) != Some(value) => {
                    (v1::AppliedState::NeedsRestart, String::new())
                }
                None => (v1::AppliedState::Live, String::new()),
            };
            v1::AppliedParameter { name: name.clone(), state: state.into(), reason }
        };
        agent.parameters.iter().map(became).collect()
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
            v1::start::Work::Prepare(prepare) => {
                self.change(instance, |state| {
                    state.service = service;
                    state.assignment_generation = prepare.generation;
                });
                let parameters = prepare.specification.clone().unwrap_or_default().parameters;
                self.agents.lock().unwrap().entry(instance).or_default().parameters = parameters;
                self.start_engine(instance);
            }
            v1::start::Work::Restart(_) => {
                self.change(instance, |state| state.service = service);
                self.start_engine(instance);
            }
            v1::start::Work::Stop(_) => self.change(instance, |state| state.service = Service::Shutdown),
            v1::start::Work::ChangeAccounts(_) | v1::start::Work::Check(_) => {}
            v1::start::Work::Backup(backup) => self.write(backup, &run_of(start)),
            v1::start::Work::Restore(restore) => {
                self.change(instance, |state| state.assignment_generation = restore.generation);
            }
        }
        Ok(())
    }

    /// Writes the objects of a backup.
    #[allow(clippy::disallowed_methods, reason = "the directory is this test's alone")]
    fn write(&self, backup: &v1::Backup, run: &str) {
        let directory = self.backups.join(&backup.backup).join(run);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(segment_name(0)), SEGMENT).unwrap();
        std::fs::write(directory.join(MANIFEST_NAME), manifest(backup, run)).unwrap();
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
        v1::start::Work::Backup(_) => "backup",
        v1::start::Work::Restore(_) => "restore",
        v1::start::Work::Check(_) => "check",
    }
}

/// What a fake backup holds.
const SEGMENT: &[u8] = b"xy";

/// The name of the run of a job.
fn run_of(start: &v1::Start) -> String {
    blake3::hash(format!("{:?}", start.key).as_bytes()).to_hex()[..32].to_owned()
}

fn manifest(backup: &v1::Backup, run: &str) -> Vec<u8> {
    let sum = |bytes| blake3::hash(bytes).to_hex().to_string();
    let segment = Segment { name: segment_name(0), bytes: 2, blake3: sum(SEGMENT) };
    let manifest = Manifest {
        format: FORMAT,
        backup: backup.backup.clone(),
        run: run.to_owned(),
        datastore: "enginedb".to_owned(),
        version: "15.18".to_owned(),
        major: "15".to_owned(),
        recipients: backup.recipients.clone(),
        position: Some("0/1".to_owned()),
        parent: backup.parent.as_ref().map(|parent| parent.backup.clone()),
        checkpoint: Some("7".to_owned()),
        memory_bytes: Some(5),
        data_bytes: 3,
        data_blake3: sum(b"abc"),
        segments: vec![segment],
    };
    manifest.to_json().unwrap()
}

/// The objects that a job asks for first.
fn needs(start: &v1::Start) -> Option<(String, Vec<v1::ObjectNeed>)> {
    let need = |name: String, access: v1::ObjectAccess| v1::ObjectNeed { name, access: access.into(), bytes: 2 };
    match start.work.as_ref()? {
        v1::start::Work::Backup(_) => {
            let names = [segment_name(0), MANIFEST_NAME.to_owned()];
            Some((run_of(start), names.map(|name| need(name, v1::ObjectAccess::Write)).into()))
        }
        v1::start::Work::Restore(restore) => {
            Some((restore.chain[0].run.clone(), vec![need(MANIFEST_NAME.to_owned(), v1::ObjectAccess::Read)]))
        }
        _ => None,
    }
}

fn outcome(start: &v1::Start) -> v1::result::Outcome {
    use v1::result::Outcome;
    let engine_version = || "15".to_owned();
    match start.work.as_ref().unwrap() {
        v1::start::Work::Prepare(_) => Outcome::Prepared(v1::Prepared { engine_version: engine_version() }),
        v1::start::Work::Restart(_) => Outcome::Restarted(v1::Restarted { engine_version: engine_version() }),
        v1::start::Work::Stop(_) => Outcome::Stopped(v1::Stopped {}),
        v1::start::Work::Backup(backup) => {
            let run = run_of(start);
            let manifest_sum = blake3::hash(&manifest(backup, &run)).to_hex().to_string();
            Outcome::BackedUp(v1::BackedUp { run, manifest_sum, data_bytes: 3, stored_bytes: 2 })
        }
        v1::start::Work::Restore(_) => Outcome::Restored(v1::Restored { data_bytes: 3 }),
        v1::start::Work::Check(_) => Outcome::Checked(v1::Checked {}),
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
        objects: &dyn GrantObjects,
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
        if let Some((run, needs)) = needs(&start) {
            let granted = objects.grant(&run, &needs).await;
            let refused = |error: v1::Error| AgentError::Refused { kind: error.kind(), message: error.message };
            assert_eq!(granted.map_err(refused)?.len(), needs.len());
        }
        self.do_work(instance, &start).map(|()| Some(outcome(&start)))
    }

    fn cancel(&self, instance: InstanceId, operation: OperationId) {
        self.cancelled.lock().unwrap().push((instance, operation));
    }

    async fn assign(&self, instance: InstanceId, request: v1::AssignRequest) -> Result<v1::AssignReply, AgentError> {
        if let Some(error) = self.failures.lock().unwrap().get_mut("assign").and_then(VecDeque::pop_front) {
            return Err(error);
        }
        let generation = request.generation;
        let parameters = request.specification.clone().unwrap_or_default().parameters;
        self.assigned.lock().unwrap().push(request);
        self.change(instance, |state| state.assignment_generation = generation);
        self.agents.lock().unwrap().entry(instance).or_default().parameters = parameters;
        Ok(v1::AssignReply { generation, error: None, parameters: self.apply(instance) })
    }

    async fn check_parameters(&self, _: InstanceId, _: BTreeMap<String, String>) -> Result<Option<String>, AgentError> {
        if let Some(error) = self.failures.lock().unwrap().get_mut("check").and_then(VecDeque::pop_front) {
            return Err(error);
        }
        Ok(self.check_refusal.lock().unwrap().clone())
    }

    async fn list_parameters(&self, _: InstanceId) -> Result<Vec<v1::ParameterValue>, AgentError> {
        Ok(Vec::new())
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

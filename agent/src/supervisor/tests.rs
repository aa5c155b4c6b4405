//! The task with an engine that is a shell, and a strategy without any time limit of its own.

mod planted;
mod taken_back;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use trove_proto::v1;
use trove_strategy::{
    Account, CharacterSet, Database, Databases, Directory, Engine, File, Grantee, Host, Identity, Installation,
    Location, Metric, Owner, Places, Size,
};

use super::*;
use crate::bounded::Bounded;
use crate::jobs::{Attached, JobQueue as _, Jobs};
use crate::journal::Journal;
use crate::process::Mark;
use crate::work::EngineWork;

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Answers,
    /// Every call, for ever.
    Hangs,
    /// As one that recovers.
    Recovers,
    /// As one with too many clients.
    IsFull,
    Fatal,
}

/// A file of the server's own.
fn accounts() -> Location {
    Directory::Data.join("data/accounts")
}

/// Reads a file and writes what it read with a line more.
async fn keep(site: &Site, at: Location, owner: Owner) -> Result<(), EngineError> {
    let mut contents = site.host.read(&at, 1 << 20).await?.unwrap_or_default();
    contents.extend_from_slice(b"line\n");
    Ok(site.host.write(File { at, contents, mode: 0o640, owner }).await?)
}

const TLS_PORT: u16 = 7802;

struct Sleeper {
    mood: Mutex<Mood>,
    asked: AtomicU32,
    read_only: Mutex<Vec<bool>>,
    script: &'static str,
    configured: Mutex<BTreeMap<String, Value>>,
    started_with: Mutex<BTreeMap<String, Value>>,
    starts: AtomicU32,
}

impl Sleeper {
    fn starts(&self) -> u32 {
        self.starts.load(Ordering::SeqCst)
    }

    /// Whether the process that was started last ends by itself: such a one answers nothing in the moment that it lives.
    fn ends_by_itself(&self) -> bool {
        let fails_once = self.script.ends_with(FAILS);
        fails_once && self.starts() == 1 || self.started_with.lock().unwrap().contains_key("cold_bad")
    }

    async fn answer(&self) -> Result<(), EngineError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Answers => Ok(()),
            Mood::Hangs => std::future::pending().await,
            Mood::Recovers => Err(EngineError::new(Kind::Transient, "probe: the engine is starting up")),
            Mood::IsFull => Err(EngineError::new(Kind::Transient, "probe: max number of clients reached")),
            Mood::Fatal => Err(EngineError::new(Kind::Fatal, "probe: the account is locked")),
        }
    }
}

#[async_trait]
impl Datastore for Sleeper {
    fn identity(&self) -> Identity {
        let mut identity = Identity::new("sleeper", 1);
        identity.tls_port = Some(TLS_PORT);
        identity
    }

    async fn installations(
        &self,
        _host: &dyn Host,
        _bindir: Option<&std::path::Path>,
    ) -> Result<Vec<Installation>, EngineError> {
        Ok(Vec::new())
    }

    fn engine(&self) -> &dyn Engine {
        self
    }

    fn databases(&self) -> Option<&dyn Databases> {
        Some(self)
    }

    fn parameters(&self) -> Option<&dyn trove_strategy::Parameters> {
        Some(self)
    }
}

#[async_trait]
impl Databases for Sleeper {
    async fn character_sets(&self, _site: &Site) -> Result<Vec<CharacterSet>, EngineError> {
        Ok(Vec::new())
    }

    async fn list(&self, _site: &Site) -> Result<Vec<Database>, EngineError> {
        Ok(Vec::new())
    }

    async fn create(&self, site: &Site, _database: &Database) -> Result<(), EngineError> {
        self.answer().await?;
        keep(site, accounts(), Owner::Engine).await
    }

    async fn delete(&self, _site: &Site, _name: &str) -> Result<(), EngineError> {
        self.answer().await
    }

    async fn grant(&self, _site: &Site, _user: &Grantee, _databases: &[String]) -> Result<(), EngineError> {
        self.answer().await
    }

    async fn revoke(&self, _site: &Site, _user: &Grantee, _database: &str) -> Result<(), EngineError> {
        self.answer().await
    }
}

#[async_trait]
impl Engine for Sleeper {
    async fn initialise(&self, site: &Site) -> Result<FirstStart, EngineError> {
        site.host.make_directory(&Directory::Data.join("data"), 0o700, Owner::Engine).await?;
        keep(site, accounts(), Owner::Engine).await?;
        Ok(FirstStart::Normal)
    }

    async fn configure(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        self.read_only.lock().unwrap().push(settings.read_only);
        self.configured.lock().unwrap().clone_from(&settings.parameters);
        keep(site, Directory::Config.join("engine.conf"), Owner::Agent).await
    }

    async fn forget_earlier_life(&self, site: &Site) -> Result<(), EngineError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        *self.started_with.lock().unwrap() = self.configured.lock().unwrap().clone();
        site.host.remove(&Directory::Data.join("data/pid")).await?;
        Ok(site.host.remove(&Directory::Run.join("lock")).await?)
    }

    fn start_spec(&self, _site: &Site, settings: &Settings, _mode: StartMode) -> StartSpec {
        let script = match settings.parameters.get("cold_bad") {
            Some(value) => format!("echo {value} is too much; {FAILS}"),
            None => self.script.to_owned(),
        };
        let mut spec = StartSpec::new("/bin/sh", vec!["-c".to_owned(), script]);
        spec.stop_deadline = Duration::from_secs(2);
        spec.start_deadline = Duration::from_secs(20);
        spec
    }

    async fn secure(&self, _site: &Site) -> Result<(), EngineError> {
        Ok(())
    }

    async fn probe(&self, _site: &Site) -> Result<Health, EngineError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.ends_by_itself() {
            return Err(EngineError::new(Kind::Transient, "probe: nobody listens"));
        }
        self.answer().await?;
        Ok(Health::new("1"))
    }

    async fn metrics(&self, _site: &Site) -> Result<Vec<Metric>, EngineError> {
        self.answer().await?;
        Ok(Vec::new())
    }

    async fn reload(&self, _site: &Site, _settings: &Settings) -> Result<(), EngineError> {
        self.answer().await
    }
}

struct Stage {
    sleeper: Arc<Sleeper>,
    supervisor: Supervisor,
    used: watch::Sender<Option<u64>>,
    files: Durable,
    assignments: Arc<AssignmentStore>,
    jobs: Jobs,
    site: Site,
    scratch: tempfile::TempDir,
}

const SLEEPS: &str = "exec sleep 600";
const FAILS: &str = "exit 1";
const MIB: u64 = 1 << 20;
const ASSIGNMENT: &str = "assignment";

async fn stage(script: &'static str, mood: Mood) -> Stage {
    stage_in(tempfile::tempdir().unwrap(), script, mood).await
}

async fn stage_in(scratch: tempfile::TempDir, script: &'static str, mood: Mood) -> Stage {
    stage_as(scratch, Account::own().unwrap(), script, mood).await
}

async fn stage_as(scratch: tempfile::TempDir, engine: Account, script: &'static str, mood: Mood) -> Stage {
    let at = |name: &str| scratch.path().join(name);
    std::fs::create_dir_all(at("state")).unwrap();
    let sleeper = Arc::new(Sleeper {
        mood: Mutex::new(mood),
        asked: AtomicU32::new(0),
        read_only: Mutex::default(),
        script,
        configured: Mutex::default(),
        started_with: Mutex::default(),
        starts: AtomicU32::new(0),
    });
    let own = Account::own().unwrap();
    let places = Places { data: at("v/1"), config: at("etc"), run: at("run"), log: at("log"), secrets: at("secrets") };
    let host = RealHost::for_site(engine, own, &places).unwrap();
    host.make_directory(&Directory::Data.join("data"), 0o700, Owner::Engine).await.unwrap();
    let installation = Installation::new("1", "1", "/bin");
    let size = Size { memory_mib: 1, vcpus: 1, volume_gib: 1 };
    // Drawn from so many that two tests do not meet.
    let address =
        std::net::Ipv4Addr::new(127, rand::random_range(96..=127), rand::random(), rand::random_range(1..=254));
    let site = Site::new(installation, places, address.into(), 7801, size, &host);
    let files = Durable::open(&at("state")).unwrap();
    let assignments = Arc::new(AssignmentStore::open(files.clone()).unwrap());
    let specification = trove_proto::v1::Specification { probe_interval_s: 1, ..Default::default() };
    if !files.was_set_aside(ASSIGNMENT) {
        assignments.assign(1, specification).unwrap();
    }
    let (used, measured) = watch::channel(Some(MIB));
    let datastore: Arc<dyn Datastore> = sleeper.clone();
    let datastore: Arc<dyn Datastore> = Arc::new(Bounded::new(datastore));
    let parts = Parts {
        datastore: datastore.clone(),
        site: site.clone(),
        host,
        files: files.clone(),
        assignments: assignments.clone(),
        log: EngineLog::new(&at("log")),
        used: measured,
    };
    let supervisor = spawn(parts).await.unwrap();
    let work =
        EngineWork { datastore, site: site.clone(), supervisor: supervisor.clone(), assignments: assignments.clone() };
    let jobs = Jobs::new(Arc::new(work), assignments.clone(), Journal::open(&at("jobs")).unwrap());
    Stage { sleeper, supervisor, used, files, assignments, jobs, site, scratch }
}

impl Stage {
    fn is(&self, mood: Mood) {
        *self.sleeper.mood.lock().unwrap() = mood;
    }

    async fn until(&self, service: ServiceState) -> String {
        let mut status = self.supervisor.status();
        let reached =
            tokio::time::timeout(Duration::from_secs(30), status.wait_for(|now| now.service == service)).await;
        match reached {
            Ok(status) => status.unwrap().detail.clone(),
            Err(_) => panic!("it is {:?}", self.supervisor.status().borrow().clone()),
        }
    }

    fn pid(&self) -> i32 {
        self.files.read_json::<Mark>(MARK).unwrap().unwrap().pid
    }

    /// Another agent in place of this one, which ends without its engine, over a file that was cut off.
    async fn again_with(self, file: &str, length: usize) -> Self {
        let Self { sleeper, supervisor, files, jobs, scratch, .. } = self;
        drop((supervisor, jobs));
        let whole = std::fs::read(files.path(file)).unwrap();
        std::fs::write(files.path(file), &whole[..length]).unwrap();
        stage_in(scratch, sleeper.script, Mood::Answers).await
    }

    async fn end(self) {
        self.is(Mood::Answers);
        self.supervisor.stop().await.unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{}", self.pid())).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_is_blocked_with_the_reason_and_can_be_restarted() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let first = stage.pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGSTOP).unwrap();
    stage.is(Mood::Hangs);
    assert_eq!(stage.until(ServiceState::Blocked).await, "probe: no answer within 2 s");
    stage.is(Mood::IsFull);
    let told = async || {
        let mut status = stage.supervisor.status();
        status.wait_for(|now| now.detail.contains("max number of clients reached")).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(10), told()).await.unwrap();
    stage.is(Mood::Hangs);
    let stopped = stage.supervisor.stop_for_a_while();
    tokio::time::timeout(Duration::from_secs(10), stopped).await.expect("the task hears while a probe hangs").unwrap();
    stage.is(Mood::Answers);
    stage.supervisor.start().await.unwrap();
    assert_ne!(stage.pid(), first);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_answer_ends_a_start_at_once() {
    let stage = stage(SLEEPS, Mood::Fatal).await;
    let begun = Instant::now();
    let error = stage.supervisor.start().await.unwrap_err();
    assert!(error.chain().contains("the account is locked") && error.kind() == Kind::Fatal, "{}", error.chain());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!std::path::Path::new(&format!("/proc/{}", stage.pid())).exists(), "it serves nobody");
    assert_eq!(stage.supervisor.status().borrow().service, ServiceState::Failed);
    stage.end().await;
}

/// Ends when it is started first, and stays when it is started again: its output tells the two apart.
const STARTS_AGAIN: &str = "test -s /proc/self/fd/1 && exec sleep 600; echo the address is in use; exit 1";

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_another_has_is_waited_for_with_the_reason() {
    for port in [None, Some(TLS_PORT)] {
        waits_for_its_address(port).await;
    }
}

async fn waits_for_its_address(port: Option<u16>) {
    let stage = stage(STARTS_AGAIN, Mood::Answers).await;
    let at = std::net::SocketAddr::new(stage.site.address, port.unwrap_or(stage.site.port));
    let taken = std::net::TcpListener::bind(at).unwrap();
    let supervisor = stage.supervisor.clone();
    let start = tokio::spawn(async move { supervisor.start().await });
    let mut status = stage.supervisor.status();
    let reason = format!("another process has the engine's address {at}");
    let told = status.wait_for(|now| now.detail.contains(&reason));
    let told = tokio::time::timeout(Duration::from_secs(10), told).await.expect("it says so").unwrap().service;
    assert_eq!(told, ServiceState::Starting);
    // Longer than the start itself may take; whoever asked hears of that, and it goes on.
    let error = start.await.unwrap().unwrap_err();
    assert!(error.chain().contains("another process") && error.kind() == Kind::Transient, "{}", error.chain());
    stage.until(ServiceState::Starting).await;
    drop(taken);
    assert_eq!(stage.until(ServiceState::Healthy).await, "");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_address_was_taken_in_the_moment_of_its_start_is_started_again() {
    let fails_once = "test -s /proc/self/fd/1 && exec sleep 600; echo bind: Address already in use; exit 1";
    let stage = stage(fails_once, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    assert_eq!(stage.until(ServiceState::Healthy).await, "");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_recovers_is_asked_seldom_and_can_be_stopped_meanwhile() {
    let stage = stage(SLEEPS, Mood::Recovers).await;
    let supervisor = stage.supervisor.clone();
    let start = tokio::spawn(async move { supervisor.start().await });
    stage.until(ServiceState::Starting).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = stage.sleeper.asked.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let asked = stage.sleeper.asked.load(Ordering::SeqCst) - before;
    assert!((2..=6).contains(&asked), "{asked} in 4 s");
    let said = stage.supervisor.status().borrow().detail.clone();
    assert_eq!(said, "the engine does not answer yet: probe: the engine is starting up");
    let stopped = stage.supervisor.stop_for_a_while();
    tokio::time::timeout(Duration::from_secs(5), stopped).await.expect("a start does not make it deaf").unwrap();
    assert_eq!(start.await.unwrap().unwrap_err().kind(), Kind::Transient);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_makes_it_read_only_and_an_over_full_one_stops_it() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let use_mib = |mib: u64| stage.used.send_replace(Some(mib * MIB));
    use_mib(1030);
    let full = async || {
        let mut status = stage.supervisor.status();
        let status = status.wait_for(|now| now.detail.contains("is full")).await.unwrap();
        assert_eq!(status.service, ServiceState::Healthy);
    };
    tokio::time::timeout(Duration::from_secs(10), full()).await.unwrap();
    assert_eq!(stage.sleeper.read_only.lock().unwrap().last(), Some(&true));
    use_mib(1200);
    assert!(stage.until(ServiceState::Shutdown).await.contains("is stopped until"));
    let refused = stage.supervisor.start().await.unwrap_err();
    assert!(refused.chain().contains("is stopped until"), "{}", refused.chain());
    use_mib(1020);
    assert!(stage.until(ServiceState::Healthy).await.contains("is full"));
    use_mib(900);
    let well = async || stage.supervisor.status().wait_for(|now| now.detail.is_empty()).await.map(drop).unwrap();
    tokio::time::timeout(Duration::from_secs(10), well()).await.unwrap();
    assert_eq!(stage.sleeper.read_only.lock().unwrap().last(), Some(&false));
    stage.end().await;
}

/// Asks for a change of accounts.
fn ask_for_a_change(stage: &Stage) -> Attached {
    let kind = Some(v1::account_change::Kind::DeleteDatabase("x".to_owned()));
    let changes = v1::ChangeAccounts { changes: vec![v1::AccountChange { kind }] };
    let key = v1::JobKey { operation: "o".to_owned(), step: "apply".to_owned(), target: "i".to_owned(), attempt: 1 };
    let work = Some(v1::start::Work::ChangeAccounts(changes));
    stage.jobs.start(v1::Start { key: Some(key), fence: 1, deadline_s: 60, work })
}

async fn end_of(job: &mut Attached) -> v1::Result {
    let ended = job.state.wait_for(|state| state.ended.is_some());
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it ends").unwrap().ended.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_accepted_waits_for_an_engine_that_recovers() {
    let stage = stage(SLEEPS, Mood::Recovers).await;
    let supervisor = stage.supervisor.clone();
    let start = tokio::spawn(async move { supervisor.start().await });
    stage.until(ServiceState::Starting).await;
    let mut job = ask_for_a_change(&stage);
    let waits = job.state.wait_for(|state| state.progress.stage.contains("waits for the engine, which recovers"));
    tokio::time::timeout(Duration::from_secs(10), waits).await.expect("its progress says so").unwrap();
    stage.is(Mood::Answers);
    let changed = v1::result::Outcome::AccountsChanged(v1::AccountsChanged { changes: 1 });
    assert_eq!(end_of(&mut job).await, v1::Result { error: None, outcome: Some(changed) });
    let told = job.state.borrow().progress.clone();
    assert_eq!((told.done, told.total, told.unit.as_str()), (Some(1), Some(1), "items"));
    start.await.unwrap().unwrap();
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_does_not_wait_for_an_engine_that_is_stopped() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    stage.supervisor.stop().await.unwrap();
    stage.is(Mood::Recovers);
    let error = end_of(&mut ask_for_a_change(&stage)).await.error.expect("it fails");
    assert_eq!(
        (error.kind(), error.message.contains("the engine is stopped")),
        (v1::ErrorKind::Fatal, true),
        "{error:?}"
    );
    stage.end().await;
}

/// A shell that stays one, so that it is found by its program.
const STAYS: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_mark_is_cut_off_is_found_by_its_signs() {
    let mut stage = stage(STAYS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let (pid, whole) = (stage.pid(), stage.files.read(MARK).unwrap().unwrap());
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        stage = stage.again_with(MARK, length).await;
        stage.until(ServiceState::Healthy).await;
        assert!(stage.files.read(MARK).unwrap().is_none(), "no other was started");
        stage.files.write(MARK, &whole).unwrap();
    }
    assert_eq!(stage.pid(), pid);
    stage.supervisor.stop().await.unwrap();
    // A zombie of this process may be left, since no adopting agent has to reap it.
    assert!(!serde_json::from_slice::<Mark>(&whole).unwrap().runs().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_an_initialisation_that_did_not_end_is_not_adopted() {
    let stage = stage(STAYS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let before: Mark = stage.files.read_json(MARK).unwrap().unwrap();
    // The first start of an engine, for the agent alone, is made before any start was asked for.
    std::fs::remove_file(stage.files.path(DESIRED)).unwrap();
    let Stage { supervisor, jobs, scratch, .. } = stage;
    drop((supervisor, jobs));
    let stage = stage_in(scratch, STAYS, Mood::Answers).await;
    assert_eq!(stage.supervisor.status().borrow().service, ServiceState::New);
    stage.supervisor.initialise().await.unwrap();
    assert!(!before.runs().unwrap());
    stage.supervisor.start().await.unwrap();
    assert_ne!(stage.pid(), before.pid);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_begun_runs_also_when_that_is_cut_off() {
    let mut stage = stage(STAYS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    for length in [0, 1, 2, 3] {
        stage.supervisor.start().await.unwrap();
        stage.supervisor.stop_for_a_while().await.unwrap();
        stage = stage.again_with(DESIRED, length).await;
        stage.until(ServiceState::Healthy).await;
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_without_its_assignment_keeps_its_configuration_and_is_not_stopped_for_its_size() {
    let stage = stage(STAYS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let stage = stage.again_with(ASSIGNMENT, 3).await;
    stage.until(ServiceState::Healthy).await;
    stage.supervisor.stop_for_a_while().await.unwrap();
    stage.used.send_replace(Some(1200 * MIB));
    stage.supervisor.configure().await.unwrap();
    stage.supervisor.start().await.expect("nobody knows that the volume is no greater");
    assert!(stage.sleeper.read_only.lock().unwrap().is_empty(), "it was configured");
    stage.end().await;
}

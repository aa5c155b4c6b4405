//! The task with an engine that is a shell, and a strategy without any time limit of its own.

mod changes;
mod cut_off;
mod empty;
mod planted;
mod repair;
mod room;
mod starting;
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
use crate::identity::Identity as OwnIdentity;
use crate::jobs::{Attached, JobQueue as _, Jobs};
use crate::journal::Journal;
use crate::objects::{Limits, Objects};
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
    /// As one whose superuser has taken the agent's rights away.
    ShutsOut,
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
    repairs: AtomicU32,
    /// How many more calls it takes to secure it, of which the last one succeeds; it starts privately as long as there are any.
    open: AtomicU32,
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
            Mood::ShutsOut => Err(EngineError::new(Kind::LockedOut, "probe: the account may not log in")),
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

    fn backup(&self) -> Option<&dyn trove_strategy::Backup> {
        Some(self)
    }
}

#[async_trait]
impl trove_strategy::Backup for Sleeper {
    async fn take(&self, _site: &Site, _sink: &mut trove_strategy::Sink) -> Result<trove_strategy::Taken, EngineError> {
        std::future::pending().await
    }

    async fn restore(&self, _site: &Site, _source: &mut trove_strategy::Source) -> Result<(), EngineError> {
        Ok(())
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
        Ok(if self.open.load(Ordering::SeqCst) > 0 { FirstStart::Private } else { FirstStart::Normal })
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
        match self.open.fetch_sub(1, Ordering::SeqCst) {
            1 => Ok(()),
            _ => Err(EngineError::new(Kind::Transient, "secure: no answer")),
        }
    }

    async fn repair(&self, _site: &Site) -> Result<Option<String>, EngineError> {
        if *self.mood.lock().unwrap() != Mood::ShutsOut {
            return Ok(None);
        }
        self.repairs.fetch_add(1, Ordering::SeqCst);
        // Long enough to be seen.
        tokio::time::sleep(Duration::from_millis(500)).await;
        *self.mood.lock().unwrap() = Mood::Answers;
        Ok(Some("restored: the account".to_owned()))
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
        repairs: AtomicU32::new(0),
        open: AtomicU32::new(0),
    });
    let own = Account::own().unwrap();
    let places = Places { data: at("v/1"), config: at("etc"), run: at("run"), log: at("log"), secrets: at("secrets") };
    let host = RealHost::for_site(engine, own, &places).unwrap();
    // What a tenant has put there stays for the agent to find.
    if std::fs::symlink_metadata(at("v/1/data")).is_err() {
        host.make_directory(&Directory::Data.join("data"), 0o700, Owner::Engine).await.unwrap();
    }
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
        log: OutputLog::of_engine(&at("log")),
        used: measured,
    };
    let supervisor = spawn(parts).await.unwrap();
    // Nobody is dialled: no test here needs a controller.
    std::fs::write(at("driver.pem"), "").unwrap();
    let identity = OwnIdentity::open(files.clone(), &at("driver.pem")).unwrap();
    let objects = Objects::new(identity, assignments.clone(), Vec::new(), Limits::default());
    let work = EngineWork {
        datastore,
        site: site.clone(),
        supervisor: supervisor.clone(),
        assignments: assignments.clone(),
        objects: Arc::new(objects),
    };
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

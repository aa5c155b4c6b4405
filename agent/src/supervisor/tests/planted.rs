//! What the engine's account puts in the agent's way: between any two stages of the engine's life, and by swapping things
//! while a stage lasts.

mod jobs;

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use trove_strategy::Backup as _;

use super::*;

/// An account without a name on the machine, as engines have.
const TENANT: u32 = 64_999;
const SECRET: &str = "a secret of root's";
/// A stage that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(20);
/// What strategies and engines make; all else is found when it is there.
const NAMES: [&str; 14] = [
    "v/1/data",
    "v/1/data.new",
    "v/1/data.new/accounts",
    "v/1/data/accounts",
    "v/1/data/.accounts.new",
    "v/1/data/altered",
    "v/1/data/kept",
    "v/1/data/log",
    "v/1/data/logs",
    "v/1/data/pid",
    "v/1/data/signal",
    "v/1/data/snapshot",
    "run/lock",
    "run/s",
];

#[derive(Clone, Copy, Debug)]
enum Plant {
    Nothing,
    LinkToFile,
    LinkToDirectory,
    /// The kernel lets nobody make one to another's file where it is told so; it may have come in otherwise.
    HardLink,
    Pipe,
    Device,
    /// The directory in which it lies.
    Directory,
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Empty,
    Restore,
    Replay,
    Prepare,
    Configure,
    Start,
    Change,
    Restart,
    Settings,
    CutLog,
    BackUp,
    Ship,
    Measure,
    Stop,
    Repair,
    /// Another agent takes over what is there.
    Upgrade,
    Delete,
}

const LIFE: [Deed; 20] = [
    Deed::Empty,
    Deed::Restore,
    Deed::Replay,
    Deed::Prepare,
    Deed::Configure,
    Deed::Start,
    Deed::Change,
    Deed::Restart,
    Deed::Settings,
    Deed::CutLog,
    Deed::BackUp,
    Deed::Ship,
    Deed::Measure,
    Deed::Restart,
    Deed::Stop,
    Deed::Repair,
    Deed::Upgrade,
    Deed::Start,
    Deed::Stop,
    Deed::Delete,
];

/// Everything in a directory, with what is below it.
fn all(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_dir()) {
            found.extend(all(&path));
        }
        found.push(path);
    }
    found
}

fn clear(path: &Path) {
    // What is not there is clear.
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
}

/// One of the places that the engine's account can change.
fn place(top: &Path, at: Index) -> PathBuf {
    let mut places: Vec<PathBuf> = NAMES.iter().map(|name| top.join(name)).collect();
    places.extend(["v/1", "run"].iter().flat_map(|root| all(&top.join(root))));
    at.get(&places).clone()
}

/// Puts something at a place.
fn plant(top: &Path, roots: &Path, plant: Plant, path: &Path) {
    let parent = path.parent().unwrap();
    let secret = roots.join("secret");
    if !fs::symlink_metadata(parent).is_ok_and(|facts| facts.is_dir()) {
        return;
    }
    let done = match plant {
        Plant::Nothing => return,
        // The two roots lie in directories of the agent's.
        Plant::Directory if ["v/1", "run"].iter().any(|root| top.join(root) == parent) => return,
        Plant::Directory => {
            clear(parent);
            return symlink(roots, parent).and_then(|()| lchown(parent, Some(TENANT), Some(TENANT))).unwrap();
        }
        Plant::LinkToFile => {
            clear(path);
            symlink(&secret, path)
        }
        Plant::LinkToDirectory => {
            clear(path);
            symlink(roots, path)
        }
        Plant::HardLink => {
            clear(path);
            return fs::hard_link(roots.join("other"), path).unwrap();
        }
        Plant::Pipe => {
            clear(path);
            nix::unistd::mkfifo(path, Mode::S_IRWXU).map_err(Into::into)
        }
        Plant::Device => {
            clear(path);
            mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 7)).map_err(Into::into)
        }
    };
    done.and_then(|()| lchown(path, Some(TENANT), Some(TENANT))).unwrap();
}

/// Swaps what is at a place with a link and back, again and again, until this is dropped.
struct Swapping {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapping {
    /// `aside` is on the same file system, where the agent does not look. `None` if nothing can be at the place.
    fn begin(place: &Path, aside: PathBuf, target: &Path) -> Option<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        // By a handle, so that no link that was planted before is followed.
        let parent = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(place.parent()?).ok()?;
        let name = PathBuf::from(place.file_name()?);
        symlink(target, &aside).and_then(|()| lchown(&aside, Some(TENANT), Some(TENANT))).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                // Fails while nothing is there.
                let _ = renameat2(&parent, &name, nix::fcntl::AT_FDCWD, &aside, RenameFlags::RENAME_EXCHANGE);
                std::thread::sleep(Duration::from_micros(rand::random_range(1..200)));
            }
            clear(&aside);
        });
        Some(Self { over, thread: Some(thread) })
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// What is root's: contents, modes, owners, and the names of what is there.
fn facts(roots: &Path) -> Vec<String> {
    let mut paths = all(roots);
    paths.sort();
    paths.push(roots.to_owned());
    let of = |path: &PathBuf| {
        let facts = fs::symlink_metadata(path).unwrap();
        // The other file's names are made and removed by the engine's account.
        let names = if path.ends_with("secret") { facts.nlink() } else { 0 };
        let contents = fs::read_to_string(path).unwrap_or_default();
        format!("{} {:o} {} {} {names} {contents}", path.display(), facts.mode(), facts.uid(), facts.gid())
    };
    paths.iter().map(of).collect()
}

fn has_secret(path: &PathBuf) -> bool {
    let facts = fs::symlink_metadata(path).unwrap();
    // A second name of root's own file is no copy of it.
    facts.is_file() && facts.nlink() == 1 && fs::read_to_string(path).is_ok_and(|text| text.contains(SECRET))
}

async fn act(stage: &Stage, deed: Deed) -> Result<(), EngineError> {
    let (supervisor, site) = (&stage.supervisor, &stage.site);
    match deed {
        Deed::Empty => supervisor.make_empty().await,
        Deed::Restore => jobs::Keeper.restore(site, &mut b"accounts\n".as_slice()).await,
        Deed::Replay => jobs::replay(site).await,
        Deed::Repair => jobs::repair(site).await,
        Deed::BackUp => {
            let mut bytes = std::io::Cursor::new(Vec::new());
            let taken = jobs::Keeper.take(site, &mut bytes).await;
            assert!(!tells(&bytes.into_inner()), "the backup has the secret");
            taken.map(drop)
        }
        Deed::Ship => {
            let shipped = jobs::ship(site).await;
            assert!(!shipped.as_deref().is_ok_and(tells), "the log has the secret");
            shipped.map(drop)
        }
        Deed::Measure => {
            let top = stage.scratch.path();
            let signs = crate::process::Signs::new(&host_of(top), &site.data, &top.join("log/engine.log"));
            let mut used =
                crate::volume::watch(top.join("v"), OutputLog::of_engine(&top.join("log")), signs, || 1 << 30);
            used.wait_for(Option::is_some).await.map(drop).map_err(|_| EngineError::new(Kind::Fatal, "it ended"))
        }
        // The other agent begins afterwards.
        Deed::Upgrade => supervisor.stop().await,
        Deed::Prepare => supervisor.initialise().await,
        Deed::Configure => supervisor.configure().await,
        Deed::Start => supervisor.start().await,
        Deed::Change => {
            let database = Database { name: "x".to_owned(), character_set: None, collation: None };
            stage.sleeper.create(&stage.site, &database).await
        }
        Deed::Restart => {
            supervisor.stop_for_a_while().await?;
            supervisor.configure().await?;
            supervisor.start().await
        }
        Deed::Settings => supervisor.apply().await.map(drop),
        Deed::CutLog => {
            fs::write(stage.scratch.path().join("log/engine.log"), vec![b'x'; 9 << 20]).unwrap();
            let log = OutputLog::of_engine(&stage.scratch.path().join("log"));
            // It looks at once, and again every second.
            let _ = tokio::time::timeout(Duration::from_millis(200), log.keep_short()).await;
            Ok(())
        }
        Deed::Stop => supervisor.stop().await,
        Deed::Delete => Ok(stage.site.host.remove(&Directory::Data.join("data")).await?),
    }
}

fn engine() -> Account {
    Account { name: "os_admin".to_owned(), uid: Uid::from_raw(TENANT), gid: Gid::from_raw(TENANT) }
}

fn host_of(top: &Path) -> RealHost {
    let at = |name: &str| top.join(name);
    let places = Places { data: at("v/1"), config: at("etc"), run: at("run"), log: at("log"), secrets: at("secrets") };
    RealHost::for_site(engine(), Account::own().unwrap(), &places).unwrap()
}

fn tells(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains(SECRET)
}

/// Another agent in place of this one, which has stopped its engine.
async fn upgraded(stage: Stage) -> Stage {
    let Stage { supervisor, jobs, scratch, .. } = stage;
    drop((supervisor, jobs));
    stage_as(scratch, engine(), SLEEPS, Mood::Answers).await
}

/// What is done between two deeds and during the second: something is planted, and something else swapped.
type Attack = ((Plant, Index), Option<Index>);

/// A whole life. Where nothing is attacked, every deed is done.
async fn live(story: Vec<Attack>) {
    let outside = tempfile::tempdir().unwrap();
    let roots = outside.path().join("roots");
    fs::create_dir(&roots).unwrap();
    for name in ["secret", "other"] {
        fs::write(roots.join(name), SECRET).unwrap();
        fs::set_permissions(roots.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let before = facts(&roots);
    let scratch = tempfile::tempdir().unwrap();
    // Programs of the engine's account have their way to its files.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let mut stage = stage_as(scratch, engine(), SLEEPS, Mood::Answers).await;
    let top = stage.scratch.path().to_owned();
    let mut attacks = story.into_iter();
    for deed in LIFE {
        let attack = attacks.next();
        let swapping = attack.and_then(|((what, at), swapped)| {
            plant(&top, &roots, what, &place(&top, at));
            let target = if matches!(what, Plant::LinkToFile) { roots.join("secret") } else { roots.clone() };
            Swapping::begin(&place(&top, swapped?), top.join("aside"), &target)
        });
        let done = tokio::time::timeout(LONGEST, act(&stage, deed)).await;
        drop(swapping);
        if let Deed::Upgrade = deed {
            stage = upgraded(stage).await;
        }
        let done = done.unwrap_or_else(|_| panic!("{deed:?} hangs after {attack:?}"));
        if let Err(error) = done {
            assert!(attack.is_some(), "{deed:?}: {}", error.chain());
            assert!(error.chain().contains(' ') && !error.chain().contains(SECRET), "{deed:?}: {}", error.chain());
        }
        assert_eq!(facts(&roots), before, "{deed:?} after {attack:?}");
        let shown = all(&top).into_iter().find(has_secret);
        assert_eq!(shown, None, "{deed:?} after {attack:?}");
    }
    stage.supervisor.stop().await.unwrap();
}

fn plants() -> impl Strategy<Value = Vec<Attack>> {
    use Plant::*;
    let one = select(vec![Nothing, LinkToFile, LinkToDirectory, HardLink, Pipe, Device, Directory]);
    let attack = ((one, any::<Index>()), proptest::option::of(any::<Index>()));
    proptest::collection::vec(attack, LIFE.len())
}

#[test]
fn nothing_of_roots_is_reached_whatever_the_engines_account_plants() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: an ordinary user's engine has no account of its own");
        return;
    }
    let is_full = std::env::var_os("TROVE_TEST_DEPTH").is_some_and(|depth| depth == "full");
    let config =
        ProptestConfig { cases: if is_full { 200 } else { 6 }, failure_persistence: None, ..Default::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(live(Vec::new()));
    proptest!(config, |(story in plants())| runtime.block_on(live(story)));
}

//! What the engine's account puts in the agent's way, between any two stages of the engine's life.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// An account without a name on the machine, as engines have.
const TENANT: u32 = 64_999;
const SECRET: &str = "a secret of root's";
/// A stage that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(20);
/// What strategies and engines make; all else is found when it is there.
const NAMES: [&str; 6] =
    ["v/1/data", "v/1/data/accounts", "v/1/data/.accounts.new", "v/1/data/pid", "run/lock", "run/s"];

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
    Prepare,
    Configure,
    Start,
    Change,
    Restart,
    Settings,
    CutLog,
    Stop,
    Delete,
}

const LIFE: [Deed; 12] = [
    Deed::Prepare,
    Deed::Configure,
    Deed::Start,
    Deed::Change,
    Deed::Restart,
    Deed::Settings,
    Deed::CutLog,
    Deed::Restart,
    Deed::Stop,
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

/// Puts something at one of the places that the engine's account can change.
fn plant(top: &Path, roots: &Path, plant: Plant, at: Index) {
    let mut places: Vec<PathBuf> = NAMES.iter().map(|name| top.join(name)).collect();
    places.extend(["v/1", "run"].iter().flat_map(|root| all(&top.join(root))));
    let path = at.get(&places);
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
    let supervisor = &stage.supervisor;
    match deed {
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

async fn live(story: Vec<(Plant, Index)>) {
    let outside = tempfile::tempdir().unwrap();
    let roots = outside.path().join("roots");
    fs::create_dir(&roots).unwrap();
    for name in ["secret", "other"] {
        fs::write(roots.join(name), SECRET).unwrap();
        fs::set_permissions(roots.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let before = facts(&roots);
    let engine = Account { name: "os_admin".to_owned(), uid: Uid::from_raw(TENANT), gid: Gid::from_raw(TENANT) };
    let stage = stage_as(tempfile::tempdir().unwrap(), engine, SLEEPS, Mood::Answers).await;
    let top = stage.scratch.path().to_owned();
    for (deed, (what, at)) in LIFE.into_iter().zip(story) {
        plant(&top, &roots, what, at);
        let done = tokio::time::timeout(LONGEST, act(&stage, deed)).await;
        let done = done.unwrap_or_else(|_| panic!("{deed:?} hangs after {what:?}"));
        if let Err(error) = done {
            assert!(error.chain().contains(' ') && !error.chain().contains(SECRET), "{deed:?}: {}", error.chain());
        }
        assert_eq!(facts(&roots), before, "{deed:?} after {what:?}");
        let shown = all(&top).into_iter().find(has_secret);
        assert_eq!(shown, None, "{deed:?} after {what:?}");
    }
    stage.supervisor.stop().await.unwrap();
}

fn plants() -> impl Strategy<Value = Vec<(Plant, Index)>> {
    use Plant::*;
    let one = select(vec![Nothing, LinkToFile, LinkToDirectory, HardLink, Pipe, Device, Directory]);
    proptest::collection::vec((one, any::<Index>()), LIFE.len())
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
    proptest!(config, |(story in plants())| runtime.block_on(live(story)));
}

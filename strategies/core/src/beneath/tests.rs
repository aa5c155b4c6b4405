use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A user of whom nothing is known but the number. As another user than root everything is this process's own.
const TENANT: u32 = 54_321;
const SECRET: &str = "only root reads this";

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn owners() -> Vec<u32> {
    vec![nix::unistd::geteuid().as_raw(), TENANT]
}

fn tenant() -> Option<Ids> {
    is_root().then_some(Ids { uid: TENANT, gid: TENANT })
}

/// A directory of the tenant's, and beside it what he must not reach.
struct Place {
    scratch: TempDir,
    dir: Dir,
}

impl Place {
    fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    fn within(directory: &Path) -> Self {
        let scratch = tempfile::tempdir_in(directory).unwrap();
        let outside = scratch.path().join("outside");
        fs::create_dir_all(outside.join("closed")).unwrap();
        fs::write(outside.join("secret"), SECRET).unwrap();
        fs::write(outside.join("closed/kept"), "kept").unwrap();
        for (name, mode) in [("secret", 0o600), ("closed/kept", 0o640), ("closed", 0o700), ("", 0o750)] {
            fs::set_permissions(outside.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let dir = Dir::make(&scratch.path().join("below"), 0o700, tenant(), &owners()).unwrap();
        Self { scratch, dir }
    }

    fn below(&self) -> PathBuf {
        self.scratch.path().join("below")
    }

    fn outside(&self) -> PathBuf {
        self.scratch.path().join("outside")
    }

    /// Everything that can be told of what lies outside, but for the number of names.
    fn facts(&self) -> Vec<(PathBuf, u32, u32, u32, Vec<u8>)> {
        ["", "secret", "closed", "closed/kept"]
            .map(|name| {
                let path = self.outside().join(name);
                let facts = fs::symlink_metadata(&path).unwrap();
                let contents = if facts.is_dir() {
                    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
                    names.sort();
                    format!("{names:?}").into_bytes()
                } else {
                    fs::read(&path).unwrap()
                };
                (path, facts.mode(), facts.uid(), facts.gid(), contents)
            })
            .to_vec()
    }
}

/// What a tenant puts somewhere.
#[derive(Clone, Copy, Debug)]
enum Plant {
    LinkToFile,
    LinkToDirectory,
    HardLink,
    Fifo,
    Device,
    Directory,
    File,
    /// The directory that leads there gives way to a link.
    SwappedDirectory,
}

fn plant(place: &Place, plant: Plant, at: &str) {
    let path = place.below().join(at);
    let clear = |path: &Path| match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    };
    if let Plant::SwappedDirectory = plant {
        let parent = path.parent().unwrap();
        let way = |path: &Path| fs::symlink_metadata(path).is_ok_and(|facts| facts.is_dir());
        if parent != place.below() && parent.parent().is_some_and(way) {
            clear(parent);
            symlink(place.outside().join("closed"), parent).unwrap();
        }
        return;
    }
    let parents: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| *parent != place.below()).collect();
    for parent in parents.into_iter().rev() {
        if !fs::symlink_metadata(parent).is_ok_and(|facts| facts.is_dir()) {
            clear(parent);
            fs::create_dir(parent).unwrap();
            let _ = std::os::unix::fs::chown(parent, tenant().map(|ids| ids.uid), tenant().map(|ids| ids.gid));
        }
    }
    clear(&path);
    match plant {
        Plant::LinkToFile => symlink(place.outside().join("secret"), &path).unwrap(),
        Plant::LinkToDirectory => symlink(place.outside().join("closed"), &path).unwrap(),
        Plant::HardLink => fs::hard_link(place.outside().join("secret"), &path).unwrap(),
        Plant::Fifo => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        Plant::Device if is_root() => {
            let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRWXU);
            // /dev/full: whoever writes to it notices.
            let _ = nix::sys::stat::mknod(&path, kind, mode, nix::sys::stat::makedev(1, 7));
        }
        Plant::Directory => fs::create_dir(&path).unwrap(),
        Plant::File | Plant::Device | Plant::SwappedDirectory => fs::write(&path, "the tenant's").unwrap(),
    }
    if !matches!(plant, Plant::HardLink) {
        let _ = std::os::unix::fs::lchown(&path, tenant().map(|ids| ids.uid), tenant().map(|ids| ids.gid));
    }
}

/// What the process with more rights does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Read,
    Write,
    MakeDirectory,
    Exists,
    Rename,
    Remove,
    Measure,
    Names,
}

/// Does it; it may fail. The secret never comes out.
fn act(dir: &Dir, deed: Deed, at: &str) {
    let at = Path::new(at);
    match deed {
        Deed::Read => {
            let read = dir.read(at, 1 << 20).ok().flatten().unwrap_or_default();
            assert!(!String::from_utf8_lossy(&read).contains(SECRET), "{}", at.display());
        }
        Deed::Write => drop(dir.write(at, b"written", 0o640, tenant())),
        Deed::MakeDirectory => drop(dir.make_directory(at, 0o711, tenant())),
        Deed::Exists => drop(dir.exists(at)),
        Deed::Rename => drop(dir.rename(at, Path::new("renamed"))),
        Deed::Remove => drop(dir.remove(at)),
        Deed::Measure => drop(dir.used_bytes()),
        Deed::Names => drop(dir.directory(at).and_then(|dir| dir.names(100))),
    }
}

const PLACES: [&str; 6] = ["a", ".a.new", "d/a", "d/.a.new", "d/e/a", "renamed"];

fn plants() -> impl Strategy<Value = (Plant, &'static str)> {
    use Plant::*;
    let all = [LinkToFile, LinkToDirectory, HardLink, Fifo, Device, Directory, File, SwappedDirectory];
    (proptest::sample::select(all.to_vec()), proptest::sample::select(PLACES.to_vec()))
}

fn deeds() -> impl Strategy<Value = (Deed, &'static str)> {
    use Deed::*;
    let all = [Read, Write, MakeDirectory, Exists, Rename, Remove, Measure, Names];
    (proptest::sample::select(all.to_vec()), proptest::sample::select(["a", "d/a", "d/e/a", "d", "d/e"].to_vec()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outside_is_reached_whatever_a_tenant_plants(
        story in proptest::collection::vec((plants(), deeds()), 1..12)
    ) {
        let place = Place::new();
        let before = place.facts();
        for ((planted, where_to), (deed, at)) in story {
            plant(&place, planted, where_to);
            act(&place.dir, deed, at);
            prop_assert_eq!(&place.facts(), &before, "{:?} at {} after {:?} at {}", deed, at, planted, where_to);
        }
        place.dir.empty().unwrap();
        prop_assert_eq!(place.facts(), before);
    }
}

#[test]
fn nothing_outside_is_reached_while_a_tenant_swaps_what_is_there() {
    let place = Place::new();
    let before = place.facts();
    let end = AtomicBool::new(false);
    let swap = |n: usize| {
        let path = place.below().join(["a", "d"][n % 2]);
        // Fails whenever the other side has been there meanwhile, which is the point.
        let _ = fs::remove_file(&path);
        let _ = fs::rename(&path, place.below().join("kept"));
        let _ = fs::remove_dir_all(place.below().join("kept"));
        match n % 5 {
            0 => drop(symlink(place.outside().join("closed"), &path)),
            1 => drop(symlink(place.outside().join("secret"), &path)),
            2 => drop(fs::hard_link(place.outside().join("secret"), &path)),
            _ => drop(fs::create_dir_all(path.join("e"))),
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !end.load(Ordering::Relaxed) {
                swap(n);
                n += 1;
            }
        });
        use Deed::*;
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            for deed in [Write, MakeDirectory, Read, Rename, Remove, Names, Measure] {
                for at in ["a", "d/a", "d/e", "d"] {
                    act(&place.dir, deed, at);
                }
            }
        }
        end.store(true, Ordering::Relaxed);
    });
    assert_eq!(place.facts(), before);
}

#[test]
fn a_tree_of_any_depth_is_measured_and_removed() {
    // In memory where that can be: it is the depth that counts.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { Place::within(memory) } else { Place::new() };
    let depth = 100_000;
    let mut deepest = place.dir.make_directory(Path::new("deep"), 0o700, None).unwrap();
    for _ in 0..depth {
        mkdirat(&deepest, c"d", Mode::RWXU).unwrap();
        deepest = deepest.directory(Path::new("d")).unwrap();
    }
    deepest.write(Path::new("last"), &[7; 1 << 20], 0o600, None).unwrap();
    symlink(place.outside(), place.below().join("deep/link")).unwrap();
    drop(deepest);
    let before = place.facts();
    assert!(place.dir.used_bytes().unwrap() >= 1 << 20);
    place.dir.remove(Path::new("deep")).unwrap();
    assert!(!place.dir.exists(Path::new("deep")).unwrap());
    assert_eq!(place.facts(), before);
}

#[test]
fn wide_trees_go_and_names_of_one_file_count_once() {
    let place = Place::new();
    for n in 0..3 * BATCH {
        fs::create_dir_all(place.below().join(format!("wide/{n}/inner"))).unwrap();
    }
    let file = place.below().join("file");
    fs::write(&file, vec![1; 1 << 20]).unwrap();
    let once = place.dir.used_bytes().unwrap();
    fs::hard_link(&file, place.below().join("again")).unwrap();
    assert_eq!(place.dir.used_bytes().unwrap(), once);
    place.dir.empty().unwrap();
    assert!(place.dir.names(1).unwrap().is_empty());
}

#[test]
fn every_entry_counts_also_one_without_blocks() {
    let place = Place::new();
    let before = place.dir.used_bytes().unwrap();
    for n in 0..10 {
        nix::unistd::mkfifo(&place.below().join(format!("pipe{n}")), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("nowhere", place.below().join(format!("link{n}"))).unwrap();
        fs::write(place.below().join(format!("file{n}")), "").unwrap();
        fs::create_dir(place.below().join(format!("directory{n}"))).unwrap();
    }
    assert_eq!(place.dir.used_bytes().unwrap() - before, 40 * 4096);
}

#[test]
fn directories_that_are_moved_meanwhile_hide_nothing() {
    let place = Place::new();
    let below = place.below();
    for n in 0..20 {
        fs::create_dir_all(below.join(format!("moved/{n}/in/in"))).unwrap();
    }
    fs::create_dir(below.join("other")).unwrap();
    fs::write(below.join("file"), vec![1; 1 << 20]).unwrap();
    fs::write(below.join("moved/file"), vec![1; 1 << 20]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for n in 0..20 {
                    let (from, to) = (below.join(format!("moved/{n}/in")), below.join(format!("other/{n}")));
                    fs::rename(&from, &to).unwrap();
                    fs::rename(&to, &from).unwrap();
                }
            }
        });
        let measures: Vec<_> = (0..200).map(|_| place.dir.measure()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for measure in measures {
            let measure = measure.unwrap();
            assert!(measure.bytes >= 2 << 20, "{measure:?}");
        }
    });
    assert!(until_whole(&place).bytes >= 2 << 20);
}

/// A measure a moment after the last change: a stamp has the time of the kernel's last tick.
fn until_whole(place: &Place) -> Measure {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let measure = place.dir.measure().unwrap();
        if measure.is_whole || Instant::now() > end {
            assert!(measure.is_whole, "{measure:?}");
            return measure;
        }
    }
}

/// A file that is moved behind the walk, and back: once it is gone from the listing when the walk gets there, once it was
/// not in it.
#[test]
fn a_measure_past_which_a_file_was_moved_is_not_whole() {
    let place = Place::new();
    let below = place.below();
    for n in 0..20 {
        fs::create_dir_all(below.join(format!("{n}/in"))).unwrap();
    }
    fs::write(below.join("0/loot"), vec![1; 1 << 20]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..20).cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                fs::rename(below.join(format!("{n}/loot")), below.join(format!("{}/loot", (n + 1) % 20))).unwrap();
            }
        });
        let measures: Vec<_> = (0..300).map(|_| place.dir.measure()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for measure in measures {
            let measure = measure.unwrap();
            assert!(!measure.is_whole || measure.bytes >= 1 << 20, "{measure:?}");
        }
    });
    assert!(until_whole(&place).bytes >= 1 << 20);
    let soon = Instant::now() + Duration::from_secs(60);
    assert_eq!(place.dir.measure_at_rest(soon).unwrap(), until_whole(&place));
    assert!(!place.dir.measure_at_rest(Instant::now()).unwrap().is_whole);
}

#[test]
fn paths_have_plain_names_only() {
    let place = Place::new();
    let absolute = place.outside().join("secret");
    for path in ["", ".", "..", "../outside/secret", "a/../../outside/secret", absolute.to_str().unwrap()] {
        let refused = |done: io::Result<()>| done.is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput);
        let path = Path::new(path);
        assert!(refused(place.dir.read(path, 100).map(drop)), "{}", path.display());
        assert!(refused(place.dir.write(path, b"", 0o600, None)), "{}", path.display());
        assert!(refused(place.dir.remove(path)), "{}", path.display());
        assert!(refused(place.dir.rename(path, Path::new("x"))), "{}", path.display());
        assert!(refused(place.dir.rename(Path::new("x"), path)), "{}", path.display());
        assert!(refused(place.dir.make_directory(path, 0o700, None).map(drop)), "{}", path.display());
    }
}

#[test]
fn a_file_is_written_whole_with_its_mode_and_read_within_its_limit() {
    let place = Place::new();
    let at = Path::new("file");
    place.dir.write(at, b"12345", 0o640, tenant()).unwrap();
    assert_eq!(place.dir.read(at, 5).unwrap().unwrap(), b"12345");
    let error = place.dir.read(at, 4).unwrap_err();
    assert_eq!(error.to_string(), "it has more than 4 bytes");
    let facts = fs::metadata(place.below().join(at)).unwrap();
    assert_eq!(facts.mode() & 0o7777, 0o640);
    if let Some(ids) = tenant() {
        assert_eq!((facts.uid(), facts.gid()), (ids.uid, ids.gid));
    }
    assert_eq!(place.dir.read(Path::new("other"), 5).unwrap(), None);
    assert_eq!(place.dir.names(10).unwrap(), ["file"]);
}

#[test]
fn a_file_is_replaced_by_its_path_whole_and_closed() {
    let place = Place::new();
    let path = place.outside().join("file");
    // What an earlier life left, or somebody put there.
    symlink(place.outside().join("secret"), place.outside().join(".file.new")).unwrap();
    for contents in ["long before", "new"] {
        replace(&path, contents.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }
    assert_eq!(fs::read_to_string(place.outside().join("secret")).unwrap(), SECRET);
    assert!(!place.outside().join(".file.new").exists());
    assert!(replace(&place.outside().join("none/file"), b"").is_err() && replace(Path::new("/"), b"").is_err());
}

#[test]
fn what_belongs_to_a_third_is_not_touched() {
    if !is_root() {
        println!("skipped: what_belongs_to_a_third_is_not_touched: only root can give files away");
        return;
    }
    let place = Place::new();
    fs::write(place.below().join("file"), "x").unwrap();
    fs::create_dir(place.below().join("directory")).unwrap();
    for name in ["file", "directory"] {
        std::os::unix::fs::chown(place.below().join(name), Some(TENANT + 1), None).unwrap();
    }
    assert!(place.dir.read(Path::new("file"), 10).is_err());
    assert!(place.dir.make_directory(Path::new("directory"), 0o700, tenant()).is_err());
    assert!(place.dir.write(Path::new("directory/x"), b"", 0o600, None).is_err());
}

#[test]
fn what_lies_in_the_place_of_a_directory_is_named() {
    let place = Place::new();
    let (new, data) = (Path::new("new"), Path::new("data"));
    place.dir.make_directory(new, 0o700, tenant()).unwrap();
    symlink(place.outside(), place.below().join(data)).unwrap();
    let told = [
        place.dir.directory(data).unwrap_err(),
        place.dir.make_directory(data, 0o700, tenant()).unwrap_err(),
        place.dir.write(&data.join("file"), b"", 0o600, None).unwrap_err(),
        place.dir.rename(new, data).unwrap_err(),
    ];
    for error in told {
        assert_eq!(error.to_string(), "data is no directory of this engine (a link or another file lies there)");
    }
    assert!(place.dir.directory(&data.join("closed")).unwrap_err().to_string().contains("a link"));
}

//! Tests that links and special files that an engine's account plants in its host's directories do no harm, whenever it
//! plants them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, lchown, symlink};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::*;

const SECRET: &str = "a secret of root's";
const NOBODY: u32 = 65_534;
/// Time limit of a stage.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Plant {
    LinkToFile,
    LinkToDirectory,
    /// With `fs.protected_hardlinks` an account cannot link to another's file. Test it all the same, since it is a
    /// setting.
    HardLink,
    Pipe,
    Device,
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Ensure,
    Stop,
    /// Changes the owner of the engine's files from another account to the host's.
    Give,
    Delete,
}

const PLANTS: [Plant; 5] = [Plant::LinkToFile, Plant::LinkToDirectory, Plant::HardLink, Plant::Pipe, Plant::Device];
const LIFE: [Deed; 5] = [Deed::Ensure, Deed::Stop, Deed::Ensure, Deed::Give, Deed::Delete];

/// Plants one in each place: in the data directory, beside it, and among the sockets.
fn plant(host: &Path, run: &Path, roots: &Path, plant: Plant, uid: u32) {
    let data = host.join("volume/1/data");
    if !fs::symlink_metadata(&data).is_ok_and(|facts| facts.is_dir()) {
        fs::create_dir_all(host.join("volume/1")).unwrap();
        let _ = fs::remove_file(&data);
        fs::create_dir(&data).unwrap();
    }
    let mut places = vec![data.join("file"), host.join("volume/1/other")];
    if run.exists() {
        fs::create_dir_all(run.join("s")).unwrap();
        places.push(run.join("s/socket"));
    }
    for path in &places {
        // Fails if there is no such file.
        let _ = fs::remove_file(path);
        match plant {
            Plant::LinkToFile => symlink(roots.join("secret"), path).unwrap(),
            Plant::LinkToDirectory => symlink(roots, path).unwrap(),
            Plant::HardLink => match fs::hard_link(roots.join("other"), path) {
                // The directory of sockets is a mount of its own.
                Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {}
                linked => linked.unwrap(),
            },
            Plant::Pipe => nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap(),
            Plant::Device => mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 7)).unwrap(),
        }
        if !matches!(plant, Plant::HardLink) {
            lchown(path, Some(uid), Some(uid)).unwrap();
        }
    }
    if matches!(plant, Plant::LinkToDirectory) {
        fs::remove_dir_all(&data).unwrap();
        symlink(roots, &data).unwrap();
    }
    for path in [data, host.join("volume/1"), run.join("s")] {
        // Fails for the sockets if the host is not running.
        let _ = lchown(path, Some(uid), Some(uid));
    }
}

/// Facts of root's files that must not change. The link count of `other` is left out, since the account adds and removes
/// links.
fn facts(roots: &Path) -> Vec<(u32, u32, u32, u64, String)> {
    let of = |name: &str| {
        let (path, names) = (roots.join(name), name == "secret");
        let facts = fs::symlink_metadata(&path).unwrap();
        let contents = fs::read_to_string(&path).unwrap_or_default();
        (facts.mode(), facts.uid(), facts.gid(), if names { facts.nlink() } else { 0 }, contents)
    };
    assert_eq!(fs::read_dir(roots).unwrap().count(), 2);
    ["secret", "other", ""].map(of).into()
}

async fn act(world: &World, spec: &HostSpec, deed: Deed) -> std::result::Result<(), ComputeError> {
    match deed {
        Deed::Ensure | Deed::Give => world.driver.ensure_host(spec).await.map(drop),
        Deed::Stop => world.driver.stop_host(spec.instance, 1).await,
        Deed::Delete => world.driver.delete_host(spec.instance, 1).await,
    }
}

#[tokio::test]
async fn nothing_of_roots_is_reached_whatever_an_engines_account_plants() {
    let world = World::new(false);
    if world.driver.hosts.apart.is_none() {
        println!("skipped: an ordinary user's engines have no accounts of their own");
        return;
    }
    let roots = world.directory.path().join("roots");
    fs::create_dir(&roots).unwrap();
    for name in ["secret", "other"] {
        fs::write(roots.join(name), SECRET).unwrap();
        fs::set_permissions(roots.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let before = facts(&roots);
    for what in PLANTS {
        let instance = InstanceId::random();
        let spec = world.spec(instance).await;
        let (host, run) = (world.driver.hosts.directory(instance), world.driver.hosts.run_directory(instance));
        for deed in LIFE {
            let uid = if matches!(deed, Deed::Give) { NOBODY } else { spec.engine_uid.unwrap() };
            plant(&host, &run, &roots, what, uid);
            let done = tokio::time::timeout(LONGEST, act(&world, &spec, deed)).await;
            match done.unwrap_or_else(|_| panic!("{deed:?} hangs after {what:?}")) {
                Ok(()) => {}
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.contains(' ') && !said.contains(SECRET), "{deed:?} after {what:?}: {said}");
                    assert!(matches!((deed, what), (Deed::Give, Plant::HardLink)), "{deed:?} after {what:?}: {said}");
                }
            }
            assert_eq!(facts(&roots), before, "{deed:?} after {what:?}");
        }
        assert!(!host.exists() && !run.exists(), "{what:?}");
    }
}

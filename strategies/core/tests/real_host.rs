//! The real hands: what they refuse, and to whom they talk.

#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;
use tokio::net::UnixListener;
use trove_strategy::{Account, Command, Directory, File, Host, HostError, Owner, Places, RealHost, Signal};

fn places(base: &Path) -> Places {
    let at = |name: &str| base.join(name);
    Places { data: at("volume/1"), config: at("etc"), run: at("run"), log: at("log"), secrets: at("secrets") }
}

fn scratch() -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711)).unwrap();
    scratch
}

/// With one account for both, which is this one.
fn plain_host(scratch: &TempDir) -> RealHost {
    let own = Account::own().unwrap();
    RealHost::for_site(own.clone(), own, &places(scratch.path())).unwrap()
}

/// With an account of the engine's own, where this is root.
fn two_accounts() -> Option<(Account, Account)> {
    let own = Account::own().unwrap();
    let engine = own.uid.is_root().then(|| Account::named("trove").ok()).flatten();
    if engine.is_none() {
        println!("skipped: it needs root and the account trove");
    }
    Some((engine?, own))
}

#[tokio::test]
async fn a_listener_that_is_not_the_engine_is_told_nothing() {
    let scratch = scratch();
    let host = plain_host(&scratch);
    let at = Directory::Run.join("engine.sock");
    let said = host.connect(&at).await.unwrap_err();
    assert!(said.is_transient(), "{said}");
    let _listener = UnixListener::bind(scratch.path().join("run/engine.sock")).unwrap();
    let said = host.connect(&at).await.unwrap_err().to_string();
    let expected = format!("process {} listens there, which is not the engine that was started", std::process::id());
    assert!(said.contains(&expected), "{said}");

    let pid = i32::try_from(std::process::id()).unwrap();
    let trusted = host.trust(pid);
    host.connect(&at).await.unwrap();
    drop(trusted);
    host.connect(&at).await.unwrap_err();

    let _trusted = host.trust(pid);
    symlink("engine.sock", scratch.path().join("run/link.sock")).unwrap();
    host.connect(&Directory::Run.join("link.sock")).await.unwrap_err();
    fs::write(scratch.path().join("run/file"), "").unwrap();
    let said = host.connect(&Directory::Run.join("file")).await.unwrap_err().to_string();
    assert!(said.contains("no socket"), "{said}");
}

#[tokio::test]
async fn a_listener_of_another_account_is_told_nothing() {
    let Some((engine, agent)) = two_accounts() else { return };
    let scratch = scratch();
    let host = RealHost::for_site(engine, agent, &places(scratch.path())).unwrap();
    let _listener = UnixListener::bind(scratch.path().join("run/engine.sock")).unwrap();
    let _trusted = host.trust(i32::try_from(std::process::id()).unwrap());
    let said = host.connect(&Directory::Run.join("engine.sock")).await.unwrap_err().to_string();
    assert!(said.contains("of uid 0 listens there"), "{said}");
}

#[tokio::test]
async fn directories_and_files_have_their_owners_and_modes() {
    let Some((engine, agent)) = two_accounts() else { return };
    let (uid, gid) = (engine.uid.as_raw(), engine.gid.as_raw());
    let scratch = scratch();
    let host = RealHost::for_site(engine, agent, &places(scratch.path())).unwrap();
    let facts = |name: &str| {
        let facts = fs::metadata(scratch.path().join(name)).unwrap();
        (facts.mode() & 0o7777, facts.uid(), facts.gid())
    };
    assert_eq!(facts("volume"), (0o711, 0, 0));
    assert_eq!(facts("volume/1"), (0o700, uid, gid));
    assert_eq!(facts("etc"), (0o750, 0, gid));
    assert_eq!(facts("run"), (0o700, uid, gid));
    assert_eq!(facts("log"), (0o700, 0, 0));
    assert_eq!(facts("secrets"), (0o700, 0, 0));
    let write = async |at, mode, owner| host.write(File { at, contents: b"x".to_vec(), mode, owner }).await.unwrap();
    write(Directory::Config.join("c"), 0o640, Owner::Agent).await;
    write(Directory::Data.join("d"), 0o600, Owner::Engine).await;
    write(Directory::Secrets.join("s"), 0o600, Owner::Agent).await;
    assert_eq!(facts("etc/c"), (0o640, 0, gid));
    assert_eq!(facts("volume/1/d"), (0o600, uid, gid));
    assert_eq!(facts("secrets/s"), (0o600, 0, 0));
    // The engine reads its configuration and can neither change nor replace it.
    let config = scratch.path().join("etc/c");
    let as_engine =
        |script: &str| Command::engine("/bin/sh").arg("-c").arg(script).arg("sh").arg(config.to_string_lossy());
    assert_eq!(host.run(as_engine("cat \"$1\"")).await.unwrap().stdout, "x");
    for script in ["echo y > \"$1\"", "mv \"$1\" \"$1.old\"", "ln -sf /etc/passwd \"$1\"", "rm -f \"$1\""] {
        host.run(as_engine(script)).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_a_directory_gives_nothing_away() {
    let Some((engine, agent)) = two_accounts() else { return };
    let scratch = scratch();
    let precious = scratch.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(scratch.path().join("volume")).unwrap();
    symlink(&precious, scratch.path().join("volume/1")).unwrap();
    let untouched = || {
        let facts = fs::metadata(&precious).unwrap();
        assert_eq!((facts.mode() & 0o7777, facts.uid()), (0o700, 0));
        assert_eq!(fs::read_dir(&precious).unwrap().count(), 0);
    };
    RealHost::for_site(engine.clone(), agent.clone(), &places(scratch.path())).unwrap_err();
    untouched();
    fs::remove_file(scratch.path().join("volume/1")).unwrap();
    let host = RealHost::for_site(engine, agent, &places(scratch.path())).unwrap();
    symlink(&precious, scratch.path().join("volume/1/data")).unwrap();
    let data = Directory::Data.join("data");
    host.make_directory(&data, 0o755, Owner::Engine).await.unwrap_err();
    let inside = Directory::Data.join("data/file");
    let file = File { at: inside.clone(), contents: Vec::new(), mode: 0o644, owner: Owner::Engine };
    host.write(file).await.unwrap_err();
    host.read(&inside, 10).await.unwrap_err();
    // What would lie behind the link is not there.
    let _ = host.remove(&inside).await;
    untouched();
    host.remove(&data).await.unwrap();
    assert!(!host.exists(&data).await.unwrap());
    untouched();
}

#[tokio::test]
async fn what_leads_out_of_a_directory_is_refused() {
    let scratch = scratch();
    let host = plain_host(&scratch);
    fs::write(scratch.path().join("secret"), "secret").unwrap();
    for path in ["../secret", "/etc/passwd", "x/../../secret", "."] {
        let at = Directory::Run.join(path);
        assert!(matches!(host.read(&at, 100).await, Err(HostError::File { .. })), "{path}");
        assert!(host.exists(&at).await.is_err(), "{path}");
        assert!(host.remove(&at).await.is_err(), "{path}");
        assert!(host.connect(&at).await.is_err(), "{path}");
        assert!(host.make_directory(&at, 0o700, Owner::Engine).await.is_err(), "{path}");
        assert!(host.rename(&Directory::Run.join("x"), &at).await.is_err(), "{path}");
    }
    fs::write(scratch.path().join("run/x"), "").unwrap();
    assert!(host.rename(&Directory::Run.join("x"), &Directory::Config.join("x")).await.is_err());
    let without = RealHost::new(host.engine.clone(), host.agent.clone());
    let said = without.read(&Directory::Run.join("x"), 1).await.unwrap_err().to_string();
    assert_eq!(said, "read x in the run directory: this host has no site");
}

#[tokio::test]
async fn only_the_engine_that_was_started_is_signalled() {
    let scratch = scratch();
    let host = plain_host(&scratch);
    let said = host.signal(Signal::Hangup).await.unwrap_err();
    assert!(said.is_transient(), "{said}");
    let mut engine = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let _trusted = host.trust(i32::try_from(engine.id()).unwrap());
    host.signal(Signal::Hangup).await.unwrap();
    let status = engine.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(1));
    let said = host.signal(Signal::Hangup).await.unwrap_err().to_string();
    assert!(said.contains("No such process"), "its number may be another's by now: {said}");
}

//! Commands whose output or input is a stream, and reads of a part of a file.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use trove_strategy::recording::RecordingHost;
use trove_strategy::{Account, Command, Directory, File, Host, HostError, Output, Owner, Places, RealHost};

fn host() -> RealHost {
    let own = Account::own().unwrap();
    RealHost::new(own.clone(), own)
}

fn sh(script: &str) -> Command {
    Command::engine("/bin/sh").arg("-c").arg(script)
}

/// Whether a process runs; a zombie does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn ends(pid: &str) {
    for _ in 0..500 {
        if !runs(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{pid} still runs");
}

#[tokio::test]
async fn an_output_is_read_to_its_end_and_a_failure_is_no_end() {
    let mut stream = host().read_from(sh("printf abc; echo a warning >&2")).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "abc");
    assert_eq!(stream.finish().await.unwrap().stderr, "a warning");

    let mut stream = host().read_from(sh("printf abc; echo the disk is gone >&2; exit 3")).await.unwrap();
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).await.unwrap_err().to_string();
    assert_eq!(all, b"abc");
    assert!(error.ends_with("ended with exit status: 3: the disk is gone"), "{error}");
    assert!(matches!(stream.finish().await.unwrap_err(), HostError::Failed { .. }));
}

#[tokio::test]
async fn an_output_that_nobody_reads_waits() {
    let scratch = tempfile::tempdir().unwrap();
    let done = scratch.path().join("done");
    let script = format!("head -c 8000000 /dev/zero; echo much more than is kept >&2; touch {}", done.display());
    let mut stream = host().read_from(sh(&script)).await.unwrap();
    let mut piece = [0; 1000];
    stream.read_exact(&mut piece).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!done.exists(), "the program has written what nobody has read");
    let read = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
    assert_eq!(read, 8_000_000 - 1000);
    assert!(done.exists());
}

#[tokio::test]
async fn standard_error_does_not_hold_an_output_up_and_only_its_end_is_kept() {
    let script = "head -c 1000000 /dev/zero | tr '\\0' x >&2; printf abc; echo last >&2";
    let mut stream = host().read_from(sh(script)).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    let said = stream.finish().await.unwrap().stderr;
    assert!(all == "abc" && said.ends_with("xlast") && said.len() <= 64 << 10, "{} bytes", said.len());
}

#[tokio::test]
async fn a_stream_that_is_dropped_ends_the_command_and_its_children() {
    // The second one has ended when its child still writes.
    for script in ["sleep 300 & echo $!; sleep 300", "sleep 300 & echo $!"] {
        let mut lines = BufReader::new(host().read_from(sh(script)).await.unwrap()).lines();
        let child = lines.next_line().await.unwrap().unwrap();
        assert!(runs(&child));
        drop(lines);
        ends(&child).await;
    }
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("pid");
    let script = format!("sleep 300 & echo $! > {}; cat", file.display());
    let mut stream = host().write_to(sh(&script)).await.unwrap();
    stream.write_all(b"half").await.unwrap();
    let child = written(&file).await;
    drop(stream);
    ends(&child).await;
}

#[tokio::test]
async fn a_command_that_is_given_up_ends_with_its_children() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("pid");
    let script = format!("sleep 300 & echo $! > {}; sleep 300", file.display());
    let host = host();
    let child = tokio::select! {
        ended = host.run(sh(&script)) => panic!("{ended:?}"),
        child = written(&file) => child,
    };
    ends(&child).await;
}

async fn written(file: &Path) -> String {
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.ends_with('\n') {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_stream_has_a_deadline() {
    let command = sh("echo $$; sleep 300").deadline(Duration::from_millis(500));
    let mut lines = BufReader::new(host().read_from(command).await.unwrap()).lines();
    let pid = lines.next_line().await.unwrap().unwrap();
    let error = lines.next_line().await.unwrap_err().to_string();
    assert!(error.contains("did not end within"), "{error}");
    ends(&pid).await;
}

#[tokio::test]
async fn an_input_is_written_to_its_end() {
    let mut stream = host().write_to(sh("wc -c")).await.unwrap();
    let mut zeros = tokio::io::repeat(0).take(5_000_000);
    tokio::io::copy(&mut zeros, &mut stream).await.unwrap();
    assert_eq!(stream.finish().await.unwrap().stdout, "5000000");
}

#[tokio::test]
async fn an_input_that_is_not_read_to_its_end_says_why() {
    let mut stream = host().write_to(sh("head -c 10 > /dev/null; echo the disk is full >&2; exit 1")).await.unwrap();
    let error = tokio::io::copy(&mut tokio::io::repeat(0), &mut stream).await.unwrap_err().to_string();
    assert!(error.ends_with("exit status: 1: the disk is full"), "{error}");
    let error = stream.finish().await.unwrap_err().to_string();
    assert!(error.ends_with("exit status: 1: the disk is full"), "{error}");

    let mut stream = host().write_to(sh("head -c 10 > /dev/null")).await.unwrap();
    let error = tokio::io::copy(&mut tokio::io::repeat(0), &mut stream).await.unwrap_err().to_string();
    assert!(error.contains("before it had read everything"), "{error}");
}

#[tokio::test]
async fn more_output_than_is_kept_is_an_error() {
    let error = host().run(sh("head -c 1048577 /dev/zero")).await.unwrap_err();
    assert!(matches!(error, HostError::TooMuch { .. }), "{error}");
    assert_eq!(host().run(sh("head -c 1048576 /dev/zero")).await.unwrap().stdout.len(), 1 << 20);
}

#[tokio::test]
async fn a_part_of_a_file_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let places = Places { data: at("v/1"), config: at("etc"), run: at("run"), log: at("log"), secrets: at("secrets") };
    let own = Account::own().unwrap();
    let real = RealHost::for_site(own.clone(), own, &places).unwrap();
    let recording = RecordingHost::default();
    let log = Directory::Log.join("engine.log");
    for host in [&real as &dyn Host, &recording] {
        assert!(host.read_at(&log, 0, 10).await.unwrap().is_none());
        let contents = b"0123456789".to_vec();
        host.write(File { at: log.clone(), contents, mode: 0o600, owner: Owner::Agent }).await.unwrap();
        let piece = host.read_at(&log, 3, 4).await.unwrap().unwrap();
        assert_eq!((piece.bytes.as_slice(), piece.size), (&b"3456"[..], 10));
        assert_eq!(host.read_at(&log, 8, 4).await.unwrap().unwrap().bytes, b"89");
        assert_eq!(host.read_at(&log, 99, 4).await.unwrap().unwrap().bytes, b"");
    }
    std::os::unix::fs::symlink("engine.log", at("log/link")).unwrap();
    real.read_at(&Directory::Log.join("link"), 0, 4).await.unwrap_err();
}

#[tokio::test]
async fn the_recording_host_streams_what_was_planned() {
    let host = RecordingHost::default();
    host.plan("a dump", Ok(Output { stdout: String::new(), stderr: "done".to_owned() }));
    let late = HostError::Late { program: "dump".to_owned(), seconds: 1 };
    host.plan("half a", Err(late.clone()));
    host.plan("", Err(late));
    let mut all = String::new();
    let mut stream = host.read_from(Command::engine("dump").arg("-x")).await.unwrap();
    stream.read_to_string(&mut all).await.unwrap();
    assert_eq!((all.as_str(), stream.finish().await.unwrap().stderr.as_str()), ("a dump", "done"));
    let mut half = Vec::new();
    host.read_from(Command::engine("dump")).await.unwrap().read_to_end(&mut half).await.unwrap_err();
    assert_eq!(half, b"half a");
    let mut stream = host.write_to(Command::engine("restore")).await.unwrap();
    stream.write_all(b"a dump").await.unwrap();
    assert!(stream.finish().await.unwrap_err().is_transient());
    assert_eq!(host.received(), b"a dump");
    assert_eq!(host.actions(), ["read from dump -x", "read from dump", "write to restore"]);
}

//! Attacks by tenants who write more than the size of their volume, to the log or to the volume.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use trove_tests::{APP, Api, Engine, Redis, Stack, connect, has_root_or_skips, leftovers, poll, rows};

use super::neighbours::Neighbours;

pub(super) const MIB: u64 = 1 << 20;
const WAIT: Duration = Duration::from_secs(60);

/// Disk space of a directory, bytes.
pub(super) fn used(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let of = |path: &Path| {
        let facts = std::fs::symlink_metadata(path);
        facts.map_or(0, |facts| if facts.is_dir() { used(path) } else { facts.blocks() * 512 })
    };
    entries.flatten().map(|entry| of(&entry.path())).sum()
}

/// Adds a file to the volume so that `total` bytes are in use.
fn fill(host: &Path, total: u64) -> Result<()> {
    let junk = host.join("volume/junk");
    if junk.exists() {
        std::fs::remove_file(&junk)?;
    }
    let room = total - used(&host.join("volume")) - used(&host.join("log"));
    let done = std::process::Command::new("fallocate").arg("-l").arg(room.to_string()).arg(&junk).status()?;
    ensure!(done.success(), "fallocate: {done}");
    Ok(())
}

pub(super) async fn await_fault(api: &Api, id: &str, operating: &str, word: &str) -> Result<Value> {
    let told = |view: &Value| {
        let message = view["fault"]["message"].as_str().unwrap_or_default();
        view["operating_status"] == operating && message.contains(word) && message.is_empty() == word.is_empty()
    };
    poll(&format!("{operating} {word:?}"), WAIT, async || api.instance(id).await, told).await
}

async fn resize(api: &Api, id: &str, gib: u64) -> Result<()> {
    let body = json!({"resize": {"volume": {"size": gib}}});
    let answer = api.post(&format!("/instances/{id}/action"), &body).await?;
    ensure!(answer.status == 202, "{answer:?}");
    let ended = api.await_operations(id).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    Ok(())
}

#[tokio::test]
async fn a_flood_of_the_engines_log_fills_neither_disk_nor_memory() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("flood").await?;
    let client = connect(&api.instance(&id).await?, APP.0, APP.1, "app").await?;
    let flood = "do $$ begin for i in 1..160000 loop raise log '%', repeat('x', 4000); end loop; end $$";
    rows(&client, flood).await?;
    let log = stack.host(&id).join("log");
    let short = |bytes: &u64| *bytes < 48 * MIB;
    poll("a short log", Duration::from_secs(15), async || Ok(used(&log)), short).await?;
    let agent = leftovers::agents(&id)[0];
    let status = std::fs::read_to_string(format!("/proc/{agent}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the agent's memory")?;
    let kib: u64 = peak.split_whitespace().next().context("a number")?.parse()?;
    ensure!(kib < 100 * 1024, "the agent took {kib} KiB");
    // The engine still writes to the same file.
    rows(&client, "do $$ begin raise log 'the last word'; end $$").await?;
    // Which may be cut once more meanwhile: then it is in the piece that was cut off.
    let mut pieces = std::fs::read_dir(&log)?.filter_map(|entry| std::fs::read(entry.ok()?.path()).ok());
    let holds = |piece: Vec<u8>| String::from_utf8_lossy(&piece).contains("the last word");
    ensure!(pieces.any(holds), "the last word is in no file of {log:?}");
    assert_eq!(api.instance(&id).await?["operating_status"], "HEALTHY");
    Ok(())
}

#[tokio::test]
async fn what_the_agent_says_is_bounded_too_and_it_goes_on_to_say_it() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.create(&Engine::Redis.order("crashes")).await?;
    api.await_active(&id).await?;
    let logs = stack.host(&id).join("log");
    let log = logs.join("agent.log");
    // What it says of an engine that a tenant lets crash again and again.
    let said = "the engine has ended\n".repeat(500_000);
    for _ in 0..3 {
        std::fs::File::options().append(true).open(&log)?.write_all(said.as_bytes())?;
        let length = async || Ok(std::fs::metadata(&log)?.len());
        poll("a short log", Duration::from_secs(15), length, |length| *length < MIB).await?;
    }
    ensure!(used(&logs) < 24 * MIB, "{} bytes of logs", used(&logs));
    kill(Pid::from_raw(leftovers::engines(&id)[0]), Signal::SIGKILL)?;
    let read = async || Ok(std::fs::read_to_string(&log)?);
    poll("its next words", WAIT, read, |text| text.contains("the engine was started")).await?;
    api.await_active(&id).await?;
    Ok(())
}

#[tokio::test]
async fn a_full_volume_is_read_only_and_an_over_full_one_stopped_until_it_grows() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("full").await?;
    let (view, host) = (api.instance(&id).await?, stack.host(&id));
    let client = connect(&view, APP.0, APP.1, "app").await?;
    rows(&client, "create table t (n int); insert into t values (1), (2)").await?;
    fill(&host, 1060 * MIB)?;
    await_fault(&api, &id, "HEALTHY", "is full").await?;
    let refused = rows(&client, "insert into t values (3)").await.err().context("a full volume takes rows")?;
    ensure!(format!("{refused:#}").contains("read-only"), "{refused:#}");
    assert_eq!(rows(&client, "select count(*) from t").await?, ["2"]);
    rows(&client, "set default_transaction_read_only = off").await?;
    rows(&client, "delete from t where n = 1").await?;
    // The state follows from the measurement, so a restart does not change it.
    let restarted = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
    ensure!(restarted.status == 202, "{restarted:?}");
    api.await_operations(&id).await?;
    let view = await_fault(&api, &id, "HEALTHY", "is full").await?;
    let client = connect(&view, APP.0, APP.1, "app").await?;
    ensure!(rows(&client, "insert into t values (4)").await.is_err(), "writable after a restart");

    fill(&host, 1200 * MIB)?;
    await_fault(&api, &id, "SHUTDOWN", "Resize it to 2 GiB or more").await?;
    ensure!(leftovers::engines(&id).is_empty(), "the engine runs on");
    // Fault and volume use come from the same measurement.
    let used = api.instance(&id).await?["volume"]["used"].as_f64().context("the volume's use")?;
    ensure!(used > 1.1, "{used} GiB are said to be in use");
    let restarted = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
    ensure!(restarted.status == 422 && restarted.message().contains("MiB of its volume of 1 GiB"), "{restarted:?}");
    resize(&api, &id, 2).await?;
    let view = await_fault(&api, &id, "HEALTHY", "").await?;
    let client = connect(&view, APP.0, APP.1, "app").await?;
    rows(&client, "insert into t values (5)").await?;
    assert_eq!(rows(&client, "select n from t order by n").await?, ["2", "5"]);
    Ok(())
}

/// One unlinked file is open, the other is the executable of a process. Both together fill the volume.
#[tokio::test]
async fn files_without_a_name_count() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out the superuser") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let host = it.stack.host(&it.mine);
    let half = (1060 * MIB - used(&host.join("volume")) - used(&host.join("log"))) / 2;
    let script = format!(
        "cp /bin/sleep ../program; for file in ../program ../junk; do fallocate -l {half} $file; done; \
         (exec 9<../junk; exec setsid ../program 600 >/dev/null 2>&1 </dev/null) & \
         until readlink /proc/$!/exe | grep program; do sleep 0.1; done; rm ../program ../junk"
    );
    let said = it.run(&script).await?;
    ensure!(said.contains("program"), "{said}");
    ensure!(used(&host.join("volume")) < 500 * MIB, "the files have names still");
    await_fault(&it.api, &it.mine, "HEALTHY", "is full").await?;
    // The tenant's sessions are read-only.
    let holds =
        |pid: &i32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("program (deleted)"));
    let holder = leftovers::processes(&it.mine).into_iter().find(holds).context("who holds the files")?;
    kill(Pid::from_raw(holder), Signal::SIGKILL)?;
    await_fault(&it.api, &it.mine, "HEALTHY", "").await?;
    it.assert_other_is_well().await
}

/// A process with a list of mappings of a hundred megabytes, examined before the process that holds the unlinked file.
#[tokio::test]
async fn who_has_too_much_to_be_looked_at_is_ended_and_hides_nothing() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out the superuser") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let host = it.stack.host(&it.mine);
    let room = 1060 * MIB - used(&host.join("volume")) - used(&host.join("log"));
    let map = "import ctypes, os, time; d = (250 * 'x' + '/') * 10; os.makedirs(d); f = os.open(d + 'x', os.O_RDWR | os.O_CREAT); \
               os.truncate(f, 4096); map = ctypes.CDLL(None).mmap; \
               [map(None, ctypes.c_size_t(4096), 1, 2, f, ctypes.c_long(0)) for _ in range(40000)]; time.sleep(600)";
    let script = format!(
        "fallocate -l {room} ../junk; (cd /tmp; exec setsid python3 -c \"{map}\" >/dev/null 2>&1 </dev/null) & sleep 1; \
         (exec setsid sleep 600 9<../junk >/dev/null 2>&1 </dev/null) & sleep 1; rm ../junk"
    );
    it.run(&script).await?;
    await_fault(&it.api, &it.mine, "HEALTHY", "is full").await?;
    let log = host.join("log/agent.log");
    let said = async || Ok(std::fs::read_to_string(&log)?);
    poll("its end", WAIT, said, |said| said.contains("more open or mapped than can be measured")).await?;
    let python = |pid: &i32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy().contains("python3"))
    };
    ensure!(!leftovers::processes(&it.mine).iter().any(python), "it lives on");
    it.assert_other_is_well().await
}

/// Between two names of a directory, one measured early and one late, is a directory that takes long. When it is opened, what has the
/// late name is given the early one.
const MOVES: &str = "
import ctypes, os, subprocess, sys, time
os.chdir('..')
for n in range(12): os.mkdir(f'd{n}')
order = [name for name in os.listdir('.') if name[0] == 'd']
early, slow, late = order[0], order[5], order[-1]
os.rmdir(early)
for n in range(15000): os.mkfifo(f'{slow}/{n}')
libc = ctypes.CDLL(None)
opened = libc.inotify_init()
libc.inotify_add_watch(opened, slow.encode(), 0x20)
if os.fork():
    while subprocess.call(['fallocate', '-l', sys.argv[1], f'{late}/junk']): pass
    sys.exit()
os.setsid()
for n in range(3): os.dup2(os.open('/dev/null', os.O_RDWR), n)
while True:
    os.read(opened, 4096)
    os.rename(late, early)
    time.sleep(0.6)
    os.rename(early, late)
";

#[tokio::test]
async fn what_is_moved_past_the_measurement_counts() -> Result<()> {
    if !has_root_or_skips("only root runs a service that hands out the superuser") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let host = it.stack.host(&it.mine);
    let room = 1000 * MIB - used(&host.join("volume")) - used(&host.join("log"));
    let moves: String = MOVES.bytes().map(|byte| format!("{byte:02x}")).collect();
    let read = "import sys; exec(bytes.fromhex(sys.stdin.read()))";
    let said = it.run(&format!("echo {moves} | python3 -c \"{read}\" {room}")).await?;
    ensure!(said.is_empty(), "{said}");
    await_fault(&it.api, &it.mine, "HEALTHY", "is full").await?;
    it.assert_other_is_well().await
}

#[tokio::test]
async fn a_full_volume_of_an_engine_in_memory_takes_nothing_but_deletes() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.create(&Engine::Redis.order("full")).await?;
    let view = api.await_active(&id).await?;
    let redis = Redis::plain(&view)?;
    for key in ["a", "b"] {
        redis.run(APP.0, APP.1, &["SET", key, "1"])?;
    }
    fill(&stack.host(&id), 1060 * MIB)?;
    await_fault(&api, &id, "HEALTHY", "is full").await?;
    let refused = redis.run(APP.0, APP.1, &["SET", "c", "1"]);
    let said = refused.unwrap_or_else(|error| format!("{error:#}"));
    ensure!(said.contains("OOM"), "{said}");
    assert_eq!(redis.run(APP.0, APP.1, &["GET", "a"])?, "1");
    assert_eq!(redis.run(APP.0, APP.1, &["DEL", "a"])?, "1");
    std::fs::remove_file(stack.host(&id).join("volume/junk"))?;
    await_fault(&api, &id, "HEALTHY", "").await?;
    redis.run(APP.0, APP.1, &["SET", "c", "1"])?;
    assert_eq!(redis.run(APP.0, APP.1, &["GET", "b"])?, "1");
    Ok(())
}

//! Attacks by processes that a tenant starts from the shell in his engine: they resist being killed, or exhaust the
//! machine.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trove_tests::{has_root_or_skips, leftovers, poll};

use super::neighbours::Neighbours;

const WAIT: Duration = Duration::from_secs(90);
/// Limit of processes, to spare the machine.
const BOUND: &str = "64";

/// Files with this name in the cgroups of an instance's engine.
fn group_files(instance: &str, name: &str) -> Vec<PathBuf> {
    let groups = leftovers::directories(instance).into_iter().filter(|group| group.ends_with(instance));
    groups.map(|group| group.join(name)).filter(|file| file.exists()).collect()
}

#[tokio::test]
async fn who_stops_and_multiplies_is_deleted_all_the_same() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let limits = group_files(&it.mine, "pids.max");
    ensure!(!limits.is_empty(), "the instance's processes are not counted");
    for file in limits {
        fs::write(file, BOUND)?;
    }
    let storm = "sleep 3; if (fork) { sleep 2; while (1) { kill q(STOP), -1 } } else { while (1) { fork } }";
    it.run(&format!("setsid perl -e '{storm}' >/dev/null 2>&1 </dev/null &")).await?;
    let all = async || Ok(leftovers::processes(&it.mine));
    let pids = poll("a storm", WAIT, all, |all| all.len() > 32).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(it.api.delete(&format!("/instances/{}", it.mine)).await?.status == 202);
    it.api.await_gone(&it.mine).await?;
    leftovers::assert_nothing_of(&it.mine, &it.stack.host(&it.mine), &pids)?;
    it.assert_other_is_well().await
}

#[tokio::test]
async fn who_uses_up_his_processes_and_memory_keeps_no_agent_dead() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    for file in group_files(&it.mine, "pids.max") {
        fs::write(file, BOUND)?;
    }
    // A fork bomb: each process forks until that fails, then sleeps.
    it.run("setsid perl -e 'while (1) { fork or sleep 600 }' >/dev/null 2>&1 </dev/null &").await?;
    let all = async || Ok(leftovers::processes(&it.mine).len());
    poll("all processes that there may be", WAIT, all, |all| *all > 60).await?;
    let before = leftovers::agents(&it.mine);
    kill(Pid::from_raw(before[0]), Signal::SIGKILL)?;
    let ask = async || Ok(leftovers::agents(&it.mine));
    poll("another agent", WAIT, ask, |now| now.len() == 1 && *now != before).await?;
    let agent = leftovers::agents(&it.mine)[0];
    let groups = async || Ok(fs::read_to_string(format!("/proc/{agent}/cgroup"))?);
    let own = format!("{}.agent", it.mine);
    poll("the agent in groups of its own", WAIT, groups, |groups: &String| groups.contains(&own)).await?;
    let engines = fs::read_to_string(format!("/proc/{}/cgroup", it.my_engine))?;
    ensure!(engines.contains(&it.mine) && !engines.contains(".agent"), "{engines}");
    // The restart kills all of them before it starts the engine.
    let restart = serde_json::json!({ "restart": {} });
    ensure!(it.api.post(&format!("/instances/{}/action", it.mine), &restart).await?.status == 202);
    let well = |view: &serde_json::Value| view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY";
    poll("an engine that is well", WAIT, async || it.api.instance(&it.mine).await, well).await?;
    ensure!(leftovers::engines(&it.mine) != [it.my_engine], "it is the engine of before");
    it.assert_other_is_well().await
}

/// File systems of all directories that the tenant can write to, by `stat -f`: type, size in bytes, path.
async fn writable(it: &Neighbours) -> Result<Vec<(String, u64, String)>> {
    // Directories that cannot be found by listing are named.
    let run = format!("/run/trove-rs/{}", it.mine);
    let places = ["", "/s", "/h", "/h/log", "/h/etc", "/h/agent"].map(|place| format!("{run}{place}")).join(" ");
    let search = format!("find / {places} -maxdepth 4 -path /proc -prune -o -type d -writable -print");
    let said = it.run(&format!("{search} 2>/dev/null | xargs stat -f -c '%T %b %S %n'")).await?;
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [kind, blocks, size, place] = fields.as_slice() else { return None };
        Some(((*kind).to_owned(), blocks.parse::<u64>().ok()? * size.parse::<u64>().ok()?, (*place).to_owned()))
    };
    said.lines().map(|line| parse(line).with_context(|| line.to_owned())).collect()
}

#[tokio::test]
async fn every_place_that_a_tenant_may_write_to_is_bounded() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let sockets = format!("/run/trove-rs/{}/s", it.mine);
    let places = writable(&it).await?;
    for (kind, bytes, place) in &places {
        // Message queues are bounded by RLIMIT_MSGQUEUE.
        let is_bounded = (kind == "tmpfs" && *bytes > 0 && *bytes <= 4 << 30) || kind == "mqueue";
        ensure!(is_bounded, "{place} is on a {kind} of {bytes} bytes");
    }
    for place in ["/tmp", "/var/tmp", "/dev/shm", &sockets] {
        ensure!(places.iter().any(|(_, _, found)| found == place), "{place} cannot be written to: {places:?}");
    }
    let said = it.run(&format!("head -c 16M /dev/zero > {sockets}/junk; stat -c %s {sockets}/junk")).await?;
    ensure!(said.contains("No space left"), "{said}");
    let said =
        it.run(&format!("rm {sockets}/junk; seq 2000 | (cd {sockets} && xargs touch); ls {sockets} | wc -l")).await?;
    ensure!(said.contains("No space left"), "{said}");
    it.run(&format!("cd {sockets} && seq 2000 | xargs rm -f")).await?;
    let restart = serde_json::json!({ "restart": {} });
    ensure!(it.api.post(&format!("/instances/{}/action", it.mine), &restart).await?.status == 202);
    let ended = it.api.await_operations(&it.mine).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    it.assert_other_is_well().await
}

/// The tenant uses up all inodes of the socket directory, and fills the engine's memory with files.
#[tokio::test]
async fn what_a_tenant_leaves_in_memory_keeps_no_engine_stopped() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let sockets = format!("/run/trove-rs/{}/s", it.mine);
    let leave = format!(
        "ipcmk -M 65536; ipcmk -Q; for d in /dev/shm /tmp /var/tmp /run/lock; do mkdir $d/mine && touch $d/mine/file; done; \
         cd {sockets} && seq 2000 | xargs touch"
    );
    let said = it.run(&leave).await?;
    ensure!(said.contains("No space left"), "{said}");
    let inside = |path: &str| PathBuf::from(format!("/proc/{}/root{path}", leftovers::agents(&it.mine)[0]));
    ensure!(inside("/tmp/mine/file").exists() && inside(&format!("{sockets}/7")).exists());
    // The kernel may kill the engine, and the shell with it.
    let _ = it.run("while head -c 16M /dev/zero >> /dev/shm/junk; do :; done").await;
    let ended = |pids: &Vec<i32>| *pids != [it.my_engine];
    let restart = serde_json::json!({ "restart": {} });
    if !ended(&leftovers::engines(&it.mine)) {
        ensure!(it.api.post(&format!("/instances/{}/action", it.mine), &restart).await?.status == 202);
    }
    poll("another engine", WAIT, async || Ok(leftovers::engines(&it.mine)), |now| now.len() == 1 && ended(now)).await?;
    let well = |view: &serde_json::Value| view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY";
    poll("an engine that is well", WAIT, async || it.api.instance(&it.mine).await, well).await?;
    for path in
        ["/dev/shm/junk", "/dev/shm/mine", "/tmp/mine", "/var/tmp/mine", "/run/lock/mine", &format!("{sockets}/7")]
    {
        ensure!(!inside(path).exists(), "{path} is still there");
    }
    let agent = format!("--target={}", leftovers::agents(&it.mine)[0]);
    let look = ["--mount", "--ipc", "cat", "/proc/sysvipc/shm", "/proc/sysvipc/msg"];
    let objects = std::process::Command::new("nsenter").arg(agent).args(look).output()?.stdout;
    let objects = String::from_utf8(objects)?;
    // The engine itself has a segment of another size, and no queue.
    let (memory, queues) = objects.split_once("msqid").context("two lists")?;
    ensure!(!memory.contains(" 65536 ") && queues.lines().count() == 1, "{objects}");
    it.assert_other_is_well().await
}

/// Numbers of the system calls add_key, keyctl and mq_open.
fn calls() -> [u32; 3] {
    if cfg!(target_arch = "x86_64") { [248, 250, 240] } else { [217, 219, 180] }
}

/// Runs a Perl program as an account, outside of hosts.
fn perl_as(uid: &str, program: &str) -> Result<String> {
    let output = std::process::Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--", "perl", "-e", program])
        .current_dir("/")
        .output()?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// -3 is the session keyring, -4 the user keyring; keyctl operation 10 is search, 22 get_persistent.
#[tokio::test]
async fn what_a_tenant_leaves_in_the_kernel_is_his_alone_and_goes_with_his_instance() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let uid = it.run("id -u").await?.trim().to_owned();
    let [add_key, keyctl, mq_open] = calls();
    let leave = format!(
        "$t = q(user); $n = q(trove-probe); $s = q(secret); $p = syscall({keyctl}, 22, -1, -3); \
         print join q( ), map {{ $_ > 0 ? 1 : 0 }} syscall({add_key}, $t, $n, $s, 6, -4), \
         syscall({add_key}, $t, $n, $s, 6, $p), syscall({mq_open}, $n, 66, 384, 0)"
    );
    let look = format!(
        "$t = q(user); $n = q(trove-probe); $p = syscall({keyctl}, 22, -1, -3); \
         print join q( ), map {{ $_ > 0 ? 1 : 0 }} syscall({keyctl}, 10, -4, $t, $n, 0), \
         syscall({keyctl}, 10, $p, $t, $n, 0), syscall({mq_open}, $n, 0, 0, 0)"
    );
    let made = it
        .run(&format!("perl -e '{leave}'; ipcmk -M 4096 >&2; ipcmk -Q >&2; ipcmk -S 1 >&2; ipcs | grep -c {uid}"))
        .await?;
    // POSIX queues lie in no directory below `/`, and so cannot be made in a Landlock domain.
    ensure!(made.starts_with("1 1 0"), "{made}");
    let own = it.run("ls /dev/mqueue; cat /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem").await?;
    ensure!(own.lines().filter(|line| line.contains(&uid)).count() >= 3, "{own}");
    // Outside of the host only the keys are visible, which belong to the account.
    ensure!(perl_as(&uid, &look)? == "1 1 0", "{}", perl_as(&uid, &look)?);
    for table in ["shm", "msg", "sem"] {
        let objects = fs::read_to_string(format!("/proc/sysvipc/{table}"))?;
        let is_his = |line: &str| line.split_whitespace().any(|field| field == uid);
        ensure!(!objects.lines().any(is_his), "{table}: {objects}");
    }
    // Objects survive the death of the agent, and so do those that the engine needs after its own.
    let before = leftovers::agents(&it.mine);
    kill(Pid::from_raw(before[0]), Signal::SIGKILL)?;
    let ask = async || Ok(leftovers::agents(&it.mine));
    let now = poll("another agent", WAIT, ask, |now| now.len() == 1 && *now != before).await?;
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/ipc"));
    ensure!(namespace(now[0])? == namespace(it.my_engine)?, "the agent has other objects than its engine");
    ensure!(
        namespace(now[0])? != namespace(it.other_engine)? && namespace(now[0])? != fs::read_link("/proc/self/ns/ipc")?
    );
    ensure!(it.api.delete(&format!("/instances/{}", it.mine)).await?.status == 202);
    it.api.await_gone(&it.mine).await?;
    ensure!(perl_as(&uid, &look)? == "0 0 0", "{}", perl_as(&uid, &look)?);
    it.assert_other_is_well().await
}

//! Attacks by a tenant with a shell on the files and processes of another tenant's account, and of the machine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trove_tests::{has_root_or_skips, leftovers, poll};

use super::neighbours::{Neighbours, account, engine};

const WAIT: Duration = Duration::from_secs(90);

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        found.extend(files(&path));
        found.push(path);
    }
    found
}

#[tokio::test]
async fn a_shell_reaches_no_file_of_another_instance() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let (uid, others) = (account(it.my_engine)?, account(it.other_engine)?);
    ensure!(uid != others && ![uid, others].contains(&0), "accounts {uid} and {others}");
    let said = it.run("id -un; id -u; cat PG_VERSION").await?;
    ensure!(said == format!("os_admin\n{uid}\n15"), "the shell works: {said}");

    let host = it.stack.host(&it.other);
    let run = Path::new("/run/trove-rs").join(&it.other);
    let mut all: Vec<PathBuf> = [&host, &run].into_iter().flat_map(|place| files(place)).collect();
    // Its sockets are visible only from inside of its namespace.
    let agent = *leftovers::agents(&it.other).first().context("an agent")?;
    for socket in files(&leftovers::sockets(&it.other, agent)) {
        all.push(Path::new("/").join(socket.strip_prefix(format!("/proc/{agent}/root"))?));
    }
    let files = all;
    let is_there = |name: &str| files.iter().any(|file| file.ends_with(name));
    ensure!(is_there("PG_VERSION") && is_there("pg_ident.conf") && is_there("agent.toml"), "{files:?}");
    let sockets = files.iter().filter(|file| file.to_string_lossy().contains(".s.PGSQL.")).count();
    ensure!(sockets > 0, "the other has no socket: {files:?}");
    for some in files.chunks(100) {
        let names: Vec<String> = some.iter().map(|file| format!("'{}'", file.display())).collect();
        let attempts = "[ -e \"$f\" ] && echo seen \"$f\"; (: < \"$f\") 2>&- && echo read \"$f\"; (: >> \"$f\") 2>&- && echo written \"$f\"";
        let said = it.run(&format!("for f in {}; do {attempts}; done; echo end", names.join(" "))).await?;
        ensure!(said == "end", "{said}");
    }
    for place in [it.stack.hosts(), it.stack.state(), "/run/trove-rs".into(), "/run/trove-rs/uids".into()] {
        let place = place.display();
        let said = it.run(&format!("ls -A '{place}'; ls -A '{place}/{}'", it.other)).await?;
        let names: Vec<&str> = said.lines().filter(|line| !line.starts_with("ls: ")).collect();
        ensure!(names.iter().all(|name| *name == it.mine), "{place} holds {names:?}");
    }
    // Names of cgroups contain the instance's id, so only their parents are listed.
    let groups = "sed 's/^[^/]*//; s/[^/]*$//' /proc/self/cgroup | sort -u";
    let said = it.run(&format!("for at in $({groups}); do ls -A /sys/fs/cgroup/*$at; done")).await?;
    ensure!(!said.contains(&it.other), "{said}");
    // Check both: the other host was made later, when the mounts of the first existed.
    for (pid, id) in [(it.my_engine, &it.other), (it.other_engine, &it.mine)] {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        ensure!(!mounts.contains(id.as_str()), "{mounts}");
    }
    // In a user namespace he may mount, but cannot unmount what hides the others.
    let hiding = format!("'{}' '{}' /run/trove-rs", it.stack.hosts().display(), it.stack.state().display());
    let undo = format!("umount -l {hiding}; ls -A {hiding}");
    let said = it.run(&format!("unshare -rm sh -c \"{undo}\"")).await?;
    ensure!(!said.contains(&it.other) && !said.contains("trove.db"), "{said}");
    it.assert_other_is_well().await
}

#[tokio::test]
async fn a_shell_reaches_no_process_of_another_instance() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    // PTRACE_ATTACH.
    let attach = "$! = 0; syscall(101, 16, $p, 0, 0); print \"attach: $!\\n\"";
    let own = it.run(&format!("perl -e '$p = fork; if (!$p) {{ sleep 20; exit }} {attach}; kill 9, $p'")).await?;
    ensure!(own.trim() == "attach:", "a child of his own cannot be traced: {own}");
    let seen = it.run("ls /proc").await?;
    let sees = |pid: i32| seen.lines().any(|line| line == pid.to_string());
    ensure!(sees(it.my_engine), "{seen}");

    let agents: Vec<i32> = [&it.mine, &it.other].into_iter().flat_map(|id| leftovers::agents(id)).collect();
    ensure!(agents.len() == 2, "{agents:?}");
    let controller = it.stack.pid()?.as_raw();
    for pid in agents.iter().copied().chain([it.other_engine, controller, 1]) {
        ensure!(!sees(pid), "the process {pid} is seen");
        let said = it.run(&format!("kill -9 {pid}; perl -e '$p = {pid}; {attach}'")).await?;
        ensure!(said.matches("not permitted").count() == 2, "{pid}: {said}");
        let said =
            it.run(&format!("cat /proc/{pid}/mem /proc/{pid}/environ; ls /proc/{pid}/root/ /proc/{pid}/fd/")).await?;
        ensure!(said.lines().count() == 4 && said.matches("No such file").count() == 4, "{pid}: {said}");
        ensure!(Path::new(&format!("/proc/{pid}")).exists(), "{pid} was ended");
    }
    it.assert_other_is_well().await
}

#[tokio::test]
async fn who_looks_like_an_agent_is_not_taken_for_one() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let before = leftovers::agents(&it.mine);
    let words = fs::read(format!("/proc/{}/cmdline", before[0]))?;
    let words = String::from_utf8(words)?.trim_end_matches('\0').split('\0').map(str::to_owned).collect::<Vec<_>>();
    let host = it.stack.host(&it.mine);
    let like_it = words[1..].join("' '");
    let outside = host.join("agent.toml");
    let start = |args: &str| format!("setsid sh -c 'sleep 300; true' x {args} >/dev/null 2>&1 </dev/null &");
    it.run(&start(&format!("'{like_it}'"))).await?;
    it.run(&start(&format!("--config '{}'", outside.display()))).await?;
    let named = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"sh\0-c\0"));
    let both = |pids: &Vec<i32>| pids.iter().filter(|pid| named(pid)).count() == 2;
    poll("two that look like it", WAIT, async || Ok(leftovers::processes(&it.mine)), both).await?;

    kill(Pid::from_raw(before[0]), Signal::SIGKILL)?;
    let ask = async || Ok(leftovers::agents(&it.mine));
    poll("another agent", WAIT, ask, |now| now.len() == 1 && *now != before).await?;
    let well = |view: &serde_json::Value| view["operating_status"] == "HEALTHY";
    poll("an engine that is well", WAIT, async || it.api.instance(&it.mine).await, well).await?;
    ensure!(engine(&it.mine)? == it.my_engine, "the engine was started again");
    Ok(())
}

#[tokio::test]
async fn a_deletion_follows_no_link_and_leaves_no_process() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let uid = account(it.my_engine)?;
    let precious = it.stack.directory().join("roots");
    fs::create_dir(&precious)?;
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o700))?;
    fs::write(precious.join("precious"), "roots")?;
    let map =
        "import mmap, time; f = open('/dev/shm/e/d/precious', 'r+b'); m = mmap.mmap(f.fileno(), 4); time.sleep(600)";
    let apart = ">/dev/null 2>&1 </dev/null &";
    let python = "for python in /usr/bin/python3 python3; do command -v $python >/dev/null && break; done";
    let make = "mkdir -p /dev/shm/e/d; echo mine > /dev/shm/e/d/precious";
    it.run(&format!("{make}; {python}; setsid $python -c \"{map}\" {apart}")).await?;
    let maps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains("/precious"));
    poll("a mapping", WAIT, async || Ok(leftovers::processes(&it.mine)), |pids| pids.iter().any(maps)).await?;
    let swap = format!("mv d d2; ln -s '{}' d; rm d; mv d2 d", precious.display());
    it.run(&format!("cd /dev/shm/e; setsid sh -c \"while :; do {swap}; done\" {apart}")).await?;
    let said = it.run("ls -A /dev/shm/e").await?;
    ensure!(said.lines().any(|line| ["d", "d2"].contains(&line)), "{said}");
    ensure!(!Path::new("/dev/shm/e").exists(), "the machine's shared memory is the host's");
    let pids = leftovers::processes(&it.mine);
    ensure!(it.api.delete(&format!("/instances/{}", it.mine)).await?.status == 202);
    it.api.await_gone(&it.mine).await?;
    leftovers::assert_nothing_of(&it.mine, &it.stack.host(&it.mine), &pids)?;
    ensure!(fs::read_to_string(precious.join("precious"))? == "roots");
    // Zombies do not count; init reaps them some time later.
    let is_zombie = |path: &Path| {
        let stat = fs::read(path.join("stat")).unwrap_or_default();
        String::from_utf8_lossy(&stat).rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    let is_its =
        |entry: &fs::DirEntry| entry.metadata().is_ok_and(|facts| facts.uid() == uid) && !is_zombie(&entry.path());
    let left: Vec<_> = fs::read_dir("/proc")?.flatten().filter(is_its).map(|entry| entry.path()).collect();
    ensure!(left.is_empty(), "processes of the account {uid} are left: {left:?}");
    ensure!(!Path::new("/run/trove-rs/uids").join(uid.to_string()).exists(), "the account was not given back");
    it.assert_other_is_well().await
}

//! Finds what a host leaves behind: processes, directories, sockets, shared memory, cgroups. And ends a host without
//! the service.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processes of an instance, except zombies: those whose command line, working directory or cgroup contains its id.
pub fn processes(instance: &str) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let proc = entry.path();
        let text =
            |name: &str| String::from_utf8_lossy(&std::fs::read(proc.join(name)).unwrap_or_default()).into_owned();
        let stat = text("stat");
        let zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
        let cwd = std::fs::read_link(proc.join("cwd")).unwrap_or_default().to_string_lossy().into_owned();
        let own = pid == i32::try_from(std::process::id()).unwrap_or(0);
        if !zombie && !own && [text("cmdline"), cwd, text("cgroup")].iter().any(|text| text.contains(instance)) {
            found.push(pid);
        }
    }
    found
}

/// Executable of a process; empty if it has ended.
fn program(pid: i32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

/// Executable of a process's parent. It distinguishes a process from a child that was forked and has not executed its
/// program yet.
fn program_of_parent(pid: i32) -> PathBuf {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
    parent.map(program).unwrap_or_default()
}

/// Main processes of the engine, which listen for clients: one for each instance.
pub fn engines(instance: &str) -> Vec<i32> {
    let is_engine = |pid: &i32| {
        // An agent runs the same program with --version, and to have it check or print its configuration.
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = || words.split(|byte| *byte == 0);
        let files: [&[u8]; 3] = [b"/engine.conf", b"/mongod.conf", b"/my.cnf"];
        let serves = |word: &[u8]| word == b"-D" || files.iter().any(|file| word.ends_with(file));
        let asks = [b"-C".as_slice(), b"--help", b"--validate-config", b"--bootstrap"];
        let serves = words().any(serves) && !words().any(|word| asks.contains(&word));
        // Debian's redis-server and redis-check-rdb are the same file.
        let programs = ["bin/mongod", "sbin/mariadbd", "bin/postgres", "bin/redis-check-rdb", "bin/redis-server"];
        let is_one = |path: &Path| programs.iter().any(|program| path.ends_with(program));
        serves && is_one(&program(*pid)) && !is_one(&program_of_parent(*pid))
    };
    processes(instance).into_iter().filter(is_engine).collect()
}

/// Agents of an instance.
pub fn agents(instance: &str) -> Vec<i32> {
    let is_one = |path: &Path| path.to_string_lossy().contains("trove-agent");
    let is_agent = |pid: &i32| is_one(&program(*pid)) && !is_one(&program_of_parent(*pid));
    processes(instance).into_iter().filter(is_agent).collect()
}

/// Directory of an instance's sockets, through the mount namespace of one of its processes.
pub fn sockets(instance: &str, process: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/root/run/trove-rs/{instance}/s"))
}

/// Directories of an instance outside of the state directory: sockets and cgroups.
pub fn directories(instance: &str) -> Vec<PathBuf> {
    let uid = nix::unistd::getuid();
    let mut places = vec![PathBuf::from("/run/trove-rs"), PathBuf::from(format!("/tmp/trove-rs-{uid}"))];
    // Cgroups are below a directory for each state directory.
    for controller in ["", "memory", "cpu", "pids", "unified", "cpu,cpuacct", "systemd"] {
        let top = Path::new("/sys/fs/cgroup").join(controller).join("trove-rs");
        places.extend(std::fs::read_dir(&top).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    let names = [instance.to_owned(), format!("{instance}.agent")];
    let all = places.iter().flat_map(|place| names.iter().map(|name| place.join(name)));
    all.filter(|path| path.exists()).collect()
}

/// Shared memory segments that were created by one of the processes.
pub fn shared_memory(pids: &[i32]) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let creator = |line: &&str| line.split_whitespace().nth(4).and_then(|pid| pid.parse::<i32>().ok());
    text.lines()
        .skip(1)
        .filter(|line| creator(line).is_some_and(|pid| pids.contains(&pid)))
        .map(str::to_owned)
        .collect()
}

/// Whether the machine's packet filter contains an account or an address. An absent table is no error.
pub fn filtered(what: &str) -> Result<bool> {
    let output = std::process::Command::new("nft").args(["list", "table", "inet", "trove-rs"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let is_it = |word: &str| word == what;
    Ok(text.split(|c: char| c.is_whitespace() || c == ',').any(is_it))
}

fn reservations() -> Vec<std::fs::DirEntry> {
    std::fs::read_dir("/run/trove-rs/uids").into_iter().flatten().flatten().collect()
}

fn nft(args: &[&str]) {
    let mut command = std::process::Command::new("nft");
    let _ = command.args(args).stderr(std::process::Stdio::null()).status();
}

/// Releases the accounts of a host and removes them from the packet filter.
fn release_account(host: &Path) {
    let is_of_host =
        |entry: &std::fs::DirEntry| std::fs::read(entry.path()).is_ok_and(|at| at == host.as_os_str().as_bytes());
    for entry in reservations().into_iter().filter(is_of_host) {
        let uid = entry.file_name().to_string_lossy().into_owned();
        nft(&["delete", "element", "inet", "trove-rs", "accounts", &format!("{{ {uid} }}")]);
        let _ = std::fs::remove_file(entry.path());
    }
}

/// Removes what a controller has told others for the packet filter, and the filter with the last one.
pub fn forget_service(state: &Path) {
    let told = serde_json::json!(state).to_string();
    for entry in reservations() {
        let is_service = entry.file_name().to_string_lossy().starts_with("service.");
        if is_service && std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&told)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    if reservations().iter().all(|entry| entry.file_name().to_string_lossy().starts_with('.')) {
        nft(&["delete", "table", "inet", "trove-rs"]);
    }
}

/// Ends every process of a host and removes its files outside of the state directory.
pub fn end_host(host: &Path, instance: &str) {
    let mut killed = Vec::new();
    loop {
        let pids = processes(instance);
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            killed.push(pid);
        }
        std::thread::yield_now();
    }
    for line in shared_memory(&killed) {
        if let Some(id) = line.split_whitespace().nth(1) {
            let _ = std::process::Command::new("ipcrm").args(["-m", id]).status();
        }
    }
    for directory in directories(instance) {
        if directory.starts_with("/sys/fs/cgroup") {
            let _ = std::fs::remove_dir(&directory);
            // Also the parent directories, if this was the last host.
            for above in directory.ancestors().skip(1).take(2) {
                let _ = std::fs::remove_dir(above);
            }
        } else {
            // The mounts that hold the host's namespaces.
            for mounted in [directory.join("ns"), directory.clone()] {
                while umount2(&mounted, MntFlags::MNT_DETACH).is_ok() {}
            }
            let _ = std::fs::remove_dir_all(directory);
        }
    }
    release_account(host);
    let _ = std::fs::remove_dir_all(host);
}

/// Asserts that nothing is left of a deleted instance. `pids` are its former processes.
pub fn assert_nothing_of(instance: &str, host: &Path, pids: &[i32]) -> Result<()> {
    let (left, places, memory) = (processes(instance), directories(instance), shared_memory(pids));
    ensure!(left.is_empty(), "processes of {instance} are left: {left:?}");
    ensure!(places.is_empty(), "directories of {instance} are left: {places:?}");
    ensure!(memory.is_empty(), "shared memory of {instance} is left: {memory:?}");
    ensure!(!host.exists(), "{} is left", host.display());
    Ok(())
}

//! Processes from proc(5): CPU time of all threads, children excluded, and memory as the share that is theirs.

use anyhow::{Context, Result};

/// Seconds of CPU that a process has used, user and system, all threads that it ever had; 10 ms is the grain.
pub(crate) fn cpu_s(pid: i32) -> Result<f64> {
    let (_, user, system) = stat(pid).with_context(|| format!("process {pid} has ended"))?;
    ticks(user + system)
}

/// The same of a process and its children, also of those that have ended and were waited for.
pub(crate) fn family_cpu_s(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = fields(&text).context("a line of proc(5)")?;
    // Of children that were waited for: fields 16 and 17 of the manual page.
    let ended: u64 = [13, 14].iter().filter_map(|n| fields.get(*n)?.parse::<u64>().ok()).sum();
    let mut sum = cpu_s(pid)? + ticks(ended)?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(other) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that has just ended is counted with its parent the next time.
        if let Some((parent, user, system)) = stat(other)
            && parent == pid
        {
            sum += ticks(user + system)?;
        }
    }
    Ok(sum)
}

/// Proportional set size, MiB: what it shares with n processes counts a n-th.
pub(crate) fn pss_mib(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("Pss in smaps_rollup")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("Pss in smaps_rollup")?;
    Ok(kib / 1024.0)
}

/// As many descriptors as the system lets us have: each connection is one.
pub(crate) fn raise_descriptors() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}

/// What follows the name in `/proc/<pid>/stat`, from the state on.
fn fields(text: &str) -> Option<Vec<&str>> {
    Some(text.rsplit_once(") ")?.1.split(' ').collect())
}

/// Parent, user ticks, system ticks.
fn stat(pid: i32) -> Option<(i32, u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = fields(&text)?;
    Some((fields.get(1)?.parse().ok()?, fields.get(11)?.parse().ok()?, fields.get(12)?.parse().ok()?))
}

#[allow(clippy::cast_precision_loss)]
fn ticks(count: u64) -> Result<f64> {
    let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("clock ticks")?;
    Ok(count as f64 / a_second as f64)
}

//! CPU time and memory of processes, from proc(5).

use anyhow::{Context, Result};

/// CPU time of a process, seconds: user and system, all threads, also ended ones. The resolution is 10 ms.
pub(crate) fn cpu_s(pid: i32) -> Result<f64> {
    let (_, user, system) = stat(pid).with_context(|| format!("process {pid} has ended"))?;
    ticks(user + system)
}

/// CPU time of a process and its children, including those that have ended and were reaped.
pub(crate) fn family_cpu_s(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = fields(&text).context("a line of proc(5)")?;
    // Reaped children: cutime and cstime, fields 16 and 17.
    let ended: u64 = [13, 14].iter().filter_map(|n| fields.get(*n)?.parse::<u64>().ok()).sum();
    let mut sum = cpu_s(pid)? + ticks(ended)?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(other) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A child that has just ended is counted with its parent at the next reading.
        if let Some((parent, user, system)) = stat(other)
            && parent == pid
        {
            sum += ticks(user + system)?;
        }
    }
    Ok(sum)
}

/// Proportional set size, MiB: memory that n processes share counts as 1/n.
pub(crate) fn pss_mib(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("Pss in smaps_rollup")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("Pss in smaps_rollup")?;
    Ok(kib / 1024.0)
}

/// Raises the limit of open files to the hard limit, since each connection needs one.
pub(crate) fn raise_descriptors() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}

/// Fields of `/proc/<pid>/stat` after the name, beginning with the state.
fn fields(text: &str) -> Option<Vec<&str>> {
    Some(text.rsplit_once(") ")?.1.split(' ').collect())
}

/// Parent, user ticks and system ticks of a process.
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

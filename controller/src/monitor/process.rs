//! Metrics of the controller's process, from proc(5), under the names that Prometheus client libraries use.

#![allow(clippy::disallowed_methods, reason = "/proc")]

use metrics::{describe_gauge, gauge};

/// Describes the metrics.
pub(super) fn describe() {
    describe_gauge!("process_cpu_seconds", "User and system time of this process, seconds.");
    describe_gauge!("process_resident_memory_bytes", "Resident memory.");
    describe_gauge!("process_open_fds", "Open descriptors.");
    describe_gauge!("process_threads", "Threads.");
}

/// Updates the metrics. Those that cannot be read keep their value.
pub(super) fn measure() {
    if let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) {
        let seconds = |time: nix::sys::time::TimeVal| seconds(time.tv_sec(), time.tv_usec());
        gauge!("process_cpu_seconds").set(seconds(usage.user_time()) + seconds(usage.system_time()));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    if let Some(kib) = number("VmRSS") {
        gauge!("process_resident_memory_bytes").set(kib * 1024.0);
    }
    if let Some(threads) = number("Threads") {
        gauge!("process_threads").set(threads);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(super::figure(open.count()));
    }
}

#[allow(clippy::cast_precision_loss)]
fn seconds(whole: i64, micros: i64) -> f64 {
    whole as f64 + micros as f64 / 1e6
}

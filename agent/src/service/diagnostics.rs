//! Figures about the agent's process and the guest, from proc(5).

#![allow(clippy::disallowed_methods, reason = "/proc and control groups")]

use tonic::{Request, Response, Status};
use trove_proto::v1;
use trove_proto::v1::diagnostics_server::Diagnostics;

use super::Connection;

/// A number from `/proc/self/status`; 0 if it is absent.
fn figure(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[tonic::async_trait]
impl Diagnostics for Connection {
    async fn ping(&self, _request: Request<v1::PingRequest>) -> Result<Response<v1::PingReply>, Status> {
        self.called.notify_one();
        Ok(Response::new(v1::PingReply {}))
    }

    async fn get_diagnostics(
        &self,
        _request: Request<v1::GetDiagnosticsRequest>,
    ) -> Result<Response<v1::GetDiagnosticsReply>, Status> {
        self.called.notify_one();
        let broken = |error: std::io::Error| Status::internal(format!("read the agent's own figures: {error}"));
        let status = std::fs::read_to_string("/proc/self/status").map_err(broken)?;
        let open_files = std::fs::read_dir("/proc/self/fd").map_err(broken)?.count();
        Ok(Response::new(v1::GetDiagnosticsReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            threads: u32::try_from(figure(&status, "Threads")).unwrap_or_default(),
            open_files: u32::try_from(open_files).unwrap_or_default(),
            vm_size_kib: figure(&status, "VmSize"),
            vm_peak_kib: figure(&status, "VmPeak"),
            vm_rss_kib: figure(&status, "VmRSS"),
            vm_hwm_kib: figure(&status, "VmHWM"),
            memory_total_mib: self.services.size.memory_mib,
            cpus: self.services.size.vcpus,
        }))
    }
}

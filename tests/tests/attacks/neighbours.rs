//! A tenant who is superuser of PostgreSQL, and so has a shell as his engine's account, and another tenant's instance on
//! the same machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use tokio_postgres::Client;
use trove_tests::{APP, Api, Stack, StackOptions, connect, in_shell, leftovers, root, rows};

/// Instances of two tenants, and a shell in the engine of the first.
pub(super) struct Neighbours {
    pub(super) stack: Stack,
    pub(super) api: Api,
    pub(super) mine: String,
    pub(super) other: String,
    shell: Client,
    /// Pids of the engines.
    pub(super) my_engine: i32,
    pub(super) other_engine: i32,
}

impl Neighbours {
    pub(super) async fn new() -> Result<Self> {
        Self::with(Vec::new()).await
    }

    /// With more of the environment for the controller.
    pub(super) async fn with(mut environment: Vec<(String, String)>) -> Result<Self> {
        // As in the operator's guide. It must not be /tmp, since hosts have their own.
        let parent = Some(PathBuf::from("/var/lib"));
        if super::domains::obstacle().is_some() {
            environment.push(("TROVE_PROCESS__ALLOW_ROOT".to_owned(), "true".to_owned()));
        }
        let stack = Stack::start_with(StackOptions { parent, environment, ..StackOptions::default() }).await?;
        let api = stack.login("trove").await?;
        let (mine, other) = (api.order_and_await("mine").await?, api.order_and_await("other").await?);
        let shell = root(&api, &mine, "app").await?;
        let (my_engine, other_engine) = (engine(&mine)?, engine(&other)?);
        Ok(Self { stack, api, mine, other, shell, my_engine, other_engine })
    }

    /// Runs a script in the tenant's shell and returns its output.
    pub(super) async fn run(&self, script: &str) -> Result<String> {
        in_shell(&self.shell, script).await
    }

    /// Runs a script as the account of the tenant's engine, outside of its domain and with the system calls that are
    /// refused in it: like what an engine has started that was started before there were domains.
    pub(super) fn run_outside(&self, script: &str) -> Result<()> {
        let uid = account(self.my_engine)?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.my_engine.to_string(), "--mount", "--ipc", "--", "setpriv"]);
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--no-new-privs", "--"]);
        let status = command.args(["sh", "-c", script]).current_dir("/").status()?;
        ensure!(status.success(), "{script}");
        Ok(())
    }

    /// Asserts that the other engine still is the same process and serves.
    pub(super) async fn assert_other_is_well(&self) -> Result<()> {
        ensure!(leftovers::engines(&self.other) == [self.other_engine], "the other's engine was started again");
        let view = self.api.instance(&self.other).await?;
        rows(&connect(&view, APP.0, APP.1, "app").await?, "select 1").await?;
        Ok(())
    }
}

/// Pid of the engine of an instance.
pub(super) fn engine(instance: &str) -> Result<i32> {
    let engines = leftovers::engines(instance);
    ensure!(engines.len() == 1, "{instance} has the engines {engines:?}");
    Ok(engines[0])
}

/// Account of a process.
pub(super) fn account(pid: i32) -> Result<u32> {
    Ok(fs::metadata(format!("/proc/{pid}"))?.uid())
}

//! `trove-agent init`, the first process of a container. Here it is a process like any other, with an agent that waits for a
//! controller.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trove_tests::{poll, program};

const SOON: Duration = Duration::from_secs(60);

/// Ended with the test.
struct Init(Child, PathBuf);

impl Init {
    fn start(directory: &Path, config: &str) -> Result<Self> {
        let (file, log) = (directory.join("agent.toml"), directory.join("log"));
        std::fs::write(&file, config)?;
        let mut command = Command::new(program("trove-agent")?);
        command.args(["init", "--config"]).arg(file).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(command.stderr(std::fs::File::create(&log)?).spawn()?, log))
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.0.id())?))
    }

    fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.1)?)
    }

    fn children(&self) -> Result<Vec<Pid>> {
        let pid = self.pid()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        text.split_ascii_whitespace().map(|pid| Ok(Pid::from_raw(pid.parse()?))).collect()
    }

    /// Tells it to end.
    async fn end(&mut self) -> Result<()> {
        kill(self.pid()?, Signal::SIGTERM)?;
        let ended = poll("the end", SOON, async || Ok(self.0.try_wait()?), Option::is_some).await?;
        ensure!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", self.log()?);
        Ok(())
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        for child in self.children().into_iter().flatten() {
            let _ = kill(child, Signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_agent_that_ends_at_once_is_started_again_after_growing_delays() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut init = Init::start(directory.path(), "nonsense = true\n")?;
    let times = |log: &str| log.matches("is started again").count();
    poll("three ends", SOON, async || init.log(), |log| times(log) >= 3).await?;
    init.end().await?;
    ensure!(times(&init.log()?) < 8, "the delays do not grow");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_killed_is_started_again_and_ended_when_told() -> Result<()> {
    let directory = tempfile::tempdir()?;
    // Any authority will do: nobody listens where the controller should be.
    let authorities = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt")?;
    let end = "-----END CERTIFICATE-----\n";
    let first = authorities.find(end).context("a certificate")?;
    std::fs::write(directory.path().join("authority.pem"), &authorities[..first + end.len()])?;
    std::fs::write(directory.path().join("token"), "a token")?;
    let root = nix::unistd::geteuid().is_root();
    let config = format!(
        "instance_id = \"11111111-1111-1111-1111-111111111111\"\ngeneration = 1\ndatastore = \"postgresql\"\n\
         controllers = [\"127.0.0.1:1\"]\nauthority_file = \"authority.pem\"\ntoken_file = \"token\"\n\
         state_dir = \"agent\"\nvolume_dir = \"volume\"\nconfig_dir = \"etc\"\nrun_dir = \"run\"\nlog_dir = \"log.d\"\n\
         address = \"127.0.0.1\"\nport = 5432\nmemory_mib = 512\nvcpus = 1\nvolume_gib = 1\n{}",
        if root { "engine_uid = 2000\n" } else { "" }
    );
    let mut init = Init::start(directory.path(), &config)?;
    let waits = |log: &str| log.matches("the agent starts").count();
    let started = async |times| {
        let seen = poll("the agent", SOON, async || init.log(), |log| waits(log) == times).await;
        seen.with_context(|| init.log().unwrap_or_default())
    };
    started(1).await?;
    let first = init.children()?;
    ensure!(first.len() == 1, "{first:?}");
    kill(first[0], Signal::SIGKILL)?;
    started(2).await?;
    let second = init.children()?;
    ensure!(second.len() == 1 && second != first, "{first:?} {second:?}");
    init.end().await?;
    ensure!(kill(second[0], None).is_err(), "the agent lives on");
    Ok(())
}

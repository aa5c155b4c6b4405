//! `make demo` where its service runs already, and what it asks a new service for.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use trove_tests::{Failpoints, Stack, StackOptions, program};

/// A checkout in which nothing is installed or built, and whose `.demo/` is the state of a stack.
struct Checkout<'a> {
    stack: &'a Stack,
    root: PathBuf,
}

impl<'a> Checkout<'a> {
    fn new(stack: &'a Stack) -> Result<Self> {
        let root = stack.directory().join("checkout");
        for directory in ["bin", "tests/scripts", "target"] {
            std::fs::create_dir_all(root.join(directory))?;
        }
        for script in ["bin/cargo", "tests/scripts/setup.sh"] {
            std::fs::write(root.join(script), "#!/bin/sh\n")?;
            std::fs::set_permissions(root.join(script), std::fs::Permissions::from_mode(0o755))?;
        }
        let programs = program("trove-controller")?;
        symlink(programs.parent().context("the programs")?, root.join("target/debug"))?;
        symlink(stack.state(), root.join(".demo"))?;
        Ok(Self { stack, root })
    }

    fn script(&self, name: &str) -> Result<Command> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        let mut command = Command::new(scripts.join(name));
        let path = format!("{}:{}", self.root.join("bin").display(), std::env::var("PATH")?);
        command.current_dir(&self.root).env("TARGET", self.root.join("target")).env("PATH", path);
        for name in ["DATASTORE", "COMPUTE", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        command.env("XDG_CACHE_HOME", self.root.join("cache")).envs(self.stack.environment());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    fn demo(&self) -> Result<String> {
        let output = self.script("demo.sh")?.output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "{said}");
        Ok(said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_finds_its_running_service_whatever_files_were_lost() -> Result<()> {
    let mut stack = Stack::start().await?;
    let pid = stack.pid()?;
    let checkout = Checkout::new(&stack)?;
    let said = checkout.demo()?;
    ensure!(said.contains(&format!("it runs already (pid {pid})")) && said.contains("hello from PostgreSQL"), "{said}");
    // The pid is only what is said.
    let lock = stack.state().join("lock");
    std::fs::write(&lock, "")?;
    let said = checkout.demo()?;
    ensure!(said.contains("it runs already (pid )") && said.contains("hello from PostgreSQL"), "{said}");
    ensure!(stack.pid()? == pid && nix::sys::signal::kill(pid, None).is_ok(), "another service was started");

    std::fs::write(&lock, pid.to_string())?;
    let stopping = checkout.script("demo-stop.sh")?.spawn()?;
    let ended = stack.wait()?;
    let stopped = stopping.wait_with_output()?;
    ensure!(ended.success() && stopped.status.success(), "{ended}, {stopped:?}");
    ensure!(String::from_utf8_lossy(&stopped.stdout).contains("make demo starts it again"), "{stopped:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_datastores_sees_all_that_are_installed_or_hears_that_there_are_none() -> Result<()> {
    let mut stack = Stack::prepare(StackOptions::default())?;
    stack.run(&Failpoints::default())?;
    let (ok, said) = stack.trovectl(&["datastore", "list", "--wait"])?;
    ensure!(ok && said.contains("postgresql") && said.contains("redis"), "{said}\n{}", stack.log_end());

    let environment = vec![("TROVE_DATASTORES__ONLY".to_owned(), r#"["none"]"#.to_owned())];
    let mut stack = Stack::prepare(StackOptions { environment, ..StackOptions::default() })?;
    stack.run(&Failpoints::default())?;
    let output = stack.trovectl_command(&["datastore", "list", "--wait"])?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(4) && said.contains("No datastore is registered"), "{output:?}");
    Ok(())
}

//! The unmodified OpenStack clients, from a virtual environment.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Runs `openstack` without loading its modules again for each command.
const PRELOADED: &str = "preloaded.py";

/// The clients, configured for one entry of a clouds file.
pub struct Clients {
    bin: PathBuf,
    clouds: PathBuf,
    cloud: String,
    /// Started by the first command.
    preloaded: Mutex<Option<Preloaded>>,
    ran: Mutex<Vec<String>>,
}

/// A process that forks an `openstack` for each command.
struct Preloaded {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Preloaded {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the clients")?;
        let asks = child.stdin.take().context("its standard input")?;
        let answers = BufReader::new(child.stdout.take().context("its standard output")?);
        Ok(Self { child, asks, answers })
    }

    fn run(&mut self, words: &[&str]) -> Result<(bool, String)> {
        writeln!(self.asks, "{}", json!(words))?;
        self.asks.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let (status, said, complained): (i64, String, String) =
            serde_json::from_str(&line).with_context(|| format!("openstack {words:?} ended: {line}"))?;
        Ok(if status == 0 { (true, said) } else { (false, said + &complained) })
    }
}

impl Drop for Preloaded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Clients {
    /// Clients that use the file `clouds`. `TROVE_CLIENTS_BIN`, which `make test` sets, names their directory; it is an
    /// error if it is not set, so that a test does not pass without clients.
    pub fn new(clouds: &Path, cloud: &str) -> Result<Self> {
        let bin = std::env::var_os("TROVE_CLIENTS_BIN").context("TROVE_CLIENTS_BIN is not set; run `make test`")?;
        let (clouds, cloud) = (clouds.to_owned(), cloud.to_owned());
        Ok(Self { bin: bin.into(), clouds, cloud, preloaded: Mutex::default(), ran: Mutex::default() })
    }

    /// Runs `openstack`, which must succeed, and returns its output.
    pub fn openstack(&self, args: &[&str]) -> Result<String> {
        let (ok, text) = self.try_openstack(args)?;
        if !ok {
            bail!("openstack {args:?}: {text}");
        }
        self.ran.lock().unwrap_or_else(PoisonError::into_inner).push(args.join(" "));
        Ok(text)
    }

    /// Runs `openstack … -f json` and returns its parsed output.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["-f", "json"]).collect();
        let text = self.openstack(&args)?;
        serde_json::from_str(&text).with_context(|| format!("openstack {args:?} printed {text}"))
    }

    /// Runs `openstack`. Returns whether it succeeded, and its output (both streams if it failed).
    pub fn try_openstack(&self, args: &[&str]) -> Result<(bool, String)> {
        let mut preloaded = self.preloaded.lock().unwrap_or_else(PoisonError::into_inner);
        if preloaded.is_none() {
            *preloaded = Some(Preloaded::start(&mut self.script(PRELOADED))?);
        }
        let preloaded = preloaded.as_mut().context("the clients")?;
        preloaded.run(&[&["--os-cloud", &self.cloud][..], args].concat())
    }

    /// The commands of the database plugin whose names begin so, and that have not succeeded here yet.
    pub fn not_run(&self, beginning: &str) -> Result<Vec<String>> {
        let (_, text) = self.run(self.script(PRELOADED).arg("--commands"))?;
        let mut all: Vec<String> = serde_json::from_str(&text).with_context(|| text.clone())?;
        // The longest first: `user show access` is no `user show`.
        all.sort_by_key(|command| std::cmp::Reverse(command.len()));
        let is = |line: &str, command: &str| line == command || line.starts_with(&format!("{command} "));
        let ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner);
        let done: Vec<&String> = ran.iter().filter_map(|line| all.iter().find(|command| is(line, command))).collect();
        let left = all.iter().filter(|command| is(command, beginning) && !done.contains(command));
        Ok(left.cloned().collect())
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join("python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name));
        self.configure(&mut command);
        command
    }

    /// Runs a Python script of tests/clients with the clients' libraries; it must succeed.
    pub fn python(&self, script: &str, args: &[&str]) -> Result<String> {
        let (ok, text) = self.run(self.script(script).arg(&self.cloud).args(args))?;
        if !ok {
            bail!("{script}: {text}");
        }
        Ok(text)
    }

    /// Runs another program of the environment, which must succeed, and returns its output. Its working directory is
    /// that of the clouds file, so that files that it writes are removed with the stack.
    pub fn program(&self, name: &str, args: &[&str]) -> Result<String> {
        let directory = self.clouds.parent().context("the directory of the clouds file")?;
        let (ok, text) = self.run(Command::new(self.bin.join(name)).args(args).current_dir(directory))?;
        if !ok {
            bail!("{name} {args:?}: {text}");
        }
        Ok(text)
    }

    fn configure<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("OS_CLIENT_CONFIG_FILE", &self.clouds).env_remove("OS_CLOUD")
    }

    fn run(&self, command: &mut Command) -> Result<(bool, String)> {
        let output = self.configure(command).output().with_context(|| format!("start {command:?}"))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        Ok((output.status.success(), text))
    }
}

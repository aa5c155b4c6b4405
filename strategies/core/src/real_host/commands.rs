//! Commands of the real host: each in a process group of its own, which is killed when it is given up.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use super::{RealHost, Trusted};
use crate::command::{Command, Output};
use crate::error::HostError;
use crate::stream::{InputStream, OutputStream};

const STDOUT_BYTES: usize = 1 << 20;
const STDERR_BYTES: usize = 64 << 10;

/// A command that was started, and the other ends of its pipes.
struct Started {
    group: Group,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    trusted: Option<Trusted>,
}

/// A process with its children, which are killed when this is dropped before the process was waited for. Not after that:
/// its number may be another's by then. So it is waited for last, when nobody holds its pipes any more.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    async fn ended(&mut self) -> io::Result<std::process::ExitStatus> {
        let status = self.child.wait().await;
        self.id = None;
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // The only error is that nobody is left.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }
}

/// The beginning of a stream, and whether there was more than `limit` bytes. It is read to its end all the same, so that
/// the command goes on.
async fn beginning(stream: Option<impl AsyncReadExt + Unpin>, limit: usize) -> (String, bool) {
    let Some(mut stream) = stream else { return (String::new(), false) };
    let (mut all, mut chunk, mut more) = (Vec::new(), vec![0; 8192], false);
    // A stream that breaks has said what it said; the exit status decides.
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        let room = limit - all.len();
        more |= n > room;
        all.extend_from_slice(&chunk[..n.min(room)]);
    }
    (text(&all), more)
}

/// At most `limit` bytes of the end of a stream.
async fn end(stream: Option<impl AsyncReadExt + Unpin>, limit: usize) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let (mut all, mut chunk) = (Vec::new(), vec![0; 8192]);
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        all.extend_from_slice(&chunk[..n]);
        let surplus = all.len().saturating_sub(limit);
        all.drain(..surplus);
    }
    text(&all)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

impl RealHost {
    fn spawn(&self, command: &Command, stdin: Stdio) -> Result<Started, HostError> {
        let mut base = self.command(&command.program, command.user);
        base.args(&command.args).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
        base.envs(command.env.iter().map(|(name, value)| (name, value))).current_dir("/");
        let mut base = tokio::process::Command::from(base);
        base.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = base.spawn().map_err(|error| start_failed(command, &error))?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let trusted = id.map(|pid| self.trusted(pid, None));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Ok(Started { group: Group { child, id: id.map(Pid::from_raw) }, stdin, stdout, stderr, trusted })
    }

    pub(super) async fn run_command(&self, command: Command) -> Result<Output, HostError> {
        let mut started = self.spawn(&command, given(&command))?;
        let (stdin, stdout) = (started.stdin.take(), started.stdout.take());
        ended(started, command, stdin, beginning(stdout, STDOUT_BYTES)).await
    }

    pub(super) fn output_stream(&self, command: Command) -> Result<OutputStream, HostError> {
        let mut started = self.spawn(&command, given(&command))?;
        let missing = || start_failed(&command, &io::Error::other("it has no output"));
        let (stdin, stdout) = (started.stdin.take(), started.stdout.take().ok_or_else(missing)?);
        let end = |closed| {
            let unread = async {
                closed.await;
                (String::new(), false)
            };
            ended(started, command, stdin, unread)
        };
        Ok(OutputStream::new(stdout, end))
    }

    pub(super) fn input_stream(&self, command: Command) -> Result<InputStream, HostError> {
        if command.stdin.is_some() {
            return Err(start_failed(&command, &io::Error::other("its input is given twice")));
        }
        let mut started = self.spawn(&command, Stdio::piped())?;
        let missing = || start_failed(&command, &io::Error::other("it has no input"));
        let (stdin, stdout) = (started.stdin.take().ok_or_else(missing)?, started.stdout.take());
        let end = |_| ended(started, command, None, beginning(stdout, STDOUT_BYTES));
        Ok(InputStream::new(stdin, end))
    }
}

fn given(command: &Command) -> Stdio {
    if command.stdin.is_some() { Stdio::piped() } else { Stdio::null() }
}

fn start_failed(command: &Command, error: &io::Error) -> HostError {
    HostError::Start { program: command.program.display().to_string(), reason: error.to_string() }
}

/// Feeds it, reads what it says, and waits for its end. Dropped or late, it kills the command with its children.
async fn ended(
    started: Started,
    command: Command,
    stdin: Option<ChildStdin>,
    stdout: impl Future<Output = (String, bool)>,
) -> Result<Output, HostError> {
    let Started { mut group, stderr, trusted: _trusted, .. } = started;
    let program = command.program.display().to_string();
    let feed = async {
        if let (Some(mut input), Some(text)) = (stdin, &command.stdin) {
            // A program that does not read its input says so by its exit status.
            let _ = input.write_all(text.expose_secret().as_bytes()).await;
        }
    };
    let all = async {
        let said = tokio::join!(stdout, end(stderr, STDERR_BYTES), feed);
        (said, group.ended().await)
    };
    let Ok((((stdout, more), stderr, ()), status)) = tokio::time::timeout(command.deadline, all).await else {
        return Err(HostError::Late { program, seconds: command.deadline.as_secs() });
    };
    let status = status.map_err(|error| start_failed(&command, &error))?;
    if !status.success() {
        let said = if stderr.is_empty() { stdout } else { stderr };
        return Err(match status.signal() {
            Some(signal) if signal == Signal::SIGKILL as i32 => HostError::Killed { program, stderr: said },
            _ => HostError::Failed { program, status: status.to_string(), stderr: said },
        });
    }
    if more {
        return Err(HostError::TooMuch { program, limit: STDOUT_BYTES });
    }
    Ok(Output { stdout, stderr })
}

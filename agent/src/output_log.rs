//! The engine's log and the agent's own. Each appends its output to one file. Since a tenant can make an engine write any
//! amount, and the agent say again and again that it has crashed, the agent truncates both in place when they have grown
//! too long.
//!
//! Before each truncation the end of the file is copied to `engine.log.1`; older copies move on to at most
//! `engine.log.4` and `agent.log.2`. Output that is written between the copy and the truncation is lost.

#![allow(
    clippy::disallowed_methods,
    reason = "the directory is the agent's alone, 0700: the engine gets the file open"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use tracing::warn;

/// The file is truncated when it is longer than this, bytes. So much of its end is copied first.
const PIECE: u64 = 8 << 20;
/// Bytes at the end of the log in which the last lines are looked for.
const TAIL: u64 = 16 << 10;
const LOOK: Duration = Duration::from_secs(1);

/// A log and its older copies.
pub struct OutputLog {
    directory: PathBuf,
    name: &'static str,
    /// How many copies are kept.
    pieces: u32,
    state: Mutex<State>,
}

/// Positions count every byte written since the agent started, also truncated ones.
#[derive(Default)]
struct State {
    /// Position of the file's first byte.
    cut: u64,
    /// Position at which the current start of the engine began, while one is under way.
    start: Option<u64>,
}

impl OutputLog {
    /// The engine's. Only the agent may change `directory`.
    pub fn of_engine(directory: &Path) -> Arc<Self> {
        Self::new(directory, "engine.log", 4)
    }

    /// The agent's own, which is there when the compute driver appends its output to a file.
    pub fn of_agent(directory: &Path) -> Arc<Self> {
        Self::new(directory, "agent.log", 2)
    }

    fn new(directory: &Path, name: &'static str, pieces: u32) -> Arc<Self> {
        Arc::new(Self { directory: directory.to_owned(), name, pieces, state: Mutex::default() })
    }

    /// Truncates the file whenever it is too long. Never returns.
    pub async fn keep_short(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let log = self.clone();
            // An error here is a panic in `shorten`; the runtime has logged it.
            let _ = tokio::task::spawn_blocking(move || log.shorten()).await;
        }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }

    fn piece(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{}.{number}", self.name))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Disk space of the log and its older copies, bytes.
    pub fn used_bytes(&self) -> u64 {
        let files = std::iter::once(self.path()).chain((1..=self.pieces).map(|number| self.piece(number)));
        files.filter_map(|path| Some(std::fs::symlink_metadata(path).ok()?.blocks() * 512)).sum()
    }

    /// Marks the beginning of a start of the engine.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.start = Some(state.cut.saturating_add(length(&self.path())));
    }

    /// Marks the end of a start of the engine.
    pub fn end(&self) {
        self.lock().start = None;
    }

    /// The last five lines, joined into one; while the engine starts, only those written since the start began.
    pub fn last_words(&self) -> String {
        let state = self.lock();
        let from = state.start.map_or(0, |start| start.saturating_sub(state.cut));
        let bytes = tail(&self.path(), from, TAIL).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let said = lines[lines.len().saturating_sub(5)..].join(" / ");
        // Keep the end, which most often has the reason of a failure.
        let from = (said.len().saturating_sub(1000)..).find(|at| said.is_char_boundary(*at)).unwrap_or_default();
        let said = said[from..].to_owned();
        if said.is_empty() { "it wrote nothing".to_owned() } else { said }
    }

    /// Truncates the file if it is too long.
    fn shorten(&self) {
        let mut state = self.lock();
        // The file's blocks are compared, too: a process that has it open may allocate space beyond its end
        // (fallocate(2)).
        let on_disk = std::fs::symlink_metadata(self.path()).map_or(0, |facts| facts.blocks() * 512);
        if length(&self.path()) > PIECE || on_disk > 2 * PIECE {
            self.cut(&mut state);
        }
    }

    fn cut(&self, state: &mut State) {
        if let Err(error) = self.keep_end() {
            // Truncate all the same: the copy may have failed because the disk is full.
            warn!(%error, "the end of {} could not be kept", self.name);
        }
        let written = length(&self.path());
        match open(File::options().write(true), &self.path()).and_then(|file| file.set_len(0)) {
            Ok(()) => state.cut = state.cut.saturating_add(written),
            Err(error) => warn!(%error, "{} could not be cut", self.name),
        }
    }

    fn keep_end(&self) -> io::Result<()> {
        for number in (1..self.pieces).rev() {
            match std::fs::rename(self.piece(number), self.piece(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut from = open(File::options().read(true), &self.path())?;
        from.seek(SeekFrom::Start(from.metadata()?.len().saturating_sub(PIECE)))?;
        let mut kept = File::options().create_new(true).write(true).mode(0o600).open(self.piece(1))?;
        let copied = io::copy(&mut from.take(PIECE), &mut kept).and_then(|_| kept.flush());
        if copied.is_err() {
            // An incomplete copy is worth less than the disk space.
            std::fs::remove_file(self.piece(1))?;
        }
        copied
    }
}

/// Opens the log. Anything but a regular file, such as a pipe whose opening would block, is refused.
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = options.custom_flags(flags.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

fn length(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).map_or(0, |facts| facts.len())
}

/// The last bytes of a file: at most `most`, and none before `from`.
fn tail(path: &Path, from: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut file = open(File::options().read(true), path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(most))))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(log: &OutputLog, text: &str) {
        let mut file = File::options().create(true).append(true).open(log.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_log_that_grows_is_cut_and_its_end_is_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let log = OutputLog::of_engine(scratch.path());
        let line = format!("{}\n", "x".repeat(1023));
        for round in 0..7 {
            append(&log, &line.repeat(20 << 10));
            append(&log, &format!("the last line of {round}\n"));
            assert!(log.last_words().ends_with(&format!("the last line of {round}")));
            log.shorten();
            assert_eq!(length(&log.path()), 0);
        }
        assert!(log.used_bytes() <= u64::from(log.pieces) * (PIECE + 4096), "{}", log.used_bytes());
        let newest = std::fs::read_to_string(log.piece(1)).unwrap();
        assert!(newest.ends_with("the last line of 6\n") && newest.len() as u64 == PIECE);
        assert!(std::fs::read_to_string(log.piece(4)).unwrap().ends_with("the last line of 3\n"));
        append(&log, "a short one\n");
        log.shorten();
        assert_eq!(log.last_words(), "a short one");
        let file = File::options().append(true).open(log.path()).unwrap();
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 64 << 20) {
            Err(rustix::io::Errno::OPNOTSUPP) => println!("skipped: this file system reserves nothing"),
            reserved => {
                reserved.unwrap();
                log.shorten();
                assert_eq!(std::fs::metadata(log.path()).unwrap().blocks(), 0, "what was reserved is given back");
            }
        }
    }

    #[test]
    fn the_agents_own_log_is_cut_where_there_is_one() {
        let scratch = tempfile::tempdir().unwrap();
        let log = OutputLog::of_agent(scratch.path());
        log.shorten();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        for round in 0..4 {
            append(&log, &"the engine ended by itself\n".repeat(1 << 19));
            append(&log, &format!("the last line of {round}\n"));
            log.shorten();
            assert_eq!(length(&log.path()), 0);
        }
        assert!(log.used_bytes() <= 2 * (PIECE + 4096), "{}", log.used_bytes());
        assert!(std::fs::read_to_string(log.piece(2)).unwrap().ends_with("the last line of 2\n"));
    }

    #[test]
    fn what_a_start_says_is_told_though_the_log_is_cut_meanwhile() {
        let scratch = tempfile::tempdir().unwrap();
        let log = OutputLog::of_engine(scratch.path());
        append(&log, "of an earlier start\n");
        log.begin();
        assert_eq!(log.last_words(), "it wrote nothing");
        append(&log, &"x\n".repeat(9 << 20));
        log.shorten();
        append(&log, "refused\n");
        assert_eq!((log.last_words().as_str(), length(&log.path())), ("refused", 8));
    }

    #[test]
    fn what_is_no_file_is_neither_read_nor_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let secret = scratch.path().join("secret");
        std::fs::write(&secret, "a secret\n").unwrap();
        let plants: [fn(&Path, &Path) -> io::Result<()>; 3] = [
            |_, at| Ok(nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU)?),
            |secret, at| std::os::unix::fs::symlink(secret, at),
            |_, at| std::fs::create_dir(at),
        ];
        for (nth, plant) in plants.iter().enumerate() {
            let directory = scratch.path().join(nth.to_string());
            std::fs::create_dir(&directory).unwrap();
            let log = OutputLog::of_engine(&directory);
            plant(&secret, &log.path()).unwrap();
            let (done, ended) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                log.begin();
                let said = log.last_words();
                log.cut(&mut log.lock());
                let opened = open(File::options().create(true).append(true), &log.path()).map(drop);
                done.send((said, opened.is_err())).unwrap();
            });
            let seen = ended.recv_timeout(Duration::from_secs(10)).expect("it is not waited for");
            assert_eq!(seen, ("it wrote nothing".to_owned(), true), "{nth}");
        }
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "a secret\n");
    }

    #[test]
    fn a_log_that_is_made_long_is_read_at_its_end() {
        let scratch = tempfile::tempdir().unwrap();
        let log = OutputLog::of_engine(scratch.path());
        append(&log, "");
        log.begin();
        for round in 0..3 {
            let file = File::options().write(true).open(log.path()).unwrap();
            // The greatest length that the file system allows.
            let lengths = [i64::MAX as u64, (16 << 40) - (1 << 20), 1 << 40];
            assert!(lengths.into_iter().any(|length| file.set_len(length).is_ok()));
            assert!(log.last_words().len() <= 1000);
            log.shorten();
            assert_eq!(length(&log.path()), 0, "{round}");
        }
        append(&log, "one line\n");
        assert_eq!(log.last_words(), "one line");
    }
}

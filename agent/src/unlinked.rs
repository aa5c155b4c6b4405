//! Files of the engine's account that have no name any more, and take room on the volume for as long as a process has them.
//!
//! Found are those that are open, mapped, or the program of a process. Not found are those that are only on their way in a
//! message between sockets, registered in an io_uring, or mounted in a namespace of the tenant's.

#![allow(
    clippy::disallowed_methods,
    reason = "/proc, whose links are looked at and not followed to anything that is opened"
)]

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use trove_strategy::beneath::Measure;
use trove_strategy::process::if_visible;

/// Descriptors and mappings that are looked at, far more than an engine has; each takes a microsecond or two.
const LOOKS: u32 = 100_000;
/// Bytes of a process's list of mappings that are read.
const MAPPINGS: u64 = 4 << 20;

/// Which file system, and whose files on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    /// Its device, major and minor.
    pub(crate) device: (u32, u32),
    /// The account.
    pub(crate) uid: u32,
}

struct Search {
    sought: Sought,
    bytes: u64,
    seen: HashSet<u64>,
    looks_left: u32,
    is_whole: bool,
}

impl Search {
    /// Counts what a link of /proc leads to. Nothing is asked of a file system that is a program of the tenant's.
    fn look(&mut self, link: &str) {
        let Some(left) = self.looks_left.checked_sub(1) else {
            self.is_whole = false;
            return;
        };
        self.looks_left = left;
        let wanted = StatxFlags::NLINK | StatxFlags::UID | StatxFlags::INO | StatxFlags::BLOCKS;
        // What has gone meanwhile, or may not be seen by an ordinary user, is not counted.
        let Ok(facts) = statx(CWD, link, AtFlags::STATX_DONT_SYNC, wanted) else { return };
        let is_meant = facts.stx_nlink == 0
            && facts.stx_uid == self.sought.uid
            && (facts.stx_dev_major, facts.stx_dev_minor) == self.sought.device;
        if is_meant && self.seen.insert(facts.stx_ino) {
            self.bytes += facts.stx_blocks * 512;
        }
    }

    /// What each thread has open: one may have descriptors of its own.
    fn look_at_descriptors(&mut self, pid: i32) -> io::Result<()> {
        for thread in names(&format!("/proc/{pid}/task"))? {
            let thread = format!("/proc/{pid}/task/{}/fd", thread?);
            for descriptor in names(&thread)? {
                self.look(&format!("{thread}/{}", descriptor?));
                if !self.is_whole {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn look_at_mappings(&mut self, pid: i32) -> io::Result<()> {
        let Some(maps) = if_visible(File::open(format!("/proc/{pid}/maps")))? else { return Ok(()) };
        let mut lines = BufReader::new(maps.take(MAPPINGS));
        let (mut line, mut read) = (Vec::new(), 0);
        loop {
            line.clear();
            let Some(more) = if_visible(lines.read_until(b'\n', &mut line))?.filter(|more| *more > 0) else { break };
            read += more as u64;
            if let Some(range) = of_unlinked(&line) {
                self.look(&format!("/proc/{pid}/map_files/{range}"));
            }
        }
        self.is_whole &= read < MAPPINGS;
        Ok(())
    }
}

/// What the account's unlinked files on that file system take, as far as these processes have them.
///
/// # Errors
/// It could not be looked.
pub(crate) fn measure(sought: Sought, processes: impl IntoIterator<Item = i32>) -> io::Result<Measure> {
    let mut search = Search { sought, bytes: 0, seen: HashSet::new(), looks_left: LOOKS, is_whole: true };
    for pid in processes {
        search.look_at_descriptors(pid)?;
        search.look(&format!("/proc/{pid}/exe"));
        search.look_at_mappings(pid)?;
        if !search.is_whole {
            break;
        }
    }
    Ok(Measure { bytes: search.bytes, is_whole: search.is_whole })
}

/// `range mode offset device inode name`, where the name of an unlinked file ends with a mark: the range as it is written in
/// `map_files`, without zeros in front.
fn of_unlinked(line: &[u8]) -> Option<String> {
    line.strip_suffix(b" (deleted)\n")?;
    let range = std::str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?;
    let (from, to) = range.split_once('-')?;
    let plain = |address: &str| u64::from_str_radix(address, 16).ok();
    Some(format!("{:x}-{:x}", plain(from)?, plain(to)?))
}

/// A directory of /proc, which may be gone, or hidden from an ordinary user.
fn names(directory: &str) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    let entries = if_visible(std::fs::read_dir(directory))?.into_iter().flatten();
    Ok(entries.filter_map(|entry| {
        let name = entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
        if_visible(name).transpose()
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;

    fn file(directory: &Path, kib: usize) -> File {
        let path = directory.join("file");
        std::fs::write(&path, vec![1; kib << 10]).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    fn kib(directory: &Path, pid: u32) -> u64 {
        let device = std::fs::metadata(directory).unwrap().dev();
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        let sought = Sought { device, uid: nix::unistd::geteuid().as_raw() };
        let found = measure(sought, [i32::try_from(pid).unwrap()]).unwrap();
        assert!(found.is_whole);
        found.bytes >> 10
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < deadline, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_is_open_without_a_name_counts_once() {
        let scratch = tempfile::tempdir().unwrap();
        let named = scratch.path().join("named");
        std::fs::write(&named, vec![1; 64 << 10]).unwrap();
        let held = file(scratch.path(), 1024);
        let mut command = Command::new("sleep");
        command.arg("600").stdin(held.try_clone().unwrap()).stdout(held).stderr(File::open(&named).unwrap());
        let child = command.spawn().unwrap();
        let found = kib(scratch.path(), child.id());
        end(child);
        assert!((1024..1100).contains(&found), "{found}");
    }

    /// The first thread has ended, and another has descriptors of its own.
    #[test]
    fn what_one_thread_has_open_counts() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("file"), vec![1; 1 << 20]).unwrap();
        let script = "import ctypes, os, platform, sys, threading, time\n\
                      call = ctypes.CDLL(None).syscall\n\
                      def hold():\n\
                      \x20   call(272 if platform.machine() == 'x86_64' else 97, 0x400)\n\
                      \x20   os.open('file', os.O_RDONLY)\n\
                      \x20   os.unlink('file')\n\
                      \x20   time.sleep(600)\n\
                      threading.Thread(target=hold).start()\n\
                      call(60 if platform.machine() == 'x86_64' else 93, 0)";
        let child = Command::new("python3").args(["-c", script]).current_dir(scratch.path()).spawn().unwrap();
        let pid = child.id();
        until("its thread has the file", || !scratch.path().join("file").exists());
        let found = kib(scratch.path(), pid);
        end(child);
        assert!((1024..1100).contains(&found), "{found}");
    }

    #[test]
    fn what_is_mapped_or_run_without_a_name_counts() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("file"), vec![1; 1 << 20]).unwrap();
        let script = "import ctypes, os, time\n\
                      file = os.open('file', os.O_RDONLY)\n\
                      ctypes.CDLL(None).mmap(None, ctypes.c_size_t(1 << 20), 1, 2, file, ctypes.c_long(0))\n\
                      os.close(file)\n\
                      os.unlink('file')\n\
                      time.sleep(600)";
        let child = Command::new("python3").args(["-c", script]).current_dir(scratch.path()).spawn().unwrap();
        until("it has mapped the file", || !scratch.path().join("file").exists());
        let found = kib(scratch.path(), child.id());
        end(child);
        // The kernel shows mappings to root alone.
        assert!((1024..1100).contains(&found) || !nix::unistd::geteuid().is_root(), "{found}");

        let program = scratch.path().join("program");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let child = Command::new(&program).arg("600").spawn().unwrap();
        until("it runs", || std::fs::read_link(format!("/proc/{}/exe", child.id())).is_ok_and(|exe| exe == program));
        std::fs::remove_file(&program).unwrap();
        let found = kib(scratch.path(), child.id());
        end(child);
        assert!(found > 8, "{found}");
    }

    #[test]
    fn lists_of_mappings_are_read() {
        let unlinked = b"7f00aa-7f01bb r--s 00000000 08:01 12                  /data/a file (deleted)\n";
        assert_eq!(of_unlinked(unlinked).as_deref(), Some("7f00aa-7f01bb"));
        let low = b"00010000-00020000 r--s 00000000 08:01 12                  /data/x (deleted)\n";
        assert_eq!(of_unlinked(low).as_deref(), Some("10000-20000"));
        assert_eq!(of_unlinked(b"7f00aa-7f01bb r--s 00000000 08:01 12                  /data/file\n"), None);
    }
}

//! Accounts of engines: user ids that have no name in /etc/passwd. Each is reserved for one host until the host is
//! deleted.
//!
//! Several services, each with a store of its own, may run on one machine. So a reservation is also a file of the
//! machine: its name is the user id, its content the directory of the host. A restart of the machine removes these
//! files, as it ends all processes; the file is written again when the host is started. A reservation whose host
//! directory is gone is void.

#![allow(clippy::disallowed_methods, reason = "reservations lie in a directory of root's")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::Flock;
use nix::unistd::{Uid, User};
use trove_strategy::beneath;
use trove_strategy::process::if_there;

use super::diag;
use super::keys;
use super::system;
use crate::compute::{ComputeError, lock};

/// Directory of the reservations. Not configurable, since all services of the machine must use the same.
pub(super) const RESERVATIONS: &str = "/run/trove-rs/uids";
/// How long to wait for the lock on the reservations. Its holder may run nft, which takes up to ten seconds.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// Number of random ids that are tried.
const TRIES: u32 = 64;

/// The configured range of user ids and its reservations.
#[derive(Debug)]
pub(super) struct Accounts {
    first: u32,
    last: u32,
    reservations: PathBuf,
}

impl Accounts {
    /// Parses a range such as `70000-99999`.
    pub(super) fn parse(range: &str, reservations: &Path) -> Result<Self, String> {
        let wrong = || format!("{range} is no range of at least 16 user ids above 999, such as 70000-99999");
        let (first, last) = range.split_once('-').ok_or_else(wrong)?;
        let (first, last): (u32, u32) =
            (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
        // The two greatest ids are special: -1 means "unchanged" to chown(2), and -2 is nobody on some systems.
        if first < 1000 || last > u32::MAX - 2 || last.saturating_sub(first) < 15 {
            return Err(wrong());
        }
        Ok(Self { first, last, reservations: reservations.to_owned() })
    }

    /// Reserves an account for the host in the directory `owner`: the one that it has already, or a random free one.
    /// Never one of `taken`.
    pub(super) fn reserve(&self, owner: &Path, taken: &BTreeSet<u32>) -> Result<u32, ComputeError> {
        let _alone = self.alone().map_err(|error| self.failed("lock", &error))?;
        let own = self.of(owner).map_err(|error| self.failed("look into", &error))?;
        if let Some(uid) = own.into_iter().find(|uid| !taken.contains(uid)) {
            return Ok(uid);
        }
        let mut in_use = system::accounts().map_err(|error| self.failed("look for processes before", &error))?;
        // Another process may have a socket of the account, which would be the next host's to the packet filter.
        let sockets =
            diag::sockets().map_err(|error| self.failed("ask the kernel for sockets (sock_diag) before", &error));
        in_use.extend(sockets?.into_iter().map(|(_, uid)| uid));
        for _ in 0..TRIES {
            let uid = rand::random_range(self.first..=self.last);
            let is_named = !matches!(User::from_uid(Uid::from_raw(uid)), Ok(None));
            let holder = self.holder(uid).map_err(|error| self.failed("look into", &error))?;
            if taken.contains(&uid) || in_use.contains(&uid) || is_named || holder.is_some() {
                continue;
            }
            // Skip an account whose kernel keys cannot be removed.
            if !keys::clear(uid).is_ok_and(|is_clear| is_clear) {
                continue;
            }
            self.write(uid, owner).map_err(|error| self.failed("reserve an account in", &error))?;
            return Ok(uid);
        }
        Err(ComputeError::Fatal(format!(
            "no account is free between {} and {} (process.uid_range): give it a wider range",
            self.first, self.last
        )))
    }

    /// Renews the reservation of an account that the host has, for after a restart of the machine.
    pub(super) fn keep(&self, uid: u32, owner: &Path) -> Result<(), ComputeError> {
        let _alone = self.alone().map_err(|error| self.failed("lock", &error))?;
        match self.holder(uid).map_err(|error| self.failed("look into", &error))? {
            Some(holder) if holder != owner => Err(ComputeError::Fatal(format!(
                "the account {uid} was given to the host {} meanwhile: two services on this machine share a part of \
                 process.uid_range, and the machine was restarted; delete one of the two instances",
                holder.display()
            ))),
            Some(_) => Ok(()),
            None => self.write(uid, owner).map_err(|error| self.failed("reserve an account in", &error)),
        }
    }

    /// Accounts reserved for the host: one or none.
    pub(super) fn of(&self, owner: &Path) -> io::Result<Vec<u32>> {
        let Some(entries) = if_there(fs::read_dir(&self.reservations))? else { return Ok(Vec::new()) };
        let mut own = Vec::new();
        for entry in entries {
            let Some(uid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if self.written(uid)?.is_some_and(|holder| holder == owner) {
                own.push(uid);
            }
        }
        Ok(own)
    }

    /// All valid reservations, each with the directory of its host. A caller that acts on them must hold the lock
    /// ([`Accounts::alone`]).
    pub(super) fn all(&self) -> io::Result<Vec<(u32, PathBuf)>> {
        let Some(entries) = if_there(fs::read_dir(&self.reservations))? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for entry in entries {
            let Some(uid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            all.extend(self.holder(uid)?.map(|holder| (uid, holder)));
        }
        Ok(all)
    }

    /// Releases the account of the host. No process or file of the host may be left.
    pub(super) fn release(&self, owner: &Path) -> Result<(), ComputeError> {
        let _alone = self.alone().map_err(|error| self.failed("lock", &error))?;
        for uid in self.of(owner).map_err(|error| self.failed("look into", &error))? {
            match fs::remove_file(self.file(uid)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(self.failed("give an account back in", &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Directory of the host that has reserved the account, if that directory exists.
    fn holder(&self, uid: u32) -> io::Result<Option<PathBuf>> {
        let Some(holder) = self.written(uid)? else { return Ok(None) };
        Ok(holder.try_exists()?.then_some(holder))
    }

    fn written(&self, uid: u32) -> io::Result<Option<PathBuf>> {
        let bytes = if_there(fs::read(self.file(uid)))?;
        Ok(bytes.map(|bytes| PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))))
    }

    fn write(&self, uid: u32, owner: &Path) -> io::Result<()> {
        beneath::replace(&self.file(uid), owner.as_os_str().as_bytes())
    }

    fn file(&self, uid: u32) -> PathBuf {
        self.reservations.join(uid.to_string())
    }

    /// First and last user id of the range.
    pub(super) fn range(&self) -> (u32, u32) {
        (self.first, self.last)
    }

    /// Whether the user id is of the range.
    pub(super) fn contain(&self, uid: u32) -> bool {
        (self.first..=self.last).contains(&uid)
    }

    /// Directory of the reservations. It is there while [`Accounts::alone`] is held.
    pub(super) fn directory(&self) -> &Path {
        &self.reservations
    }

    /// Takes the machine-wide lock, which is held while reservations are changed or acted upon.
    pub(super) fn alone(&self) -> io::Result<Flock<File>> {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.reservations)?;
        if !fs::symlink_metadata(&self.reservations).is_ok_and(|facts| facts.is_dir() && facts.uid() == 0) {
            return Err(io::Error::other("it is no directory of root's"));
        }
        let lock = File::options().create(true).append(true).mode(0o600).open(self.reservations.join(".lock"))?;
        lock::take(lock, LOCK_LIMIT)
    }

    fn failed(&self, attempt: &str, error: &io::Error) -> ComputeError {
        ComputeError::Transient(format!("{attempt} {}: {error}", self.reservations.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_of_ordinary_accounts() {
        let accounts = Accounts::parse("70000-99999", Path::new("/x")).unwrap();
        assert_eq!((accounts.first, accounts.last), (70000, 99999));
        for wrong in ["", "70000", "0-99999", "999-2000", "70000-70014", "9-8", "70000-4294967295", "a-b"] {
            assert!(Accounts::parse(wrong, Path::new("/x")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_account_is_one_hosts_until_the_host_is_gone() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: an ordinary user has no accounts to give");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let hosts: Vec<PathBuf> = (0..17).map(|n| directory.path().join(n.to_string())).collect();
        hosts.iter().for_each(|host| fs::create_dir(host).unwrap());
        let accounts = || Accounts::parse("71000-71015", &directory.path().join("uids")).unwrap();
        let reserve = |host: &Path, taken: &BTreeSet<u32>| accounts().reserve(host, taken);
        let taken = BTreeSet::from([71000]);
        let mut given = BTreeSet::new();
        for host in &hosts[..14] {
            let uid = reserve(host, &taken).unwrap();
            assert_eq!(reserve(host, &taken).unwrap(), uid, "asked again");
            assert!(given.insert(uid) && uid != 71000);
        }
        let mut last = None;
        for _ in 0..50 {
            last = last.or_else(|| reserve(&hosts[14], &taken).ok());
        }
        assert!(given.insert(last.unwrap()));
        assert!(matches!(reserve(&hosts[15], &taken), Err(ComputeError::Fatal(_))), "all are given");

        let first = accounts().of(&hosts[0]).unwrap()[0];
        assert!(accounts().keep(first, &hosts[0]).is_ok());
        assert!(matches!(accounts().keep(first, &hosts[16]), Err(ComputeError::Fatal(_))), "it is another's");
        // The host was removed, but its account was not released.
        fs::remove_dir(&hosts[0]).unwrap();
        accounts().keep(first, &hosts[16]).unwrap();
        accounts().release(&hosts[0]).unwrap();
        assert_eq!(accounts().of(&hosts[16]).unwrap(), [first], "another's by now");
        accounts().release(&hosts[16]).unwrap();
        assert!(accounts().of(&hosts[16]).unwrap().is_empty());
    }

    /// The kernel notes at a socket the account that made it; any process may have it.
    #[test]
    fn an_account_of_which_a_socket_is_left_is_given_to_nobody() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: an ordinary user has no accounts to give");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let accounts = Accounts::parse("71100-71115", &directory.path().join("uids")).unwrap();
        let taken: BTreeSet<u32> = (71100..71115).collect();
        let given = || (0..8).find_map(|_| accounts.reserve(directory.path(), &taken).ok());
        // It makes the socket as the account, and has it as root.
        let script = "use Socket; $> = 71115; socket(my $s, PF_INET, SOCK_STREAM, 0); \
            bind($s, pack_sockaddr_in(0, inet_aton('127.201.9.7'))) or die; listen($s, 1) or die; $> = 0; \
            $| = 1; print \"ready\\n\"; sleep 600";
        let mut command = std::process::Command::new("perl");
        let mut holder = command.args(["-e", script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let while_held = given();
        holder.kill().and_then(|()| holder.wait()).unwrap();
        assert_eq!(while_held, None);
        assert_eq!(given(), Some(71115));
    }
}

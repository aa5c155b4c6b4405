//! Removes the kernel keys of an account (keyrings(7)). They outlive its processes; the next host that gets the user id
//! could read them.

#![allow(clippy::disallowed_methods, reason = "/proc")]

use std::fs;
use std::io;

use keyutils_raw::{KeyringSerial, keyctl_clear, keyctl_get_persistent, keyctl_join_session_keyring};
use nix::unistd::{Uid, setfsuid};
use rustix::io::Errno;
use trove_strategy::process::if_there;

/// Number of keyrings that always remain: the user keyring and the user session keyring, which the kernel never
/// removes.
const KEYRINGS: u64 = 2;

/// Removes the keys of an account that has no processes. Returns whether only the two empty keyrings are left.
pub(super) fn clear(uid: u32) -> io::Result<bool> {
    if count(uid)?.is_none() {
        return Ok(true);
    }
    // On a separate thread, since session keyring and fsuid belong to the thread.
    let cleared = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("keys".to_owned()).spawn_scoped(scope, || clear_here(uid))?;
        thread.join().map_err(|_| io::Error::other("the thread that removes keys panicked"))?
    });
    cleared.map_err(|error| io::Error::other(format!("remove the keys of the account {uid}: {error}")))?;
    Ok(count(uid)?.is_none_or(|keys| keys <= KEYRINGS))
}

/// Takes the account's fsuid, which counts for keys, and keeps root as user id, so that processes of the account can
/// neither signal nor trace this thread.
fn clear_here(uid: u32) -> io::Result<()> {
    let session = keyctl_join_session_keyring(None)?;
    // Root may link any account's persistent keyring to its session; a keyring in the session may be changed.
    match keyctl_get_persistent(uid, session).map_err(io::Error::from) {
        Ok(persistent) => keyctl_clear(persistent)?,
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    setfsuid(Uid::from_raw(uid));
    for keyring in keyrings(&fs::read_to_string("/proc/keys")?, uid) {
        match keyctl_clear(keyring).map_err(io::Error::from) {
            // The account has removed its own permission. What is in this keyring is counted as left.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            cleared => cleared?,
        }
    }
    Ok(())
}

/// Number of keys and keyrings of an account; `None` if it never had any.
fn count(uid: u32) -> io::Result<Option<u64>> {
    // The file is absent if the kernel has no keyrings.
    let text = if_there(fs::read_to_string("/proc/key-users"))?.unwrap_or_default();
    Ok(text.lines().find_map(|line| parse_count(line, uid)))
}

/// Parses a line of /proc/key-users: `uid: usage keys/instantiated keys/maximum bytes/maximum`.
fn parse_count(line: &str, uid: u32) -> Option<u64> {
    let (owner, rest) = line.split_once(':')?;
    let is_it = owner.trim().parse() == Ok(uid);
    rest.split_ascii_whitespace().nth(2)?.split_once('/')?.0.parse().ok().filter(|_| is_it)
}

/// Parses /proc/keys: `serial flags usage timeout permissions uid gid type description`.
fn keyrings(text: &str, uid: u32) -> Vec<KeyringSerial> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // User ids above 2^31 are printed as negative numbers.
        let owner = fields.get(5)?.parse::<i64>().ok()? & i64::from(u32::MAX);
        let is_it = *fields.get(7)? == "keyring" && owner == i64::from(uid);
        KeyringSerial::new(i32::from_str_radix(fields.first()?, 16).ok()?).filter(|_| is_it)
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use keyutils_raw::{add_key, keyctl_read, keyctl_search};

    use super::*;

    /// A user id that nothing else uses.
    const UID: u32 = 3_999_000_017;

    #[test]
    fn tables_of_keys_are_read() {
        let line = "    0:    13 12/11 6/1000000 55/25000000";
        assert_eq!((parse_count(line, 0), parse_count(line, 1)), (Some(6), None));
        let keys = "0b2d4ff8 I--Q---     1 perm 1f3f0000  7001 65534 keyring   _uid.7001: 1\n\
                    1b2d4ff9 I--Q---     1 perm 3f010000  7001  7001 user      secret: 6\n\
                    2b2d4ffa I--Q---     1   3d 1f3f0000     0 65534 keyring   _uid.0: empty\n";
        assert_eq!(keyrings(keys, 7001), [KeyringSerial::new(0x0b2d_4ff8).unwrap()]);
        let keys = "0511942a I------     1   3d 1f030000 -295967275 65534 keyring   _persistent.3999000021: 1\n";
        assert_eq!(keyrings(keys, 3_999_000_021), [KeyringSerial::new(0x0511_942a).unwrap()]);
    }

    /// Runs `work` on a thread with the account's fsuid, and passes it the account's persistent keyring.
    fn as_account<T: Send>(work: impl FnOnce(KeyringSerial) -> T + Send) -> T {
        let enter = || {
            let session = keyctl_join_session_keyring(None).unwrap();
            let persistent = keyctl_get_persistent(UID, session).unwrap();
            setfsuid(Uid::from_raw(UID));
            work(persistent)
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    #[test]
    fn no_key_of_an_account_is_left_to_the_next_who_has_it() {
        let has_keys = std::thread::spawn(|| keyctl_join_session_keyring(None).is_ok()).join().unwrap();
        if !nix::unistd::geteuid().is_root() || !has_keys {
            println!("skipped: only root removes another's keys, and this kernel or container may have none");
            return;
        }
        let key = as_account(|persistent| add_key("user", "trove-test", b"a secret", persistent).unwrap());
        assert_eq!(count(UID).unwrap(), Some(1));
        assert!(as_account(|_| keyctl_read(key, None).is_ok()));
        assert!(clear(UID).unwrap());
        assert!(as_account(|persistent| keyctl_search(persistent, "user", "trove-test", None).is_err()));
    }
}

//! Migrates hosts of older versions, in which all engines had the same account: changes the owner of an engine's files
//! to the account that it has now.
//!
//! Any tenant could have planted symlinks or hard links there. So the files are opened without following links, and a
//! file with more than one link is refused, since it may be somebody else's.

#![allow(clippy::disallowed_methods, reason = "goes by handles: no other place gives a whole tree away")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

/// Directories of a host that contain files of the engine.
const PLACES: [&str; 2] = ["volume", "etc"];
/// Greatest depth; no engine has directories this deep, and each level costs a descriptor.
const DEPTH: u32 = 64;

/// Whether another account owns files of the host. Only the top two levels are checked, because [`give`] changes them
/// last.
///
/// # Errors
/// The directories could not be read. The files may be another account's or not.
pub(super) fn is_of_another(host: &Path, uid: u32) -> io::Result<bool> {
    let is_other = |facts: &Stat| ![0, uid].contains(&facts.st_uid);
    for place in PLACES.map(|place| host.join(place)) {
        let handle = match rustix::fs::openat(CWD, &place, directory_flags(), Mode::empty()) {
            Err(Errno::NOENT) => continue,
            opened => opened?,
        };
        if is_other(&rustix::fs::fstat(&handle)?) {
            return Ok(true);
        }
        for entry in Dir::read_from(&handle)? {
            let entry = entry?;
            match rustix::fs::statat(&handle, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                // The parent directory is always root's.
                _ if entry.file_name() == c".." => {}
                // It was removed meanwhile.
                Err(Errno::NOENT) => {}
                facts if is_other(&facts?) => return Ok(true),
                _ => {}
            }
        }
    }
    Ok(false)
}

/// Changes the owner of all files of the host to `uid`, except root's. No process of the host may be left.
pub(super) fn give(host: &Path, uid: u32) -> io::Result<()> {
    for place in PLACES.map(|place| host.join(place)) {
        match rustix::fs::openat(CWD, &place, directory_flags(), Mode::empty()) {
            Ok(handle) => give_all(&handle, uid, 0)
                .map_err(|error| io::Error::other(format!("give {} to the account {uid}: {error}", place.display())))?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Changes a directory after its contents, so that an interrupted migration is noticed by [`is_of_another`].
fn give_all(directory: &OwnedFd, uid: u32, depth: u32) -> io::Result<()> {
    if depth > DEPTH {
        return Err(io::Error::other("directories are too deep"));
    }
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if [&b"."[..], &b".."[..]].contains(&name.to_bytes()) {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let facts = rustix::fs::fstat(&found)?;
        if FileType::from_raw_mode(facts.st_mode) == FileType::Directory {
            let inner = rustix::fs::openat(&found, c".", directory_flags(), Mode::empty())?;
            give_all(&inner, uid, depth + 1)?;
        } else if facts.st_nlink > 1 {
            let name = name.to_string_lossy();
            return Err(io::Error::other(format!("{name} has a second name, so it may be another's; remove it")));
        } else {
            give_one(found.as_fd(), facts.st_uid, uid)?;
        }
    }
    let facts = rustix::fs::fstat(directory)?;
    give_one(directory.as_fd(), facts.st_uid, uid)
}

fn give_one(found: BorrowedFd<'_>, owner: u32, uid: u32) -> io::Result<()> {
    if [0, uid].contains(&owner) {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    Ok(rustix::fs::chownat(found, c"", Some(user), Some(group), AtFlags::EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn owner(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().uid()
    }

    #[test]
    fn what_an_engine_owned_is_given_and_nothing_else() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: an ordinary user gives no files away");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (host, precious) = (directory.path().join("host"), directory.path().join("precious"));
        let data = host.join("volume/15/data");
        fs::create_dir_all(&data).unwrap();
        fs::write(&precious, "roots").unwrap();
        fs::write(data.join("table"), "rows").unwrap();
        std::os::unix::fs::symlink(&precious, data.join("link")).unwrap();
        std::os::unix::fs::symlink(directory.path(), data.join("away")).unwrap();
        for path in [host.join("volume/15"), data.clone(), data.join("table"), data.join("link")] {
            std::os::unix::fs::lchown(path, Some(65534), Some(65534)).unwrap();
        }
        assert!(is_of_another(&host, 70001).unwrap());
        give(&host, 70001).unwrap();
        for path in [host.join("volume/15"), data.clone(), data.join("table"), data.join("link")] {
            assert_eq!(owner(&path), 70001, "{}", path.display());
        }
        for path in [host.join("volume"), precious.clone(), directory.path().to_owned()] {
            assert_eq!(owner(&path), 0, "{}", path.display());
        }
        assert!(!is_of_another(&host, 70001).unwrap());

        std::os::unix::fs::chown(&precious, Some(65534), Some(65534)).unwrap();
        fs::hard_link(&precious, data.join("second")).unwrap();
        std::os::unix::fs::chown(host.join("volume/15"), Some(65534), Some(65534)).unwrap();
        assert!(give(&host, 70001).unwrap_err().to_string().contains("second"));
        assert_eq!(owner(&precious), 65534);
        assert!(is_of_another(&host, 70001).unwrap(), "it is tried again");

        fs::rename(host.join("volume"), host.join("elsewhere")).unwrap();
        assert!(!is_of_another(&host, 70001).unwrap(), "nothing is there");
        std::os::unix::fs::symlink("volume", host.join("volume")).unwrap();
        is_of_another(&host, 70001).expect_err("what cannot be looked at is nobody's");
    }
}

//! System calls that are refused to everything that a tenant may control (seccomp), where the domain ([`crate::domain`])
//! does not reach: Landlock's rules on ports hold for TCP, and neither for multipath TCP, whose sockets have TCP's ports,
//! nor for sockets that an io_uring makes. An io_uring also keeps files open that are found in no process.
//!
//! Programs that would use these do without: EPERM is what they get in most containers.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Places of the family and the protocol among the arguments of socket(2).
const FAMILY: u8 = 0;
const PROTOCOL: u8 = 2;

/// Refuses the calls to the calling thread and all that it starts, for good, and sets `no_new_privs`. A program for another
/// architecture of the same processor (i386) is killed at its first call. Does nothing where the kernel has no seccomp.
///
/// # Errors
/// The kernel can, but did not.
pub fn refuse() -> io::Result<()> {
    // Other architectures are not known to the crate.
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
    let failed = |error: &dyn Error| io::Error::other(format!("refuse system calls: {error}"));
    let program = program(architecture).map_err(|error| failed(&*error))?;
    match seccompiler::apply_filter(&program) {
        Err(seccompiler::Error::Seccomp(error))
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
        {
            Ok(())
        }
        done => done.map_err(|error| failed(&error)),
    }
}

fn program(architecture: TargetArch) -> Result<BpfProgram, Box<dyn Error>> {
    let socket = |argument: u8, value: i32| {
        let value = u64::try_from(value)?;
        let is_it = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        Ok::<_, Box<dyn Error>>(SeccompRule::new(vec![is_it])?)
    };
    let sockets = vec![socket(PROTOCOL, libc::IPPROTO_MPTCP)?, socket(FAMILY, libc::AF_VSOCK)?];
    let refused = BTreeMap::from([(libc::SYS_socket, sockets), (libc::SYS_io_uring_setup, Vec::new())]);
    let errno = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    Ok(SeccompFilter::new(refused, SeccompAction::Allow, errno, architecture)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::process::Command;

    use super::*;

    #[test]
    fn whoever_is_refused_makes_no_multipath_socket_and_no_io_uring() {
        let tried = |script: &str| {
            let output = Command::new("perl").args(["-e", script]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let socket = |family: i32, protocol: i32| format!("print socket(my $s, {family}, 1, {protocol}) ? 'made' : $!");
        let ring =
            format!("my $p = \"\\0\" x 120; print syscall({}, 4, $p) < 0 ? $! : 'made'", libc::SYS_io_uring_setup);
        let calls = [socket(libc::AF_INET, libc::IPPROTO_MPTCP), socket(libc::AF_VSOCK, 0), ring];
        let within = std::thread::spawn({
            let calls = calls.clone();
            move || {
                refuse().unwrap();
                for call in calls {
                    assert_eq!(tried(&call), "Operation not permitted", "{call}");
                }
                for family in [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX] {
                    assert_eq!(tried(&socket(family, 0)), "made", "{family}");
                }
                TcpListener::bind("127.0.0.1:0").unwrap();
                UdpSocket::bind("127.0.0.1:0").unwrap();
            }
        });
        within.join().unwrap();
        for call in calls {
            assert_ne!(tried(&call), "Operation not permitted", "it holds for that thread alone: {call}");
        }
    }
}

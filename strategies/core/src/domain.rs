//! The Landlock domain in which everything runs that a tenant may control: the engine, and each command of its account.
//!
//! Instances of one machine share its network namespace, and so the names of abstract UNIX sockets. Two tenants, or two
//! instances of one, could pass each other open files there (SCM_RIGHTS): sockets that carry the account of one and are
//! held by another, files and memory that are counted on nobody. In a domain a process
//!
//! - connects to no abstract socket of a process outside of it (Linux 6.12),
//! - binds no TCP port but the engine's own (Linux 6.7); multipath TCP is refused by [`crate::calls`],
//! - mounts nothing, not in a user namespace of its own, either (Linux 5.19).
//!
//! Each command gets a domain of its own, so they are apart from the engine, too. Everything that the engine starts is in
//! the engine's. Signals and the agent are not affected: an agent has to signal, and to look into, an engine that an
//! earlier agent started.

use std::error::Error;
use std::io;

use landlock::{
    AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope,
};

type Failure = Box<dyn Error + Send + Sync>;

/// Restricts the calling thread and all that it starts, as far as the kernel can; with a kernel before Linux 5.19 not at
/// all. `ports` may be bound.
///
/// # Errors
/// The kernel can, but did not.
pub fn enter(ports: &[u16]) -> io::Result<()> {
    restrict(CompatLevel::BestEffort, ports).map_err(|error| io::Error::other(format!("enter a domain: {error}")))
}

/// Why this machine cannot restrict as much as is said above, if so.
pub fn obstacle() -> Option<String> {
    // The thread ends with its domain.
    let tried = std::thread::spawn(|| restrict(CompatLevel::HardRequirement, &[1]));
    match tried.join() {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the thread that tried it panicked".to_owned()),
    }
}

fn restrict(level: CompatLevel, ports: &[u16]) -> Result<(), Failure> {
    rules(level, ports)?.restrict_self()?;
    Ok(())
}

fn rules(level: CompatLevel, ports: &[u16]) -> Result<RulesetCreated, Failure> {
    // Mounting is forbidden to whoever is restricted in any use of files. The two rights are granted on everything below
    // the root. What is not there is a mount that was never attached (fsmount(2) does that, without mounting): nothing
    // is written on it. Linux before 5.19 could not grant `Refer`, and engines rename from one directory to another.
    let files: BitFlags<AccessFs> = AccessFs::WriteFile | AccessFs::Refer;
    let ruleset = Ruleset::default()
        .set_compatibility(level.max(CompatLevel::SoftRequirement))
        .handle_access(files)?
        .set_compatibility(level)
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket)?;
    let bound = ports.iter().map(|port| Ok::<_, Failure>(NetPort::new(*port, AccessNet::BindTcp)));
    ruleset.create()?.add_rule(PathBeneath::new(PathFd::new("/")?, files))?.add_rules(bound)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::process::Command;

    use super::*;

    #[test]
    fn who_is_in_a_domain_reaches_no_abstract_socket_outside_and_binds_no_other_port() {
        if let Some(obstacle) = obstacle() {
            println!("skipped: {obstacle}");
            return;
        }
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (own, other) = (free(), free());
        let name = format!("trove-test-{}", std::process::id());
        let outside = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&outside).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
        fs::create_dir_all(&a).unwrap();
        fs::create_dir_all(&b).unwrap();
        let within = std::thread::spawn(move || {
            enter(&[own]).unwrap();
            assert_eq!(UnixStream::connect_addr(&outside).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            let inside = SocketAddr::from_abstract_name(name + "-inside").unwrap();
            let _listener = UnixListener::bind_addr(&inside).unwrap();
            UnixStream::connect_addr(&inside).unwrap();

            TcpListener::bind(("127.0.0.1", own)).unwrap();
            for port in [other, 0] {
                let refused = TcpListener::bind(("127.0.0.1", port)).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{port}");
            }

            fs::write(a.join("file"), "text").unwrap();
            fs::rename(a.join("file"), b.join("file")).unwrap();
            fs::hard_link(b.join("file"), a.join("file")).unwrap();
            // A pipe and a file without a name are reached by the links in /proc.
            let script = "echo said > /dev/stderr && exec 3<>$1 && rm $1 && echo more > /proc/self/fd/3";
            let output = Command::new("sh").args(["-c", script, "sh"]).arg(a.join("file")).output().unwrap();
            assert!(output.status.success() && output.stderr == b"said\n", "{output:?}");

            let apart = ["-rm", "--propagation=unchanged", "mount", "-t", "tmpfs", "none", "/mnt"];
            let output = Command::new("unshare").args(apart).output().unwrap();
            assert!(!output.status.success() && output.stderr.starts_with(b"mount: "), "{output:?}");
        });
        within.join().unwrap();
        // What it did to itself it did to nobody else.
        TcpListener::bind(("127.0.0.1", other)).unwrap();
    }
}

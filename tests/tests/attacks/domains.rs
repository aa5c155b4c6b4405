//! What a tenant's shell cannot do since it is in its engine's Landlock domain: reach other instances by abstract sockets,
//! take ports, mount.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use trove_tests::{in_shell, leftovers, poll, root, skipped};

use super::neighbours::Neighbours;
use super::postgresql::has_root;
use super::volume::{MIB, await_fault, used};

const WAIT: Duration = Duration::from_secs(90);

/// Why this kernel cannot restrict engines as these tests expect, if so: Linux 6.12 with Landlock can.
pub(super) fn obstacle() -> Option<String> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let made = ruleset.scope(Scope::AbstractUnixSocket).and_then(|ruleset| ruleset.create());
    made.err().map(|error| error.to_string())
}

/// Why engines run in no whole domain, if so.
fn without_domains() -> Option<String> {
    if !has_root() {
        return Some("only root gives engines accounts of their own".to_owned());
    }
    obstacle().map(|obstacle| format!("this kernel has no Landlock as Linux 6.12 has it: {obstacle}"))
}

/// Open files (SCM_RIGHTS) are passed over connections, and as datagrams.
#[tokio::test]
async fn an_instance_passes_nothing_to_another_over_an_abstract_socket() -> Result<()> {
    if let Some(why) = without_domains() {
        skipped(&why);
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let name = format!("trove-{}", it.mine);
    let serve = format!(
        "use Socket; socket(my $d, PF_UNIX, SOCK_DGRAM, 0); bind($d, sockaddr_un(\"\\0{name}-d\")) or die; \
         socket(my $s, PF_UNIX, SOCK_STREAM, 0); bind($s, sockaddr_un(\"\\0{name}\")) or die; listen($s, 8); \
         while (accept(my $c, $s)) {{ syswrite $c, \"hello\"; close $c }}"
    );
    it.run(&format!("setsid perl -e '{serve}' >/dev/null 2>&1 </dev/null &")).await?;
    let served = async || Ok(std::fs::read_to_string("/proc/net/unix")?);
    poll("a listener", WAIT, served, |all| all.contains(&format!("@{name}\n"))).await?;
    let ask = format!(
        "perl -e 'use Socket; $| = 1; socket(my $s, PF_UNIX, SOCK_STREAM, 0); \
         if (connect($s, sockaddr_un(\"\\0{name}\"))) {{ sysread($s, my $said, 5); print \"$said\\n\" }} else {{ print \"$!\\n\" }} \
         socket(my $d, PF_UNIX, SOCK_DGRAM, 0); \
         print send($d, \"x\", 0, sockaddr_un(\"\\0{name}-d\")) ? \"sent\\n\" : \"$!\\n\"'"
    );
    ensure!(it.run(&ask).await? == "hello\nsent", "within an instance: {}", it.run(&ask).await?);
    let others = root(&it.api, &it.other, "app").await?;
    let said = in_shell(&others, &ask).await?;
    ensure!(said == "Operation not permitted\nOperation not permitted", "{said}");
    // What is outside of all domains is not restricted.
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name)?)?;
    it.assert_other_is_well().await
}

#[tokio::test]
async fn a_shell_binds_no_port_but_its_engines() -> Result<()> {
    if let Some(why) = without_domains() {
        skipped(&why);
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let bind = |port: u16| {
        format!(
            "perl -e 'use Socket; socket(my $s, PF_INET, SOCK_STREAM, 0); \
             print bind($s, pack_sockaddr_in({port}, inet_aton(\"127.200.7.8\"))) ? \"bound\" : $!'"
        )
    };
    for port in [15437, 0] {
        let said = it.run(&bind(port)).await?;
        ensure!(said == "Permission denied", "{port}: {said}");
    }
    ensure!(it.run(&bind(5432)).await? == "bound");
    // Sockets that have TCP's ports, and are no TCP sockets to Landlock.
    let multipath = "perl -e 'use Socket; print socket(my $s, PF_INET, SOCK_STREAM, 262) ? \"made\" : $!'";
    let said = it.run(multipath).await?;
    ensure!(said == "Operation not permitted", "{said}");
    it.assert_other_is_well().await
}

/// Numbers of the system calls fsopen, fsconfig and fsmount, which are the same on all machines.
const CALLS: [u32; 3] = [430, 431, 432];

/// A file that is written through an overlay file system counts on no volume once it has no name.
#[tokio::test]
async fn a_shell_mounts_nothing_not_even_in_a_user_namespace() -> Result<()> {
    if let Some(why) = without_domains() {
        skipped(&why);
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let apart = "unshare -Urm --propagation unchanged";
    ensure!(it.run(&format!("{apart} id -u")).await? == "0", "{}", it.run(&format!("{apart} id -u")).await?);
    let options = "lowerdir=/usr/share,upperdir=$PWD/u,workdir=$PWD/w";
    it.run("mkdir u w").await?;
    let said = it.run(&format!("{apart} mount -t overlay none -o {options} /mnt")).await?;
    ensure!(said.contains("ermission denied") || said.contains("not permitted"), "{said}");
    // A file system that is made, and used through a descriptor, without mounting it anywhere.
    let [open, config, mount] = CALLS;
    let detached = format!(
        "my ($t, $l, $u, $w) = (q(overlay), q(lowerdir), q(upperdir), q(workdir)); \
         my ($a, $b, $c, $d) = (q(/usr/share), \"$ENV{{PWD}}/u\", \"$ENV{{PWD}}/w\", qq(/file)); \
         my $f = syscall({open}, $t, 0); syscall({config}, $f, 1, $l, $a, 0); syscall({config}, $f, 1, $u, $b, 0); \
         syscall({config}, $f, 1, $w, $c, 0); syscall({config}, $f, 6, 0, 0, 0); \
         my $m = syscall({mount}, $f, 0, 0); print $m < 0 ? \"no mount: $!\" : \"mounted\", \"\\n\"; \
         print open(my $o, q(>), \"/proc/self/fd/$m/new\") ? \"written\" : $!"
    );
    let said = it.run(&format!("{apart} perl -e '{detached}'")).await?;
    ensure!(!said.contains("written"), "{said}");
    it.run("rm -rf u w").await?;
    it.assert_other_is_well().await
}

/// The agent has to look at the processes of the engine, and to signal them, whichever agent started them.
#[tokio::test]
async fn the_next_agent_measures_and_stops_the_engine_of_the_one_before() -> Result<()> {
    if let Some(why) = without_domains() {
        skipped(&why);
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let before = leftovers::agents(&it.mine);
    kill(Pid::from_raw(before[0]), Signal::SIGKILL)?;
    let ask = async || Ok(leftovers::agents(&it.mine));
    poll("another agent", WAIT, ask, |now| now.len() == 1 && *now != before).await?;
    let well = |view: &serde_json::Value| view["operating_status"] == "HEALTHY" && view["fault"].is_null();
    poll("an engine that is well", WAIT, async || it.api.instance(&it.mine).await, well).await?;
    ensure!(leftovers::engines(&it.mine) == [it.my_engine], "the engine was started again");
    // A file that is found only by its descriptor.
    let host = it.stack.host(&it.mine);
    let room = 1060 * MIB - used(&host.join("volume")) - used(&host.join("log"));
    let script = format!(
        "fallocate -l {room} ../junk; (exec setsid sleep 600 9<../junk >/dev/null 2>&1 </dev/null) & sleep 1; rm ../junk"
    );
    it.run(&script).await?;
    await_fault(&it.api, &it.mine, "HEALTHY", "is full").await?;
    let restart = json!({"restart": {}});
    ensure!(it.api.post(&format!("/instances/{}/action", it.mine), &restart).await?.status == 202);
    poll("an engine that is well", WAIT, async || it.api.instance(&it.mine).await, well).await?;
    ensure!(leftovers::engines(&it.mine) != [it.my_engine], "it is the engine of before");
    it.assert_other_is_well().await
}

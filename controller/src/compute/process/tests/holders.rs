//! Whose address a socket has is decided by who made it, and who is ended by who has it.

use std::io::Read as _;
use std::process::{Child, Stdio};

use super::tenant::Tenant;
use super::*;

/// A process of one account with a listening socket that another has made.
struct Holder(Child);

impl Holder {
    fn start(maker: u32, holder: u32, at: SocketAddr) -> Self {
        let script = "use POSIX; use Socket; my ($maker, $holder, $at, $port) = @ARGV; \
            $> = $maker; socket(my $s, PF_INET, SOCK_STREAM, 0); setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1); \
            bind($s, pack_sockaddr_in($port, inet_aton($at))) or die $!; listen($s, 8) or die; \
            $> = 0; POSIX::setuid($holder); $| = 1; print \"ready\\n\"; sleep 600";
        let mut command = Command::new("perl");
        command.args(["-e", script, &maker.to_string(), &holder.to_string()]);
        command.args([at.ip().to_string(), at.port().to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_socket_on_anothers_address_is_found_at_whoever_has_it_whoever_made_it() {
    let world = World::new(false);
    if world.driver.hosts.apart.is_none() {
        println!("skipped: an ordinary user's hosts are not kept apart");
        return;
    }
    let mut accounts = Vec::new();
    for _ in 0..4 {
        let instance = InstanceId::random();
        let uid = world.driver.reserve_account(instance, &BTreeSet::new()).await.unwrap().unwrap();
        accounts.push((instance, uid));
    }
    let tenant = |n: usize, address: &str| Tenant {
        instance: accounts[n].0,
        uid: accounts[n].1,
        address: Some(address.parse().unwrap()),
        ports: vec![9432],
    };
    let tenants = [tenant(0, "127.201.9.10"), tenant(1, "127.201.9.11"), tenant(2, "127.201.9.12")];
    let (own, holder) = (&tenants[0], &tenants[1]);
    let at = SocketAddr::from((own.address.unwrap(), 9432));
    // An account that has no instance any more, and one that has.
    for maker in [accounts[3].1, tenants[2].uid] {
        let mut held = Holder::start(maker, holder.uid, at);
        let mut innocent = Command::new("setpriv");
        innocent.args([&format!("--reuid={}", tenants[2].uid), "--clear-groups", "--", "sleep", "600"]);
        let mut innocent = innocent.spawn().unwrap();
        let ended = squatters::end(&world.driver.hosts, &tenants).await.unwrap();
        assert!(innocent.try_wait().unwrap().is_none(), "who has it was found");
        innocent.kill().and_then(|()| innocent.wait()).unwrap();
        let found = ended.iter().map(|it| it.instance).collect::<Vec<_>>();
        assert_eq!(found, [holder.instance], "made by {maker}");
        assert!(ended[0].process.starts_with("perl"), "{ended:?}");
        held.0.wait().unwrap();
        assert!(std::net::TcpListener::bind(at).is_ok());
    }
    // What the engine's own account listens on is the engine's, and what the machine's own programs do is theirs.
    for (maker, account) in [(own.uid, own.uid), (0, 0)] {
        let mut held = Holder::start(maker, account, at);
        assert!(squatters::end(&world.driver.hosts, &tenants).await.unwrap().is_empty());
        assert!(held.0.try_wait().unwrap().is_none());
    }
    for (instance, _) in &accounts {
        world.driver.delete_host(*instance, 1).await.unwrap();
    }
}

//! Attacks by a tenant with a shell on the addresses and ports of other instances, of the controllers and of the machine.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde_json::json;
use trove_tests::{APP, Api, Engine, Failpoints, Stack, connect, has_root_or_skips, leftovers, poll, rows};

use super::neighbours::{Neighbours, account};

const WAIT: Duration = Duration::from_secs(90);

/// A script that listens on an address and port and sends `hello` to clients.
fn listener(address: &str, port: u16) -> String {
    let script = format!(
        "use Socket; while (1) {{ socket(my $s, PF_INET, SOCK_STREAM, 0); setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1); \
         bind($s, pack_sockaddr_in({port}, inet_aton(\"{address}\"))) && listen($s, 8) \
         or select(undef, undef, undef, 0.01), next; while (accept(my $c, $s)) {{ syswrite $c, \"hello\"; close $c }} }}"
    );
    format!("setsid perl -e '{}' >/dev/null 2>&1 </dev/null &", script)
}

/// Whether a connection to the address is accepted.
fn answers(address: &str, port: u16) -> Result<bool> {
    let at: SocketAddr = format!("{address}:{port}").parse()?;
    Ok(TcpStream::connect_timeout(&at, Duration::from_secs(2)).is_ok())
}

fn listens(address: &str, port: u16) -> bool {
    let at: std::net::Ipv4Addr = address.parse().unwrap_or(std::net::Ipv4Addr::LOCALHOST);
    let word = format!("{:08X}:{port:04X}", u32::from_ne_bytes(at.octets()));
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| line.split_whitespace().nth(1) == Some(&word) && line.contains(" 0A "))
}

/// Address of an instance's engine.
async fn address(api: &Api, instance: &str) -> Result<String> {
    let view = api.instance(instance).await?;
    let address = view["ip"][0].as_str().or_else(|| view["addresses"][0]["address"].as_str());
    Ok(address.with_context(|| format!("{view}"))?.to_owned())
}

#[tokio::test]
async fn whoever_listens_on_another_address_answers_nobody_and_is_ended_where_it_is_an_instances() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let uid = account(it.my_engine)?;
    let (mine, other) = (address(&it.api, &it.mine).await?, address(&it.api, &it.other).await?);
    for what in [uid.to_string(), mine.clone(), other.clone()] {
        ensure!(leftovers::filtered(&what)?, "{what} is not in the packet filter");
    }
    // An unused address and the machine's: the tenant can listen there, but nobody can connect.
    for nobodys in ["127.200.7.7", "127.0.0.1"] {
        it.run_outside(&listener(nobodys, 15437))?;
        poll("a listener", WAIT, async || Ok(listens(nobodys, 15437)), |listens| *listens).await?;
        ensure!(!answers(nobodys, 15437)?, "{nobodys} answers");
    }
    ensure!(answers(&mine, 5432)? && answers(&other, 5432)?, "the engines answer");

    // Bind the other engine's address as soon as that engine stops.
    it.run_outside(&listener(&other, 5432))?;
    let restarted = it.api.post(&format!("/instances/{}/action", it.other), &json!({"restart": {}})).await?;
    ensure!(restarted.status == 202, "{restarted:?}");
    let ended = it.api.await_operations(&it.other).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    let fault =
        poll("a fault", WAIT, async || it.api.instance(&it.mine).await, |view| view["fault"].is_object()).await?;
    let message = fault["fault"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("perl") && message.contains("another instance"), "{fault}");
    ensure!(!message.contains(&it.other), "the other's id is told: {message}");
    let view = it.api.instance(&it.other).await?;
    ensure!(view["fault"].is_null(), "{view}");
    rows(&connect(&view, APP.0, APP.1, "app").await?, "select 1").await?;

    for instance in [&it.mine, &it.other] {
        ensure!(it.api.delete(&format!("/instances/{instance}")).await?.status == 202);
        it.api.await_gone(instance).await?;
    }
    for what in [uid.to_string(), mine, other] {
        ensure!(!leftovers::filtered(&what)?, "{what} is still in the packet filter");
    }
    Ok(())
}

/// A script that prints the first line of what an address says to an HTTP request, or why it says nothing.
fn request(address: &str, port: u16) -> String {
    format!(
        "perl -e 'use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => \"{address}\", PeerPort => {port}, Timeout => 2) \
         or print(\"$!\"), exit; print $s \"GET / HTTP/1.0\\r\\n\\r\\n\"; print \"reached \", scalar(<$s>)'"
    )
}

#[tokio::test]
async fn a_shell_reaches_no_address_of_the_controllers() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let metrics = SocketAddr::from(([127, 200, 7, rand::random_range(1..=254)], 8777));
    let it = Neighbours::with(vec![("TROVE_METRICS__LISTEN".to_owned(), metrics.to_string())]).await?;
    let (mine, other) = (address(&it.api, &it.mine).await?, address(&it.api, &it.other).await?);
    let controller = it.stack.address().to_string();
    let own = [(controller.clone(), 8779), (controller, 8778), (metrics.ip().to_string(), metrics.port())];
    for (address, port) in &own {
        ensure!(answers(address, *port)?, "{address}:{port} does not listen");
        let said = it.run(&request(address, *port)).await?;
        ensure!(!said.is_empty() && !said.contains("reached"), "{address}:{port}: {said}");
    }
    // His own engine and others he reaches.
    for address in [&mine, &other] {
        let said = it.run(&request(address, 5432)).await?;
        ensure!(said.contains("reached"), "{address}: {said}");
    }
    for id in [&it.mine, &it.other] {
        let view = it.api.instance(id).await?;
        ensure!(view["operating_status"] == "HEALTHY" && view["fault"].is_null(), "{view}");
    }
    it.assert_other_is_well().await
}

/// A socket may outlive its instance, where another process has it.
#[tokio::test]
async fn what_an_account_has_left_open_reaches_nobody_once_its_instance_is_gone() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let (uid, mine) = (account(it.my_engine)?, address(&it.api, &it.mine).await?);
    // Root has the socket in a descriptor, as another instance could if sockets were passed.
    let script = format!(
        "use Socket; $> = {uid}; socket(my $s, PF_INET, SOCK_STREAM, 0); \
         bind($s, pack_sockaddr_in(9997, inet_aton(\"{mine}\"))) or die; listen($s, 8) or die; $> = 0; \
         while (accept(my $c, $s)) {{ syswrite $c, \"hello\"; close $c }}"
    );
    struct Ended(std::process::Child);
    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill().and_then(|()| self.0.wait());
        }
    }
    let _held = Ended(Command::new("perl").args(["-e", &script]).spawn()?);
    poll("a listener", WAIT, async || Ok(listens(&mine, 9997)), |listens| *listens).await?;
    ensure!(answers(&mine, 9997)?, "the instance's own address answers");
    ensure!(it.api.delete(&format!("/instances/{}", it.mine)).await?.status == 202);
    it.api.await_gone(&it.mine).await?;
    ensure!(listens(&mine, 9997), "the socket is there still");
    ensure!(!answers(&mine, 9997)?, "and answers");
    it.assert_other_is_well().await
}

/// A script with eight processes, each of which has a socket open many times.
fn hoarders() -> String {
    let script = "use POSIX; use Socket; socket(my $s, PF_INET, SOCK_STREAM, 0); POSIX::dup(fileno $s) for 1..15000; \
                  fork for 1..3; sleep 600";
    format!("ulimit -n $(ulimit -Hn); setsid perl -e '{script}' >/dev/null 2>&1 </dev/null &")
}

#[tokio::test]
async fn whoever_has_much_to_be_looked_at_neither_stalls_the_service_nor_keeps_an_address() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let other = address(&it.api, &it.other).await?;
    it.run(&hoarders()).await?;
    let descriptors = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let all = async || Ok(leftovers::processes(&it.mine).into_iter().map(descriptors).sum::<usize>());
    poll("more descriptors than are looked at", WAIT, all, |all| *all > 100_000).await?;
    it.run_outside(&listener(&other, 9999))?;
    poll("a listener", WAIT, async || Ok(listens(&other, 9999)), |listens| *listens).await?;
    let controller = it.stack.pid()?;
    let before = processor_time(controller)?;
    let mut answered = 0;
    let ended = async || {
        let answer = it.api.get("/instances").await?;
        ensure!(answer.status == 200, "{answer:?}");
        answered += 1;
        Ok(!listens(&other, 9999))
    };
    poll("the end of the listener", WAIT, ended, |ended| *ended).await?;
    // Not how long an answer takes, which is also for others to say: all descriptors would be minutes of work.
    let used = processor_time(controller)? - before;
    println!("{answered} answers meanwhile, {used:?} of processor time");
    ensure!(used < Duration::from_secs(20), "the controller has worked for {used:?}");
    Ok(())
}

/// What a process has had of the processors so far.
fn processor_time(pid: Pid) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("the fields after the name")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse().unwrap_or(0u64)).sum();
    let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("ticks a second")?;
    Ok(Duration::from_secs(ticks) / u32::try_from(second)?)
}

/// A script that binds an address and port as soon as it is free, without listening, so that no other process can bind
/// it.
fn holder(address: &str, port: u16) -> String {
    let script = format!(
        "use Socket; while (1) {{ socket(my $s, PF_INET, SOCK_STREAM, 0); \
         bind $s, pack_sockaddr_in({port}, inet_aton(\"{address}\")) and sleep 600; select(undef, undef, undef, 0.001) }}"
    );
    format!("setsid perl -e '{script}' >/dev/null 2>&1 </dev/null &")
}

#[tokio::test]
async fn whoever_holds_the_tls_port_of_another_engine_does_not_keep_it_down() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let redis = it.api.create(&Engine::Redis.order("redis")).await?;
    let address = it.api.await_active(&redis).await?["ip"][0].as_str().context("an address")?.to_owned();
    // Several of them, so that one is faster than the engine.
    for _ in 0..4 {
        it.run_outside(&holder(&address, 6380))?;
    }
    let restarted = it.api.post(&format!("/instances/{redis}/action"), &json!({"restart": {}})).await?;
    ensure!(restarted.status == 202, "{restarted:?}");
    let ended = it.api.await_operations(&redis).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    let fault = async || it.api.instance(&it.mine).await;
    let fault = poll("a fault", WAIT, fault, |view| view["fault"].is_object()).await?;
    ensure!(fault["fault"]["message"].as_str().unwrap_or_default().contains("another instance"), "{fault}");
    let view = it.api.await_active(&redis).await?;
    Engine::Redis.log_in(&view, APP.0, APP.1).await?;
    ensure!(listens(&address, 6380), "no TLS");
    it.assert_other_is_well().await
}

#[tokio::test]
async fn whoever_takes_the_addresses_of_a_controller_that_restarts_is_ended() -> Result<()> {
    if !has_root_or_skips("only root gives engines accounts of their own") {
        return Ok(());
    }
    let mut it = Neighbours::new().await?;
    let address = it.stack.address().to_string();
    it.run_outside(&format!("{} {}", listener(&address, 8779), listener(&address, 8778)))?;
    it.stack.kill()?;
    for port in [8779, 8778] {
        poll("a listener", WAIT, async || Ok(listens(&address, port)), |listens| *listens).await?;
    }
    it.stack.run(&Failpoints::default())?;
    let log = fs::read_to_string(it.stack.log())?;
    ensure!(log.contains("has taken an address of this controller"), "{}", it.stack.log_end());
    ensure!(log.contains(&it.mine) && log.contains("perl, process"), "{}", it.stack.log_end());
    let well = |view: &serde_json::Value| view["operating_status"] == "HEALTHY";
    for id in [&it.mine, &it.other] {
        poll("an engine that is heard", WAIT, async || it.api.instance(id).await, well).await?;
    }
    // A process that belongs to no instance is left alone and named.
    it.stack.kill()?;
    let _taken = std::net::TcpListener::bind((it.stack.address(), 8779))?;
    let (status, said) = it.stack.run_to_end()?;
    let own = format!("process {}, has it", std::process::id());
    ensure!(!status.success() && said.contains("api.listen") && said.contains(&own), "{said}");
    Ok(())
}

#[tokio::test]
async fn an_address_that_the_machine_has_is_waited_for_and_the_reason_is_shown() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("waits").await?;
    let at: SocketAddr = format!("{}:5432", address(&api, &id).await?).parse()?;
    let restarted = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
    ensure!(restarted.status == 202, "{restarted:?}");
    let take = async {
        loop {
            match std::net::TcpListener::bind(at) {
                Ok(taken) => return taken,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let taken = tokio::time::timeout(WAIT, take).await.context("the engine is not stopped")?;
    let told = |view: &serde_json::Value| {
        view["fault"]["message"].as_str().is_some_and(|it| it.contains("another process has the engine's address"))
    };
    poll("the reason", WAIT, async || api.instance(&id).await, told).await?;
    drop(taken);
    let ended = api.await_operations(&id).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    let well = |view: &serde_json::Value| view["operating_status"] == "HEALTHY" && view["fault"].is_null();
    poll("an engine that is well", WAIT, async || api.instance(&id).await, well).await?;
    Ok(())
}

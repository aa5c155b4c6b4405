//! Attacks by a tenant who is superuser of PostgreSQL, and so has a shell as his engine's account, on another tenant's
//! instance on the same machine, and on the machine.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio_postgres::Client;
use trove_tests::{APP, Api, Engine, Failpoints, Stack, StackOptions, connect, leftovers, poll, rows};

use super::postgresql::{has_root, root};

const WAIT: Duration = Duration::from_secs(90);

/// Instances of two tenants, and a shell in the engine of the first.
pub(super) struct Neighbours {
    pub(super) stack: Stack,
    pub(super) api: Api,
    pub(super) mine: String,
    pub(super) other: String,
    shell: Client,
    /// Pids of the engines.
    pub(super) my_engine: i32,
    pub(super) other_engine: i32,
}

impl Neighbours {
    pub(super) async fn new() -> Result<Self> {
        Self::with(Vec::new()).await
    }

    /// With more of the environment for the controller.
    pub(super) async fn with(mut environment: Vec<(String, String)>) -> Result<Self> {
        // As in the operator's guide. It must not be /tmp, since hosts have their own.
        let parent = Some(PathBuf::from("/var/lib"));
        if super::domains::obstacle().is_some() {
            environment.push(("TROVE_PROCESS__ALLOW_ROOT".to_owned(), "true".to_owned()));
        }
        let stack = Stack::start_with(StackOptions { parent, environment, ..StackOptions::default() }).await?;
        let api = stack.login("trove").await?;
        let (mine, other) = (api.order_and_await("mine").await?, api.order_and_await("other").await?);
        let shell = root(&api, &mine, "app").await?;
        let (my_engine, other_engine) = (engine(&mine)?, engine(&other)?);
        Ok(Self { stack, api, mine, other, shell, my_engine, other_engine })
    }

    /// Runs a script in the tenant's shell and returns its output.
    pub(super) async fn run(&self, script: &str) -> Result<String> {
        in_shell(&self.shell, script).await
    }

    /// Runs a script as the account of the tenant's engine, outside of its domain and with the system calls that are
    /// refused in it: like what an engine has started that was started before there were domains.
    fn run_outside(&self, script: &str) -> Result<()> {
        let uid = account(self.my_engine)?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.my_engine.to_string(), "--mount", "--ipc", "--", "setpriv"]);
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--no-new-privs", "--"]);
        let status = command.args(["sh", "-c", script]).current_dir("/").status()?;
        ensure!(status.success(), "{script}");
        Ok(())
    }

    /// Asserts that the other engine still is the same process and serves.
    pub(super) async fn assert_other_is_well(&self) -> Result<()> {
        ensure!(leftovers::engines(&self.other) == [self.other_engine], "the other's engine was started again");
        let view = self.api.instance(&self.other).await?;
        rows(&connect(&view, APP.0, APP.1, "app").await?, "select 1").await?;
        Ok(())
    }
}

/// Runs a script in the shell of a tenant who is superuser of the server, and returns its output.
pub(super) async fn in_shell(client: &Client, script: &str) -> Result<String> {
    let program = format!("({script}) 2>&1 | tr -cd '[:print:]\\n'").replace('\'', "''");
    rows(client, "create table if not exists said (line text); truncate said").await?;
    let copy = format!("copy said from program '{program}' (format csv, delimiter e'\\x01', quote e'\\x02')");
    rows(client, &copy).await.context(program)?;
    Ok(rows(client, "select line from said").await?.join("\n"))
}

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
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
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
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
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
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
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
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
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
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let answer = it.api.post("/instances", &Engine::Redis.order("redis")).await?;
    let redis = answer.body["instance"]["id"].as_str().with_context(|| format!("{answer:?}"))?.to_owned();
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
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
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

fn engine(instance: &str) -> Result<i32> {
    let engines = leftovers::engines(instance);
    ensure!(engines.len() == 1, "{instance} has the engines {engines:?}");
    Ok(engines[0])
}

fn account(pid: i32) -> Result<u32> {
    Ok(fs::metadata(format!("/proc/{pid}"))?.uid())
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        found.extend(files(&path));
        found.push(path);
    }
    found
}

#[tokio::test]
async fn a_shell_reaches_no_file_of_another_instance() -> Result<()> {
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let (uid, others) = (account(it.my_engine)?, account(it.other_engine)?);
    ensure!(uid != others && ![uid, others].contains(&0), "accounts {uid} and {others}");
    let said = it.run("id -un; id -u; cat PG_VERSION").await?;
    ensure!(said == format!("os_admin\n{uid}\n15"), "the shell works: {said}");

    let host = it.stack.host(&it.other);
    let run = Path::new("/run/trove-rs").join(&it.other);
    let mut all: Vec<PathBuf> = [&host, &run].into_iter().flat_map(|place| files(place)).collect();
    // Its sockets are visible only from inside of its namespace.
    let agent = *leftovers::agents(&it.other).first().context("an agent")?;
    for socket in files(&leftovers::sockets(&it.other, agent)) {
        all.push(Path::new("/").join(socket.strip_prefix(format!("/proc/{agent}/root"))?));
    }
    let files = all;
    let is_there = |name: &str| files.iter().any(|file| file.ends_with(name));
    ensure!(is_there("PG_VERSION") && is_there("pg_ident.conf") && is_there("agent.toml"), "{files:?}");
    let sockets = files.iter().filter(|file| file.to_string_lossy().contains(".s.PGSQL.")).count();
    ensure!(sockets > 0, "the other has no socket: {files:?}");
    for some in files.chunks(100) {
        let names: Vec<String> = some.iter().map(|file| format!("'{}'", file.display())).collect();
        let attempts = "[ -e \"$f\" ] && echo seen \"$f\"; (: < \"$f\") 2>&- && echo read \"$f\"; (: >> \"$f\") 2>&- && echo written \"$f\"";
        let said = it.run(&format!("for f in {}; do {attempts}; done; echo end", names.join(" "))).await?;
        ensure!(said == "end", "{said}");
    }
    for place in [it.stack.hosts(), it.stack.state(), "/run/trove-rs".into(), "/run/trove-rs/uids".into()] {
        let place = place.display();
        let said = it.run(&format!("ls -A '{place}'; ls -A '{place}/{}'", it.other)).await?;
        let names: Vec<&str> = said.lines().filter(|line| !line.starts_with("ls: ")).collect();
        ensure!(names.iter().all(|name| *name == it.mine), "{place} holds {names:?}");
    }
    // Names of cgroups contain the instance's id, so only their parents are listed.
    let groups = "sed 's/^[^/]*//; s/[^/]*$//' /proc/self/cgroup | sort -u";
    let said = it.run(&format!("for at in $({groups}); do ls -A /sys/fs/cgroup/*$at; done")).await?;
    ensure!(!said.contains(&it.other), "{said}");
    // Check both: the other host was made later, when the mounts of the first existed.
    for (pid, id) in [(it.my_engine, &it.other), (it.other_engine, &it.mine)] {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        ensure!(!mounts.contains(id.as_str()), "{mounts}");
    }
    // In a user namespace he may mount, but cannot unmount what hides the others.
    let hiding = format!("'{}' '{}' /run/trove-rs", it.stack.hosts().display(), it.stack.state().display());
    let undo = format!("umount -l {hiding}; ls -A {hiding}");
    let said = it.run(&format!("unshare -rm sh -c \"{undo}\"")).await?;
    ensure!(!said.contains(&it.other) && !said.contains("trove.db"), "{said}");
    it.assert_other_is_well().await
}

#[tokio::test]
async fn a_shell_reaches_no_process_of_another_instance() -> Result<()> {
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
        return Ok(());
    }
    let it = Neighbours::new().await?;
    // PTRACE_ATTACH.
    let attach = "$! = 0; syscall(101, 16, $p, 0, 0); print \"attach: $!\\n\"";
    let own = it.run(&format!("perl -e '$p = fork; if (!$p) {{ sleep 20; exit }} {attach}; kill 9, $p'")).await?;
    ensure!(own.trim() == "attach:", "a child of his own cannot be traced: {own}");
    let seen = it.run("ls /proc").await?;
    let sees = |pid: i32| seen.lines().any(|line| line == pid.to_string());
    ensure!(sees(it.my_engine), "{seen}");

    let agents: Vec<i32> = [&it.mine, &it.other].into_iter().flat_map(|id| leftovers::agents(id)).collect();
    ensure!(agents.len() == 2, "{agents:?}");
    let controller = it.stack.pid()?.as_raw();
    for pid in agents.iter().copied().chain([it.other_engine, controller, 1]) {
        ensure!(!sees(pid), "the process {pid} is seen");
        let said = it.run(&format!("kill -9 {pid}; perl -e '$p = {pid}; {attach}'")).await?;
        ensure!(said.matches("not permitted").count() == 2, "{pid}: {said}");
        let said =
            it.run(&format!("cat /proc/{pid}/mem /proc/{pid}/environ; ls /proc/{pid}/root/ /proc/{pid}/fd/")).await?;
        ensure!(said.lines().count() == 4 && said.matches("No such file").count() == 4, "{pid}: {said}");
        ensure!(Path::new(&format!("/proc/{pid}")).exists(), "{pid} was ended");
    }
    it.assert_other_is_well().await
}

#[tokio::test]
async fn who_looks_like_an_agent_is_not_taken_for_one() -> Result<()> {
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let before = leftovers::agents(&it.mine);
    let words = fs::read(format!("/proc/{}/cmdline", before[0]))?;
    let words = String::from_utf8(words)?.trim_end_matches('\0').split('\0').map(str::to_owned).collect::<Vec<_>>();
    let host = it.stack.host(&it.mine);
    let like_it = words[1..].join("' '");
    let outside = host.join("agent.toml");
    let start = |args: &str| format!("setsid sh -c 'sleep 300; true' x {args} >/dev/null 2>&1 </dev/null &");
    it.run(&start(&format!("'{like_it}'"))).await?;
    it.run(&start(&format!("--config '{}'", outside.display()))).await?;
    let named = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"sh\0-c\0"));
    let both = |pids: &Vec<i32>| pids.iter().filter(|pid| named(pid)).count() == 2;
    poll("two that look like it", WAIT, async || Ok(leftovers::processes(&it.mine)), both).await?;

    kill(Pid::from_raw(before[0]), Signal::SIGKILL)?;
    let ask = async || Ok(leftovers::agents(&it.mine));
    poll("another agent", WAIT, ask, |now| now.len() == 1 && *now != before).await?;
    let well = |view: &serde_json::Value| view["operating_status"] == "HEALTHY";
    poll("an engine that is well", WAIT, async || it.api.instance(&it.mine).await, well).await?;
    ensure!(engine(&it.mine)? == it.my_engine, "the engine was started again");
    Ok(())
}

#[tokio::test]
async fn a_deletion_follows_no_link_and_leaves_no_process() -> Result<()> {
    if !has_root() {
        println!("skipped: only root gives engines accounts of their own");
        return Ok(());
    }
    let it = Neighbours::new().await?;
    let uid = account(it.my_engine)?;
    let precious = it.stack.directory().join("roots");
    fs::create_dir(&precious)?;
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o700))?;
    fs::write(precious.join("precious"), "roots")?;
    let map =
        "import mmap, time; f = open('/dev/shm/e/d/precious', 'r+b'); m = mmap.mmap(f.fileno(), 4); time.sleep(600)";
    let apart = ">/dev/null 2>&1 </dev/null &";
    let python = "for python in /usr/bin/python3 python3; do command -v $python >/dev/null && break; done";
    let make = "mkdir -p /dev/shm/e/d; echo mine > /dev/shm/e/d/precious";
    it.run(&format!("{make}; {python}; setsid $python -c \"{map}\" {apart}")).await?;
    let maps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains("/precious"));
    poll("a mapping", WAIT, async || Ok(leftovers::processes(&it.mine)), |pids| pids.iter().any(maps)).await?;
    let swap = format!("mv d d2; ln -s '{}' d; rm d; mv d2 d", precious.display());
    it.run(&format!("cd /dev/shm/e; setsid sh -c \"while :; do {swap}; done\" {apart}")).await?;
    let said = it.run("ls -A /dev/shm/e").await?;
    ensure!(said.lines().any(|line| ["d", "d2"].contains(&line)), "{said}");
    ensure!(!Path::new("/dev/shm/e").exists(), "the machine's shared memory is the host's");
    let pids = leftovers::processes(&it.mine);
    ensure!(it.api.delete(&format!("/instances/{}", it.mine)).await?.status == 202);
    it.api.await_gone(&it.mine).await?;
    leftovers::assert_nothing_of(&it.mine, &it.stack.host(&it.mine), &pids)?;
    ensure!(fs::read_to_string(precious.join("precious"))? == "roots");
    // Zombies do not count; init reaps them some time later.
    let is_zombie = |path: &Path| {
        let stat = fs::read(path.join("stat")).unwrap_or_default();
        String::from_utf8_lossy(&stat).rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    let is_its =
        |entry: &fs::DirEntry| entry.metadata().is_ok_and(|facts| facts.uid() == uid) && !is_zombie(&entry.path());
    let left: Vec<_> = fs::read_dir("/proc")?.flatten().filter(is_its).map(|entry| entry.path()).collect();
    ensure!(left.is_empty(), "processes of the account {uid} are left: {left:?}");
    ensure!(!Path::new("/run/trove-rs/uids").join(uid.to_string()).exists(), "the account was not given back");
    it.assert_other_is_well().await
}

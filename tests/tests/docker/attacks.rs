//! Attacks by a tenant who has root of PostgreSQL, and so a shell in his container as the account of his engine.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio_postgres::Client;
use trove_tests::{APP, Api, connect, in_shell, order_body, poll, root, rows};

use super::Story;

const WAIT: Duration = Duration::from_secs(120);
/// perl: what ptrace(2) says to an attachment to the process `$p`.
const ATTACH: &str = "$! = 0; syscall(101, 16, $p, 0, 0); print \"attach: $!\\n\"";

/// A tenant's shell, and an instance of another project.
struct Cell {
    story: Story,
    api: Api,
    mine: String,
    other: String,
    shell: Client,
    /// Addresses of the engines.
    my_address: Ipv4Addr,
    other_address: Ipv4Addr,
    /// The other's engine, by its pid on this machine.
    other_engine: i32,
}

fn address(view: &Value) -> Result<Ipv4Addr> {
    Ok(view["ip"][0].as_str().with_context(|| format!("{view}"))?.parse()?)
}

fn container(id: &str) -> String {
    format!("trove-{id}")
}

impl Cell {
    async fn new() -> Result<Option<Self>> {
        let Some(story) = Story::begin().await? else { return Ok(None) };
        let (api, others) = (story.stack.login("trove").await?, story.stack.login("trove-admin").await?);
        let (mine, other) = (api.create(&order_body("mine")).await?, others.create(&order_body("other")).await?);
        let (my_view, other_view) = (api.await_active(&mine).await?, others.await_active(&other).await?);
        let shell = root(&api, &mine, "app").await?;
        let (my_address, other_address) = (address(&my_view)?, address(&other_view)?);
        connect(&other_view, APP.0, APP.1, "app").await?;
        let other_engine = story.pid_of(&container(&other), "bin/postgres -D")?;
        Ok(Some(Self { story, api, mine, other, shell, my_address, other_address, other_engine }))
    }

    async fn run(&self, script: &str) -> Result<String> {
        in_shell(&self.shell, script).await
    }

    /// Whether the shell can connect.
    async fn reaches(&self, address: impl Into<IpAddr>, port: u16) -> Result<bool> {
        let address = address.into();
        let script = format!("timeout 3 bash -c \"exec 3<>/dev/tcp/{address}/{port}\" 2>/dev/null && echo reached");
        Ok(self.run(&format!("{script}; true")).await? == "reached")
    }

    /// The pid of a process in the container, as the shell sees it.
    async fn pid_inside(&self, what: &str) -> Result<String> {
        let script = "for p in /proc/[0-9]*; do echo \"${p#/proc/} $(tr \"\\0\" \" \" < $p/cmdline)\"; done";
        let said = self.run(script).await?;
        let line = said.lines().find(|line| line.contains(what)).with_context(|| said.clone())?;
        Ok(line.split(' ').next().unwrap_or_default().to_owned())
    }

    fn assert_other_is_well(&self) -> Result<()> {
        let engine = self.story.pid_of(&container(&self.other), "bin/postgres -D")?;
        ensure!(engine == self.other_engine, "the other's engine was started again");
        Ok(())
    }

    /// Packets to link-local addresses that were dropped.
    fn dropped(&self) -> Result<u64> {
        let output = Command::new("iptables").args(["-nvxL"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let key = self.key()?;
        let chain = text.split("Chain ").find(|chain| chain.starts_with(&format!("TROVE-{key}-FWD ")));
        let chain = chain.with_context(|| text.clone())?;
        let rule = chain.lines().find(|line| line.contains("169.254.0.0/16")).context("the rule")?;
        Ok(rule.split_whitespace().next().context("packets")?.parse()?)
    }

    /// Of the directory of hosts.
    fn key(&self) -> Result<String> {
        let label = "{{index .Config.Labels \"trove-rs.state\"}}";
        self.story.dockerd.docker(&["inspect", "--format", label, &container(&self.mine)])
    }
}

/// All addresses of this machine but loopback ones.
fn addresses_of_machine() -> Result<Vec<Ipv4Addr>> {
    let output = Command::new("ip").args(["-4", "-o", "address"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let parse = |line: &str| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok();
    Ok(text.lines().filter_map(parse).filter(|address: &Ipv4Addr| !address.is_loopback()).collect())
}

async fn reaches_no_address(it: &Cell) -> Result<()> {
    ensure!(it.reaches(it.my_address, 5432).await?, "the shell cannot connect to its own engine");
    ensure!(!it.reaches(it.other_address, 5432).await?, "another project's engine is reached");
    let service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = service.local_addr()?.port();
    let all = addresses_of_machine()?;
    let own = it.my_address.octets();
    let gateway = Ipv4Addr::new(own[0], own[1], own[2], 1);
    ensure!(all.contains(&gateway), "{gateway} is not among {all:?}");
    for address in all {
        ensure!(!it.reaches(address, port).await?, "a service of the machine is reached at {address}");
    }
    // The API listens on a loopback address, which is the container's own inside.
    ensure!(!it.reaches(it.story.stack.address(), 8779).await?, "the API is reached");
    // The counter begins anew when the rules are renewed, each minute.
    let dropped = async || {
        let before = it.dropped()?;
        ensure!(!it.reaches(Ipv4Addr::new(169, 254, 169, 254), 80).await?, "the cloud's metadata are reached");
        anyhow::Ok(it.dropped()? > before)
    };
    ensure!(dropped().await? || dropped().await?, "it was not the rule that dropped the packets");
    let said = it.run(&format!("getent hosts {} || echo unknown", container(&it.other))).await?;
    ensure!(said == "unknown", "Docker's name service tells of another project: {said}");
    // PF_INET and PF_PACKET, SOCK_RAW.
    let said = it.run(
        "perl -e 'for ([2, 3, 6], [17, 3, 768]) { $! = 0; socket(my $s, $$_[0], $$_[1], $$_[2]); print \"$!\\n\" }'",
    );
    let said = said.await?;
    ensure!(said.matches("not permitted").count() == 2, "raw sockets: {said}");
    Ok(())
}

async fn reaches_no_process(it: &Cell) -> Result<()> {
    let own = it.run(&format!("perl -e '$p = fork; if (!$p) {{ sleep 20; exit }} {ATTACH}; kill 9, $p'")).await?;
    ensure!(own.trim() == "attach:", "a child of his own cannot be traced: {own}");
    let all = it.run("cat /proc/[0-9]*/cmdline | tr \"\\0\" \" \"").await?;
    for word in ["dockerd", "trove-controller", it.other.as_str()] {
        ensure!(!all.contains(word), "{word} is seen: {all}");
    }
    let agent = it.story.pid_of(&container(&it.mine), "trove-agent run")?;
    for pid in ["1".to_owned(), it.pid_inside("trove-agent run").await?] {
        let said = it.run(&format!("kill -9 {pid}; perl -e '$p = {pid}; {ATTACH}'")).await?;
        ensure!(said.matches("not permitted").count() == 2, "{pid}: {said}");
        let look =
            format!("for f in mem environ maps; do cat /proc/{pid}/$f; done; ls /proc/{pid}/root/ /proc/{pid}/fd/");
        let said = it.run(&look).await?;
        ensure!(said.matches("ermission denied").count() == 5 && said.lines().count() == 5, "{pid}: {said}");
    }
    ensure!(it.story.pid_of(&container(&it.mine), "trove-agent run")? == agent, "the agent was ended");
    Ok(())
}

async fn reads_nothing_of_the_agents_nor_of_the_machines(it: &Cell) -> Result<()> {
    let places = ["/etc/trove-agent", "/var/lib/trove-agent"];
    let files = it.story.dockerd.docker(&["exec", &container(&it.mine), "find", places[0], places[1], "-type", "f"])?;
    ensure!(files.contains("identity.pem") && files.contains("agent.toml"), "{files}");
    for file in files.lines() {
        let said =
            it.run(&format!("(: < {file}) 2>&- && echo read; (: >> {file}) 2>&- && echo written; echo end")).await?;
        ensure!(said == "end", "{file}: {said}");
    }
    let said =
        it.run(&format!("ls -A {0} {1}; ls -A {2}", places[0], places[1], it.story.stack.state().display())).await?;
    ensure!(said.lines().count() == 3 && said.lines().all(|line| line.starts_with("ls: ")), "{said}");
    // It names the directories of his own host on this machine.
    let mounts = it.run("cat /proc/self/mountinfo").await?;
    ensure!(!mounts.contains(&it.other), "{mounts}");
    Ok(())
}

async fn changes_nothing_of_the_kernels(it: &Cell) -> Result<()> {
    // Opened only, but for `h`, which has the kernel list its keys in its log.
    let files = "/proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger \
                 /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max \
                 /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/kernel/uevent_helper";
    let said = it.run(&format!("for f in {files}; do (: >> $f) 2>/dev/null && echo $f; done; echo end")).await?;
    ensure!(said == "end", "{said}");
    let said = it.run("find /proc/sys /proc/bus /proc/fs /proc/irq /sys -writable 2>/dev/null; echo end").await?;
    ensure!(said == "end", "{said}");
    let said = it
        .run("for f in /proc/kcore /proc/kmsg /proc/keys /proc/timer_list; do head -c 1 $f 2>/dev/null | wc -c; done")
        .await?;
    ensure!(said.lines().all(|bytes| bytes.trim() == "0"), "{said}");
    let devices = it.run("find /dev -type b -o -type c").await?;
    let known = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"];
    let is_known =
        |path: &str| path.starts_with("/dev/pts/") || known.iter().any(|name| path == format!("/dev/{name}"));
    ensure!(devices.lines().all(is_known), "{devices}");
    Ok(())
}

async fn gains_no_rights(it: &Cell) -> Result<()> {
    let said =
        it.run("grep -E \"^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp):\" /proc/self/status; id -u; id -G").await?;
    let values: Vec<&str> = said.lines().filter_map(|line| line.rsplit(':').next()).collect();
    let none = "0000000000000000";
    ensure!(values == [none, none, none, none, "1", "2", "2000", "2000"], "{said}");
    let attempts = [
        "mknod /tmp/disk b 8 0",
        "mount -t tmpfs none /tmp",
        "umount /var/lib/trove-agent",
        "unshare -m true",
        "unshare -U true",
        "unshare -rm true",
        "nsenter -t 1 -m true",
        "chroot / true",
        "setpriv --reuid=0 true",
        "chown 0 /tmp",
        "dmesg",
        "touch /usr/bin/mine",
        "touch /etc/mine",
        "touch /run/mine",
    ];
    for attempt in attempts {
        let said = it.run(&format!("{attempt} >/dev/null 2>&1 && echo did; echo end")).await?;
        ensure!(said == "end", "{attempt}: {said}");
    }
    // add_key, keyctl, bpf, perf_event_open, io_uring_setup, userfaultfd: keys are by account, which containers share.
    // Refused before they are looked at: EPERM or ENOSYS.
    let calls = "for (248, 250, 321, 298, 425, 323) { $! = 0; syscall($_, 0, 0, 0, 0, 0); \
                 print \"$_ $!\\n\" if $! != 1 && $! != 38 }";
    let said = it.run(&format!("perl -e '{calls}'")).await?;
    ensure!(said.is_empty(), "system calls: {said}");
    Ok(())
}

/// Everything that he may write to has a bound.
async fn fills_nothing_but_his_own(it: &Cell) -> Result<()> {
    // He works in the data directory, which no listing leads to.
    let search = "find / . -maxdepth 5 -path /proc -prune -o -type d -writable -print 2>/dev/null";
    let said = it.run(&format!("{search} | xargs stat -f -c \"%T %b %S %n\"")).await?;
    ensure!(said.contains("/tmp") && said.contains("xfs"), "{said}");
    for line in said.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [kind, blocks, size, place] = fields.as_slice() else { anyhow::bail!("{line}") };
        let bytes = blocks.parse::<u64>()? * size.parse::<u64>()?;
        let is_bounded = match *kind {
            "tmpfs" => (1..=1 << 30).contains(&bytes),
            "xfs" => bytes < 2 << 30,
            other => other == "mqueue",
        };
        ensure!(is_bounded, "{place} is on a {kind} of {bytes} bytes");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_in_a_container_reaches_nothing_beyond_it() -> Result<()> {
    let Some(it) = Cell::new().await? else { return Ok(()) };
    reaches_no_address(&it).await.context("addresses")?;
    reaches_no_process(&it).await.context("processes")?;
    reads_nothing_of_the_agents_nor_of_the_machines(&it).await.context("files")?;
    changes_nothing_of_the_kernels(&it).await.context("the kernel")?;
    gains_no_rights(&it).await.context("rights")?;
    fills_nothing_but_his_own(&it).await.context("space")?;
    it.assert_other_is_well()
}

/// The engine answers, and the agent says so.
async fn await_well(it: &Cell) -> Result<()> {
    let well = |view: &Value| view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY";
    let view = poll("an engine that is well", WAIT, async || it.api.instance(&it.mine).await, well).await?;
    let asked = async || rows(&connect(&view, APP.0, APP.1, "app").await?, "select 1").await;
    poll("an answer", WAIT, asked, |rows| rows == &["1"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_uses_up_his_containers_processes_and_memory_is_served_again() -> Result<()> {
    let Some(it) = Cell::new().await? else { return Ok(()) };
    let mine = container(&it.mine);
    // A fork bomb: each process forks until that fails, then sleeps and tries again.
    let bomb = "while (1) { fork // select(undef, undef, undef, 0.2) }";
    it.run(&format!("setsid perl -e '{bomb}' >/dev/null 2>&1 </dev/null &")).await?;
    let limit: u64 = it.story.dockerd.docker(&["inspect", "--format", "{{.HostConfig.PidsLimit}}", &mine])?.parse()?;
    let count = ["stats", "--no-stream", "--format", "{{.PIDs}}", &mine];
    let all = async || Ok(it.story.dockerd.docker(&count)?.parse::<u64>()?);
    poll("all processes that there may be", WAIT, all, |all| *all >= limit).await?;
    let restart = json!({ "restart": {} });
    let asked = async || Ok(it.api.post(&format!("/instances/{}/action", it.mine), &restart).await?.status);
    poll("a restart", WAIT, asked, |status| *status == 202).await?;
    await_well(&it).await?;
    ensure!(it.story.processes(&mine)?.len() < 100, "the bomb's processes are left");

    let shell = root(&it.api, &it.mine, "app").await?;
    // The connection ends with the engine.
    let _ = in_shell(&shell, "perl -e '$x = \"a\" x (2 << 30); sleep 600'").await;
    await_well(&it).await?;
    it.assert_other_is_well()
}

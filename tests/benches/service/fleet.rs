//! Measures a controller with ten thousand connected agents.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::Semaphore;
use trove_controller::state::HostState;
use trove_tests::poll;

use crate::agent::{self, HEARTBEAT, Seen};
use crate::guests;
use crate::load::real;
use crate::seed::Seed;
use crate::service::{Kind, Service};
use crate::table::{Row, Table, note, number};

const AGENTS: usize = 10_000;
/// Greatest number of agents that are connecting at the same time.
const DIALLING: usize = 256;
const MINUTE: Duration = Duration::from_secs(60);

/// Connects the agents and measures for a minute.
pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let mut service = Service::start(Kind::Sqlite, "").await?;
    let api = service.login().await?;
    let identities = {
        let seed = Seed::new(&service, &api.project).await?;
        let instances = seed.instances(AGENTS, HostState::Absent).await?;
        guests::identities(&seed.authorities, &service.config()?, &instances)?
    };
    service.restart()?;
    service.login().await?;
    service.settle().await?;
    let (alone_mib, begun, cpu) = (service.memory_mib()?, Instant::now(), service.cpu()?);
    let address = SocketAddr::new(service.stack.address(), 8778);
    let (seen, turns) = (Arc::new(Seen::default()), Arc::new(Semaphore::new(DIALLING)));
    let mut agents = tokio::task::JoinSet::new();
    for tls in identities {
        let turn = turns.clone().acquire_owned().await?;
        agents.spawn(agent::run(address, tls, seen.clone(), turn));
    }
    let up = async || Ok(seen.up.load(Ordering::Relaxed));
    poll("every agent to be heard", Duration::from_secs(300), up, |up| *up == AGENTS)
        .await
        .with_context(|| format!("{seen:?}\n{}", service.stack.log_end()))?;
    let spent = service.cpu()?.controller_s - cpu.controller_s;
    note(&format!("{AGENTS} agents came in {} s, {} CPU s", number(begun.elapsed().as_secs_f64()), number(spent)));
    let how = format!(
        "{AGENTS} connections of one process over loopback (TLS 1.3, a certificate each), {DIALLING} at a time, until \
         each one's first report is acknowledged; SQLite"
    );
    let mut row = Row::new(format!("{AGENTS} agents connect: CPU of the controller"), spent, "s", how);
    row.aside = format!("within {} s", number(begun.elapsed().as_secs_f64()));
    table.add(row);
    look_on(table, &service, &seen, alone_mib).await?;
    ensure!(agents.try_join_next().is_none(), "an agent has ended");
    agents.shutdown().await;
    Ok(())
}

async fn look_on(table: &mut Table, service: &Service, seen: &Seen, alone_mib: f64) -> Result<()> {
    // After two heartbeats of each agent, the work caused by the connecting is done.
    tokio::time::sleep(HEARTBEAT * 2).await;
    let (heard, missed, cpu) =
        (seen.heard.load(Ordering::Relaxed), seen.missed.load(Ordering::Relaxed), service.cpu()?);
    tokio::time::sleep(MINUTE).await;
    let spent = service.cpu()?.controller_s - cpu.controller_s;
    let heard = seen.heard.load(Ordering::Relaxed) - heard;
    let missed = seen.missed.load(Ordering::Relaxed) - missed;
    let together_mib = service.memory_mib()?;
    let how =
        format!("utime + stime over a minute; a heartbeat each {} s, with figures of an engine", HEARTBEAT.as_secs());
    let mut row = Row::new(format!("{AGENTS} agents: CPU of the controller in a minute"), spent, "s", how);
    row.aside = format!("{heard} heartbeats acknowledged");
    table.add(row);
    let how = "reports without an acknowledgement when the next was due, in that minute";
    table.add(Row::new(format!("{AGENTS} agents: missed heartbeats"), real(missed), "", how).at_most(0.0));
    let connected = service.figure("trove_agents_connected").await?;
    let lost = real(AGENTS) - connected + real(seen.lost.load(Ordering::Relaxed));
    let how = "connections that ended, and agents that the controller does not hear (trove_agents_connected)";
    table.add(Row::new(format!("{AGENTS} agents: lost"), lost, "", how).at_most(0.0));
    let how = format!("PSS after that minute; alone with {AGENTS} stored instances it was {} MiB", number(alone_mib));
    table.add(Row::new(format!("{AGENTS} agents: memory of the controller"), together_mib, "MiB", how));
    let kib = (together_mib - alone_mib) * 1024.0 / real(AGENTS);
    let how = "the difference, for each agent";
    table.add(Row::new(format!("{AGENTS} agents: memory for each"), kib, "KiB", how));
    Ok(())
}

//! From the first file to a crash and back.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use secrecy::SecretString;
use trove_strategy::{Database, Directory, Grantee, NewUser, Owner, Settings, StartMode};

use crate::bench::{Bench, Running};
use crate::{Login, Tenant, with_parameter};

fn plain(error: trove_strategy::EngineError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}

/// A crash in the middle of an earlier try leaves a directory that is no data directory; a second call changes nothing.
pub(crate) async fn initialises_after_a_half_done_start(bench: &Bench<'_>) -> Result<()> {
    let engine = bench.datastore.engine();
    bench.site.host.make_directory(&Directory::Data.join("data.new"), 0o700, Owner::Engine).await?;
    let first = engine.initialise(&bench.site).await.map_err(plain)?;
    ensure!(bench.site.data.exists(), "there is no data directory");
    let again = engine.initialise(&bench.site).await.map_err(plain)?;
    ensure!(first == again, "a second call answers {again:?} after {first:?}");
    Ok(())
}

/// Nothing listens for tenants before the agent's account is there alone.
pub(crate) async fn listens_nowhere_when_private(bench: &Bench<'_>) -> Result<()> {
    bench.datastore.engine().configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Private)?;
    bench.await_answer(&mut running).await?;
    let refused = TcpStream::connect_timeout(&(bench.site.address, bench.site.port).into(), Duration::from_secs(1));
    ensure!(refused.is_err(), "a privately started engine accepts connections from the network");
    running.stop(bench).await
}

/// Version and numbers come from the running engine.
pub(crate) async fn knows_itself(bench: &Bench<'_>) -> Result<()> {
    let engine = bench.datastore.engine();
    let begun = Instant::now();
    let health = engine.probe(&bench.site).await.map_err(plain)?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "a probe took {:?}", begun.elapsed());
    let installed = &bench.site.installation.version;
    ensure!(health.version == *installed, "{} runs, {installed} is installed", health.version);
    ensure!(!engine.metrics(&bench.site).await.map_err(plain)?.is_empty(), "no metrics");
    Ok(())
}

/// Rules come from the engine; a live change acts after a reload, and an impossible one is refused.
pub(crate) async fn parameters(bench: &Bench<'_>, tenant: &dyn Tenant) -> Result<()> {
    let Some(parameters) = bench.datastore.parameters() else { bail!("announced, but not there") };
    let engine = bench.datastore.engine();
    let described = parameters.describe(&bench.site).await.map_err(plain)?;
    ensure!(described.windows(2).all(|pair| pair[0].name < pair[1].name), "not by name");
    let (name, value, written) = tenant.live_parameter();
    let Some(parameter) = described.iter().find(|parameter| parameter.name == name) else {
        bail!("{name} is not described");
    };
    ensure!(!parameter.restart_required, "{name} needs a restart");
    engine.configure(&bench.site, &with_parameter(name, value)).await.map_err(plain)?;
    engine.reload(&bench.site).await.map_err(plain)?;
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let values = parameters.values(&bench.site).await.map_err(plain)?;
        let now = values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        if now == Some(written) {
            break;
        }
        ensure!(Instant::now() < end, "{name} is {now:?}, not {written}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let nonsense = with_parameter("no_such_parameter_at_all", 1.into());
    let configured = engine.configure(&bench.site, &nonsense).await;
    let refused = match configured {
        Ok(()) => engine.reload(&bench.site).await,
        Err(error) => Err(error),
    };
    ensure!(refused.is_err(), "a parameter that does not exist was accepted");
    engine.configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    engine.reload(&bench.site).await.map_err(plain)
}

/// What was acknowledged is there after an orderly stop and after SIGKILL.
pub(crate) async fn keeps_what_was_written(
    bench: &Bench<'_>,
    tenant: &dyn Tenant,
    running: Running,
) -> Result<Running> {
    let password = SecretString::from("Keeper-secret-1");
    let login = Login { user: "keeper".to_owned(), password: password.clone(), database: "keeper".to_owned() };
    let mut entered = Vec::new();
    if let Some(databases) = bench.datastore.databases() {
        let database = Database { name: login.database.clone(), character_set: None, collation: None };
        databases.create(&bench.site, &database).await.map_err(plain)?;
        entered.push(login.database.clone());
    }
    let Some(users) = bench.datastore.users() else { bail!("announced, but not there") };
    let id = Grantee { name: login.user.clone(), host: "%".to_owned() };
    let user = NewUser { id, password, databases: entered };
    users.create(&bench.site, &user).await.map_err(plain)?;
    tenant.write(&bench.site, &login, "before the stop").await?;
    running.stop(bench).await?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    tenant.write(&bench.site, &login, "before the kill").await?;
    running.kill()?;
    await_none_in(bench).await?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    let mut texts = tenant.read(&bench.site, &login).await?;
    texts.sort();
    ensure!(texts == ["before the kill", "before the stop"], "what is left: {texts:?}");
    Ok(running)
}

/// Children of a killed server live on for a moment; a start before their end can fail.
async fn await_none_in(bench: &Bench<'_>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    let works = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&bench.site.data))
    };
    while std::fs::read_dir("/proc")?.flatten().any(|entry| works(&entry)) {
        ensure!(Instant::now() < end, "processes of a killed engine do not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

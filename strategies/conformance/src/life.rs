//! From the first file to a crash and back.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use trove_strategy::{Applied, Directory, FirstStart, Kind, Owner, Settings, Size, StartMode};

use crate::bench::{Bench, Running};
use crate::{Login, Tenant, plain};

/// How long `probe` and `metrics` may take: 2 s, and what a loaded machine adds.
const PROBE: Duration = Duration::from_secs(4);
/// How long `reload` may take where the server does not answer.
const RELOAD: Duration = Duration::from_secs(20);

/// A crash in the middle of an earlier try changes nothing, nor does a second call.
pub(crate) async fn initialises_after_a_kill_midway(bench: &Bench<'_>) -> Result<()> {
    let engine = bench.datastore.engine();
    bench.site.host.make_directory(&Directory::Data.join("data.new"), 0o700, Owner::Engine).await?;
    for millis in [1, 50, 300] {
        // What is not done in time is dropped, and its programs are killed with it.
        let _ = tokio::time::timeout(Duration::from_millis(millis), engine.initialise(&bench.site)).await;
        bench.kill_all().await?;
    }
    let first = engine.initialise(&bench.site).await.map_err(plain)?;
    let has_volume = bench.datastore.identity().volume;
    ensure!(!has_volume || bench.site.data.exists(), "there is no data directory");
    let again = engine.initialise(&bench.site).await.map_err(plain)?;
    ensure!(first == again, "a second call answers {again:?} after {first:?}");
    Ok(())
}

/// Nothing listens for tenants before the agent's account is there alone.
pub(crate) async fn listens_nowhere_when_private(bench: &Bench<'_>) -> Result<()> {
    let engine = bench.datastore.engine();
    engine.configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Private)?;
    if engine.initialise(&bench.site).await.map_err(plain)? == FirstStart::Private {
        bench.secure().await?;
    }
    bench.await_answer(&mut running).await?;
    let identity = bench.datastore.identity();
    for port in [Some(identity.port), identity.tls_port].into_iter().flatten() {
        let refused = TcpStream::connect_timeout(&(bench.site.address, port).into(), Duration::from_secs(1));
        ensure!(refused.is_err(), "a privately started engine accepts connections from the network on {port}");
    }
    running.stop(bench).await
}

/// What runs is what the agent is told that runs.
pub(crate) fn runs_what_start_spec_says(bench: &Bench<'_>, running: &Running) -> Result<()> {
    let spec = bench.datastore.engine().start_spec(&bench.site, &Settings::default(), StartMode::Normal);
    let line = std::fs::read(format!("/proc/{}/cmdline", running.pid())).context("look at the server's process")?;
    let line = String::from_utf8_lossy(&line);
    let runs: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
    let program = spec.program.to_string_lossy();
    let said: Vec<&str> = std::iter::once(&*program).chain(spec.args.iter().map(String::as_str)).collect();
    ensure!(runs == said, "{runs:?} runs, and start_spec says {said:?}");
    Ok(())
}

/// Version and numbers come from the running engine.
pub(crate) async fn knows_itself(bench: &Bench<'_>) -> Result<()> {
    let engine = bench.datastore.engine();
    let begun = Instant::now();
    let health = engine.probe(&bench.site).await.map_err(plain)?;
    ensure!(begun.elapsed() < PROBE, "a probe took {:?}", begun.elapsed());
    let installed = &bench.site.installation.version;
    ensure!(health.version == *installed, "{} runs, {installed} is installed", health.version);
    ensure!(!engine.metrics(&bench.site).await.map_err(plain)?.is_empty(), "there are no metrics");
    Ok(())
}

/// Rules come from the engine; what is impossible is refused before it is written; each answers what became of it.
pub(crate) async fn parameters(bench: &Bench<'_>, tenant: &dyn Tenant) -> Result<()> {
    let Some(parameters) = bench.datastore.parameters() else { bail!("announced, but not there") };
    let described = parameters.describe(&bench.site).await.map_err(plain)?;
    ensure!(described.windows(2).all(|pair| pair[0].name < pair[1].name), "they are not described by name ascending");
    let values: BTreeMap<String, String> = parameters.values(&bench.site).await.map_err(plain)?.into_iter().collect();
    for name in values.keys() {
        ensure!(described.iter().any(|known| known.name == *name), "{name} has a value and is not described");
    }
    // Nothing is chosen, so nothing waits.
    let applied = bench.take_up(&Settings::default()).await.map_err(plain)?;
    ensure!(applied.is_empty(), "of nothing became {applied:?}");
    if let Some((name, value, written)) = tenant.live_parameter() {
        let parameter = described.iter().find(|parameter| parameter.name == name);
        let parameter = parameter.with_context(|| format!("{name} is not described"))?;
        ensure!(!parameter.restart_required, "{name} needs a restart");
        let applied = bench.take_up(&with_parameter(name, value)).await.map_err(plain)?;
        ensure!(applied == BTreeMap::from([(name.to_owned(), Applied::Live)]), "{name}: {applied:?}");
        let now = parameters.values(&bench.site).await.map_err(plain)?.into_iter().find(|(known, _)| known == name);
        ensure!(now == Some((name.to_owned(), written.to_owned())), "it is {now:?}, and not {written}");
        bench.take_up(&Settings::default()).await.map_err(plain)?;
        let now: BTreeMap<String, String> = parameters.values(&bench.site).await.map_err(plain)?.into_iter().collect();
        ensure!(
            now.get(name) == values.get(name),
            "it went back to {:?}, not to {:?}",
            now.get(name),
            values.get(name)
        );
    } else {
        ensure!(described.iter().all(|known| known.restart_required), "the tenant names no live parameter");
    }
    let nonsense = with_parameter("no_such_parameter_at_all", 1.into());
    let refused = parameters.check(&bench.site, &nonsense.parameters).await;
    ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "a parameter that does not exist is accepted");
    Ok(())
}

/// Settings with one parameter set.
fn with_parameter(name: &str, value: serde_json::Value) -> Settings {
    let mut settings = Settings::default();
    settings.parameters = BTreeMap::from([(name.to_owned(), value)]);
    settings
}

/// A server that does not answer is an error in time, and none afterwards.
pub(crate) async fn answers_in_time_when_stopped(bench: &Bench<'_>, running: &Running) -> Result<()> {
    let (engine, site) = (bench.datastore.engine(), &bench.site);
    running.pause()?;
    let asked = async {
        let probe = tokio::time::timeout(PROBE, engine.probe(site)).await;
        ensure!(probe.context("probe of a stopped server does not end")?.is_err(), "probe says that it is well");
        let metrics = tokio::time::timeout(PROBE, engine.metrics(site)).await;
        ensure!(metrics.context("metrics of a stopped server do not end")?.is_err(), "metrics of a stopped server");
        let settings = Settings::default();
        let reload = tokio::time::timeout(RELOAD, engine.reload(site, &settings)).await;
        ensure!(reload.context("reload of a stopped server does not end")?.is_err(), "reload says that it is done");
        Ok(())
    };
    let asked = asked.await;
    running.resume()?;
    asked?;
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) = engine.probe(site).await {
        ensure!(Instant::now() < end, "it does not answer any more: {}", error.chain());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A greater size and the old one again, each with a restart.
pub(crate) async fn takes_another_size(bench: &mut Bench<'_>, mut running: Running) -> Result<Running> {
    let before = bench.site.size;
    for size in [Size { memory_mib: 2 * before.memory_mib, vcpus: 2, volume_gib: 2 }, before] {
        let engine = bench.datastore.engine();
        engine.fits(&bench.site, size).await.map_err(plain)?;
        running.stop(bench).await?;
        bench.site.size = size;
        engine.configure(&bench.site, &Settings::default()).await.map_err(plain)?;
        running = bench.spawn(StartMode::Normal)?;
        bench.await_answer(&mut running).await.with_context(|| format!("with {size:?}"))?;
    }
    Ok(running)
}

/// What was acknowledged is there after an orderly stop and after SIGKILL.
pub(crate) async fn keeps_what_was_written(
    bench: &Bench<'_>,
    tenant: &dyn Tenant,
    login: &Login,
    running: Running,
) -> Result<Running> {
    let durability = tenant.durability().context("the datastore is not volatile, and its tenant has no durability")?;
    durability.write(&bench.site, login, "before the stop").await?;
    running.stop(bench).await?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    durability.write(&bench.site, login, "before the kill").await?;
    running.kill()?;
    bench.await_none().await?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    let mut texts = durability.read(&bench.site, login).await?;
    texts.sort();
    ensure!(texts == ["before the kill", "before the stop"], "what is left: {texts:?}");
    Ok(running)
}

/// Every step of a start is done again where an engine has worked, also after a start that was killed.
pub(crate) async fn does_each_step_again(bench: &Bench<'_>, running: Running) -> Result<Running> {
    let (engine, site) = (bench.datastore.engine(), &bench.site);
    running.kill()?;
    for millis in [0, 30, 200] {
        bench.await_none().await?;
        engine.initialise(site).await.map_err(plain)?;
        engine.configure(site, &Settings::default()).await.map_err(plain)?;
        engine.forget_earlier_life(site).await.map_err(plain)?;
        let killed = bench.spawn(StartMode::Normal)?;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        killed.kill()?;
    }
    bench.await_none().await?;
    let running = bench.start().await?;
    engine.initialise(site).await.map_err(plain)?;
    engine.reload(site, &Settings::default()).await.map_err(plain)?;
    engine.probe(site).await.map_err(plain)?;
    Ok(running)
}

//! What is peculiar to this engine: accounts in a file, two ports, a log of writes that must not be lost.

#![allow(clippy::disallowed_methods, reason = "tests plant files and look at them")]

mod accounts;
mod backups;
mod connections;
mod passwords;
mod replay;
mod root;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::IntoConnectionInfo;
use trove_conformance::{Bench, Running};
use trove_redis::{Redis, TLS_PORT};
use trove_strategy::{
    Applied, Datastore, EngineError, File, Grantee, Kind, Location, NewUser, Owner, Parameter, ParameterType, Settings,
    Size, StartMode, TlsMode, Users,
};

static REDIS: Redis = Redis::for_redis();

fn plain(error: EngineError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}

fn users() -> &'static dyn Users {
    &REDIS
}

fn settings(parameters: &[(&str, serde_json::Value)]) -> Settings {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let mut settings = Settings::default();
    settings.parameters = parameters;
    settings
}

async fn make_user(bench: &Bench<'_>, name: &str, password: &str) -> Result<()> {
    let id = Grantee { name: name.into(), host: "%".into() };
    users().create(&bench.site, &NewUser { id, password: password.into(), databases: vec![] }).await.map_err(plain)
}

/// redis-cli over the network, with the password in its environment.
struct Cli<'a> {
    bench: &'a Bench<'a>,
    tls: bool,
    login: Option<(&'a str, &'a str)>,
}

impl Cli<'_> {
    fn run(&self, words: &[&str]) -> Result<String> {
        let site = &self.bench.site;
        let mut command = Command::new("redis-cli");
        let port = if self.tls { TLS_PORT } else { site.port };
        command.args(["--no-auth-warning", "-h", &site.address.to_string(), "-p", &port.to_string()]);
        if self.tls {
            command.arg("--tls").arg("--cacert").arg(site.path(&site.tls.authority));
        }
        if let Some((user, password)) = self.login {
            command.args(["--user", user]).env("REDISCLI_AUTH", password);
        }
        let output = command.args(words).stdin(Stdio::null()).output().context("redis-cli")?;
        let said = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    }
}

/// A tenant's connection.
async fn login(bench: &Bench<'_>, user: &str, password: &str) -> Result<redis::aio::MultiplexedConnection> {
    let named = redis::RedisConnectionInfo::default().set_username(user).set_password(password);
    let address = redis::ConnectionAddr::Tcp(bench.site.address.to_string(), bench.site.port).into_connection_info()?;
    Ok(redis::Client::open(address.set_redis_settings(named))?.get_multiplexed_async_connection().await?)
}

fn cli<'a>(bench: &'a Bench<'a>, login: Option<(&'a str, &'a str)>) -> Cli<'a> {
    Cli { bench, tls: false, login }
}

async fn await_that(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds().await? {
        ensure!(Instant::now() < end, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Starts what was configured and waits for its end, which has to come by itself.
async fn ends_by_itself(bench: &Bench<'_>, running: Running) -> Result<()> {
    let mut running = running;
    let answered = bench.await_answer(&mut running).await;
    ensure!(answered.as_ref().is_err_and(|error| error.to_string().contains("ended")), "{answered:?}");
    Ok(())
}

#[tokio::test]
async fn tls_stands_beside_the_plain_port_and_can_be_enforced_and_renewed() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let login = Some(("app", "Secret-1"));
    let tls = Cli { bench: &bench, tls: true, login };
    let served = || -> Result<String> {
        let address = format!("{}:{TLS_PORT}", bench.site.address);
        let output = Command::new("openssl").args(["s_client", "-connect", &address]).stdin(Stdio::null()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(cli(&bench, login).run(&["PING"])?, "PONG");
    assert_eq!(tls.run(&["PING"])?, "PONG");

    // Another certificate at the same place is served after a reload; one that does not fit its key changes nothing.
    let engine = REDIS.engine();
    let write = async |at: &Location, text: String| {
        let file = File { at: at.clone(), contents: text.into_bytes(), mode: 0o640, owner: Owner::Agent };
        bench.site.host.write(file).await
    };
    let files = &bench.site.tls;
    let first = served()?;
    let next = another_certificate(&bench)?;
    write(&files.certificate, next.0.clone()).await?;
    ensure!(
        engine.reload(&bench.site, &Settings::default()).await.is_err(),
        "a certificate without its key was taken up"
    );
    let certificate = |text: &str| text.split("-----").nth(2).map(str::to_owned);
    ensure!(certificate(&served()?) == certificate(&first), "the old certificate is not served any more");
    write(&files.key, next.1).await?;
    write(&files.authority, next.0).await?;
    engine.reload(&bench.site, &Settings::default()).await.map_err(plain)?;
    ensure!(certificate(&served()?) != certificate(&first), "the new certificate is not served");
    assert_eq!(tls.run(&["PING"])?, "PONG");

    let mut enforced = Settings::default();
    enforced.tls = TlsMode::Enforced;
    bench.take_up(&enforced).await.map_err(plain)?;
    ensure!(cli(&bench, login).run(&["PING"])?.contains("refused"), "plain TCP in mode enforced");
    assert_eq!(tls.run(&["PING"])?, "PONG");
    // So it is from the first instant of a start on.
    running.stop(&bench).await?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    ensure!(cli(&bench, login).run(&["PING"])?.contains("refused"), "plain TCP in mode enforced after a start");
    assert_eq!(tls.run(&["PING"])?, "PONG");
    bench.take_up(&Settings::default()).await.map_err(plain)?;
    assert_eq!(cli(&bench, login).run(&["PING"])?, "PONG");
    running.stop(&bench).await
}

/// Another certificate and its key, made by openssl.
fn another_certificate(bench: &Bench<'_>) -> Result<(String, String)> {
    let (certificate, key) = (bench.scratch().join("n.pem"), bench.scratch().join("n.key"));
    let name = format!("subjectAltName=IP:{}", bench.site.address);
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=next", "-addext", &name, "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok((std::fs::read_to_string(certificate)?, std::fs::read_to_string(key)?))
}

#[tokio::test]
async fn transactions_and_scripts_are_replayed_and_a_loss_is_noticed() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let write = || -> Result<()> {
        let app = cli(&bench, Some(("app", "Secret-1")));
        app.run(&["EVAL", "redis.call('SET', 'a', '1') redis.call('SET', 'b', '2') return 1", "0"])?;
        Ok(())
    };
    write()?;
    running.kill()?;
    // As it was once common advice: the account that is switched off loses its rights too.
    let accounts = bench.site.data.join("users.acl");
    let well = std::fs::read_to_string(&accounts)?;
    let line = well.lines().find(|line| line.starts_with("user default ")).context("default")?;
    let reduced = well.replace(line, "user default off ~* &* -@all");
    std::fs::write(&accounts, &reduced)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    let answered = bench.await_answer(&mut running).await;
    let said = format!("{:?}", answered.err());
    ensure!(said.contains("not replayed whole"), "{said}\n{}", bench.log());
    running.kill()?;

    // The next configuration gives the rights back, and nothing was lost.
    REDIS.engine().configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    ensure!(std::fs::read_to_string(&accounts)?.contains("user default off ~* &* +@all -acl"), "not put right");
    let running = bench.spawn(StartMode::Normal)?;
    let app = cli(&bench, Some(("app", "Secret-1")));
    await_that("the data", async || Ok(app.run(&["MGET", "a", "b"])? == "1\n2")).await?;
    running.stop(&bench).await
}

#[tokio::test]
async fn a_server_that_still_reads_its_data_is_not_ready() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let fill = "for n = 1, 9000 do redis.call('SET', n, n) end";
    cli(&bench, Some(("app", "Secret-1"))).run(&["EVAL", fill, "0"])?;
    running.stop(&bench).await?;
    // Half a millisecond a key; answers in between.
    let path = bench.site.config.join("engine.conf");
    let slow = "key-load-delay 500\nloading-process-events-interval-bytes 1024\n";
    std::fs::write(&path, std::fs::read_to_string(&path)? + slow)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    let mut loading = 0;
    await_that("an answer", async || match REDIS.engine().probe(&bench.site).await {
        Ok(_) => Ok(true),
        Err(error) => {
            ensure!(error.kind() == Kind::Transient, "{}", error.chain());
            loading += usize::from(error.chain().contains("LOADING"));
            Ok(false)
        }
    })
    .await?;
    ensure!(loading > 0, "it was never seen to load\n{}", bench.log());
    bench.await_answer(&mut running).await?;
    running.stop(&bench).await
}

#[tokio::test]
async fn parameters_are_described_by_the_engine_and_tried_before_they_are_kept() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    let (engine, parameters) = (REDIS.engine(), REDIS.parameters().expect("announced"));
    let all = parameters.describe(&bench.site).await.map_err(plain)?;
    let found = |name: &str| all.iter().find(|parameter| parameter.name == name).cloned().context(name.to_owned());
    let hz: Parameter = found("hz")?;
    ensure!(hz.kind == ParameterType::Integer && hz.min == Some(0.into()) && hz.max.is_some(), "{hz:?}");
    ensure!(found("maxclients")?.max == Some(1_000_000.into()), "more would keep it from answering");
    ensure!(found("maxmemory")?.unit.as_deref() == Some("B"));
    ensure!(found("maxmemory-policy")?.allowed.contains(&"allkeys-lru".to_owned()));
    ensure!(found("rdbcompression")?.kind == ParameterType::Boolean);
    ensure!(found("appendfsync")?.default.as_deref() == Some("everysec"), "the engine's own default");
    let databases = found("databases")?;
    ensure!(databases.restart_required && databases.kind == ParameterType::Integer, "{databases:?}");
    for name in ["port", "dir", "dbfilename", "aclfile", "requirepass", "masterauth", "tls-port", "appendonly"] {
        ensure!(found(name).is_err(), "{name} is offered");
        let refused = engine.configure(&bench.site, &settings(&[(name, "1".into())])).await;
        ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name} is accepted");
    }

    let value = async |name: &str| -> Result<String> {
        let values = parameters.values(&bench.site).await.map_err(plain)?;
        values.into_iter().find_map(|(known, value)| (known == name).then_some(value)).context(name.to_owned())
    };
    ensure!(value("maxmemory").await? == (307u64 << 20).to_string(), "{}", value("maxmemory").await?);
    ensure!(value("appendfsync").await? == "always");
    let several = [
        ("hz", 50.into()),
        ("databases", 3.into()),
        ("save", "900 1 300 10".into()),
        ("client-output-buffer-limit", "pubsub 1024 512 30".into()),
        ("notify-keyspace-events", "Ex".into()),
        ("rdbcompression", false.into()),
    ];
    let applied = bench.take_up(&settings(&several)).await.map_err(plain)?;
    for (name, became) in &applied {
        let expected = if name == "databases" { Applied::NeedsRestart } else { Applied::Live };
        ensure!(*became == expected, "{name}: {became:?}");
    }
    ensure!(applied.len() == several.len(), "{applied:?}");
    ensure!(value("hz").await? == "50" && value("save").await? == "900 1 300 10", "{}", value("save").await?);
    ensure!(value("databases").await? == "16", "it needs a restart");
    running.stop(&bench).await?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    ensure!(value("databases").await? == "3" && value("hz").await? == "50");
    ensure!(value("client-output-buffer-limit").await?.contains("pubsub 1024 512 30"));

    // What is not chosen any more is as if it never had been.
    bench.take_up(&Settings::default()).await.map_err(plain)?;
    ensure!(value("hz").await? == "10" && value("save").await?.is_empty() && value("rdbcompression").await? == "yes");
    ensure!(value("notify-keyspace-events").await?.is_empty());

    let before = std::fs::read_to_string(bench.site.config.join("user.conf"))?;
    let wrong = [
        ("hz", "abc"),
        ("databases", "0"),
        ("maxmemory-policy", "none"),
        ("no-such", "1"),
        ("maxclients", "1149998447"),
        // More memory than it has: the server ends without a line that names it.
        ("databases", "50000000"),
    ];
    for (name, wrong) in wrong {
        let refused = bench.take_up(&settings(&[(name, wrong.into())])).await;
        let said = refused.as_ref().err().map(EngineError::chain).unwrap_or_default();
        ensure!(said.contains(name) && refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name}: {said}");
    }
    ensure!(std::fs::read_to_string(bench.site.config.join("user.conf"))? == before, "a wrong value was written");
    running.stop(&bench).await
}

#[tokio::test]
async fn a_size_without_room_for_what_is_held_is_refused_with_the_figures() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let app = cli(&bench, Some(("app", "Secret-1")));
    let fits = async |memory_mib| REDIS.engine().fits(&bench.site, Size { memory_mib, ..bench.site.size }).await;
    fits(100).await.map_err(plain)?;
    ensure!(app.run(&["SETRANGE", "large", "99999999", "x"])? == "100000000");
    let refused = fits(150).await.err().context("150 MiB are taken for enough")?;
    ensure!(refused.kind() == Kind::Invalid, "{}", refused.chain());
    let figures = refused.chain().contains("of 150 MiB data may have 90 MiB");
    ensure!(figures && !refused.chain().starts_with('0'), "{}", refused.chain());
    fits(300).await.map_err(plain)?;
    // It may be emptied to fit.
    ensure!(app.run(&["DEL", "large"])? == "1");
    fits(100).await.map_err(plain)?;
    running.stop(&bench).await
}

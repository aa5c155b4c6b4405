//! The server: initialise, configure, start, ask.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use trove_strategy::{
    Applied, Directory, Engine, EngineError, File, FirstStart, Health, Kind, Location, Metric, Owner, Role, Settings,
    Site, Size, StartMode, StartSpec,
};

use crate::client::Session;
use crate::config::{self, Files};
use crate::connections::make_room;
use crate::{Redis, acl, backup};

/// A gibibyte of data is read in about ten seconds.
const START: Duration = Duration::from_secs(1800);
const ANSWER: Duration = Duration::from_secs(2);

/// The longest configuration file that is read, bytes.
const CONFIG_BYTES: u64 = 1 << 20;

pub(crate) async fn text_of(site: &Site, at: &Location) -> Result<String, EngineError> {
    let bytes = site.host.read(at, CONFIG_BYTES).await?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// INFO as fields.
pub(crate) async fn info(session: &mut Session, attempt: &str) -> Result<BTreeMap<String, String>, EngineError> {
    let text: String = session.ask(attempt, &redis::cmd("INFO")).await?;
    let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok(text.lines().filter_map(field).collect())
}

/// Bytes of memory that the data take, with what the server itself has.
pub(crate) fn used_memory(info: &BTreeMap<String, String>, attempt: &str) -> Result<u64, EngineError> {
    let used = info.get("used_memory").and_then(|bytes| bytes.parse().ok());
    used.ok_or_else(|| {
        EngineError::new(Kind::Fatal, format!("{attempt}: the server does not say how much memory it uses"))
    })
}

/// Looks for refusals while the log of writes was replayed. The server's own log does not tell: a tenant's library writes
/// there what it likes, each time that it is loaded. The server's list of refusals names the client, and the one that
/// replays has a number that no connection gets.
async fn replayed_whole(session: &mut Session) -> Result<(), EngineError> {
    const REPLAYING: &str = "id=18446744073709551615 ";
    const ALL: u32 = 1 << 20;
    let mut command = redis::cmd("ACL");
    command.arg("LOG").arg(ALL);
    let refusals: Vec<BTreeMap<String, redis::Value>> = session.ask("look for refusals", &command).await?;
    let text = |refusal: &BTreeMap<String, redis::Value>, field: &str| {
        refusal.get(field).and_then(|value| redis::from_redis_value_ref::<String>(value).ok()).unwrap_or_default()
    };
    let Some(refused) = refusals.iter().find(|refusal| text(refusal, "client-info").starts_with(REPLAYING)) else {
        return Ok(());
    };
    let (times, what) = (text(refused, "count"), text(refused, "object"));
    let reason = format!("the log of writes was not replayed whole: {what:?} was refused {times} times");
    Err(EngineError::new(Kind::Fatal, reason))
}

async fn within<T>(attempt: &str, ask: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    let late = |_| EngineError::new(Kind::Transient, format!("{attempt}: no answer within 2 s"));
    tokio::time::timeout(ANSWER, ask).await.map_err(late)?
}

/// Sets what can be set while the server runs, all of it or nothing; the rest waits for the next start.
async fn set(session: &mut Session, wanted: BTreeMap<String, String>) -> Result<(), EngineError> {
    let refused = set_each(session, wanted).await?.into_iter().find_map(|(name, became)| match became {
        Applied::Refused(said) => Some(EngineError::new(Kind::Invalid, format!("the parameter {name:?}: {said}"))),
        _ => None,
    });
    refused.map_or(Ok(()), Err)
}

/// Sets what the server takes while it runs, and answers what it does not take.
pub(crate) async fn set_each(
    session: &mut Session,
    mut wanted: BTreeMap<String, String>,
) -> Result<BTreeMap<String, Applied>, EngineError> {
    let mut left = BTreeMap::new();
    while !wanted.is_empty() {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET");
        for (name, value) in &wanted {
            command.arg(name).arg(value);
        }
        let Err(error) = session.ask::<()>("reload the configuration", &command).await else { break };
        let said = error.chain();
        let name = said.split('\'').nth(1).unwrap_or_default();
        let immutable = said.contains("immutable");
        match wanted.remove_entry(name) {
            None => return Err(error),
            Some((name, _)) => {
                left.insert(name, if immutable { Applied::NeedsRestart } else { Applied::Refused(said) })
            }
        };
    }
    Ok(left)
}

#[async_trait]
impl Engine for Redis {
    async fn initialise(&self, site: &Site) -> Result<FirstStart, EngineError> {
        site.host.make_directory(&Directory::Data.join("data"), 0o700, Owner::Engine).await?;
        backup::forget(site).await?;
        acl::ensure(site, &self.held.saving).await?;
        Ok(FirstStart::Normal)
    }

    async fn configure(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        let files = Files::new();
        let user = config::user(site, settings)?;
        acl::ensure(site, &self.held.saving).await?;
        let main = config::main(site, settings);
        if let Ok(_nobody_reads) = self.taking.try_write() {
            // What a backup left that an earlier life of the agent has taken.
            backup::forget(site).await?;
        }
        for (at, text) in [(files.user, config::lines(&user)), (files.main, main)] {
            site.host.write(File { at, contents: text.into_bytes(), mode: 0o640, owner: Owner::Agent }).await?;
        }
        Ok(())
    }

    fn start_spec(&self, site: &Site, _settings: &Settings, mode: StartMode) -> StartSpec {
        let mut args = vec![site.path(&Files::new().main).to_string_lossy().into_owned()];
        if mode != StartMode::Normal {
            args.extend(["--port", "0", "--tls-port", "0"].map(str::to_owned));
        }
        let mut spec = StartSpec::new(self.program(site), args);
        spec.start_deadline = START;
        spec
    }

    async fn secure(&self, _site: &Site) -> Result<(), EngineError> {
        // Nothing is left to do: the accounts are there before the first start.
        Ok(())
    }

    async fn probe(&self, site: &Site) -> Result<Health, EngineError> {
        within("probe", async {
            let mut session = self.held.session(site).await?;
            // INFO is answered while the data is still being read; this is not.
            session.ask::<String>("probe", &redis::cmd("PING")).await?;
            let info = info(&mut session, "probe").await?;
            let field = |name: &str| info.get(name).map(String::as_str).unwrap_or_default();
            if field("unexpected_error_replies") != "0" {
                replayed_whole(&mut session).await?;
            }
            make_room(&mut session, &info).await?;
            let version = info.get("valkey_version").or_else(|| info.get("redis_version"));
            let mut health = Health::new(version.cloned().unwrap_or_default());
            health.role = if field("role") == "slave" { Role::Replica } else { Role::Primary };
            Ok(health)
        })
        .await
    }

    async fn metrics(&self, site: &Site) -> Result<Vec<Metric>, EngineError> {
        const FIELDS: [(&str, &str); 11] = [
            ("connections", "connected_clients"),
            ("connections_max", "maxclients"),
            ("commands_total", "total_commands_processed"),
            ("key_hits_total", "keyspace_hits"),
            ("key_misses_total", "keyspace_misses"),
            ("evicted_keys_total", "evicted_keys"),
            ("expired_keys_total", "expired_keys"),
            ("memory_used_bytes", "used_memory"),
            ("memory_max_bytes", "maxmemory"),
            ("log_bytes", "aof_current_size"),
            ("log_position_bytes", "master_repl_offset"),
        ];
        let ask = async {
            let mut session = self.held.session(site).await?;
            let slow: f64 = session.ask("read metrics", redis::cmd("SLOWLOG").arg("LEN")).await?;
            Ok((info(&mut session, "read metrics").await?, slow))
        };
        let (info, slow) = within("read metrics", ask).await?;
        let metric = |(name, field): (&'static str, &str)| Some(Metric::new(name, info.get(field)?.parse().ok()?));
        // `db0:keys=5,expires=0,avg_ttl=0`
        let numbered = |name: &str| name.strip_prefix("db").is_some_and(|number| number.parse::<u32>().is_ok());
        let count = |value: &String| value.strip_prefix("keys=")?.split(',').next()?.parse::<f64>().ok();
        let keys = info.iter().filter(|(name, _)| numbered(name)).filter_map(|(_, value)| count(value)).sum();
        Ok(FIELDS
            .into_iter()
            .filter_map(metric)
            .chain([Metric::new("keys", keys), Metric::new("slow_queries", slow)])
            .collect())
    }

    async fn fits(&self, site: &Site, size: Size) -> Result<(), EngineError> {
        let attempt = "ask for the memory in use";
        let info = within(attempt, async { info(&mut self.held.session(site).await?, attempt).await }).await?;
        let used = used_memory(&info, attempt)?;
        // Nothing is evicted while the data is read at a start, so it has to fit whatever the policy is.
        let room = config::memory_mib(size);
        if used <= room << 20 {
            return Ok(());
        }
        let used = used.div_ceil(1 << 20);
        let reason =
            format!("{used} MiB of memory are in use, and of {} MiB data may have {room} MiB", size.memory_mib);
        Err(EngineError::new(Kind::Invalid, reason))
    }

    async fn reload(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        let mut session = self.held.session(site).await?;
        let current = session.parameters("reload the configuration").await?;
        let mut wanted = config::room(site, settings)?;
        wanted.retain(|name, value| current.get(name) != Some(value));
        for (name, value) in config::network(site, settings.tls) {
            // A certificate is read again when its file has the same name; a listener that is there stays.
            if name.ends_with("-file") || current.get(name) != Some(&value) {
                wanted.insert(name.to_owned(), value);
            }
        }
        set(&mut session, wanted).await?;
        // An older version gave it other rights.
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(acl::ROOT).arg(acl::of_root());
        session.ask::<()>("reload the accounts", &command).await?;
        self.save(&mut session, "reload the accounts").await
    }
}

//! The server: initialise, configure, start, ask.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use trove_strategy::{
    Command, Directory, Engine, EngineError, File, FirstStart, Health, Kind, Metric, Owner, Role, Settings, Signal,
    Site, StartMode, StartSpec,
};

use crate::Postgresql;
use crate::client::{ADMIN, HOME, Session, within};
use crate::config::{self, Files};
use crate::{metrics, repair};

const INITDB: Duration = Duration::from_secs(120);
const PROBE: Duration = Duration::from_secs(2);
pub(crate) const RELOAD: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// Where the data directory is made before it gets its name.
pub(crate) const UNFINISHED: &str = "data.new";

/// The server program.
pub(crate) fn program(site: &Site) -> PathBuf {
    site.installation.bindir.join("postgres")
}

#[async_trait]
impl Engine for Postgresql {
    async fn initialise(&self, site: &Site) -> Result<FirstStart, EngineError> {
        if site.host.exists(&Directory::Data.join("data/PG_VERSION")).await? {
            return Ok(FirstStart::Normal);
        }
        let new = Directory::Data.join(UNFINISHED);
        site.host.remove(&new).await?;
        // The account has no password: it comes in through the private socket alone, where the system vouches for the
        // caller. No server runs before our own access rules are in place.
        let initdb = Command::engine(site.installation.bindir.join("initdb"))
            .arg("--pgdata")
            .arg(site.path(&new).to_string_lossy())
            .arg(format!("--username={ADMIN}"))
            .arg("--auth-local=peer")
            .arg("--auth-host=scram-sha-256")
            .arg("--data-checksums")
            .arg("--encoding=UTF8")
            .arg("--locale=C.UTF-8")
            .arg("--no-instructions")
            .deadline(INITDB);
        site.host.run(initdb).await?;
        site.host.rename(&new, &Directory::Data.join("data")).await?;
        Ok(FirstStart::Normal)
    }

    async fn configure(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        let files = Files::new();
        let texts = [
            (files.main, config::main(site, settings)?),
            (files.access, config::access(settings)),
            (files.accounts, config::accounts(site)),
        ];
        for (at, text) in texts {
            // The engine reads them and a tenant with a shell cannot change who gets in.
            site.host.write(File { at, contents: text.into_bytes(), mode: 0o640, owner: Owner::Agent }).await?;
        }
        Ok(())
    }

    fn start_spec(&self, site: &Site, _settings: &Settings, mode: StartMode) -> StartSpec {
        let mut args = vec!["-D".to_owned(), site.data.to_string_lossy().into_owned()];
        args.extend(config::owned(site));
        if mode != StartMode::Normal {
            args.extend(["-c".to_owned(), "listen_addresses=".to_owned()]);
        }
        let mut spec = StartSpec::new(program(site), args);
        // The fast shutdown: it cuts sessions.
        spec.stop = Signal::Interrupt;
        spec
    }

    async fn forget_earlier_life(&self, site: &Site) -> Result<(), EngineError> {
        // Both name the server's process, and a server does not start while a process of that number is there.
        site.host.remove(&Directory::Data.join("data/postmaster.pid")).await?;
        Ok(site.host.remove(&Directory::Run.join(format!(".s.PGSQL.{}.lock", site.port))).await?)
    }

    async fn secure(&self, _site: &Site) -> Result<(), EngineError> {
        // Nothing is left to do: see `initialise`.
        Ok(())
    }

    async fn repair(&self, site: &Site) -> Result<Option<String>, EngineError> {
        repair::repair(site).await
    }

    async fn probe(&self, site: &Site) -> Result<Health, EngineError> {
        // No view: a superuser of a tenant's can replace one of the server's, and functions in it would run with the
        // rights of this session.
        let sql = "select (select oid = 10 and rolsuper from pg_catalog.pg_authid where rolname = session_user), \
                   pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('server_version'), \
                   case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() else pg_catalog.pg_current_wal_lsn() end, \
                   case when pg_catalog.pg_is_in_recovery() and pg_catalog.pg_last_wal_receive_lsn() <> pg_catalog.pg_last_wal_replay_lsn() \
                   then extract(epoch from now() - pg_catalog.pg_last_xact_replay_timestamp()) end";
        let rows = within(PROBE, "probe", self.held.rows(site, "probe", sql)).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        let [own, replica, version, position, lag] = <[String; 5]>::try_from(row)
            .map_err(|_| EngineError::new(Kind::Fatal, "probe: the server answered without a row"))?;
        if own != "t" {
            let reason = format!("probe: the account {ADMIN:?} is not the superuser that it was made as");
            return Err(EngineError::new(Kind::LockedOut, reason));
        }
        let mut health = Health::new(version.split_whitespace().next().unwrap_or_default());
        health.role = if replica == "t" { Role::Replica } else { Role::Primary };
        health.position = Some(position).filter(|position| !position.is_empty());
        health.lag_s = lag.parse().ok();
        Ok(health)
    }

    async fn metrics(&self, site: &Site) -> Result<Vec<Metric>, EngineError> {
        let (attempt, sql) = ("read metrics", metrics::statement());
        metrics::figures(within(PROBE, attempt, self.held.rows(site, attempt, &sql)).await?)
    }

    async fn reload(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        let reload = async {
            let home = Session::open(site, HOME).await?;
            // An unknown name makes the server ignore the whole file, and a bad value its line, and both are only logged.
            let sql = "select f.name, f.error from pg_show_all_file_settings() f left join pg_show_all_settings() s \
                       on lower(s.name) = lower(f.name) where f.error is not null and s.context is distinct from 'postmaster'";
            // What becomes of a parameter that was chosen is said when it is applied.
            let chosen = |row: &Vec<String>| {
                settings.parameters.keys().any(|name| row.first().is_some_and(|of| name.eq_ignore_ascii_case(of)))
            };
            let wrong = home.rows("check the configuration", sql).await?.into_iter().find(|row| !chosen(row));
            if let Some(row) = wrong {
                return Err(EngineError::new(Kind::Invalid, format!("reload the configuration: {}", row.join(": "))));
            }
            take_up(&home).await
        };
        within(RELOAD, "reload the configuration", reload).await
    }
}

/// Makes the server read its files again and waits until it has: a session hears of it after the server itself.
pub(crate) async fn take_up(home: &Session) -> Result<(), EngineError> {
    let attempt = "reload the configuration";
    let loaded = "select pg_conf_load_time()";
    let before = home.rows(attempt, loaded).await?;
    home.rows(attempt, "select pg_reload_conf()").await?;
    while home.rows(attempt, loaded).await? == before {
        tokio::time::sleep(ASK_AGAIN).await;
    }
    Ok(())
}

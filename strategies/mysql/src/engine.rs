//! The server: configure, start, ask.

use std::time::Duration;

use async_trait::async_trait;
use trove_strategy::{
    Directory, Engine, EngineError, File, FirstStart, Health, Kind, Metric, Owner, Settings, Site, StartMode, StartSpec,
};

use crate::client::{Session, literal, within};
use crate::{Flavour, Mysql, config, install, metrics, names, plain_version, repair, root};

const PROBE: Duration = Duration::from_secs(2);
const RELOAD: Duration = Duration::from_secs(5);

#[async_trait]
impl Engine for Mysql {
    async fn initialise(&self, site: &Site) -> Result<FirstStart, EngineError> {
        install::initialise(self.flavour, site).await?;
        Ok(FirstStart::Normal)
    }

    async fn configure(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        let text = config::main(self.flavour, site, settings)?;
        for at in config::empty() {
            site.host.make_directory(&at, 0o750, Owner::Agent).await?;
        }
        site.host.make_directory(&config::temporary(), 0o700, Owner::Engine).await?;
        let at = config::file();
        Ok(site.host.write(File { at, contents: text.into_bytes(), mode: 0o640, owner: Owner::Agent }).await?)
    }

    fn start_spec(&self, site: &Site, _settings: &Settings, mode: StartMode) -> StartSpec {
        let mut args = vec![format!("--defaults-file={}", site.path(&config::file()).display())];
        if mode != StartMode::Normal {
            args.push("--skip-networking".to_owned());
        }
        let mut spec = StartSpec::new(self.flavour.program(site), args);
        spec.env = install::modes();
        spec
    }

    async fn forget_earlier_life(&self, site: &Site) -> Result<(), EngineError> {
        // They name the server's process, and MySQL does not start while a process of that number is there.
        for name in ["engine.pid", "engine.sock.lock", "engine.sock"] {
            site.host.remove(&Directory::Run.join(name)).await?;
        }
        site.host.remove(&config::temporary()).await?;
        Ok(site.host.make_directory(&config::temporary(), 0o700, Owner::Engine).await?)
    }

    /// The account was made before the server ever ran: only that it is alone is verified.
    async fn secure(&self, site: &Site) -> Result<(), EngineError> {
        let mut session = self.session(site).await?;
        let others = root::others(self.flavour, site, &mut session).await?;
        if others.is_empty() {
            return Ok(());
        }
        let reason = format!("secure: there are {} other accounts that can log in", others.len());
        Err(EngineError::new(Kind::Fatal, reason))
    }

    async fn repair(&self, site: &Site) -> Result<Option<String>, EngineError> {
        repair::repair(self.flavour, site).await
    }

    async fn probe(&self, site: &Site) -> Result<Health, EngineError> {
        within(PROBE, "probe", async {
            let mut session = self.session(site).await?;
            has_all_rights(self.flavour, site, &mut session).await?;
            let position = self.flavour.either("@@global.gtid_current_pos", "@@global.gtid_executed");
            let row = session.rows("probe", &format!("select version(), {position}")).await?.into_iter().next();
            let [version, position] = <[String; 2]>::try_from(row.unwrap_or_default())
                .map_err(|_| EngineError::new(Kind::Fatal, "probe: the server answered without a row"))?;
            shorten_log(site, &mut session).await?;
            let mut health = Health::new(plain_version(&version));
            health.position = Some(position.replace('\n', "")).filter(|position| !position.is_empty());
            Ok(health)
        })
        .await
    }

    async fn metrics(&self, site: &Site) -> Result<Vec<Metric>, EngineError> {
        let ask = async { metrics::ask(self.flavour, &mut self.session(site).await?).await };
        within(PROBE, "read metrics", ask).await
    }

    async fn reload(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        let attempt = "reload the configuration";
        within(RELOAD, attempt, async {
            let mut session = self.session(site).await?;
            // A pair that does not fit is refused, and the old one stays.
            let certificates = self.flavour.either("flush no_write_to_binlog ssl", "alter instance reload tls");
            session.run("reload the certificate", certificates).await?;
            for (name, value) in config::live(self.flavour, site, settings) {
                let value = match value.as_str() {
                    "ON" | "OFF" | "0" | "1" => value,
                    text => literal(text),
                };
                session.run(attempt, &format!("set global {name} = {value}")).await?;
            }
            Ok(())
        })
        .await
    }
}

/// The question whether the agent's account can still do everything.
pub(crate) fn all_rights(flavour: Flavour, site: &Site) -> String {
    let admin = format!("'{}'@'{}'", names::admin(flavour, site), names::LOCAL);
    format!(
        "select count(*) = 16 from information_schema.user_privileges where grantee = {} and is_grantable = 'YES' and \
         privilege_type in ('SUPER', 'CREATE USER', 'SELECT', 'INSERT', 'UPDATE', 'DELETE', 'CREATE', 'DROP', \
         'RELOAD', 'PROCESS', 'ALTER', 'INDEX', 'EVENT', 'TRIGGER', 'FILE', 'SHUTDOWN')",
        literal(&admin)
    )
}

async fn has_all_rights(flavour: Flavour, site: &Site, session: &mut Session<'_>) -> Result<(), EngineError> {
    let rights = session.value("probe", &all_rights(flavour, site)).await?;
    if rights.as_deref() == Some("1") {
        return Ok(());
    }
    let admin = names::admin(flavour, site);
    let reason = format!("probe: the account {admin:?} has not all the rights that it was made with");
    Err(EngineError::new(Kind::LockedOut, reason))
}

/// Removes the oldest files of the log of changes when it has more than its part of the volume. The one that is written stays.
async fn shorten_log(site: &Site, session: &mut Session<'_>) -> Result<(), EngineError> {
    let files = session.rows("look at the log of changes", "show binary logs").await?;
    let size = |row: &Vec<String>| row.get(1).and_then(|size| size.parse::<u64>().ok()).unwrap_or_default();
    let mut total = files.iter().map(size).fold(0, u64::saturating_add);
    let mut first = 0;
    while total > config::log_bytes(site) && first + 1 < files.len() {
        total = total.saturating_sub(size(&files[first]));
        first += 1;
    }
    let Some(name) = files.get(first).and_then(|row| row.first()).filter(|_| first > 0) else { return Ok(()) };
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.') {
        return Ok(());
    }
    session.run("shorten the log of changes", &format!("purge binary logs to '{name}'")).await
}

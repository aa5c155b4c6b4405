//! The server: initialise, configure, start, ask.

use std::time::Duration;

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use secrecy::ExposeSecret;
use trove_strategy::{
    Directory, Engine, EngineError, File, FirstStart, Health, Kind, Location, Metric, Owner, Role, Settings, Site,
    StartMode, StartSpec, TlsMode,
};

use crate::client::{ADMIN, Session, admin_password, socket, within};
use crate::config::{self, Purpose, program};
use crate::names::HOME;
use crate::roles::{self, all_rights};
use crate::{Mongodb, metrics, repair, replica_set};

const PROBE: Duration = Duration::from_secs(2);
const RELOAD: Duration = Duration::from_secs(15);
/// Recovery of a large journal included.
const START: Duration = Duration::from_secs(1800);

pub(crate) fn data() -> Location {
    Directory::Data.join("data")
}

/// Is there until the agent's account has been made and nobody else can be.
pub(crate) fn unsecured() -> Location {
    Directory::Data.join("unsecured")
}

/// The version of the server, which it tells everybody.
async fn version(session: &mut Session) -> Result<String, EngineError> {
    let info = session.run("probe", HOME, doc! {"buildInfo": 1}).await?;
    Ok(info.get_str("version").unwrap_or_default().to_owned())
}

fn position(hello: &Document) -> Option<String> {
    let written = hello.get_document("lastWrite").ok()?.get_document("opTime").ok()?.get_timestamp("ts").ok()?;
    Some(format!("{}.{}", written.time, written.increment))
}

/// Whether the account that has logged in is allowed everything.
fn has_all_rights(status: &Document) -> bool {
    let roles = status.get_document("authInfo").and_then(|info| info.get_array("authenticatedUserRoles"));
    roles.is_ok_and(|roles| all_rights().into_iter().all(|right| roles.contains(&Bson::Document(right))))
}

impl Mongodb {
    async fn probed(&self, site: &Site) -> Result<Health, EngineError> {
        if site.host.exists(&unsecured()).await? {
            // There is no account yet. A server that listens for tenants is a set, and is not well like this.
            let mut nobody = Session::greet(site).await?;
            let hello = nobody.run("probe", HOME, doc! {"hello": 1}).await?;
            if hello.get_bool("isWritablePrimary").unwrap_or(false) && !hello.contains_key("setName") {
                return Ok(Health::new(version(&mut nobody).await?));
            }
            return Err(EngineError::new(Kind::Transient, "probe: the agent's account has not been made yet"));
        }
        let session = &mut self.held.session(site).await?;
        let status = session.run("probe", HOME, doc! {"connectionStatus": 1}).await?;
        if !has_all_rights(&status) {
            let reason = format!("probe: the account {ADMIN:?} has not the rights that it was made with");
            return Err(EngineError::new(Kind::LockedOut, reason));
        }
        let hello = session.run("probe", HOME, doc! {"hello": 1}).await?;
        let is_primary = hello.get_bool("isWritablePrimary").unwrap_or(false);
        let is_replica = hello.get_bool("secondary").unwrap_or(false);
        if !is_primary {
            replica_set::found(site, session).await?;
        }
        roles::follow_room(site, session).await?;
        let mut health = Health::new(version(session).await?);
        health.role = if is_replica { Role::Replica } else { Role::Primary };
        health.position = position(&hello);
        Ok(health)
    }

    /// Has a server that takes any connection demand TLS. The other way it goes with the next start: the server never lowers
    /// its demands.
    async fn follow_mode(&self, session: &mut Session, tls: TlsMode) -> Result<(), EngineError> {
        let attempt = "demand TLS";
        let asked = session.run(attempt, HOME, doc! {"getParameter": 1, "tlsMode": 1}).await?;
        if tls != TlsMode::Enforced || asked.get_str("tlsMode").is_ok_and(|mode| mode == "requireTLS") {
            return Ok(());
        }
        session.run(attempt, HOME, doc! {"setParameter": 1, "tlsMode": "requireTLS"}).await.map(|_| ())
    }
}

#[async_trait]
impl Engine for Mongodb {
    async fn initialise(&self, site: &Site) -> Result<FirstStart, EngineError> {
        if !site.host.exists(&data()).await? {
            let mark = File { at: unsecured(), contents: Vec::new(), mode: 0o600, owner: Owner::Engine };
            site.host.write(mark).await?;
            site.host.make_directory(&data(), 0o700, Owner::Engine).await?;
        }
        let is_unsecured = site.host.exists(&unsecured()).await?;
        Ok(if is_unsecured { FirstStart::Private } else { FirstStart::Normal })
    }

    async fn configure(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        config::write(site, settings).await
    }

    fn start_spec(&self, site: &Site, _settings: &Settings, mode: StartMode) -> StartSpec {
        let purpose = if mode == StartMode::Normal { Purpose::Normal } else { Purpose::Private };
        let file = site.path(&purpose.file()).to_string_lossy().into_owned();
        let mut spec = StartSpec::new(program(site), vec!["--config".to_owned(), file]);
        spec.start_deadline = START;
        spec
    }

    /// The server itself locks its directory, and looks at what it finds in its lock to know whether it was killed. A first
    /// start that did not come to its end is made once more from nothing.
    async fn forget_earlier_life(&self, site: &Site) -> Result<(), EngineError> {
        if site.host.exists(&unsecured()).await? {
            site.host.remove(&data()).await?;
            site.host.make_directory(&data(), 0o700, Owner::Engine).await?;
        }
        Ok(site.host.remove(&socket(site)).await?)
    }

    async fn secure(&self, site: &Site) -> Result<(), EngineError> {
        let attempt = format!("make the account {ADMIN:?}");
        let password = admin_password(site).await?;
        let mut nobody = Session::greet(site).await?;
        let create = |name: &str, password: &str| {
            doc! {
                "createUser": name, "pwd": password, "roles": all_rights(), "mechanisms": ["SCRAM-SHA-256"],
            }
        };
        // It is there already, and so nobody may make another, after a crash.
        const CLOSED: [i32; 2] = [13, 51003];
        nobody.write(&attempt, HOME, create(ADMIN, password.expose_secret()), &CLOSED).await?;
        let session = &mut self.held.session(site).await?;
        roles::put_root(session, false).await?;
        let stranger = format!("stranger-{:016x}", rand::random::<u64>());
        if nobody.write("look for an open door", HOME, create(&stranger, &stranger), &CLOSED).await? {
            let reason = "whoever reaches the server's socket can make accounts without a login";
            return Err(EngineError::new(Kind::Fatal, reason));
        }
        Ok(site.host.remove(&unsecured()).await?)
    }

    async fn repair(&self, site: &Site) -> Result<Option<String>, EngineError> {
        if site.host.exists(&unsecured()).await? {
            return Ok(None);
        }
        repair::repair(site).await
    }

    async fn probe(&self, site: &Site) -> Result<Health, EngineError> {
        within(PROBE, "probe", self.probed(site)).await
    }

    async fn metrics(&self, site: &Site) -> Result<Vec<Metric>, EngineError> {
        within(PROBE, "read metrics", async { metrics::read(&mut self.held.session(site).await?).await }).await
    }

    async fn reload(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        config::write_pem(site).await?;
        let reload = async {
            let session = &mut self.held.session(site).await?;
            // An error when the certificate does not fit its key: the old pair stays.
            session.run("take up the certificate", HOME, doc! {"rotateCertificates": 1}).await?;
            self.follow_mode(session, settings.tls).await?;
            roles::follow_room(site, session).await
        };
        within(RELOAD, "reload the configuration", reload).await
    }
}

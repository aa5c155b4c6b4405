//! Time and length limits on every call into a strategy. Without the time limits a strategy that hangs would block the
//! agent; without the length limits a tenant who is superuser could make the engine return megabytes, and the
//! controller would refuse the agent's reports, which have a greatest length.
//!
//! Jobs have deadlines of their own; `WORK` only catches a call that its job does not end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde_json::Value;
use trove_strategy::{
    Applied, Backup, CharacterSet, Database, Databases, Datastore, Engine, EngineError, FirstStart, Grantee, Health,
    Host, Identity, Incremental, Installation, Kind, LogPiece, Logs, Metric, NewUser, PIECE_LIMIT, Parameter,
    Parameters, Root, SecretString, Settings, Sink, Site, Size, Source, StartMode, StartSpec, Taken, User, UserChange,
    Users,
};

/// Limit of a liveness probe.
const PROBE: Duration = Duration::from_secs(2);
/// Limit of a call that a controller waits for.
const QUESTION: Duration = Duration::from_secs(5);
/// Limit of writing the configuration and of making the server reload it.
const CONFIGURATION: Duration = Duration::from_secs(60);
/// Greatest length of a version or a replication position, bytes. Real ones have a few dozen.
const WORD: usize = 128;
/// Greatest length of an error's text, bytes.
const ERROR: usize = 2000;
/// Limit of every other call.
const WORK: Duration = Duration::from_secs(900);

/// A datastore whose every call has a time limit.
pub struct Bounded(Arc<dyn Datastore>);

impl Bounded {
    pub fn new(datastore: Arc<dyn Datastore>) -> Self {
        Self(datastore)
    }
}

async fn within<T>(
    limit: Duration,
    attempt: &str,
    call: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let late = |_| EngineError::new(Kind::Transient, format!("{attempt}: no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, call).await.map_err(late)?.map_err(short)
}

/// Cuts a text from the engine to at most `most` bytes, between two characters.
fn cut(text: String, most: usize) -> String {
    if text.len() <= most { text } else { text[..text.floor_char_boundary(most)].to_owned() }
}

fn short(error: EngineError) -> EngineError {
    let text = error.chain();
    if text.len() <= ERROR { error } else { EngineError::new(error.kind(), cut(text, ERROR)) }
}

fn missing(capability: &str) -> EngineError {
    EngineError::new(Kind::Invalid, format!("the datastore does not announce {capability}"))
}

#[async_trait]
impl Datastore for Bounded {
    fn identity(&self) -> Identity {
        self.0.identity()
    }

    async fn installations(&self, host: &dyn Host, bindir: Option<&Path>) -> Result<Vec<Installation>, EngineError> {
        within(CONFIGURATION, "look for the engine", self.0.installations(host, bindir)).await
    }

    fn engine(&self) -> &dyn Engine {
        self
    }

    fn databases(&self) -> Option<&dyn Databases> {
        self.0.databases().map(|_| self as &dyn Databases)
    }

    fn users(&self) -> Option<&dyn Users> {
        self.0.users().map(|_| self as &dyn Users)
    }

    fn root(&self) -> Option<&dyn Root> {
        self.0.root().map(|_| self as &dyn Root)
    }

    fn parameters(&self) -> Option<&dyn Parameters> {
        self.0.parameters().map(|_| self as &dyn Parameters)
    }

    fn backup(&self) -> Option<&dyn Backup> {
        self.0.backup().map(|_| self as &dyn Backup)
    }
}

#[async_trait]
impl Engine for Bounded {
    async fn initialise(&self, site: &Site) -> Result<FirstStart, EngineError> {
        within(WORK, "initialise", self.0.engine().initialise(site)).await
    }

    async fn configure(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        within(CONFIGURATION, "configure", self.0.engine().configure(site, settings)).await
    }

    fn start_spec(&self, site: &Site, settings: &Settings, mode: StartMode) -> StartSpec {
        self.0.engine().start_spec(site, settings, mode)
    }

    async fn forget_earlier_life(&self, site: &Site) -> Result<(), EngineError> {
        within(CONFIGURATION, "remove what an earlier life left", self.0.engine().forget_earlier_life(site)).await
    }

    async fn secure(&self, site: &Site) -> Result<(), EngineError> {
        within(CONFIGURATION, "secure", self.0.engine().secure(site)).await
    }

    async fn repair(&self, site: &Site) -> Result<Option<String>, EngineError> {
        within(WORK, "repair", self.0.engine().repair(site)).await
    }

    async fn probe(&self, site: &Site) -> Result<Health, EngineError> {
        let mut health = within(PROBE, "probe", self.0.engine().probe(site)).await?;
        health.version = cut(health.version, WORD);
        health.position = health.position.map(|position| cut(position, WORD));
        Ok(health)
    }

    async fn metrics(&self, site: &Site) -> Result<Vec<Metric>, EngineError> {
        within(PROBE, "read metrics", self.0.engine().metrics(site)).await
    }

    async fn reload(&self, site: &Site, settings: &Settings) -> Result<(), EngineError> {
        within(CONFIGURATION, "reload the configuration", self.0.engine().reload(site, settings)).await
    }

    async fn fits(&self, site: &Site, size: Size) -> Result<(), EngineError> {
        within(QUESTION, "ask for what is in use", self.0.engine().fits(site, size)).await
    }
}

#[async_trait]
impl Databases for Bounded {
    async fn character_sets(&self, site: &Site) -> Result<Vec<CharacterSet>, EngineError> {
        let databases = self.0.databases().ok_or_else(|| missing("databases"))?;
        within(CONFIGURATION, "list character sets", databases.character_sets(site)).await
    }

    async fn list(&self, site: &Site) -> Result<Vec<Database>, EngineError> {
        let databases = self.0.databases().ok_or_else(|| missing("databases"))?;
        within(QUESTION, "list databases", databases.list(site)).await
    }

    async fn create(&self, site: &Site, database: &Database) -> Result<(), EngineError> {
        let databases = self.0.databases().ok_or_else(|| missing("databases"))?;
        within(WORK, "create a database", databases.create(site, database)).await
    }

    async fn delete(&self, site: &Site, name: &str) -> Result<(), EngineError> {
        let databases = self.0.databases().ok_or_else(|| missing("databases"))?;
        within(WORK, "delete a database", databases.delete(site, name)).await
    }

    async fn grant(&self, site: &Site, user: &Grantee, databases: &[String]) -> Result<(), EngineError> {
        let inner = self.0.databases().ok_or_else(|| missing("databases"))?;
        within(WORK, "grant", inner.grant(site, user, databases)).await
    }

    async fn revoke(&self, site: &Site, user: &Grantee, database: &str) -> Result<(), EngineError> {
        let databases = self.0.databases().ok_or_else(|| missing("databases"))?;
        within(WORK, "revoke", databases.revoke(site, user, database)).await
    }
}

#[async_trait]
impl Users for Bounded {
    async fn list(&self, site: &Site) -> Result<Vec<User>, EngineError> {
        let users = self.0.users().ok_or_else(|| missing("users"))?;
        within(QUESTION, "list accounts", users.list(site)).await
    }

    async fn get(&self, site: &Site, id: &Grantee) -> Result<Option<User>, EngineError> {
        let users = self.0.users().ok_or_else(|| missing("users"))?;
        within(QUESTION, "get an account", users.get(site, id)).await
    }

    async fn create(&self, site: &Site, user: &NewUser) -> Result<(), EngineError> {
        let users = self.0.users().ok_or_else(|| missing("users"))?;
        within(WORK, "create an account", users.create(site, user)).await
    }

    async fn delete(&self, site: &Site, id: &Grantee) -> Result<(), EngineError> {
        let users = self.0.users().ok_or_else(|| missing("users"))?;
        within(WORK, "delete an account", users.delete(site, id)).await
    }

    async fn change(&self, site: &Site, id: &Grantee, change: &UserChange) -> Result<(), EngineError> {
        let users = self.0.users().ok_or_else(|| missing("users"))?;
        within(WORK, "change an account", users.change(site, id, change)).await
    }
}

#[async_trait]
impl Root for Bounded {
    async fn is_enabled(&self, site: &Site) -> Result<bool, EngineError> {
        let root = self.0.root().ok_or_else(|| missing("root"))?;
        within(QUESTION, "ask for root", root.is_enabled(site)).await
    }

    async fn enable(&self, site: &Site, password: &SecretString) -> Result<(), EngineError> {
        let root = self.0.root().ok_or_else(|| missing("root"))?;
        within(WORK, "enable root", root.enable(site, password)).await
    }

    async fn disable(&self, site: &Site) -> Result<(), EngineError> {
        let root = self.0.root().ok_or_else(|| missing("root"))?;
        within(WORK, "disable root", root.disable(site)).await
    }
}

#[async_trait]
impl Parameters for Bounded {
    async fn describe(&self, site: &Site) -> Result<Vec<Parameter>, EngineError> {
        let parameters = self.0.parameters().ok_or_else(|| missing("parameters"))?;
        within(CONFIGURATION, "describe parameters", parameters.describe(site)).await
    }

    async fn values(&self, site: &Site) -> Result<Vec<(String, String)>, EngineError> {
        let parameters = self.0.parameters().ok_or_else(|| missing("parameters"))?;
        within(QUESTION, "read parameters", parameters.values(site)).await
    }

    async fn check(&self, site: &Site, values: &BTreeMap<String, Value>) -> Result<(), EngineError> {
        let parameters = self.0.parameters().ok_or_else(|| missing("parameters"))?;
        within(CONFIGURATION, "check the parameters", parameters.check(site, values)).await
    }

    async fn apply(&self, site: &Site, settings: &Settings) -> Result<BTreeMap<String, Applied>, EngineError> {
        let parameters = self.0.parameters().ok_or_else(|| missing("parameters"))?;
        within(CONFIGURATION, "apply the parameters", parameters.apply(site, settings)).await
    }
}

/// A backup takes as long as there is data: the job's deadline bounds it.
#[async_trait]
impl Backup for Bounded {
    async fn take(&self, site: &Site, sink: &mut Sink) -> Result<Taken, EngineError> {
        let backup = self.0.backup().ok_or_else(|| missing("backup"))?;
        Ok(bounded(backup.take(site, sink).await.map_err(short)?))
    }

    async fn restore(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        let backup = self.0.backup().ok_or_else(|| missing("backup"))?;
        backup.restore(site, source).await.map_err(short)
    }

    async fn check(&self, site: &Site) -> Result<(), EngineError> {
        let backup = self.0.backup().ok_or_else(|| missing("backup"))?;
        backup.check(site).await.map_err(short)
    }

    fn incremental(&self) -> Option<&dyn Incremental> {
        self.0.backup()?.incremental().map(|_| self as &dyn Incremental)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        self.0.backup()?.logs().map(|_| self as &dyn Logs)
    }
}

impl Bounded {
    fn increments(&self) -> Result<&dyn Incremental, EngineError> {
        self.0.backup().and_then(Backup::incremental).ok_or_else(|| missing("incremental"))
    }
}

/// As [`Backup`].
#[async_trait]
impl Incremental for Bounded {
    async fn take(&self, site: &Site, checkpoint: &str, sink: &mut Sink) -> Result<Taken, EngineError> {
        Ok(bounded(self.increments()?.take(site, checkpoint, sink).await.map_err(short)?))
    }

    async fn begin(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        self.increments()?.begin(site, source).await.map_err(short)
    }

    async fn apply(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        self.increments()?.apply(site, source).await.map_err(short)
    }

    async fn finish(&self, site: &Site) -> Result<(), EngineError> {
        self.increments()?.finish(site).await.map_err(short)
    }
}

impl Bounded {
    fn log(&self) -> Result<&dyn Logs, EngineError> {
        self.0.backup().and_then(Backup::logs).ok_or_else(|| missing("point_in_time"))
    }
}

/// A word that is too long is not cut: it would be another place of the log.
fn place(word: String) -> Result<String, EngineError> {
    if word.len() <= WORD {
        return Ok(word);
    }
    Err(EngineError::new(Kind::Fatal, format!("a place of the log has {} bytes, more than {WORD}", word.len())))
}

#[async_trait]
impl Logs for Bounded {
    async fn keep(&self, site: &Site) -> Result<String, EngineError> {
        place(within(CONFIGURATION, "keep the log", self.log()?.keep(site)).await?)
    }

    async fn open_bytes(&self, site: &Site) -> Result<u64, EngineError> {
        within(QUESTION, "look what was written", self.log()?.open_bytes(site)).await
    }

    async fn close(&self, site: &Site) -> Result<(), EngineError> {
        within(CONFIGURATION, "close a piece of the log", self.log()?.close(site)).await
    }

    async fn piece(&self, site: &Site, from: &str) -> Result<Option<LogPiece>, EngineError> {
        let read = within(CONFIGURATION, "read a piece of the log", self.log()?.piece(site, from)).await?;
        let Some(piece) = read else { return Ok(None) };
        if piece.bytes.len() > PIECE_LIMIT {
            return Err(EngineError::new(Kind::Fatal, "a piece of the log is larger than it may be"));
        }
        Ok(Some(LogPiece { until: place(piece.until)?, ..piece }))
    }

    async fn stored(&self, site: &Site, until: &str) -> Result<(), EngineError> {
        within(CONFIGURATION, "let go of the log", self.log()?.stored(site, until)).await
    }

    async fn forget(&self, site: &Site) -> Result<(), EngineError> {
        within(CONFIGURATION, "let go of the log", self.log()?.forget(site)).await
    }

    async fn take(&self, site: &Site, piece: LogPiece) -> Result<(), EngineError> {
        within(CONFIGURATION, "take a piece of the log", self.log()?.take(site, piece)).await
    }

    /// The job's deadline bounds it.
    async fn replay(&self, site: &Site, until: Option<SystemTime>) -> Result<(), EngineError> {
        self.log()?.replay(site, until).await.map_err(short)
    }
}

/// What is said of a backup, within its bounds. A checkpoint that is cut would be another one.
fn bounded(mut taken: Taken) -> Taken {
    taken.position = taken.position.map(|position| cut(position, WORD));
    taken.checkpoint = taken.checkpoint.filter(|checkpoint| checkpoint.len() <= WORD);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_says_is_cut_between_characters() {
        assert_eq!(cut("15.18".to_owned(), 128), "15.18");
        assert_eq!(cut("9".repeat(3_000_000), 128).len(), 128);
        assert_eq!(cut("\u{20ac}".repeat(100), 128).len(), 126);
        let long = short(EngineError::new(Kind::LockedOut, "\u{20ac}".repeat(1_000_000)));
        assert_eq!((long.kind(), long.chain().len()), (Kind::LockedOut, 1998));
        assert_eq!(short(EngineError::new(Kind::Fatal, "no")).chain(), "no");
    }

    /// Names of the functions in a trait's source file.
    fn verbs(text: &str) -> Vec<&str> {
        let names = text.split("fn ").skip(1).filter_map(|rest| rest.split_once('(')).map(|(name, _)| name);
        names.filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect()
    }

    #[test]
    fn every_verb_is_passed_on() {
        let own = include_str!("bounded.rs");
        for traits in [
            include_str!("../../strategies/core/src/engine.rs"),
            include_str!("../../strategies/core/src/datastore.rs"),
            include_str!("../../strategies/core/src/capability/databases.rs"),
            include_str!("../../strategies/core/src/capability/users.rs"),
            include_str!("../../strategies/core/src/capability/root.rs"),
            include_str!("../../strategies/core/src/capability/parameters.rs"),
            include_str!("../../strategies/core/src/capability/backup.rs"),
            include_str!("../../strategies/core/src/capability/logs.rs"),
        ] {
            let traits = traits.split("#[cfg(test)]").next().unwrap();
            let verbs = verbs(traits.split("pub trait ").nth(1).unwrap());
            assert!(!verbs.is_empty());
            for verb in verbs {
                assert!(own.contains(&format!("fn {verb}(&self")), "{verb}: a default would be called instead");
            }
        }
    }
}

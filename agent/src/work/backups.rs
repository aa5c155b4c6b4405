//! Jobs that take, restore and check backups.

use std::time::{Duration, UNIX_EPOCH};
use trove_proto::v1;
use trove_proto::v1::ServiceState;

use trove_proto::backup::{SEGMENT_LIMIT, segment_name};
use trove_strategy::{Backup, EngineError, Kind, LogPiece, SecretString, Site};

use super::{EngineWork, is_coming};
use crate::backup::{Link, RestoreOrder, STANDSTILL, Storage as _, TakeOrder, restore, take};
use crate::certificate::write_certificate;
use crate::jobs::{Job, Outcome};
use crate::logs::sealed;
use crate::objects::granted::RunObjects;
use crate::status::wire_error;
use crate::supervisor::SupervisedEngine as _;

/// Reads the key of a backup. The error does not repeat it.
fn parse_identity(identity: &SecretString) -> Result<age::x25519::Identity, EngineError> {
    use trove_strategy::ExposeSecret as _;
    let wrong = |why| EngineError::new(Kind::Invalid, format!("read the key of the backup: {why}"));
    identity.expose_secret().parse().map_err(wrong)
}

/// A piece of the log, where its object is what was written.
async fn fetch(
    storage: &RunObjects<'_>,
    stored: &v1::StoredPiece,
    container: &str,
    identity: age::x25519::Identity,
) -> Result<Vec<u8>, EngineError> {
    let name = segment_name(stored.object as usize);
    let invalid = |what: String| {
        EngineError::new(
            Kind::Invalid,
            format!("piece {} of the log (object {name} of {container}): {what}", stored.from),
        )
    };
    if stored.bytes > SEGMENT_LIMIT {
        return Err(invalid(format!("it has {} bytes, and this agent takes {SEGMENT_LIMIT}", stored.bytes)));
    }
    let mut bytes = Vec::new();
    storage.get(&name, stored.bytes, &mut bytes).await.map_err(|error| match error.kind() {
        Kind::Gone | Kind::Invalid => invalid(error.chain()),
        kind => EngineError::caused(kind, "read the log", error),
    })?;
    let sum = blake3::hash(&bytes);
    if bytes.len() as u64 != stored.bytes || sum.as_bytes().as_slice() != stored.sum {
        return Err(invalid(format!("its size is {} and its sum {sum}, which are not what was stored", bytes.len())));
    }
    sealed::open(bytes, identity).await.map_err(|error| invalid(error.chain()))
}

impl EngineWork {
    fn backups(&self) -> Result<&dyn Backup, v1::Error> {
        let none = || wire_error(&EngineError::new(Kind::Invalid, "the datastore does not announce backup"));
        self.datastore.backup().ok_or_else(none)
    }

    /// Takes a backup of the running engine, as a run of its own.
    pub(super) async fn back_up(&self, job: &Job, backup: v1::Backup) -> Result<Outcome, v1::Error> {
        let (strategy, datastore) = (self.backups()?, self.datastore.identity().name);
        let site = self.assignments.complete(&self.site);
        // Drawn anew at each life of the job: what an earlier one has stored is another run, of which nothing is used.
        let run = hex::encode(rand::random::<[u8; 16]>());
        let storage = RunObjects::new(&self.objects, job, &run);
        let order = TakeOrder {
            strategy,
            datastore: &datastore,
            site: &site,
            backup: &backup.backup,
            run: &run,
            recipients: &backup.recipients,
            segment_bytes: backup.segment_bytes,
            standstill: STANDSTILL,
            parent: backup.parent.as_ref(),
        };
        let work = async {
            self.engine_answers(job, "take").await?;
            let tell = |bytes, total| job.progress("take", bytes, total, "bytes");
            take(&order, &storage, job.cancel(), &tell).await
        };
        Ok(Outcome::BackedUp(job.stage("backup", "take", work).await?))
    }

    /// Waits for an engine that is starting or recovering.
    async fn engine_answers(&self, job: &Job, stage: &str) -> Result<(), EngineError> {
        let mut status = self.supervisor.status();
        if is_coming(status.borrow().service) {
            job.note("waits for the engine, which recovers");
            let up = async {
                // Cannot fail: the sender lives as long as the agent.
                let _ = status.wait_for(|status| !is_coming(status.service)).await;
                Ok(())
            };
            job.unless_cancelled(up).await?;
            job.note(stage);
        }
        let now = status.borrow().clone();
        match now.service {
            ServiceState::Healthy => Ok(()),
            ServiceState::Blocked => {
                Err(EngineError::new(Kind::Transient, format!("the engine does not answer: {}", now.detail)))
            }
            _ => Err(EngineError::new(Kind::Fatal, "the engine does not run: ask again once it is started")),
        }
    }

    /// Puts a backup, and the increments on it, in the place of the data of an engine that has never run.
    ///
    /// The strategy works here and not in the supervisor's task, since it may take hours, in which the task is to hear
    /// others. Nothing starts the engine meanwhile. The task by itself starts only one that is wanted, which this one
    /// is not and was not: [`crate::supervisor::Supervisor::make_empty`] has just refused any other. What makes it
    /// wanted, or runs it privately, are jobs of the life-cycle lane, which wait for the end of this one. When the
    /// agent is killed, the next one finds an engine that was never wanted, and does nothing until the job comes again,
    /// which begins anew.
    pub(super) async fn restore(&self, job: &Job, order: v1::Restore) -> Result<Outcome, v1::Error> {
        let (strategy, datastore) = (self.backups()?, self.datastore.identity().name);
        let v1::Restore { generation, specification, chain, replay } = order;
        let parse = |backup: &v1::StoredBackup| parse_identity(&SecretString::from(backup.identity.clone()));
        let identities: Vec<_> =
            chain.iter().map(parse).collect::<Result<_, _>>().map_err(|error| wire_error(&error))?;
        let certificate = specification.as_ref().and_then(|specification| specification.certificate.clone());
        job.stage("restore", "assign", async { self.assign(generation, specification) }).await?;
        let site = self.assignments.complete(&self.site);
        let storages: Vec<_> = chain.iter().map(|of| RunObjects::new(&self.objects, job, &of.run)).collect();
        let links = chain.iter().zip(&storages).zip(identities).map(|((of, storage), identity)| Link {
            storage,
            backup: &of.backup,
            run: &of.run,
            manifest_sum: &of.manifest_sum,
            identity,
        });
        let links: Vec<_> = links.collect();
        let (datastore, site) = (datastore.as_str(), &site);
        let order = RestoreOrder { strategy, datastore, site, chain: &links, standstill: STANDSTILL };
        let work = async {
            self.supervisor.make_empty().await?;
            write_certificate(site, certificate.as_ref()).await?;
            let tell = |bytes, total| job.progress("restore", bytes, total, "bytes");
            restore(&order, job.cancel(), &tell).await
        };
        let data_bytes = job.stage("restore", "restore", work).await?;
        if let Some(replay) = replay {
            job.stage("replay", "replay", self.replay(job, strategy, site, replay)).await?;
        }
        Ok(Outcome::Restored(v1::Restored { data_bytes }))
    }

    /// Replays the log of writes on what was restored.
    async fn replay(
        &self,
        job: &Job,
        strategy: &dyn Backup,
        site: &Site,
        order: v1::Replay,
    ) -> Result<(), EngineError> {
        let none = || EngineError::new(Kind::Invalid, "the datastore does not announce point_in_time");
        let logs = strategy.logs().ok_or_else(none)?;
        let total = order.log.iter().map(|log| log.pieces.len()).sum::<usize>() as u64;
        let mut done = 0;
        for log in &order.log {
            let identity = parse_identity(&SecretString::from(log.identity.clone()))?;
            for (number, stored) in log.pieces.iter().enumerate() {
                let until = log.pieces.get(number + 1).map_or(&log.until, |next| &next.from);
                let storage = RunObjects::new(&self.objects, job, &stored.run);
                let bytes = job.unless_cancelled(fetch(&storage, stored, &log.container, identity.clone())).await?;
                let piece = LogPiece { from: stored.from.clone(), until: until.clone(), bytes };
                logs.take(site, piece).await?;
                done += 1;
                job.progress("replay", done, Some(total), "pieces");
            }
        }
        let until = order.until_us.map(|us| UNIX_EPOCH + Duration::from_micros(us.unsigned_abs()));
        job.unless_cancelled(logs.replay(site, until)).await
    }

    /// Has the strategy check what was restored, on the running engine.
    pub(super) async fn check(&self, job: &Job) -> Result<Outcome, v1::Error> {
        let strategy = self.backups()?;
        let site = self.assignments.complete(&self.site);
        let work = async {
            self.engine_answers(job, "check").await?;
            job.unless_cancelled(strategy.check(&site)).await
        };
        job.stage("check", "check", work).await?;
        Ok(Outcome::Checked(v1::Checked {}))
    }
}

//! How lives of agents begin and end, and what an agent works on its engine.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use trove_agent::jobs::{Job, Outcome, Worker};
use trove_proto::v1;
use v1::account_change::Kind as Change;
use v1::start::Work;

use super::agent::begin;
use super::engine::refuse;
use super::guest::{Guest, VERSION};

impl Guest {
    /// Starts the agent, from what its earlier life left.
    pub(super) fn start(&self) {
        if self.dud {
            return;
        }
        let end = CancellationToken::new();
        let worker = Arc::new(SimulatedWork { guest: self.clone(), end: end.clone() });
        let bootstrap = self.bootstrap.lock().unwrap().clone();
        *self.life.lock().unwrap() = Some(begin(self, &self.directory, &bootstrap, worker, end));
        *self.kept.lock().unwrap() = true;
        {
            let mut sizes = self.sizes.lock().unwrap();
            sizes.ram_mib_in_force = sizes.ram_mib;
        }
        self.revive();
    }

    /// Kills the agent, at whatever it is. The engine runs on, and the driver starts the agent again.
    pub(super) fn kill(&self) {
        if let Some(life) = self.life.lock().unwrap().take() {
            life.end.cancel();
        }
        let guest = self.clone();
        tokio::spawn(async move {
            guest.world.rng.delay(200, 5000).await;
            let kept = *guest.kept.lock().unwrap();
            if kept && guest.life().is_none() {
                guest.start();
            }
        });
    }

    /// The machine goes down under everything, and comes back.
    pub(super) fn lose_power(&self) {
        self.set_running(false);
        self.kill();
    }

    /// Ends agent and engine until it is started.
    pub(super) fn stop(&self) {
        *self.kept.lock().unwrap() = false;
        self.lose_power();
    }

    /// The engine ends by itself.
    pub(super) fn crash(&self) {
        self.set_running(false);
        self.revive();
    }

    /// The agent starts the engine after a while, where it is to run.
    fn revive(&self) {
        let Some(life) = self.life() else { return };
        let guest = self.clone();
        tokio::spawn(async move {
            guest.world.rng.delay(100, 3000).await;
            let wanted = guest.engine.lock().unwrap().wanted;
            if !life.end.is_cancelled() && wanted {
                guest.set_running(true);
            }
        });
    }
}

struct SimulatedWork {
    guest: Guest,
    end: CancellationToken,
}

impl SimulatedWork {
    /// Takes its time. A dead agent never comes back from here.
    async fn pause(&self, from: u64, to: u64) {
        let dies = self.guest.world.fails(20);
        self.guest.world.rng.delay(from, to).await;
        if dies && !self.end.is_cancelled() {
            let died = format!("agent {} dies in the midst of a job", self.guest.instance);
            self.guest.world.rng.fault("agents that died in the midst of a job", died);
            self.guest.kill();
        }
        if self.end.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    /// Some work lasts longer than a lease, so that a controller that sleeps comes back in the midst of it.
    fn longest(&self, usual: u64) -> u64 {
        if self.guest.world.rng.one_in(3) { 60_000 } else { usual }
    }

    fn start(&self) {
        self.guest.engine.lock().unwrap().installed = true;
        self.guest.set_running(true);
    }

    async fn prepare(&self, prepare: v1::Prepare) -> Result<(), v1::Error> {
        let (guest, world) = (&self.guest, &self.guest.world);
        let assignments = guest.life().map(|life| life.assignments);
        let assigned = assignments
            .map(|assignments| assignments.assign(prepare.generation, prepare.specification.unwrap_or_default()));
        assigned.transpose().map_err(|error| refuse(v1::ErrorKind::Transient, error.to_string()))?;
        self.pause(200, self.longest(4000)).await;
        if world.fails(30) {
            world.rng.fault("engines that cannot be installed", format!("{} is not installed", guest.instance));
            return Err(refuse(v1::ErrorKind::Fatal, "initialise: it does not like this"));
        }
        guest.engine.lock().unwrap().wanted = true;
        self.start();
        let databases = prepare.databases.into_iter().map(Change::CreateDatabase);
        let users = prepare.users.into_iter().map(Change::CreateUser);
        for change in databases.chain(users) {
            guest.engine.lock().unwrap().change(change)?;
        }
        Ok(())
    }

    async fn change(&self, changes: v1::ChangeAccounts) -> Result<(), v1::Error> {
        for change in changes.changes {
            self.pause(5, 200).await;
            let (running, wanted) = {
                let engine = self.guest.engine.lock().unwrap();
                (engine.running, engine.wanted)
            };
            match (running, wanted) {
                (true, _) => {}
                (false, true) => return Err(refuse(v1::ErrorKind::Transient, "the engine does not answer")),
                (false, false) => return Err(refuse(v1::ErrorKind::Fatal, "the engine is stopped")),
            }
            if let Some(kind) = change.kind {
                self.guest.engine.lock().unwrap().change(kind)?;
            }
        }
        if self.guest.world.fails(20) {
            self.guest.world.rng.fault("changes of accounts that failed half-way", "a tenant holds a lock");
            return Err(refuse(v1::ErrorKind::Transient, "a tenant holds a lock"));
        }
        Ok(())
    }
}

#[async_trait]
impl Worker for SimulatedWork {
    async fn work(&self, job: &Job, work: Work) -> Result<Outcome, v1::Error> {
        let (guest, world) = (&self.guest, &self.guest.world);
        let key = format!("{} {} {}", job.key.operation, job.key.step, job.key.attempt);
        self.pause(5, 300).await;
        let engine_version = || VERSION.to_owned();
        let outcome = match work {
            Work::Prepare(prepare) => {
                self.prepare(prepare).await?;
                Outcome::Prepared(v1::Prepared { engine_version: engine_version() })
            }
            Work::Restart(_) => {
                guest.engine.lock().unwrap().wanted = true;
                self.guest.set_running(false);
                self.pause(100, self.longest(2000)).await;
                self.start();
                Outcome::Restarted(v1::Restarted { engine_version: engine_version() })
            }
            Work::Stop(_) => {
                guest.engine.lock().unwrap().wanted = false;
                self.guest.set_running(false);
                Outcome::Stopped(v1::Stopped {})
            }
            Work::Backup(_) | Work::Restore(_) | Work::Check(_) => {
                return Err(refuse(v1::ErrorKind::Invalid, "the simulated engine has no backups"));
            }
            Work::ChangeAccounts(changes) => {
                let made = u32::try_from(changes.changes.len()).unwrap();
                self.change(changes).await?;
                Outcome::AccountsChanged(v1::AccountsChanged { changes: made })
            }
        };
        if world.fails(15) {
            world.rng.fault("agents that died between an effect and its record", format!("{key} is not written down"));
            guest.kill();
            std::future::pending::<()>().await;
        }
        // From here to the journal nothing is awaited: what is counted is written down.
        *guest.engine.lock().unwrap().effects.entry(key.clone()).or_default() += 1;
        world.rng.note(format!("{} has done {key}", guest.instance));
        Ok(outcome)
    }
}

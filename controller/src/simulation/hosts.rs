//! The hosts, as one controller reaches them: a request or its answer may be lost, and what a controller asked for before
//! it was stopped is done when it wakes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::guest::{Guest, Guests};
use super::world::{Machine, World};
use crate::compute::{Compute, ComputeError, HostSpec, Placement};
use crate::ids::{InstanceId, ProjectId};
use crate::model::{ArtifactKind, Requirements};
use crate::state::HostState;

/// A driver.
pub(super) struct Hosts {
    pub(super) world: Arc<World>,
    pub(super) guests: Arc<Guests>,
    pub(super) machine: Machine,
}

impl Hosts {
    fn guest(&self, instance: InstanceId) -> Option<Guest> {
        self.guests.lock().unwrap().get(&instance).cloned()
    }

    async fn call(&self, what: &str) -> Result<(), ComputeError> {
        self.machine.runs().await;
        self.world.rng.delay(1, 300).await;
        if self.machine.is_up() && self.world.fails(60) {
            self.machine.fall_asleep(&self.world.rng, what);
        }
        self.machine.runs().await;
        self.world.rng.mark((self.machine.name, what));
        if self.world.fails(30) {
            let lost = format!("{} loses a request or an answer: {what}", self.machine.name);
            self.world.rng.fault("requests to drivers or their answers that were lost", lost);
            return Err(ComputeError::Transient(format!("{what}: the request or its answer was lost")));
        }
        Ok(())
    }

    /// Whether a driver that keeps the greatest fence with the host does this.
    fn admit(&self, guest: &Guest, fence: u64) -> Result<(), ComputeError> {
        let seen = guest.fence.fetch_max(fence, Ordering::SeqCst);
        if fence < seen {
            let (instance, name) = (guest.instance, self.machine.name);
            let late = format!("{name} asks the driver about {instance} under {fence}, after {seen}");
            self.world.rng.fault("requests to drivers that came after those of another", late);
            return Err(ComputeError::Fenced { fence, seen });
        }
        Ok(())
    }
}

#[async_trait]
impl Compute for Hosts {
    fn artifacts(&self) -> ArtifactKind {
        ArtifactKind::Local
    }

    fn check_order(&self, _: &Requirements) -> Result<(), String> {
        Ok(())
    }

    async fn choose_address(&self, _: InstanceId, _: &ProjectId, _port: u16) -> Result<IpAddr, ComputeError> {
        self.call("choose an address").await?;
        let n = self.world.addresses.fetch_add(1, Ordering::SeqCst);
        Ok(Ipv4Addr::new(127, 0, 7, n).into())
    }

    fn separates_tenants(&self) -> Result<(), &'static str> {
        Ok(())
    }

    async fn ensure_host(&self, spec: &HostSpec) -> Result<Placement, ComputeError> {
        self.call("make a host").await?;
        let world = &self.world;
        if world.fails(25) {
            world.rng.fault("hosts that cannot be made as asked", format!("{} cannot be made", spec.instance));
            return Err(ComputeError::Fatal("there is no room".to_owned()));
        }
        let known = self.guest(spec.instance);
        let guest = known.clone().unwrap_or_else(|| {
            world.rng.note(format!("host {} is made", spec.instance));
            let n = world.made.fetch_add(1, Ordering::SeqCst);
            let guest = Guest::new(spec, world.directory.path().join(n.to_string()), world.clone());
            self.guests.lock().unwrap().insert(spec.instance, guest.clone());
            guest
        });
        self.admit(&guest, spec.fence)?;
        guest.become_as(spec);
        if known.is_none() {
            let (world, guests) = (world.clone(), self.guests.clone());
            tokio::spawn(async move {
                world.rng.delay(50, 3000).await;
                // It may have been removed meanwhile.
                let is_there = guests.lock().unwrap().contains_key(&guest.instance);
                if is_there && guest.life().is_none() {
                    guest.start();
                }
            });
        } else if guest.life().is_none() {
            world.rng.note(format!("host {} is started", spec.instance));
            guest.start();
        }
        self.call("make a host").await?;
        Ok(Placement { addresses: vec![spec.network.address], driver_state: serde_json::Value::Null })
    }

    async fn stop_host(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        self.call("stop a host").await?;
        if let Some(guest) = self.guest(instance) {
            self.admit(&guest, fence)?;
            self.world.rng.note(format!("host {instance} is stopped by {}", self.machine.name));
            guest.stop();
        }
        self.call("stop a host").await
    }

    async fn delete_host(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        self.call("delete a host").await?;
        if let Some(guest) = self.guest(instance) {
            self.admit(&guest, fence)?;
            self.guests.lock().unwrap().remove(&instance);
            self.world.rng.note(format!("host {instance} is deleted by {}", self.machine.name));
            guest.stop();
        }
        self.call("delete a host").await
    }

    async fn describe(&self, instance: InstanceId) -> Result<HostState, ComputeError> {
        self.call("describe a host").await?;
        Ok(self.guest(instance).map_or(HostState::Absent, |guest| guest.state()))
    }

    async fn list(&self) -> Result<Vec<InstanceId>, ComputeError> {
        self.call("list hosts").await?;
        Ok(self.guests.lock().unwrap().keys().copied().collect())
    }
}

//! A fake compute driver.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::agents::FakeAgents;
use crate::compute::{Compute, ComputeError, HostSpec, Placement};
use crate::ids::{InstanceId, ProjectId};
use crate::model::{Artifact, ArtifactKind, Requirements};
use crate::state::HostState;

/// A driver whose hosts are entries of a set.
pub(crate) struct FakeCompute {
    agents: Arc<FakeAgents>,
    pub(crate) hosts: Mutex<HashSet<InstanceId>>,
    /// How often a host was made, and how often one was removed.
    pub(crate) made: Mutex<usize>,
    pub(crate) removed: Mutex<usize>,
    /// Stopped hosts, and how often a host was stopped.
    halted: Mutex<HashSet<InstanceId>>,
    pub(crate) stopped: Mutex<usize>,
    /// Errors of the next calls, by method.
    pub(crate) failures: Mutex<HashMap<&'static str, VecDeque<ComputeError>>>,
    pub(crate) specs: Mutex<Vec<HostSpec>>,
    pub(crate) address: Mutex<u8>,
    pub(crate) dead: AtomicBool,
    /// Greatest fence of each host.
    fences: Mutex<HashMap<InstanceId, u64>>,
    /// Delays the next `ensure_host` before it takes effect, as a slow network or a stalled controller does. The first
    /// `Notify` tells that the call has come, the second lets it continue.
    pub(crate) late: Mutex<Option<(Arc<Notify>, Arc<Notify>)>>,
    /// The same for the answer, after the call has taken effect.
    pub(crate) late_answer: Mutex<Option<(Arc<Notify>, Arc<Notify>)>>,
}

/// Waits once, if the test has set a delay.
async fn hold(late: &Mutex<Option<(Arc<Notify>, Arc<Notify>)>>) {
    let late = late.lock().unwrap().take();
    if let Some((there, go_on)) = late {
        there.notify_one();
        go_on.notified().await;
    }
}

impl FakeCompute {
    pub(super) fn new(agents: Arc<FakeAgents>) -> Self {
        Self {
            agents,
            hosts: Mutex::default(),
            made: Mutex::default(),
            removed: Mutex::default(),
            halted: Mutex::default(),
            stopped: Mutex::default(),
            failures: Mutex::default(),
            specs: Mutex::default(),
            address: Mutex::default(),
            dead: AtomicBool::default(),
            fences: Mutex::default(),
            late: Mutex::default(),
            late_answer: Mutex::default(),
        }
    }

    pub(crate) fn fail_next(&self, verb: &'static str, error: ComputeError) {
        self.failures.lock().unwrap().entry(verb).or_default().push_back(error);
    }

    fn scripted(&self, verb: &str) -> Result<(), ComputeError> {
        self.failures.lock().unwrap().get_mut(verb).and_then(VecDeque::pop_front).map_or(Ok(()), Err)
    }

    fn admit(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        let mut fences = self.fences.lock().unwrap();
        let seen = fences.entry(instance).or_default();
        if fence < *seen {
            return Err(ComputeError::Fenced { fence, seen: *seen });
        }
        *seen = fence;
        Ok(())
    }
}

#[async_trait]
impl Compute for FakeCompute {
    fn artifacts(&self) -> ArtifactKind {
        ArtifactKind::Local
    }

    fn check_order(&self, _: &Requirements) -> Result<(), String> {
        Ok(())
    }

    async fn choose_address(&self, _: InstanceId, _: &ProjectId, _port: u16) -> Result<IpAddr, ComputeError> {
        self.scripted("choose_address")?;
        let mut address = self.address.lock().unwrap();
        *address += 1;
        Ok(Ipv4Addr::new(127, 0, 7, *address).into())
    }

    fn separates_tenants(&self) -> Result<(), &'static str> {
        Ok(())
    }

    async fn fetch_programs(&self, _: &Artifact) -> Result<(), ComputeError> {
        self.scripted("fetch_programs")
    }

    async fn ensure_host(&self, spec: &HostSpec) -> Result<Placement, ComputeError> {
        hold(&self.late).await;
        self.scripted("ensure_host")?;
        self.admit(spec.instance, spec.fence)?;
        self.specs.lock().unwrap().push(spec.clone());
        if self.hosts.lock().unwrap().insert(spec.instance) {
            *self.made.lock().unwrap() += 1;
            self.agents.boot(spec.instance);
        } else if self.halted.lock().unwrap().remove(&spec.instance) {
            self.agents.start(spec.instance);
        }
        // Like a cloud driver, which needs the state to find its server again.
        let driver_state = serde_json::json!({"server": spec.instance});
        assert!(spec.driver_state.is_null() || spec.driver_state == driver_state, "{:?}", spec.driver_state);
        hold(&self.late_answer).await;
        Ok(Placement { addresses: vec![spec.network.address], driver_state })
    }

    async fn stop_host(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        self.scripted("stop_host")?;
        self.admit(instance, fence)?;
        if self.hosts.lock().unwrap().contains(&instance) && self.halted.lock().unwrap().insert(instance) {
            *self.stopped.lock().unwrap() += 1;
            self.agents.change(instance, |state| state.connected = false);
        }
        Ok(())
    }

    async fn delete_host(&self, instance: InstanceId, fence: u64) -> Result<(), ComputeError> {
        self.scripted("delete_host")?;
        self.admit(instance, fence)?;
        self.fences.lock().unwrap().remove(&instance);
        if self.hosts.lock().unwrap().remove(&instance) {
            *self.removed.lock().unwrap() += 1;
            self.agents.change(instance, |state| state.connected = false);
        }
        Ok(())
    }

    async fn describe(&self, instance: InstanceId) -> Result<HostState, ComputeError> {
        self.scripted("describe")?;
        let there = self.hosts.lock().unwrap().contains(&instance);
        let halted = self.halted.lock().unwrap().contains(&instance);
        Ok(match (there, halted || self.dead.load(Ordering::SeqCst)) {
            (false, _) => HostState::Absent,
            (true, true) => HostState::Dead,
            (true, false) => HostState::Active,
        })
    }

    async fn list(&self) -> Result<Vec<InstanceId>, ComputeError> {
        Ok(self.hosts.lock().unwrap().iter().copied().collect())
    }
}

//! Inserts instances through the controller's store, with the rows that requests, operations and agents would have
//! made.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use trove_controller::authority::Authorities;
use trove_controller::ids::{InstanceId, ProjectId};
use trove_controller::model::{Flavor, Requirements, Version};
use trove_controller::state::{HostState, Service as EngineService, Task};
use trove_controller::store::Store;
use trove_controller::store::agents::{AgentRow, ReportSequence};
use trove_controller::store::assignments::Specification;
use trove_controller::store::controllers::GRACE;
use trove_controller::store::instances::NewRow;
use trove_controller::store::quota::Amounts;

use crate::service::Service;

/// Instances in one transaction.
const BATCH: usize = 250;

/// What the inserted instances have in common.
pub(crate) struct Seed {
    pub(crate) store: Store,
    pub(crate) authorities: Authorities,
    specification: Specification,
    project: ProjectId,
    flavor: Flavor,
    version: Version,
}

impl Seed {
    /// For instances of a project.
    pub(crate) async fn new(service: &Service, project: &str) -> Result<Self> {
        let (store, config) = (service.store().await?, service.config()?);
        let authorities = Authorities::load(&store).await?;
        let specification = Specification::of(&config, store.agents_addresses(GRACE).await?);
        let datastore = store.list_datastores().await?.first().cloned().context("a datastore")?;
        let version = datastore.versions.into_iter().next().context("a version")?;
        let flavor = config.flavors.into_iter().next().context("a flavor")?;
        Ok(Self { store, authorities, specification, project: ProjectId(project.to_owned()), flavor, version })
    }

    /// Inserts `count` instances without a task, with an address, an assignment in force, a host in the given state,
    /// and their use of quotas.
    pub(crate) async fn instances(&self, count: usize, host: HostState) -> Result<Vec<InstanceId>> {
        let ids: Vec<InstanceId> = (0..count).map(|_| InstanceId::random()).collect();
        let mut number = 0_u32;
        for batch in ids.chunks(BATCH) {
            let mut tx = self.store.begin().await?;
            for id in batch {
                number += 1;
                let [_, b, c, d] = number.to_be_bytes();
                let address = IpAddr::V4(Ipv4Addr::new(127, 64 + b, c, d));
                self.store.insert_instance(&mut tx, &self.row(*id, number)).await?;
                let amounts = Amounts::instance(self.flavor.ram_mib, 1);
                self.store.count_use(&mut tx, &self.project, amounts).await?;
                self.store.set_address(&mut tx, *id, address).await?;
                let certificate = self.authorities.issue_engine(*id, &[address])?;
                self.store.insert_assignment(&mut tx, *id, &self.specification, &certificate).await?;
                self.store.set_host(&mut tx, *id, host).await?;
                self.store.set_task(&mut tx, *id, Task::None).await?;
            }
            tx.commit().await?;
        }
        Ok(ids)
    }

    /// Inserts the last report of an agent that is no longer connected.
    pub(crate) async fn agent(&self, instance: InstanceId) -> Result<()> {
        let said = AgentRow {
            service: EngineService::Healthy,
            detail: String::new(),
            engine_version: self.version.number.clone(),
            volume_used_bytes: 40 << 20,
            assignment_generation: 1,
        };
        self.store.put_agent(instance, &said, &ReportSequence::default()).await?;
        Ok(())
    }

    fn row(&self, id: InstanceId, number: u32) -> NewRow {
        NewRow {
            id,
            project: self.project.clone(),
            name: format!("stored-{number}"),
            flavor: self.flavor.clone(),
            volume_gib: 1,
            version: self.version.id,
            region: "RegionOne".to_owned(),
            port: 5432,
            requirements: Requirements::default(),
            configuration: None,
            deletion_protection: false,
            purpose: None,
        }
    }
}

//! Tests of the agents' port, hub and client with a minimal agent that enrols, connects and serves.

mod calls;
mod enrolment;
pub(crate) mod fake;
mod links;
mod network;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sqlx::AssertSqlSafe;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agents::hub::Hub;
use crate::agents::listener;
use crate::authority::Authorities;
use crate::config::Config;
use crate::connections::{Gate, Shares};
use crate::ids::InstanceId;
use crate::objects::Objects;
use crate::operations::Nudge;
use crate::store::Store;
use crate::store::sql::query;

pub(super) const SOON: Duration = Duration::from_secs(10);

/// The agents' port of a controller.
pub(crate) struct Controller {
    pub(crate) store: Store,
    pub(crate) authorities: Arc<Authorities>,
    pub(super) hub: Arc<Hub>,
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
    _directory: Option<tempfile::TempDir>,
}

impl Controller {
    pub(super) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = crate::testing::store::open(directory.path(), 9).await;
        Self::start_on(store, Some(directory), "127.0.0.1:0".parse().unwrap()).await
    }

    /// With these objects.
    pub(crate) async fn serving(objects: Objects) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = crate::testing::store::open(directory.path(), 9).await;
        Self::start_with(store, Some(directory), "127.0.0.1:0".parse().unwrap(), objects).await
    }

    async fn start_on(store: Store, directory: Option<tempfile::TempDir>, address: SocketAddr) -> Self {
        let place = directory.as_ref().unwrap().path().join("objects");
        let objects = Objects::open_directory(place, None, store.seal.clone(), &Config::default()).unwrap();
        Self::start_with(store, directory, address, objects).await
    }

    async fn start_with(
        store: Store,
        directory: Option<tempfile::TempDir>,
        address: SocketAddr,
        objects: Objects,
    ) -> Self {
        let authorities = Arc::new(Authorities::load(&store).await.unwrap());
        let config = Arc::new(Config::default());
        let hub = Hub::new(
            store.clone(),
            Arc::clone(&authorities),
            config,
            "here".to_owned(),
            Nudge::default(),
            Arc::new(crate::testing::NoLogs),
        );
        let listener = crate::listen::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let gate = Gate::new("the agents' port", Shares::of(20_000).agents, Vec::new());
        let serving = listener::serve(Arc::clone(&hub), Arc::new(objects), listener, gate, shutdown.clone());
        let served = tokio::spawn(async move { serving.await.unwrap() });
        Self { store, authorities, hub, address, shutdown, served, _directory: directory }
    }

    pub(crate) async fn stop(self) -> (Store, Option<tempfile::TempDir>, SocketAddr) {
        self.shutdown.cancel();
        self.served.await.unwrap();
        (self.store, self._directory, self.address)
    }

    /// Inserts an instance whose host has this generation.
    pub(crate) async fn instance(&self, generation: i64) -> InstanceId {
        insert_instance(&self.store, generation).await
    }

    pub(crate) async fn sql(&self, statement: &str) {
        sql(&self.store, statement).await;
    }

    /// Number of rows that a condition selects.
    pub(super) async fn count(&self, what: &str) -> i64 {
        self.store.number(&format!("select count(*) from {what}")).await
    }
}

async fn sql(store: &Store, statement: &str) {
    query(AssertSqlSafe(statement)).execute(&store.write).await.unwrap();
}

/// Inserts an instance whose host has this generation.
pub(super) async fn insert_instance(store: &Store, generation: i64) -> InstanceId {
    let id = InstanceId::random();
    for statement in [
        "insert into datastore (id, name) values ('d', 'engine') on conflict do nothing".to_owned(),
        "insert into datastore_version (id, datastore_id, name, number, bindir, active, manifest)
         values ('v', 'd', '1', '1', '/', true, '{}') on conflict do nothing"
            .to_owned(),
        format!(
            "insert into instance (id, project_id, name, flavor_id, flavor_name, ram_mib, vcpus, volume_gib,
                 version_id, region, port, nics, task, host, generation, created, updated)
             values ('{id}', 'p', 'n', '1', 'f', 1, 1, 1, 'v', 'r', 1, '[]', 'none', 'active', {generation}, 0, 0)"
        ),
    ] {
        sql(store, &statement).await;
    }
    id
}

/// A key pair and its certificate request.
pub(crate) struct Key {
    pub(super) pair: KeyPair,
    pub(crate) csr_der: Vec<u8>,
}

impl Key {
    pub(crate) fn new() -> Self {
        let pair = KeyPair::generate().unwrap();
        let csr_der = CertificateParams::default().serialize_request(&pair).unwrap().der().to_vec();
        Self { pair, csr_der }
    }

    pub(crate) fn with(&self, certificate_pem: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        (chain, PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into())
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

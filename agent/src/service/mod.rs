//! The gRPC services that controllers call, one file each.

mod assignment;
mod databases;
mod diagnostics;
pub(crate) mod jobs;
mod logs;
mod parameters;
mod sizes;
mod users;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{Notify, watch as signal};
use tonic::Status;
use tonic::service::Routes;
use tracing::{error, info};
use trove_proto::v1;
use trove_strategy::{Datastore, EngineError, Site, Size};

use crate::assignment::AssignmentStore;
use crate::identity::Identity;
use crate::jobs::JobQueue;
use crate::logs::Desk;
use crate::supervisor::SupervisedEngine;
use crate::{enrol, status};

const QUESTION: Duration = Duration::from_secs(5);

/// State that all services share.
pub struct Services {
    pub datastore: Arc<dyn Datastore>,
    /// Directories, address and installation of the engine.
    pub site: Site,
    pub supervisor: Arc<dyn SupervisedEngine>,
    pub assignments: Arc<AssignmentStore>,
    pub jobs: Arc<dyn JobQueue>,
    pub identity: Identity,
    /// Bytes in use on the volume; `None` before the first measurement.
    pub used: signal::Receiver<Option<u64>>,
    /// The engine's cgroups. Their memory use is what counts against the flavor.
    pub cgroups: Vec<PathBuf>,
    /// Addresses of controllers from the configuration file, used until an assignment names others.
    pub first_controllers: Vec<String>,
    /// Random id, new at each start of the agent.
    pub boot_id: String,
    /// Memory, cores and volume from the configuration file.
    pub size: Size,
    /// Where the log of writes asks its questions.
    pub log_desk: Arc<Desk>,
    /// Why the log of writes is not stored; empty while it is, or is not to be.
    pub log_trouble: signal::Receiver<String>,
    /// Number of reports since the agent started, to all controllers together.
    pub reports: AtomicU64,
}

/// The services as seen from one connection.
#[derive(Clone)]
struct Connection {
    services: Arc<Services>,
    called: Arc<Notify>,
}

impl Services {
    /// Makes the routes of one connection. The `Notify` fires at the first call.
    pub fn routes(self: &Arc<Self>) -> (Routes, Arc<Notify>) {
        let called = Arc::new(Notify::new());
        let connection = Connection { services: self.clone(), called: called.clone() };
        let routes = Routes::new(v1::watch_server::WatchServer::new(connection.clone()))
            .add_service(v1::assignment_server::AssignmentServer::new(connection.clone()))
            .add_service(v1::jobs_server::JobsServer::new(connection.clone()))
            .add_service(v1::logs_server::LogsServer::new(connection.clone()))
            .add_service(v1::databases_server::DatabasesServer::new(connection.clone()))
            .add_service(v1::users_server::UsersServer::new(connection.clone()))
            .add_service(v1::parameters_server::ParametersServer::new(connection.clone()))
            .add_service(v1::sizes_server::SizesServer::new(connection.clone()))
            .add_service(v1::diagnostics_server::DiagnosticsServer::new(connection));
        (routes, called)
    }

    /// Enrols again if the certificate has expired.
    pub async fn renew_when_expired(&self) -> Result<()> {
        let Some(validity) = self.identity.validity()? else { return Ok(()) };
        if validity.to > time::OffsetDateTime::now_utc() {
            return Ok(());
        }
        let mut controllers = self.assignments.assigned().borrow().specification.controllers.clone();
        if controllers.is_empty() {
            controllers.clone_from(&self.first_controllers);
        }
        let renewed = enrol::enrol(&controllers, &self.identity, None).await;
        match &renewed {
            Ok(()) => info!("the certificate had expired and was renewed"),
            Err(cause) => error!(error = format!("{cause:#}"), "the certificate has expired and is not renewed"),
        }
        renewed
    }
}

/// Awaits a query to the engine, for at most 5 s.
async fn answered<T>(question: impl Future<Output = Result<T, EngineError>>) -> Result<T, Status> {
    answered_within(QUESTION, question).await
}

async fn answered_within<T>(
    limit: Duration,
    question: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, Status> {
    let answer = tokio::time::timeout(limit, question).await;
    answer.map_err(|_| status::late(limit))?.map_err(|error| status::question_error(&error))
}

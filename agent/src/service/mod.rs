//! What a controller may call, a file a subject.

mod assignment;
mod databases;
mod diagnostics;
mod jobs;
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
use crate::supervisor::SupervisedEngine;
use crate::{enrol, status};

const QUESTION: Duration = Duration::from_secs(5);

/// What the services work with.
pub struct Services {
    pub datastore: Arc<dyn Datastore>,
    /// Where the engine lives.
    pub site: Site,
    pub supervisor: Arc<dyn SupervisedEngine>,
    /// The assignment and the fence.
    pub assignments: Arc<AssignmentStore>,
    /// Jobs.
    pub jobs: Arc<dyn JobQueue>,
    /// Key and certificate.
    pub identity: Identity,
    /// Bytes in use on the volume, as they are measured.
    pub used: signal::Receiver<Option<u64>>,
    /// The engine's cgroups, which know the memory of everything that counts against the flavor.
    pub cgroups: Vec<PathBuf>,
    /// Controllers until an assignment names others.
    pub first_controllers: Vec<String>,
    /// Made anew at each start.
    pub boot_id: String,
    /// What was ordered.
    pub size: Size,
    /// How many reports were made in this boot, to whichever controller.
    pub reports: AtomicU64,
}

/// One connection's view of the services.
#[derive(Clone)]
struct Connection {
    services: Arc<Services>,
    called: Arc<Notify>,
}

impl Services {
    /// The routes of one connection, and what is notified at its first call.
    pub fn routes(self: &Arc<Self>) -> (Routes, Arc<Notify>) {
        let called = Arc::new(Notify::new());
        let connection = Connection { services: self.clone(), called: called.clone() };
        let routes = Routes::new(v1::watch_server::WatchServer::new(connection.clone()))
            .add_service(v1::assignment_server::AssignmentServer::new(connection.clone()))
            .add_service(v1::jobs_server::JobsServer::new(connection.clone()))
            .add_service(v1::databases_server::DatabasesServer::new(connection.clone()))
            .add_service(v1::users_server::UsersServer::new(connection.clone()))
            .add_service(v1::parameters_server::ParametersServer::new(connection.clone()))
            .add_service(v1::sizes_server::SizesServer::new(connection.clone()))
            .add_service(v1::diagnostics_server::DiagnosticsServer::new(connection));
        (routes, called)
    }

    /// Asks for another certificate over the enrolment path when the present one has run out.
    ///
    /// # Errors
    /// The controller refused or cannot be reached.
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

/// A question to the engine, with its time limit.
async fn answered<T>(question: impl Future<Output = Result<T, EngineError>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(QUESTION, question).await;
    answer.map_err(|_| status::late())?.map_err(|error| status::question_error(&error))
}

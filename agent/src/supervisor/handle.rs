//! How others ask the task, and see what the engine is doing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use trove_proto::v1::ServiceState;
use trove_strategy::{Applied, EngineError, Health, Kind};

/// What the engine is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineStatus {
    /// In the words of the wire.
    pub service: ServiceState,
    /// Why, for one that is not well.
    pub detail: String,
    /// Its last answer.
    pub health: Option<Health>,
}

pub(super) type Reply<T = ()> = oneshot::Sender<Result<T, EngineError>>;

pub(super) enum Request {
    Initialise(Reply),
    MakeEmpty(Reply),
    Configure(Reply),
    Start(Reply),
    Stop(Reply),
    StopForAWhile(Reply),
    Apply(Reply<BTreeMap<String, Applied>>),
}

/// The way to the task. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) status: watch::Receiver<EngineStatus>,
}

impl Supervisor {
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, EngineError> {
        let gone = || EngineError::new(Kind::Transient, "the agent is about to end");
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Makes sure that no process and no data of the engine are here, for what is to be restored in their place.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the engine runs or has run here, so that there may be data that somebody needs.
    pub async fn make_empty(&self) -> Result<(), EngineError> {
        self.ask(Request::MakeEmpty).await
    }

    /// Makes the data directory, with the private first start where the engine needs one.
    ///
    /// # Errors
    /// The strategy's.
    pub async fn initialise(&self) -> Result<(), EngineError> {
        self.ask(Request::Initialise).await
    }

    /// Writes the configuration of the assignment in force.
    ///
    /// # Errors
    /// The strategy's.
    pub async fn configure(&self) -> Result<(), EngineError> {
        self.ask(Request::Configure).await
    }

    /// Starts the engine, or finds it running, and waits until it answers. From now on it is kept running.
    ///
    /// # Errors
    /// It ended or did not answer in its time: with the end of its log.
    pub async fn start(&self) -> Result<(), EngineError> {
        self.ask(Request::Start).await
    }

    /// Stops the engine and keeps it stopped.
    ///
    /// # Errors
    /// The wish cannot be written down.
    pub async fn stop(&self) -> Result<(), EngineError> {
        self.ask(Request::Stop).await
    }

    /// Stops the engine, which stays wanted: a crash of the agent now ends with a running engine.
    ///
    /// # Errors
    /// None of its own.
    pub async fn stop_for_a_while(&self) -> Result<(), EngineError> {
        self.ask(Request::StopForAWhile).await
    }
}

/// The engine as the services see it. The real one is the [`Supervisor`]'s; the simulator has its own.
#[async_trait]
pub trait SupervisedEngine: Send + Sync {
    /// What it is doing, and every change of it.
    fn status(&self) -> watch::Receiver<EngineStatus>;

    /// Takes up a changed assignment where the engine runs. Answers what became of each parameter.
    ///
    /// # Errors
    /// The strategy's.
    async fn apply(&self) -> Result<BTreeMap<String, Applied>, EngineError>;
}

#[async_trait]
impl SupervisedEngine for Supervisor {
    fn status(&self) -> watch::Receiver<EngineStatus> {
        self.status.clone()
    }

    async fn apply(&self) -> Result<BTreeMap<String, Applied>, EngineError> {
        self.ask(Request::Apply).await
    }
}

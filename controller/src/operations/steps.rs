//! What an operation is: a table of named steps over one state.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

pub use super::outcome::{StepError, StepResult};
use super::work::Work;
use super::{Lane, NewOperation, Origin};
use crate::error::{Error, Result, chain};
use crate::store::sql::Connection;

/// An operation: what happens, in which order, and what is true afterwards.
///
/// A step may run twice, since a controller may die between an effect and its record, and may be dropped at any await,
/// which is the same. An undo may run although its step never did.
#[async_trait]
pub trait Operation: Send + Sync + 'static {
    /// Its name in the store.
    const KIND: &'static str;
    /// Grows when steps or state change; an old version stays in the registry until no row uses it.
    const VERSION: u16;
    /// What it excludes.
    const LANE: Lane;
    /// What is stored between its steps; secrets in it are `Sealed`.
    type State: Serialize + DeserializeOwned + Send + Sync;

    /// Its steps, in order.
    fn steps() -> Steps<Self::State>;

    /// What becomes true together with the record of the last step.
    async fn finished(work: &Work, conn: &mut Connection, state: &Self::State) -> Result<()>;

    /// What becomes true when a step has failed and everything is undone. `error` names the step and the reason.
    async fn failed(work: &Work, conn: &mut Connection, error: &str) -> Result<()>;
}

type Pending<'a> = Pin<Box<dyn Future<Output = StepResult> + Send + 'a>>;

/// A step's function: `async fn(&Work, &mut State) -> StepResult`.
pub trait StepFn<'a, S>: Send + Sync {
    /// Begins it.
    fn call(&self, work: &'a Work, state: &'a mut S) -> Pending<'a>;
}

impl<'a, S, F, R> StepFn<'a, S> for F
where
    S: 'a,
    F: Fn(&'a Work, &'a mut S) -> R + Send + Sync,
    R: Future<Output = StepResult> + Send + 'a,
{
    fn call(&self, work: &'a Work, state: &'a mut S) -> Pending<'a> {
        Box::pin(self(work, state))
    }
}

type BoxedStep<S> = Box<dyn for<'a> StepFn<'a, S>>;

struct Step<S> {
    name: &'static str,
    deadline: Option<Duration>,
    run: BoxedStep<S>,
    undo: Option<BoxedStep<S>>,
}

/// The table of steps of an operation.
pub struct Steps<S>(Vec<Step<S>>);

impl<S> Default for Steps<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S> Steps<S> {
    /// A step that must be done this long after it first began.
    pub fn step(self, name: &'static str, deadline: Duration, run: impl for<'a> StepFn<'a, S> + 'static) -> Self {
        self.push(Step { name, deadline: Some(deadline), run: Box::new(run), undo: None })
    }

    /// A step that is tried until it succeeds or fails for good.
    pub fn step_without_deadline(self, name: &'static str, run: impl for<'a> StepFn<'a, S> + 'static) -> Self {
        self.push(Step { name, deadline: None, run: Box::new(run), undo: None })
    }

    /// How the step before is undone.
    pub fn undo(mut self, undo: impl for<'a> StepFn<'a, S> + 'static) -> Self {
        if let Some(step) = self.0.last_mut() {
            step.undo = Some(Box::new(undo));
        }
        self
    }

    fn push(mut self, step: Step<S>) -> Self {
        self.0.push(step);
        self
    }

    fn get(&self, name: &str) -> Option<&Step<S>> {
        self.0.iter().find(|step| step.name == name)
    }
}

impl NewOperation {
    /// An operation with this state, an `O::State` as JSON, before its first step.
    pub(super) fn of<O: Operation>(origin: Origin, state: Value) -> Self {
        let steps = O::steps().0.iter().map(|step| step.name.to_owned()).collect();
        Self { kind: O::KIND, version: O::VERSION, origin, lane: O::LANE, state, steps }
    }

    /// The same without a step that would have nothing to do: it would be shown as done.
    pub(super) fn without(mut self, step: &str) -> Self {
        self.steps.retain(|name| name != step);
        self
    }
}

/// An operation as the runner sees it: without its types.
#[async_trait]
pub(super) trait Registered: Send + Sync {
    /// Its name in the store.
    fn kind(&self) -> &'static str;
    /// Its version.
    fn version(&self) -> u16;
    /// The deadline of a step; `None` where it has none.
    fn deadline(&self, step: &str) -> Option<Duration>;
    /// Whether a step has an undo.
    fn has_undo(&self, step: &str) -> bool;
    /// Does a step; its result is in `state`, which is untouched unless it succeeds.
    async fn run(&self, work: &Work, state: &mut Value) -> StepResult;
    /// Undoes a step.
    async fn undo(&self, work: &Work, state: &mut Value) -> StepResult;
    /// See [`Operation::finished`].
    async fn finished(&self, work: &Work, conn: &mut Connection, state: &Value) -> Result<()>;
    /// See [`Operation::failed`].
    async fn failed(&self, work: &Work, conn: &mut Connection, error: &str) -> Result<()>;
}

/// An entry of the registry.
pub(super) struct Entry<O: Operation>(Steps<O::State>);

impl<O: Operation> Entry<O> {
    /// With the operation's own table.
    pub(super) fn new() -> Self {
        Self(O::steps())
    }

    fn read(state: &Value) -> Result<O::State> {
        O::State::deserialize(state).map_err(|error| Error::internal(format!("read the state of {}", O::KIND), error))
    }

    async fn call(step: &BoxedStep<O::State>, work: &Work, state: &mut Value) -> StepResult {
        // What cannot be read now cannot be read later either.
        let mut typed = Self::read(state).map_err(|error| StepError::Fatal(chain(&error)))?;
        step.call(work, &mut typed).await?;
        *state = serde_json::to_value(&typed).map_err(|error| StepError::Fatal(error.to_string()))?;
        Ok(())
    }
}

#[async_trait]
impl<O: Operation> Registered for Entry<O> {
    fn kind(&self) -> &'static str {
        O::KIND
    }

    fn version(&self) -> u16 {
        O::VERSION
    }

    fn deadline(&self, step: &str) -> Option<Duration> {
        self.0.get(step).and_then(|step| step.deadline)
    }

    fn has_undo(&self, step: &str) -> bool {
        self.0.get(step).is_some_and(|step| step.undo.is_some())
    }

    async fn run(&self, work: &Work, state: &mut Value) -> StepResult {
        let unknown = || StepError::Fatal(format!("this controller knows no step {}", work.step));
        Self::call(&self.0.get(&work.step).ok_or_else(unknown)?.run, work, state).await
    }

    async fn undo(&self, work: &Work, state: &mut Value) -> StepResult {
        match self.0.get(&work.step).and_then(|step| step.undo.as_ref()) {
            Some(undo) => Self::call(undo, work, state).await,
            None => Ok(()),
        }
    }

    async fn finished(&self, work: &Work, conn: &mut Connection, state: &Value) -> Result<()> {
        O::finished(work, conn, &Self::read(state)?).await
    }

    async fn failed(&self, work: &Work, conn: &mut Connection, error: &str) -> Result<()> {
        O::failed(work, conn, error).await
    }
}

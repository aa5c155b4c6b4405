//! What an operation is: a table of named steps over a state that its targets share and one of each target's own.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::outcome::{StepError, StepResult};
use super::target::Target;
use super::work::Work;
use super::{Lane, NewOperation, Origin, Stage};
use crate::error::{Error, Result, chain};
use crate::ids::InstanceId;
use crate::store::sql::Connection;

/// An operation: what happens, in which order, and what is true afterwards.
///
/// A step may run twice on a target, since a controller may die between an effect and its record, and may be dropped at
/// any await, which is the same. An undo may run although its step never did.
#[async_trait]
pub trait Operation: Send + Sync + 'static {
    /// Its name in the store.
    const KIND: &'static str;
    /// Grows when steps or state change; an old version stays in the registry until no row uses it.
    const VERSION: u16;
    /// What it excludes.
    const LANE: Lane;
    /// What all targets share. It changes between stages only, by [`Steps::join`]; secrets in it are `Sealed`.
    type State: Serialize + DeserializeOwned + Send + Sync;
    /// What the operation knows of one target, stored after each of its steps; secrets in it are `Sealed`.
    type TargetState: Serialize + DeserializeOwned + Default + Send + Sync;

    /// Its steps, in order.
    fn steps() -> Steps<Self::State, Self::TargetState>;

    /// What becomes true together with the record of the last step.
    async fn finished(
        work: &Work,
        conn: &mut Connection,
        state: &Self::State,
        targets: &[Member<Self::TargetState>],
    ) -> Result<()>;

    /// What becomes true when a step has failed and everything is undone. `error` names the step and the reason.
    async fn failed(work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()>;
}

/// A target with what the operation knows of it.
#[derive(Clone, Debug)]
pub struct Member<T> {
    pub instance: InstanceId,
    /// What is known.
    pub state: T,
}

type Pending<'a> = Pin<Box<dyn Future<Output = StepResult> + Send + 'a>>;

/// A step's function: `async fn(&Work, &Target, &State, &mut TargetState) -> StepResult`.
pub trait StepFn<'a, S, T>: Send + Sync {
    /// Begins it.
    fn call(&self, work: &'a Work, target: &'a Target, state: &'a S, own: &'a mut T) -> Pending<'a>;
}

impl<'a, S, T, F, R> StepFn<'a, S, T> for F
where
    S: 'a,
    T: 'a,
    F: Fn(&'a Work, &'a Target, &'a S, &'a mut T) -> R + Send + Sync,
    R: Future<Output = StepResult> + Send + 'a,
{
    fn call(&self, work: &'a Work, target: &'a Target, state: &'a S, own: &'a mut T) -> Pending<'a> {
        Box::pin(self(work, target, state, own))
    }
}

type BoxedStep<S, T> = Box<dyn for<'a> StepFn<'a, S, T>>;
type Join<S, T> = fn(&mut S, &[Member<T>]);

struct Step<S, T> {
    name: &'static str,
    deadline: Option<Duration>,
    attempts: Option<u32>,
    run: BoxedStep<S, T>,
    undo: Option<BoxedStep<S, T>>,
    join: Option<Join<S, T>>,
}

/// The table of steps of an operation.
pub struct Steps<S, T>(Vec<Step<S, T>>);

impl<S, T> Default for Steps<S, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S, T> Steps<S, T> {
    /// A step that must be done on a target this long after it first began there.
    pub fn step(self, name: &'static str, deadline: Duration, run: impl for<'a> StepFn<'a, S, T> + 'static) -> Self {
        self.push(Step { name, deadline: Some(deadline), attempts: None, run: Box::new(run), undo: None, join: None })
    }

    /// A step that is tried until it succeeds or fails for good.
    pub fn step_without_deadline(self, name: &'static str, run: impl for<'a> StepFn<'a, S, T> + 'static) -> Self {
        self.push(Step { name, deadline: None, attempts: None, run: Box::new(run), undo: None, join: None })
    }

    /// How many failures of the step before that may pass it takes until they are final. Each is followed by a longer pause: of
    /// 10 s, then 20 s, and so on. For a step whose every attempt is a burden.
    pub fn attempts(mut self, most: u32) -> Self {
        if let Some(step) = self.0.last_mut() {
            step.attempts = Some(most);
        }
        self
    }

    /// How the step before is undone.
    pub fn undo(mut self, undo: impl for<'a> StepFn<'a, S, T> + 'static) -> Self {
        if let Some(step) = self.0.last_mut() {
            step.undo = Some(Box::new(undo));
        }
        self
    }

    /// What the targets share once the step before is done on all of them. No operation of today has more than one target, so
    /// only the tests' operation over three instances joins; `cfg(test)` goes with the first operation that does.
    #[cfg(test)]
    pub fn join(mut self, join: Join<S, T>) -> Self {
        if let Some(step) = self.0.last_mut() {
            step.join = Some(join);
        }
        self
    }

    fn push(mut self, step: Step<S, T>) -> Self {
        self.0.push(step);
        self
    }

    fn get(&self, name: &str) -> Option<&Step<S, T>> {
        self.0.iter().find(|step| step.name == name)
    }
}

impl NewOperation {
    /// An operation with this state, an `O::State` as JSON, before its first step: each step is for every target.
    pub(super) fn of<O: Operation>(origin: Origin, state: Value) -> Self {
        let stage = |step: &Step<_, _>| Stage { step: step.name.to_owned(), targets: origin.targets.clone() };
        let plan = O::steps().0.iter().map(stage).collect();
        Self { kind: O::KIND, version: O::VERSION, origin, lane: O::LANE, state, plan }
    }

    /// The same without a step that would have nothing to do: it would be shown as done.
    pub(super) fn without(mut self, step: &str) -> Self {
        self.plan.retain(|stage| stage.step != step);
        self
    }
}

/// What is known of a target, without its type.
pub(crate) type Own = (InstanceId, Value);

/// An operation as the runner sees it: without its types.
#[async_trait]
pub(crate) trait Registered: Send + Sync {
    /// Its name in the store.
    fn kind(&self) -> &'static str;
    fn version(&self) -> u16;
    /// The deadline of a step; `None` where it has none.
    fn deadline(&self, step: &str) -> Option<Duration>;
    /// How many attempts a step has; `None` where only its deadline bounds them.
    fn attempts(&self, step: &str) -> Option<u32>;
    /// Whether a step has an undo.
    fn has_undo(&self, step: &str) -> bool;
    /// Does a step on a target; what is known of that then is the result.
    async fn run(&self, work: &Work, target: &Target, state: &Value, own: &Value) -> StepResult<Value>;
    /// Undoes a step on a target.
    async fn undo(&self, work: &Work, target: &Target, state: &Value, own: &Value) -> StepResult<Value>;
    /// What the targets share after a step is done on all of them.
    fn join(&self, step: &str, state: &Value, targets: &[Own]) -> Result<Value>;
    /// See [`Operation::finished`].
    async fn finished(&self, work: &Work, conn: &mut Connection, state: &Value, targets: &[Own]) -> Result<()>;
    /// See [`Operation::failed`].
    async fn failed(&self, work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()>;
}

/// An entry of the registry.
pub(super) struct Entry<O: Operation>(Steps<O::State, O::TargetState>);

impl<O: Operation> Entry<O> {
    /// With the operation's own table.
    pub(super) fn new() -> Self {
        Self(O::steps())
    }

    fn read(state: &Value) -> Result<O::State> {
        O::State::deserialize(state).map_err(|error| Error::internal(format!("read the state of {}", O::KIND), error))
    }

    fn read_own(own: &Value) -> Result<O::TargetState> {
        if own.is_null() {
            return Ok(O::TargetState::default());
        }
        let failed = |error| Error::internal(format!("read what {} knows of a target", O::KIND), error);
        O::TargetState::deserialize(own).map_err(failed)
    }

    fn read_all(targets: &[Own]) -> Result<Vec<Member<O::TargetState>>> {
        let read = |(instance, own): &Own| Ok(Member { instance: *instance, state: Self::read_own(own)? });
        targets.iter().map(read).collect()
    }

    async fn call(
        step: &BoxedStep<O::State, O::TargetState>,
        work: &Work,
        target: &Target,
        state: &Value,
        own: &Value,
    ) -> StepResult<Value> {
        // What cannot be read now cannot be read later either.
        let damaged = |error: Error| StepError::Fatal(chain(&error));
        let state = Self::read(state).map_err(damaged)?;
        let mut own = Self::read_own(own).map_err(damaged)?;
        step.call(work, target, &state, &mut own).await?;
        serde_json::to_value(&own).map_err(|error| StepError::Fatal(error.to_string()))
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

    fn attempts(&self, step: &str) -> Option<u32> {
        self.0.get(step).and_then(|step| step.attempts)
    }

    fn has_undo(&self, step: &str) -> bool {
        self.0.get(step).is_some_and(|step| step.undo.is_some())
    }

    async fn run(&self, work: &Work, target: &Target, state: &Value, own: &Value) -> StepResult<Value> {
        let unknown = || StepError::Fatal(format!("this controller knows no step {}", target.step));
        Self::call(&self.0.get(&target.step).ok_or_else(unknown)?.run, work, target, state, own).await
    }

    async fn undo(&self, work: &Work, target: &Target, state: &Value, own: &Value) -> StepResult<Value> {
        match self.0.get(&target.step).and_then(|step| step.undo.as_ref()) {
            Some(undo) => Self::call(undo, work, target, state, own).await,
            None => Ok(own.clone()),
        }
    }

    fn join(&self, step: &str, state: &Value, targets: &[Own]) -> Result<Value> {
        let Some(join) = self.0.get(step).and_then(|step| step.join) else { return Ok(state.clone()) };
        let mut shared = Self::read(state)?;
        join(&mut shared, &Self::read_all(targets)?);
        serde_json::to_value(&shared).map_err(|error| Error::internal(format!("write the state of {}", O::KIND), error))
    }

    async fn finished(&self, work: &Work, conn: &mut Connection, state: &Value, targets: &[Own]) -> Result<()> {
        O::finished(work, conn, &Self::read(state)?, &Self::read_all(targets)?).await
    }

    async fn failed(&self, work: &Work, conn: &mut Connection, targets: &[InstanceId], error: &str) -> Result<()> {
        O::failed(work, conn, targets, error).await
    }
}

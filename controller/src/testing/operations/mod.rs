//! Support for tests of operations: a real store, a fake agent and driver that count what they do, and the checks that
//! every operation must pass.

mod agents;
mod hosts;
mod stage;
mod sweeps;

pub(crate) use stage::{QUICK, Running, Stage};
pub(crate) use sweeps::{failed_anywhere, hold_at, killed_anywhere, reached};

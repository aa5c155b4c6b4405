//! What tests of operations stand on: a real store, an agent and a driver that do as they are told and count what they
//! did, and the checks that every operation passes.

mod agents;
mod hosts;
mod stage;
mod sweeps;

pub(crate) use stage::{QUICK, Running, Stage};
pub(crate) use sweeps::{failed_anywhere, hold_at, killed_anywhere, reached};

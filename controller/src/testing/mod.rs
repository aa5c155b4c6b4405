//! Test support that several modules use: stores with data, fake agents and drivers, and the checks that every
//! operation must pass.

pub(crate) mod app;
pub(crate) mod no_engine;
pub(crate) mod operations;
pub(crate) mod store;

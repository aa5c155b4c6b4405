//! What tests of several rooms stand on: stores with something in them, agents and drivers that do as they are told, and the
//! checks that every operation passes. No other room holds such things for others.

pub(crate) mod app;
pub(crate) mod no_engine;
pub(crate) mod operations;
pub(crate) mod store;

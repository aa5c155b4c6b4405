//! What was tried against the service, and holds.

mod postgresql;
mod service;
mod volume;

//! What was tried against the service, and holds.

mod service;
mod volume;

//! What was tried against the service, and holds.

mod accounts;
mod files;
mod postgresql;
mod redis;
mod service;
mod volume;

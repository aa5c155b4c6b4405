//! Attacks on the service that must fail.

mod accounts;
mod domains;
mod files;
mod postgresql;
mod processes;
mod redis;
mod service;
mod volume;

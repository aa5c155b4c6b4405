//! Attacks on the service that must fail.

mod accounts;
mod addresses;
mod domains;
mod files;
mod logs;
mod neighbours;
mod postgresql;
mod processes;
mod redis;
mod service;
mod volume;

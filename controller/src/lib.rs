//! The controller (control plane). Dependencies point down only: `api` (HTTP types, no SQL) -> `app` (use cases) ->
//! `store` (the only SQL) and `operations` / `reconcile` -> `compute` and `agents`. `identity` and `admin` (the command
//! line) stand beside.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant files and look at them"))]

pub mod admin;
pub mod agents;
pub mod api;
pub mod app;
pub mod authority;
pub mod compute;
pub mod config;
pub mod connections;
pub mod directory;
pub mod error;
pub mod identity;
pub mod ids;
pub mod listen;
pub mod logs;
pub mod model;
pub mod monitor;
pub mod objects;
pub mod operations;
pub mod reconcile;
pub mod register;
pub mod seal;
pub mod serve;
pub mod signals;
#[cfg(test)]
mod simulation;
pub mod state;
pub mod store;
#[cfg(test)]
mod testing;

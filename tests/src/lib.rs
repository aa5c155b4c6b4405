//! End to end: a whole service of its own for each test, with real agents, real engines and real clients.
//!
//! [`Stack`] is a controller in its own directory, on addresses of its own; [`Keystone`] a real one beside it. [`Api`] speaks to it as a user. [`Engine`] is
//! an engine as its tenant uses it. [`poll`] waits with a deadline. [`leftovers`] is what may not be there at the end.

mod api;
mod clients;
mod database;
pub mod depth;
mod disk;
mod engine;
mod keystone;
pub mod leftovers;
mod poll;
mod postgres;
mod redis;
mod stack;

pub use api::{Answer, Api, order_body};
pub use clients::Clients;
pub use database::Database;
pub use disk::SmallDisk;
pub use engine::{APP, Engine};
pub use keystone::Keystone;
pub use poll::poll;
pub use postgres::{connect, rows};
pub use redis::Redis;
pub use stack::{Failpoints, Shared, Stack, StackOptions, program};

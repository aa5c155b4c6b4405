//! Support for end-to-end tests. Each test has its own service, with real agents, engines and clients.
//!
//! [`Stack`] is a controller with its own directory and address; [`Keystone`] a real Keystone, [`Swift`] a real Swift. [`Api`] is a client of
//! the API, [`Engine`] a client of an engine. [`poll`] waits with a deadline. [`leftovers`] finds what must not be left
//! at the end.

mod api;
mod clients;
mod database;
pub mod depth;
mod disk;
mod dockerd;
mod engine;
mod keystone;
pub mod leftovers;
mod machine;
mod mariadb;
mod mongodb;
mod poll;
mod postgres;
pub mod random;
mod redis;
mod server;
mod skip;
mod stack;
mod stories;
mod swift;

pub use api::{Answer, Api, order_body};
pub use clients::Clients;
pub use database::Database;
pub use disk::SmallDisk;
pub use dockerd::Dockerd;
pub use engine::{APP, Engine};
pub use keystone::Keystone;
pub use machine::OtherMachine;
pub use mariadb::MariaDb;
pub use mongodb::MongoDb;
pub use poll::poll;
pub use postgres::{connect, in_shell, root, rows};
pub use redis::Redis;
pub use skip::{has_root_or_skips, skipped};
pub use stack::{Failpoints, Shared, Stack, StackOptions, program};
pub use swift::{SIGNING_KEY, Swift};

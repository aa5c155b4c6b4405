//! The administration of a state directory from the command line.

mod command;
mod datastores;
mod hosts;

pub use command::{Arguments, Verb, dispatch};

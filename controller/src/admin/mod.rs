//! The administration of a state directory from the command line.

mod arguments;
mod command;
mod datastores;
mod hosts;

pub use arguments::{Arguments, Verb};
pub use command::dispatch;

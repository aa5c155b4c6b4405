//! The command line: administration of a state directory.

mod arguments;
mod command;
mod datastores;
mod hosts;

pub use arguments::{Arguments, Verb};
pub use command::dispatch;

//! The guest agent with the datastores that ship with it. A program of one's own lists others beside them.

use std::process::ExitCode;

fn main() -> ExitCode {
    trove_agent::Agent::new()
        .with(trove_postgresql::Postgresql)
        .with(trove_redis::Redis::for_redis())
        .with(trove_redis::Redis::for_valkey())
        .main()
}

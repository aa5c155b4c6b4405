//! The guest agent with the datastores that its features name. A program with other datastores is a `main` like this
//! one.

use std::process::ExitCode;

fn main() -> ExitCode {
    let agent = trove_agent::Agent::new();
    #[cfg(feature = "postgresql")]
    let agent = agent.with(trove_postgresql::Postgresql::new());
    #[cfg(feature = "redis")]
    let agent = agent.with(trove_redis::Redis::for_redis()).with(trove_redis::Redis::for_valkey());
    #[cfg(feature = "mongodb")]
    let agent = agent.with(trove_mongodb::Mongodb::new());
    #[cfg(feature = "mysql")]
    let agent = agent.with(trove_mysql::Mysql::for_mariadb()).with(trove_mysql::Mysql::for_mysql());
    agent.main()
}

//! A controller to measure, on either database.

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use trove_controller::config::Config;
use trove_controller::seal::Seal;
use trove_controller::store::Store;
use trove_tests::{Api, Database, Failpoints, Stack, StackOptions, poll};

use crate::process;

/// Database of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgresql,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Sqlite, Self::Postgresql];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgresql => "PostgreSQL",
        })
    }
}

/// CPU time so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// CPU time of the controller, seconds; includes SQLite.
    pub(crate) controller_s: f64,
    /// CPU time of the PostgreSQL server, seconds.
    pub(crate) database_s: f64,
}

/// A controller and its database.
pub(crate) struct Service {
    pub(crate) stack: Stack,
    pub(crate) kind: Kind,
    database: Option<Database>,
    metrics: String,
}

impl Service {
    /// Starts it, without quotas and rate limits. `config` is additional configuration.
    pub(crate) async fn start(kind: Kind, config: &str) -> Result<Self> {
        Self::start_with(kind, config, Vec::new()).await
    }

    /// Starts one with every engine that is installed, and waits until all can be ordered.
    pub(crate) async fn start_with_all_engines() -> Result<Self> {
        let all = ("TROVE_DATASTORES__ONLY".to_owned(), "[]".to_owned());
        let service = Self::start_with(Kind::Sqlite, "", vec![all]).await?;
        let answer = service.login().await?.get("/datastores?wait=60").await?;
        ensure!(answer.status == 200, "the datastores: {answer:?}");
        Ok(service)
    }

    async fn start_with(kind: Kind, config: &str, environment: Vec<(String, String)>) -> Result<Self> {
        let database = match kind {
            Kind::Sqlite => None,
            // Durable, as by default; the module counts statements.
            Kind::Postgresql => Some(Database::start_with(&["shared_preload_libraries=pg_stat_statements"])?),
        };
        if let Some(database) = &database {
            database.connect().await?.batch_execute("create extension pg_stat_statements").await?;
        }
        let address = Ipv4Addr::new(127, rand::random_range(128..=254), rand::random(), rand::random_range(1..=254));
        let config = format!(
            "{config}\n[metrics]\nlisten = \"{address}:8777\"\n\
             [quota]\nmax_instances_per_tenant = -1\nmax_volumes_per_tenant = -1\n\
             [rate_limits]\nget = 0\npost = 0\nput = 0\ndelete = 0\nmgmt_post = 0\n"
        );
        let shared = database.as_ref().map(Database::shared_locally);
        let stack = Stack::start_with(StackOptions { config, shared, environment, ..StackOptions::default() }).await?;
        Ok(Self { stack, kind, database, metrics: format!("http://{address}:8777/metrics") })
    }

    /// Restarts the controller with the same state.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.stack.stop()?;
        self.stack.run(&Failpoints::default())
    }

    /// Logs a user in.
    pub(crate) async fn login(&self) -> Result<Api> {
        self.stack.login("trove").await
    }

    /// The effective configuration.
    pub(crate) fn config(&self) -> Result<Config> {
        Ok(Config::load(Some(&self.stack.config()))?)
    }

    /// Opens its store, in addition to the controller.
    pub(crate) async fn store(&self) -> Result<Store> {
        let state = self.stack.state();
        let shared = self.database.as_ref().map(Database::shared_locally);
        let key = shared.as_ref().map_or_else(|| state.join("secret.key"), |shared| shared.key_file.clone());
        let key: [u8; 32] = std::fs::read(&key)?.try_into().ok().context("a key of 32 bytes")?;
        let seal = Seal::new(&key);
        Ok(match shared {
            None => Store::open(&state, seal).await?,
            Some(shared) => {
                let password = std::fs::read_to_string(&shared.password_file)?;
                Store::connect(&shared.url, Some(&password), seal).await?
            }
        })
    }

    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let database_s = match &self.database {
            None => 0.0,
            Some(database) => process::family_cpu_s(database.pid()?)?,
        };
        Ok(Cpu { controller_s: process::cpu_s(self.stack.pid()?.as_raw())?, database_s })
    }

    /// Memory of the controller, MiB.
    pub(crate) fn memory_mib(&self) -> Result<f64> {
        process::pss_mib(self.stack.pid()?.as_raw())
    }

    /// Sum of the samples of a metric of the controller.
    pub(crate) async fn figure(&self, name: &str) -> Result<f64> {
        let text = reqwest::get(&self.metrics).await?.error_for_status()?.text().await?;
        let samples = text.lines().filter_map(|line| line.strip_prefix(name));
        let own = samples.filter(|rest| rest.starts_with([' ', '{']));
        Ok(own.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    /// Number of statements, as counted by the controller.
    pub(crate) async fn statements(&self) -> Result<f64> {
        self.figure("trove_store_statements_total").await
    }

    /// Number of statements, as counted by PostgreSQL; `None` on SQLite.
    pub(crate) async fn heard_statements(&self) -> Result<Option<f64>> {
        let Some(database) = &self.database else { return Ok(None) };
        let client = database.connect().await?;
        // This query itself is counted, too, which does not matter in the difference of large numbers.
        let row = client.query_one("select sum(calls)::float8 from pg_stat_statements", &[]).await?;
        Ok(Some(row.get(0)))
    }

    /// Waits until the controller has used almost no CPU for a second, so that work after its start or a load is done.
    pub(crate) async fn settle(&self) -> Result<()> {
        let mut last = self.cpu()?;
        let calm = |spent: &f64| *spent < 0.03;
        let spent = async || {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            let now = self.cpu()?;
            let spent = now.controller_s + now.database_s - last.controller_s - last.database_s;
            last = now;
            Ok(spent)
        };
        poll("a controller at rest", std::time::Duration::from_secs(120), spent, calm).await?;
        Ok(())
    }
}

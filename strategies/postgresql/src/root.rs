//! The superuser that a tenant may ask for: the role `root`, as Trove names it.

use async_trait::async_trait;
use secrecy::SecretString;
use trove_strategy::{EngineError, Root, Site};

use crate::Postgresql;
use crate::access;
use crate::client::{HOME, Session, scram_verifier, sql_literal};
use crate::names::ROOT;

#[async_trait]
impl Root for Postgresql {
    async fn is_enabled(&self, site: &Site) -> Result<bool, EngineError> {
        let home = Session::open(site, HOME).await?;
        home.any("look for root", "select 1 from pg_roles where rolname = 'root' and rolcanlogin").await
    }

    async fn enable(&self, site: &Site, password: &SecretString) -> Result<(), EngineError> {
        let home = Session::open(site, HOME).await?;
        let known = home.any("look for root", "select 1 from pg_roles where rolname = 'root'").await?;
        let verb = if known { "alter" } else { "create" };
        let verifier = sql_literal(&scram_verifier(password));
        let sql = format!("{verb} role root superuser createdb createrole replication login password {verifier}");
        home.run("enable root", &sql).await
    }

    async fn disable(&self, site: &Site) -> Result<(), EngineError> {
        let home = Session::open(site, HOME).await?;
        if home.any("look for root", "select 1 from pg_roles where rolname = 'root'").await? {
            home.run("disable root", "alter role root nologin password null").await?;
            access::cut_sessions(&home, Some(ROOT), None).await?;
        }
        Ok(())
    }
}

//! The account that may do everything with data, which a tenant may ask for: `default`, which every connection has that names no other.

use async_trait::async_trait;
use secrecy::SecretString;
use trove_strategy::{EngineError, Root, Site};

use crate::Redis;
use crate::acl;

#[async_trait]
impl Root for Redis {
    async fn is_enabled(&self, site: &Site) -> Result<bool, EngineError> {
        let mut session = self.held.session(site).await?;
        let lines: Vec<String> = session.ask("look for root", redis::cmd("ACL").arg("LIST")).await?;
        let is_root = |line: &&String| line.split(' ').nth(1) == Some(acl::ROOT);
        Ok(lines.iter().find(is_root).is_some_and(|line| line.split(' ').nth(2) == Some("on")))
    }

    async fn enable(&self, site: &Site, password: &SecretString) -> Result<(), EngineError> {
        let mut session = self.held.session(site).await?;
        let mut command = redis::cmd("ACL");
        // One step: it is never on without a password.
        command.arg("SETUSER").arg(acl::ROOT).arg("resetpass").arg(acl::verifier(password)).arg("on");
        command.arg(acl::of_root());
        session.ask::<()>("enable root", &command).await?;
        self.save(&mut session, "enable root").await
    }

    async fn disable(&self, site: &Site) -> Result<(), EngineError> {
        let mut session = self.held.session(site).await?;
        let mut command = redis::cmd("ACL");
        // It keeps its rights: the log of writes is replayed with them.
        command.arg("SETUSER").arg(acl::ROOT).arg("off").arg("resetpass").arg(acl::of_root());
        session.ask::<()>("disable root", &command).await?;
        self.save(&mut session, "disable root").await?;
        let mut cut = redis::cmd("CLIENT");
        session.ask::<i64>("cut root's sessions", cut.arg("KILL").arg("USER").arg(acl::ROOT)).await.map(|_| ())
    }
}

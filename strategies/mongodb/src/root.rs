//! The account that may do everything with data, which a tenant may ask for: `root`, which logs in at `admin`.

use async_trait::async_trait;
use bson::doc;
use secrecy::{ExposeSecret, SecretString};
use trove_strategy::{EngineError, Root, Site};

use crate::client::THERE_ALREADY;
use crate::names::{HOME, ROOT};
use crate::roles::{self, ROOT_ROLE};
use crate::{Mongodb, config, users};

#[async_trait]
impl Root for Mongodb {
    async fn is_enabled(&self, site: &Site) -> Result<bool, EngineError> {
        Ok(users::find(&mut self.held.session(site).await?, HOME, ROOT).await?.is_some())
    }

    async fn enable(&self, site: &Site, password: &SecretString) -> Result<(), EngineError> {
        let session = &mut self.held.session(site).await?;
        roles::put_root(session, config::is_full(site).await?).await?;
        let command = |verb: &str| {
            let role = doc! {"role": ROOT_ROLE, "db": HOME};
            doc! {verb: ROOT, "pwd": password.expose_secret(), "roles": [role], "mechanisms": ["SCRAM-SHA-256"]}
        };
        if !session.write("enable root", HOME, command("createUser"), &THERE_ALREADY).await? {
            session.write("enable root", HOME, command("updateUser"), &[]).await?;
        }
        Ok(())
    }

    async fn disable(&self, site: &Site) -> Result<(), EngineError> {
        users::remove(&mut self.held.session(site).await?, "disable root", HOME, ROOT).await
    }
}

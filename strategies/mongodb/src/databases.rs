//! Databases. The server has one only while something is in it: the role for access to it tells that it was ordered.

use async_trait::async_trait;
use bson::{Document, doc};
use trove_strategy::{CharacterSet, Database, Databases, EngineError, Grantee, Kind, Site};

use crate::Mongodb;
use crate::access::{all, let_in};
use crate::client::NOT_FOUND;
use crate::names::{HOME, check_database, split};
use crate::roles::{self, ACCESS};
use crate::users::{self, cut_sessions};

#[async_trait]
impl Databases for Mongodb {
    async fn character_sets(&self, _site: &Site) -> Result<Vec<CharacterSet>, EngineError> {
        // Texts are UTF-8, and a collation is a collection's or a query's.
        Ok(Vec::new())
    }

    async fn list(&self, site: &Site) -> Result<Vec<Database>, EngineError> {
        let names = all(&mut self.held.session(site).await?).await?;
        Ok(names.iter().map(|name| Database::named(name)).collect())
    }

    async fn create(&self, site: &Site, database: &Database) -> Result<(), EngineError> {
        let name = &database.name;
        let attempt = format!("create the database {name:?}");
        let invalid = |reason: String| Err(EngineError::new(Kind::Invalid, format!("{attempt}: {reason}")));
        check_database(name)?;
        if database.character_set.is_some() || database.collation.is_some() {
            return invalid("databases have no character set and no collation here".to_owned());
        }
        let session = &mut self.held.session(site).await?;
        let there = all(session).await?;
        let same = |other: &&String| *other != name && other.eq_ignore_ascii_case(name);
        if let Some(other) = there.iter().find(same) {
            return invalid(format!("its name differs from that of {other:?} only in case"));
        }
        roles::put_access(site, session, name).await
    }

    async fn delete(&self, site: &Site, name: &str) -> Result<(), EngineError> {
        check_database(name)?;
        let attempt = format!("delete the database {name:?}");
        let session = &mut self.held.session(site).await?;
        let entered = doc! {"roles": {"role": ACCESS, "db": name}};
        let inside = session.find(&attempt, (HOME, "system.users"), entered, doc! {"user": 1, "db": 1}).await?;
        // First, so that nobody but root writes there any more.
        roles::drop_access(session, name).await?;
        cut_sessions(session, &attempt, &inside).await?;
        session.write(&attempt, name, doc! {"dropDatabase": 1}, &NOT_FOUND).await.map(|_| ())
    }

    async fn grant(&self, site: &Site, user: &Grantee, databases: &[String]) -> Result<(), EngineError> {
        split(&user.name)?;
        let session = &mut self.held.session(site).await?;
        for database in databases {
            let_in(site, session, &user.name, database).await?;
        }
        Ok(())
    }

    async fn revoke(&self, site: &Site, user: &Grantee, database: &str) -> Result<(), EngineError> {
        let (home, name) = split(&user.name)?;
        check_database(database)?;
        let attempt = format!("let {:?} no longer into {database:?}", user.name);
        let session = &mut self.held.session(site).await?;
        if !roles::has_access(session, database).await? {
            return Ok(());
        }
        let found: Vec<Document> = users::find(session, home, name).await?.into_iter().collect();
        let revoke = doc! {"revokeRolesFromUser": name, "roles": [{"role": ACCESS, "db": database}]};
        session.write(&attempt, home, revoke, &[]).await?;
        // What it runs there would go on.
        cut_sessions(session, &attempt, &found).await
    }
}

//! Databases, and who may enter them. The server has a database only while something is in it: the role for access to it tells
//! that it was ordered.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use trove_strategy::{CharacterSet, Database, Databases, EngineError, Grantee, Kind, Site};

use crate::Mongodb;
use crate::client::{NOT_FOUND, Session};
use crate::names::{HOME, check_database, split};
use crate::roles::{self, ACCESS};
use crate::users::{self, cut_sessions};

/// Databases that hold something, the server's own included.
async fn in_the_server(session: &mut Session) -> Result<Vec<String>, EngineError> {
    let attempt = "list databases";
    let answer = session.run(attempt, HOME, doc! {"listDatabases": 1, "nameOnly": true}).await?;
    let all = answer.get_array("databases").into_iter().flatten().filter_map(Bson::as_document);
    Ok(all.filter_map(|database| database.get_str("name").ok()).map(str::to_owned).collect())
}

/// All that there are: ordered, or made by a tenant by writing to them.
async fn all(session: &mut Session) -> Result<BTreeSet<String>, EngineError> {
    let mut all: BTreeSet<String> = roles::databases(session).await?.into_iter().collect();
    all.extend(in_the_server(session).await?);
    all.retain(|name| check_database(name).is_ok());
    Ok(all)
}

/// Lets an account into a database.
pub(crate) async fn let_in(site: &Site, session: &mut Session, user: &str, database: &str) -> Result<(), EngineError> {
    check_database(database)?;
    let attempt = format!("let {user:?} into {database:?}");
    if !roles::has_access(session, database).await? {
        if !all(session).await?.contains(database) {
            return Err(EngineError::new(Kind::Gone, format!("{attempt}: there is no such database")));
        }
        roles::put_access(site, session, database).await?;
    }
    let (home, name) = split(user)?;
    let grant = doc! {"grantRolesToUser": name, "roles": [{"role": ACCESS, "db": database}]};
    session.write(&attempt, home, grant, &[]).await.map(|_| ())
}

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

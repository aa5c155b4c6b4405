//! Databases, and who may enter them.

use async_trait::async_trait;
use trove_strategy::{CharacterSet, Database, Databases, EngineError, Grantee, Kind, Site};

use crate::client::{Session, identifier};
use crate::names::{check_database, is_reserved_database};
use crate::{Flavour, Mysql, access, names, sessions};

/// What exists already, and what is gone already.
const EXISTS: u16 = 1007;

#[async_trait]
impl Databases for Mysql {
    async fn character_sets(&self, site: &Site) -> Result<Vec<CharacterSet>, EngineError> {
        let mut session = self.session(site).await?;
        character_sets(self.flavour, &mut session).await
    }

    async fn list(&self, site: &Site) -> Result<Vec<Database>, EngineError> {
        let mut session = self.session(site).await?;
        let mut all = listed(&mut session).await?;
        all.retain(|database| !is_reserved_database(self.flavour, &database.name));
        Ok(all)
    }

    async fn create(&self, site: &Site, database: &Database) -> Result<(), EngineError> {
        let name = &database.name;
        check_database(self.flavour, name)?;
        let attempt = format!("create the database {name:?}");
        let mut session = self.session(site).await?;
        if let Some(there) = listed(&mut session).await?.into_iter().find(|there| there.name == *name) {
            return same(&attempt, &there, database);
        }
        access::forget(self.flavour, &mut session, name).await?;
        let mut sql = format!("create database {}", identifier(name));
        if let Some(set) = &database.character_set {
            sql += &format!(" character set {}", identifier(set));
        }
        if let Some(collation) = &database.collation {
            sql += &format!(" collate {}", identifier(collation));
        }
        session.run_unless(&attempt, &sql, &[EXISTS]).await
    }

    async fn delete(&self, site: &Site, name: &str) -> Result<(), EngineError> {
        check_database(self.flavour, name)?;
        let attempt = format!("delete the database {name:?}");
        let mut session = self.session(site).await?;
        sessions::cut(&mut session, |open| open.database == name).await?;
        let drop = format!("drop database if exists {}", identifier(name));
        session.run(&attempt, "set lock_wait_timeout = 3").await?;
        match session.run(&attempt, &drop).await {
            // Transactions of sessions that are in another database have looked at its tables.
            Err(error) if error.kind() == Kind::Busy => {
                let own = names::admin(self.flavour, site);
                sessions::cut(&mut session, |open| open.user != own).await?;
                session.run(&attempt, &drop).await?;
            }
            done => done?,
        }
        access::forget(self.flavour, &mut session, name).await
    }

    async fn grant(&self, site: &Site, user: &Grantee, databases: &[String]) -> Result<(), EngineError> {
        let mut session = self.session(site).await?;
        for database in databases {
            access::grant(self.flavour, site, &mut session, user, database).await?;
        }
        Ok(())
    }

    async fn revoke(&self, site: &Site, user: &Grantee, database: &str) -> Result<(), EngineError> {
        let mut session = self.session(site).await?;
        access::revoke(self.flavour, site, &mut session, user, database).await
    }
}

/// All databases, the server's own included, by name.
async fn listed(session: &mut Session<'_>) -> Result<Vec<Database>, EngineError> {
    let sql = "select schema_name, default_character_set_name, default_collation_name from information_schema.schemata";
    let database = |row: Vec<String>| {
        let [name, set, collation] = <[String; 3]>::try_from(row).ok()?;
        Some(Database { name, character_set: Some(set), collation: Some(collation) })
    };
    let rows = session.rows("list databases", sql).await?;
    let mut all: Vec<Database> = rows.into_iter().filter_map(database).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Whether a database that is there is the one that is to be made, as after a crash; else it is somebody's other one.
fn same(attempt: &str, there: &Database, wanted: &Database) -> Result<(), EngineError> {
    let differs = |there: &Option<String>, wanted: &Option<String>| {
        wanted.as_ref().is_some_and(|wanted| there.as_ref().is_none_or(|there| !there.eq_ignore_ascii_case(wanted)))
    };
    let reason = if differs(&there.character_set, &wanted.character_set) {
        "it exists with another character set"
    } else if differs(&there.collation, &wanted.collation) {
        "it exists with another collation"
    } else {
        return Ok(());
    };
    Err(EngineError::new(Kind::Invalid, format!("{attempt}: {reason}")))
}

/// The server's default first.
async fn character_sets(flavour: Flavour, session: &mut Session<'_>) -> Result<Vec<CharacterSet>, EngineError> {
    let attempt = "list character sets";
    let default = session.value(attempt, "select @@global.character_set_server").await?.unwrap_or_default();
    let sets = "select character_set_name, default_collate_name from information_schema.character_sets";
    // MariaDB has collations that several sets share, and a name of each for a database of one set.
    let name = flavour.either("full_collation_name", "collation_name");
    let fitting = format!(
        "select character_set_name, {name} from information_schema.collation_character_set_applicability \
         where character_set_name is not null order by 2"
    );
    let pair = |row: Vec<String>| <[String; 2]>::try_from(row).ok().map(|[one, other]| (one, other));
    let sets: Vec<(String, String)> = session.rows(attempt, sets).await?.into_iter().filter_map(pair).collect();
    let fitting: Vec<(String, String)> = session.rows(attempt, &fitting).await?.into_iter().filter_map(pair).collect();
    let set = |(name, collation): &(String, String)| {
        let mut set = CharacterSet::new(name, collation);
        let others = fitting.iter().filter(|(of, other)| of == name && other != collation);
        set.collations.extend(others.map(|(_, other)| other.clone()));
        set
    };
    let mut all: Vec<CharacterSet> = sets.iter().map(set).collect();
    all.sort_by_key(|set| (set.name != default, set.name.clone()));
    Ok(all)
}

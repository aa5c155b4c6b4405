//! Databases, and who may enter them.

use async_trait::async_trait;
use trove_strategy::{CharacterSet, Database, Databases, EngineError, Grantee, Site};

use crate::access;
use crate::client::{HOME, Session, sql_identifier, sql_literal};
use crate::locales;
use crate::names::{check_database, check_role};
use crate::{Postgresql, RESERVED_DATABASES};

#[async_trait]
impl Databases for Postgresql {
    async fn character_sets(&self, site: &Site) -> Result<Vec<CharacterSet>, EngineError> {
        locales::character_sets(&Session::open(site, HOME).await?).await
    }

    async fn list(&self, site: &Site) -> Result<Vec<Database>, EngineError> {
        let home = Session::open(site, HOME).await?;
        let sql = "select datname, pg_encoding_to_char(encoding), datcollate from pg_database where datallowconn \
                   order by datname collate \"C\"";
        let rows = home.rows("list databases", sql).await?;
        let database = |row: Vec<String>| {
            let [name, character_set, collation] = <[String; 3]>::try_from(row).ok()?;
            Some(Database { name, character_set: Some(character_set), collation: Some(collation) })
        };
        let all = rows.into_iter().filter_map(database);
        Ok(all.filter(|database| !RESERVED_DATABASES.contains(&database.name.as_str())).collect())
    }

    async fn create(&self, site: &Site, database: &Database) -> Result<(), EngineError> {
        check_database(&database.name)?;
        let (name, attempt) = (sql_identifier(&database.name), format!("create the database {:?}", database.name));
        let home = Session::open(site, HOME).await?;
        let group = sql_identifier(&access::ensure_group(&home, &database.name).await?);
        let known = format!("select 1 from pg_database where datname = {}", sql_literal(&database.name));
        if !home.any(&attempt, &known).await? {
            let mut sql = format!("create database {name} template template0 owner {group}");
            if let Some(encoding) = &database.character_set {
                sql.push_str(&format!(" encoding {}", sql_literal(encoding)));
            }
            if let Some(collation) = &database.collation {
                let collation = sql_literal(collation);
                sql.push_str(&format!(" lc_collate {collation} lc_ctype {collation}"));
            }
            home.run(&attempt, &sql).await?;
        }
        // By default every account may enter every database.
        home.run(&attempt, &format!("revoke all on database {name} from public")).await
    }

    async fn delete(&self, site: &Site, name: &str) -> Result<(), EngineError> {
        check_database(name)?;
        let attempt = format!("delete the database {name:?}");
        let home = Session::open(site, HOME).await?;
        home.run(&attempt, &format!("drop database if exists {} with (force)", sql_identifier(name))).await?;
        home.run(&attempt, &format!("drop role if exists {}", sql_identifier(&access::group_of(name)))).await
    }

    async fn grant(&self, site: &Site, user: &Grantee, databases: &[String]) -> Result<(), EngineError> {
        check_role(&user.name)?;
        for database in databases {
            access::grant(site, &user.name, database).await?;
        }
        Ok(())
    }

    async fn revoke(&self, site: &Site, user: &Grantee, database: &str) -> Result<(), EngineError> {
        check_role(&user.name)?;
        access::revoke(site, &user.name, database).await
    }
}

//! Databases, and who may enter them.

use async_trait::async_trait;
use trove_strategy::{CharacterSet, Database, Databases, EngineError, Grantee, Kind, Site, character_set};

use crate::Postgresql;
use crate::access;
use crate::catalog::{self, Place};
use crate::client::{Session, each, sql_identifier, sql_literal};
use crate::locales;
use crate::names::{check_database, check_role};

#[async_trait]
impl Databases for Postgresql {
    async fn character_sets(&self, site: &Site) -> Result<Vec<CharacterSet>, EngineError> {
        locales::character_sets(&catalog::home(site).await?).await
    }

    async fn list(&self, site: &Site) -> Result<Vec<Database>, EngineError> {
        let places = catalog::places(&catalog::home(site).await?).await?;
        let database = |place: Place| Database {
            name: place.name,
            character_set: Some(place.encoding),
            collation: Some(place.collation),
        };
        Ok(places.into_iter().filter(|place| !place.reserved()).map(database).collect())
    }

    async fn create(&self, site: &Site, database: &Database) -> Result<(), EngineError> {
        check_database(&database.name)?;
        let (name, attempt) = (sql_identifier(&database.name), format!("create the database {:?}", database.name));
        let home = catalog::home(site).await?;
        let places = catalog::places(&home).await?;
        if let Some(place) = places.iter().find(|place| place.name == database.name) {
            same(&home, &attempt, place, database).await?;
        } else {
            let group = sql_identifier(&unused_group(&home, &places, &database.name).await?);
            let mut sql = format!("create database {name} template template0 owner {group}");
            if let Some(encoding) = &database.character_set {
                sql.push_str(&format!(" encoding {}", sql_literal(encoding)));
            }
            if let Some(collation) = fitting(&home, database).await? {
                let collation = sql_literal(&collation);
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
        let home = catalog::home(site).await?;
        let Some(place) = catalog::place(&home, name).await? else { return Ok(()) };
        let groups = format!("select oid from pg_authid where rolname = {}", sql_literal(&place.group()));
        let group = home.rows(&attempt, &groups).await?.concat().pop();
        if let Some(group) = &group {
            clear_elsewhere(site, &home, &attempt, &place, group).await?;
        }
        release(site, &home, &attempt, &place).await?;
        home.run(&attempt, &format!("drop database if exists {} with (force)", sql_identifier(name))).await?;
        let Some(group) = group else { return Ok(()) };
        let drop = format!("select format('drop role %I', rolname) from pg_authid where oid = {group}");
        let dropped = home.work(&attempt, &(access::membership(&format!("m.roleid = {group}")) + &each(&drop))).await;
        match dropped {
            // It was granted something in this moment. Nobody is a member of it, and a database of the same name gets
            // another role: the database is gone, which is what was asked for.
            Err(error) if error.kind() == Kind::Invalid => Ok(()),
            other => other,
        }
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

/// The collation that is asked for, or the one that the engine has for the character set that is asked for.
async fn fitting(home: &Session, database: &Database) -> Result<Option<String>, EngineError> {
    let (Some(encoding), None) = (&database.character_set, &database.collation) else {
        return Ok(database.collation.clone());
    };
    let sets = locales::character_sets(home).await?;
    Ok(character_set(&sets, encoding).map(|set| set.default_collation.clone()))
}

/// Whether a database that is there is the one that is to be made, as after a crash; else it is somebody's other one.
async fn same(home: &Session, attempt: &str, place: &Place, database: &Database) -> Result<(), EngineError> {
    let encoding = database.character_set.as_deref().unwrap_or(&place.encoding);
    let sql = format!(
        "select pg_char_to_encoding({}) = pg_char_to_encoding({})",
        sql_literal(encoding),
        sql_literal(&place.encoding)
    );
    let reason = if place.owner != place.group() || place.template {
        "it exists and is not the service's"
    } else if !place.open {
        "it exists and lets nobody in"
    } else if home.rows(attempt, &sql).await?.concat() != ["t"] {
        "it exists with another character set"
    } else if database.collation.as_ref().is_some_and(|collation| *collation != place.collation) {
        "it exists with another collation"
    } else {
        return Ok(());
    };
    Err(EngineError::new(Kind::Invalid, format!("{attempt}: {reason}")))
}

/// A role for a new database: one that owns none (a database that was renamed keeps its role) and that nobody is a member
/// of.
async fn unused_group(home: &Session, places: &[Place], database: &str) -> Result<String, EngineError> {
    let names = std::iter::once(catalog::group_of(database))
        .chain((1..).map(|n| catalog::group_of(&format!("{database}/{n}"))));
    let unused = names.into_iter().find(|name| !places.iter().any(|place| place.group() == *name));
    let group = unused.unwrap_or_else(|| catalog::group_of(database));
    let role = access::ensure_role(home, &group, database).await?;
    home.work("make a role for a database", &access::membership(&format!("m.roleid = {role}"))).await?;
    Ok(group)
}

/// What the role of a database has outside of it goes to the roles of the databases that it is in.
async fn clear_elsewhere(
    site: &Site,
    home: &Session,
    attempt: &str,
    place: &Place,
    group: &str,
) -> Result<(), EngineError> {
    let others = |other: &&Place| other.oid != place.oid;
    for other in catalog::places(home).await?.iter().filter(others).filter(|other| other.owner_oid == group) {
        access::hand_over(home, other, group).await?;
    }
    for other in catalog::traces(home, group).await?.iter().filter(others) {
        let heir = access::ensure_group(home, other).await?;
        let inside = catalog::enter(site, home, other).await?;
        inside.work(attempt, &access::leave_but_shared(site, group, &heir, &place.oid)).await?;
    }
    Ok(())
}

/// Takes away what a tenant can set on a database so that it cannot be dropped.
async fn release(site: &Site, home: &Session, attempt: &str, place: &Place) -> Result<(), EngineError> {
    let oid = &place.oid;
    if place.template {
        let sql =
            format!("select format('alter database %I is_template false', datname) from pg_database where oid = {oid}");
        home.work(attempt, &each(&sql)).await?;
    }
    let held = format!(
        "select 1 from pg_subscription where subdbid = {oid} union all select 1 from pg_prepared_xact() p \
         where p.dbid = {oid}"
    );
    if home.any(attempt, &held).await? {
        let inside = catalog::enter(site, home, place).await?;
        for gid in
            inside.rows(attempt, &format!("select gid from pg_prepared_xact() where dbid = {oid}")).await?.concat()
        {
            inside.run(attempt, &format!("rollback prepared {}", sql_literal(&gid))).await?;
        }
        let ours =
            "from pg_subscription where subdbid = (select oid from pg_database where datname = current_database())";
        let steps =
            ["alter subscription %I disable", "alter subscription %I set (slot_name = none)", "drop subscription %I"]
                .map(|step| each(&format!("select format('{step}', subname) {ours}")));
        inside.work(attempt, &steps.concat()).await?;
    }
    // Its publisher's slots: an active one keeps a database too.
    let slots = format!(
        "select pg_terminate_backend(s.active_pid) from pg_get_replication_slots() s where s.datoid = {oid} and s.active"
    );
    home.rows(attempt, &slots).await?;
    Ok(())
}

//! Accounts of tenants: roles that can log in and are no superusers. They have no hosts: every host is `%`.

use async_trait::async_trait;
use trove_strategy::{Databases, EngineError, Grantee, Kind, NewUser, Site, User, UserChange, Users};

use crate::Postgresql;
use crate::access;
use crate::client::{HOME, Session, scram_verifier, sql_identifier, sql_literal};
use crate::names::{check_role, is_reserved_role, not_root};

const ANY_HOST: &str = "%";

async fn exists(home: &Session, name: &str) -> Result<bool, EngineError> {
    let sql = format!("select 1 from pg_roles where rolname = {}", sql_literal(name));
    home.any("look for an account", &sql).await
}

/// One row for each account and database that it may enter; accounts that may enter none have one with an empty name.
async fn listed(site: &Site, only: Option<&str>) -> Result<Vec<User>, EngineError> {
    let home = Session::open(site, HOME).await?;
    let databases = home.rows("list databases", "select datname from pg_database where datallowconn").await?;
    let groups: std::collections::BTreeMap<String, String> =
        databases.into_iter().flatten().map(|name| (access::group_of(&name), name)).collect();
    let only = only.map(|name| format!(" and u.rolname = {}", sql_literal(name))).unwrap_or_default();
    let sql = format!(
        "select u.rolname, g.rolname from pg_roles u left join pg_auth_members m on m.member = u.oid \
         left join pg_roles g on g.oid = m.roleid where u.rolcanlogin{only} order by u.rolname collate \"C\""
    );
    let mut users: Vec<User> = Vec::new();
    for row in home.rows("list accounts", &sql).await? {
        let [name, group] = <[String; 2]>::try_from(row).unwrap_or_default();
        if name.is_empty() || is_reserved_role(&name) {
            continue;
        }
        let entered = groups.get(&group).cloned();
        match users.last_mut() {
            Some(last) if last.id.name == name => last.databases.extend(entered),
            _ => {
                let id = Grantee { name, host: ANY_HOST.to_owned() };
                users.push(User { id, databases: entered.into_iter().collect() });
            }
        }
    }
    for user in &mut users {
        user.databases.sort();
    }
    Ok(users)
}

#[async_trait]
impl Users for Postgresql {
    async fn list(&self, site: &Site) -> Result<Vec<User>, EngineError> {
        listed(site, None).await
    }

    async fn get(&self, site: &Site, id: &Grantee) -> Result<Option<User>, EngineError> {
        Ok(listed(site, Some(&id.name)).await?.pop())
    }

    async fn create(&self, site: &Site, user: &NewUser) -> Result<(), EngineError> {
        let name = &user.id.name;
        check_role(name)?;
        not_root(name)?;
        let home = Session::open(site, HOME).await?;
        let verb = if exists(&home, name).await? { "alter" } else { "create" };
        let verifier = sql_literal(&scram_verifier(&user.password));
        let sql = format!("{verb} role {} login nosuperuser password {verifier}", sql_identifier(name));
        home.run(&format!("create the account {name:?}"), &sql).await?;
        Databases::grant(self, site, &user.id, &user.databases).await
    }

    async fn delete(&self, site: &Site, id: &Grantee) -> Result<(), EngineError> {
        check_role(&id.name)?;
        not_root(&id.name)?;
        let home = Session::open(site, HOME).await?;
        if !exists(&home, &id.name).await? {
            return Ok(());
        }
        let (role, attempt) = (sql_identifier(&id.name), format!("delete the account {:?}", id.name));
        home.run(&attempt, &format!("alter role {role} nologin")).await?;
        access::cut_sessions(&home, Some(&id.name), None).await?;
        // A role cannot go while it owns or is granted anything in any database.
        for database in home.rows(&attempt, "select datname from pg_database where datallowconn").await?.concat() {
            let heir = access::group_of(&database);
            let heir = if exists(&home, &heir).await? { heir } else { crate::client::ADMIN.to_owned() };
            let inside = Session::open(site, &database).await?;
            let sql = format!("reassign owned by {role} to {}; drop owned by {role}", sql_identifier(&heir));
            inside.run(&attempt, &sql).await?;
        }
        home.run(&attempt, &format!("drop role {role}")).await
    }

    async fn change(&self, site: &Site, id: &Grantee, change: &UserChange) -> Result<(), EngineError> {
        check_role(&id.name)?;
        let attempt = format!("change the account {:?}", id.name);
        if change.name.as_deref().is_some_and(|new| new != id.name) {
            not_root(&id.name)?;
        }
        if change.host.as_deref().is_some_and(|host| host != ANY_HOST) {
            return Err(EngineError::new(Kind::Invalid, format!("{attempt}: accounts have no hosts here")));
        }
        let home = Session::open(site, HOME).await?;
        let mut name = id.name.as_str();
        if let Some(new) = change.name.as_deref().filter(|new| *new != name) {
            check_role(new)?;
            not_root(new)?;
            if exists(&home, name).await? {
                let sql = format!("alter role {} rename to {}", sql_identifier(name), sql_identifier(new));
                home.run(&attempt, &sql).await?;
            } else if !exists(&home, new).await? {
                return Err(EngineError::new(Kind::Gone, format!("{attempt}: there is no such account")));
            }
            name = new;
        }
        if let Some(password) = &change.password {
            let verifier = sql_literal(&scram_verifier(password));
            home.run(&attempt, &format!("alter role {} password {verifier}", sql_identifier(name))).await?;
        }
        Ok(())
    }
}

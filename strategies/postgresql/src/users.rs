//! Accounts of tenants: roles that can log in and are no superusers. They have no hosts: every host is `%`.

use async_trait::async_trait;
use secrecy::SecretString;
use trove_strategy::{Databases, EngineError, Grantee, Kind, NewUser, Site, User, UserChange, Users};

use crate::Postgresql;
use crate::access;
use crate::catalog::{self, Account};
use crate::client::{Session, each, scram_verifier, sql_identifier, sql_literal};
use crate::names::{ROOT, check_role, is_reserved_role, not_root};

const ANY_HOST: &str = "%";

/// Every account and the databases that it may enter.
async fn listed(site: &Site) -> Result<Vec<User>, EngineError> {
    let home = catalog::home(site).await?;
    let places = catalog::places(&home).await?;
    let sql = "select m.member, g.rolname from pg_auth_members m join pg_authid g on g.oid = m.roleid \
               where g.rolname like 'trove\\_access\\_%'";
    let memberships = home.rows("list accounts", sql).await?;
    let entered = |account: &Account| -> Vec<String> {
        let groups: Vec<&String> =
            memberships.iter().filter(|row| row[0] == account.oid).filter_map(|row| row.get(1)).collect();
        let entered = places.iter().filter(|place| !place.reserved() && groups.contains(&&place.group()));
        entered.map(|place| place.name.clone()).collect()
    };
    let accounts = catalog::accounts(&home).await?;
    let is_user = |name: &str| !is_reserved_role(name) && name != ROOT;
    let accounts = accounts.iter().filter(|account| account.logs_in && is_user(&account.name));
    Ok(accounts.map(|account| User::new(any_host(&account.name), entered(account))).collect())
}

fn any_host(name: &str) -> Grantee {
    Grantee { name: name.to_owned(), host: ANY_HOST.to_owned() }
}

#[async_trait]
impl Users for Postgresql {
    async fn list(&self, site: &Site) -> Result<Vec<User>, EngineError> {
        listed(site).await
    }

    async fn get(&self, site: &Site, id: &Grantee) -> Result<Option<User>, EngineError> {
        Ok(listed(site).await?.into_iter().find(|user| user.id.name == id.name))
    }

    async fn create(&self, site: &Site, user: &NewUser) -> Result<(), EngineError> {
        let name = &user.id.name;
        check_role(name)?;
        not_root(name)?;
        let home = catalog::home(site).await?;
        let attempt = format!("create the account {name:?}");
        let verifier = sql_literal(&scram_verifier(&user.password));
        match catalog::account(&home, name).await? {
            None => {
                let sql = format!("create role {} login password {verifier}", sql_identifier(name));
                home.run(&attempt, &sql).await?;
            }
            Some(account) if account.logs_in => {
                let attributes = "login nosuperuser connection limit -1 valid until 'infinity' password";
                alter(&home, &attempt, &account.oid, attributes, &user.password).await?;
            }
            Some(_) => {
                let reason = format!("{attempt}: a role of this name exists that is no account");
                return Err(EngineError::new(Kind::Invalid, reason));
            }
        }
        Databases::grant(self, site, &user.id, &user.databases).await
    }

    async fn delete(&self, site: &Site, id: &Grantee) -> Result<(), EngineError> {
        check_role(&id.name)?;
        not_root(&id.name)?;
        let home = catalog::home(site).await?;
        let Some(account) = catalog::account(&home, &id.name).await? else { return Ok(()) };
        let attempt = format!("delete the account {:?}", id.name);
        limit(&home, &attempt, &account.oid, "0").await?;
        let removed = remove(site, &home, &attempt, &account.oid).await;
        if removed.is_err() {
            // It is there as before. The first error is the one to tell.
            let _ = limit(&home, &attempt, &account.oid, &account.connections).await;
        }
        removed
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
        let home = catalog::home(site).await?;
        let new = change.name.as_deref().filter(|new| *new != id.name);
        let found = catalog::account(&home, &id.name).await?;
        let account = match (found, new) {
            (Some(account), Some(new)) => {
                check_role(new)?;
                not_root(new)?;
                let renamed = format!(
                    "select format('alter role %I rename to %I', rolname, {}) from pg_authid where oid = {}",
                    sql_literal(new),
                    account.oid
                );
                home.work(&attempt, &each(&renamed)).await?;
                Some(account)
            }
            (None, Some(new)) => catalog::account(&home, new).await?,
            (found, None) => found,
        };
        let gone = || EngineError::new(Kind::Gone, format!("{attempt}: there is no such account"));
        let account = account.ok_or_else(gone)?;
        match &change.password {
            Some(password) => alter(&home, &attempt, &account.oid, "password", password).await,
            None => Ok(()),
        }
    }
}

/// Sets attributes of a role, the password last.
async fn alter(
    home: &Session,
    attempt: &str,
    role: &str,
    attributes: &str,
    password: &SecretString,
) -> Result<(), EngineError> {
    let (attributes, verifier) = (attributes.replace('\'', "''"), sql_literal(&scram_verifier(password)));
    let sql = format!(
        "select format('alter role %I {attributes} %L', rolname, {verifier}) from pg_authid where oid = {role}"
    );
    home.work(attempt, &each(&sql)).await
}

/// How many sessions an account may have: none shuts it out and leaves it listed.
async fn limit(home: &Session, attempt: &str, role: &str, connections: &str) -> Result<(), EngineError> {
    let sql = format!(
        "select format('alter role %I connection limit {connections}', rolname) from pg_authid where oid = {role}"
    );
    home.work(attempt, &each(&sql)).await
}

/// Removes a role. A role cannot go while it owns or is granted anything in any database; what it owned goes to the role of
/// the database that this is in, never to an account with more rights, since functions run with those of their owner.
async fn remove(site: &Site, home: &Session, attempt: &str, role: &str) -> Result<(), EngineError> {
    access::cut_sessions(home, &format!("usesysid = {role}")).await?;
    for place in catalog::places(home).await?.iter().filter(|place| place.owner_oid == role) {
        access::hand_over(home, place, role).await?;
    }
    let tablespaces = format!(
        "select format('alter tablespace %I owner to %I', t.spcname, a.rolname) from pg_tablespace t, pg_authid a \
         where t.spcowner = {role} and a.oid = 10"
    );
    home.work(attempt, &each(&tablespaces)).await?;
    for place in catalog::traces(home, role).await? {
        let heir = access::ensure_group(home, &place).await?;
        let inside = catalog::enter(site, home, &place).await?;
        access::quiet_triggers(&inside, attempt, &format!("evtowner = {role}")).await?;
        inside.work(attempt, &access::leave(role, &heir)).await?;
    }
    // The first takes its grants on what is in no database.
    let drop = ["drop owned by %I", "drop role %I"]
        .map(|verb| each(&format!("select format('{verb}', rolname) from pg_authid where oid = {role}")));
    home.work(attempt, &drop.concat()).await?;
    access::cut_sessions(home, &format!("usesysid = {role}")).await
}

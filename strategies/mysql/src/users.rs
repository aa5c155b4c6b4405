//! Accounts of tenants: a name and the hosts that it may come from. Two of one name from other hosts are two accounts.

use async_trait::async_trait;
use trove_strategy::{EngineError, Grantee, Kind, NewUser, SecretString, Site, User, UserChange, Users};

use crate::accounts::{self, account};
use crate::client::Session;
use crate::names::check_user;
use crate::{Flavour, Mysql, access, hash, sessions};

/// How an account logs in, in SQL: by what the server stores of its password.
pub(crate) fn verified_by(flavour: Flavour, password: &SecretString) -> String {
    if flavour.is_mariadb() {
        format!("identified via mysql_native_password using '{}'", hash::native(password))
    } else {
        format!("identified with caching_sha2_password as 0x{}", hex::encode(hash::caching_sha2(password)))
    }
}

async fn listed(flavour: Flavour, site: &Site, session: &mut Session<'_>) -> Result<Vec<User>, EngineError> {
    let all = accounts::of_tenants(flavour, site, session).await?;
    let grants = accounts::grants(session).await?;
    let databases = access::names(session).await?;
    let user = |id: Grantee| {
        let entered = accounts::entered(flavour, &id, &grants, &databases);
        User::new(id, entered)
    };
    Ok(all.into_iter().map(user).collect())
}

#[async_trait]
impl Users for Mysql {
    async fn list(&self, site: &Site) -> Result<Vec<User>, EngineError> {
        listed(self.flavour, site, &mut self.session(site).await?).await
    }

    async fn get(&self, site: &Site, id: &Grantee) -> Result<Option<User>, EngineError> {
        let all = self.list(site).await?;
        Ok(all.into_iter().find(|user| accounts::same(&user.id, id)))
    }

    async fn create(&self, site: &Site, user: &NewUser) -> Result<(), EngineError> {
        check_user(self.flavour, site, &user.id.name, &user.id.host)?;
        let attempt = format!("create the account {:?}", user.id.name);
        let mut session = self.session(site).await?;
        let (id, verified) = (account(&user.id), verified_by(self.flavour, &user.password));
        session.run(&attempt, &format!("create user if not exists {id} {verified}")).await?;
        // One that is there may have another password, or be shut out.
        session.run(&attempt, &format!("alter user {id} {verified} require none account unlock")).await?;
        for database in &user.databases {
            access::grant(self.flavour, site, &mut session, &user.id, database).await?;
        }
        Ok(())
    }

    async fn delete(&self, site: &Site, id: &Grantee) -> Result<(), EngineError> {
        check_user(self.flavour, site, &id.name, &id.host)?;
        let attempt = format!("delete the account {:?}", id.name);
        let mut session = self.session(site).await?;
        session.run(&attempt, &format!("drop user if exists {}", account(id))).await?;
        // They go on otherwise. An earlier try may have ended before this.
        let others = accounts::all(&mut session).await?;
        let id = accounts::stored(id);
        sessions::cut(&mut session, |open| sessions::is_of(open, &id, &others)).await
    }

    async fn change(&self, site: &Site, id: &Grantee, change: &UserChange) -> Result<(), EngineError> {
        check_user(self.flavour, site, &id.name, &id.host)?;
        let attempt = format!("change the account {:?}", id.name);
        let gone = || EngineError::new(Kind::Gone, format!("{attempt}: there is no such account"));
        let mut session = self.session(site).await?;
        let all = accounts::all(&mut session).await?;
        let known = |id: &Grantee| all.iter().any(|known| accounts::same(known, id));
        let new = Grantee {
            name: change.name.clone().unwrap_or_else(|| id.name.clone()),
            host: change.host.clone().unwrap_or_else(|| id.host.clone()),
        };
        check_user(self.flavour, site, &new.name, &new.host)?;
        if !accounts::same(&new, id) {
            match (known(id), known(&new)) {
                (true, true) => {
                    let reason = format!("{attempt}: there is an account {:?} from {:?} already", new.name, new.host);
                    return Err(EngineError::new(Kind::Invalid, reason));
                }
                (true, false) => {
                    session.run(&attempt, &format!("rename user {} to {}", account(id), account(&new))).await?;
                }
                // It happened already.
                (false, true) => {}
                (false, false) => return Err(gone()),
            }
            // Sessions keep the name that they came in by, and what it could do.
            let (old, others) = (accounts::stored(id), accounts::all(&mut session).await?);
            sessions::cut(&mut session, |open| sessions::is_of(open, &old, &others)).await?;
        } else if !known(id) {
            return Err(gone());
        }
        match &change.password {
            Some(password) => {
                let verified = verified_by(self.flavour, password);
                session.run(&attempt, &format!("alter user {} {verified}", account(&new))).await
            }
            None => Ok(()),
        }
    }
}

//! Accounts of tenants. They have no hosts (every host is `%`) and see all keys: databases are numbered and cannot be
//! granted.

use async_trait::async_trait;
use trove_strategy::{EngineError, Grantee, Kind, NewUser, Site, User, UserChange, Users};

use crate::client::Session;
use crate::{NAME_BYTES, Redis, SPACES, acl};

const ANY_HOST: &str = "%";

impl Redis {
    /// Writes the accounts to their file, so that they are there after a crash.
    pub(crate) async fn save(&self, session: &mut Session, attempt: &str) -> Result<(), EngineError> {
        let _alone = self.held.saving.lock().await;
        let saved = session.ask::<()>(attempt, redis::cmd("ACL").arg("SAVE")).await;
        // The server knows no other reason than a disk that does not take the file.
        saved.map_err(|error| EngineError::caused(Kind::Transient, "write the accounts to their file", error))
    }
}

async fn names(session: &mut Session) -> Result<Vec<String>, EngineError> {
    session.ask("list accounts", redis::cmd("ACL").arg("USERS")).await
}

fn is_reserved(name: &str) -> bool {
    name == acl::ADMIN || name == acl::ROOT
}

/// Refuses an account that the server would not read back from its file, or that is not the tenant's.
fn check(name: &str) -> Result<(), EngineError> {
    let reason = if name.is_empty() || name.contains('\0') || name.contains(|c| SPACES.contains(c)) {
        "it is empty or contains a space or NUL"
    } else if name.len() > NAME_BYTES {
        "it is longer than 255 bytes"
    } else if is_reserved(name) {
        "it is reserved"
    } else {
        return Ok(());
    };
    Err(EngineError::new(Kind::Invalid, format!("the name of the account {name:?}: {reason}")))
}

#[async_trait]
impl Users for Redis {
    async fn list(&self, site: &Site) -> Result<Vec<User>, EngineError> {
        let mut names = names(&mut self.held.session(site).await?).await?;
        names.sort();
        let user = |name: String| User::new(Grantee::named(&name), Vec::new());
        Ok(names.into_iter().filter(|name| !is_reserved(name)).map(user).collect())
    }

    async fn get(&self, site: &Site, id: &Grantee) -> Result<Option<User>, EngineError> {
        Ok(self.list(site).await?.into_iter().find(|user| user.id.name == id.name))
    }

    async fn create(&self, site: &Site, user: &NewUser) -> Result<(), EngineError> {
        let name = &user.id.name;
        check(name)?;
        let attempt = format!("create the account {name:?}");
        if !user.databases.is_empty() {
            return Err(EngineError::new(Kind::Invalid, format!("{attempt}: there are no databases by name here")));
        }
        let mut session = self.held.session(site).await?;
        let mut command = redis::cmd("ACL");
        command
            .arg("SETUSER")
            .arg(name)
            .arg("reset")
            .arg("on")
            .arg(acl::verifier(&user.password))
            .arg(acl::of_tenants());
        session.ask::<()>(&attempt, &command).await?;
        self.save(&mut session, &attempt).await
    }

    async fn delete(&self, site: &Site, id: &Grantee) -> Result<(), EngineError> {
        check(&id.name)?;
        let attempt = format!("delete the account {:?}", id.name);
        let mut session = self.held.session(site).await?;
        // It cuts the account's sessions.
        session.ask::<i64>(&attempt, redis::cmd("ACL").arg("DELUSER").arg(&id.name)).await?;
        self.save(&mut session, &attempt).await
    }

    async fn change(&self, site: &Site, id: &Grantee, change: &UserChange) -> Result<(), EngineError> {
        check(&id.name)?;
        let attempt = format!("change the account {:?}", id.name);
        if change.host.as_deref().is_some_and(|host| host != ANY_HOST) {
            return Err(EngineError::new(Kind::Invalid, format!("{attempt}: accounts have no hosts here")));
        }
        let mut session = self.held.session(site).await?;
        let mut name = id.name.as_str();
        if let Some(new) = change.name.as_deref().filter(|new| *new != name) {
            check(new)?;
            rename(&mut session, &attempt, name, new).await?;
            name = new;
        }
        if let Some(password) = &change.password {
            if !names(&mut session).await?.iter().any(|known| known == name) {
                return Err(EngineError::new(Kind::Gone, format!("{attempt}: there is no such account")));
            }
            let mut command = redis::cmd("ACL");
            command.arg("SETUSER").arg(name).arg("resetpass").arg(acl::verifier(password));
            session.ask::<()>(&attempt, &command).await?;
        }
        self.save(&mut session, &attempt).await
    }
}

/// The server has no word for it: an account with the same passwords and rights is made and the old one removed, as one
/// step. Sessions of the old name are cut.
async fn rename(session: &mut Session, attempt: &str, old: &str, new: &str) -> Result<(), EngineError> {
    let lines: Vec<String> = session.ask(attempt, redis::cmd("ACL").arg("LIST")).await?;
    let rules_of = |name: &str| {
        lines.iter().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            (words.next() == Some(name)).then(|| words.collect::<Vec<&str>>())
        })
    };
    match (rules_of(old), rules_of(new)) {
        (Some(_), Some(_)) => {
            Err(EngineError::new(Kind::Invalid, format!("{attempt}: there is an account {new:?} already")))
        }
        (Some(rules), None) => {
            let mut both = redis::pipe();
            both.atomic();
            both.cmd("ACL").arg("SETUSER").arg(new).arg("reset").arg(rules);
            both.cmd("ACL").arg("DELUSER").arg(old);
            session.step(attempt, &both).await
        }
        // It happened already.
        (None, Some(_)) => Ok(()),
        (None, None) => Err(EngineError::new(Kind::Gone, format!("{attempt}: there is no such account"))),
    }
}

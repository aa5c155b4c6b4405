//! Accounts of tenants, each of a database at which it logs in. They have no hosts (every host is `%`), and cannot be renamed.

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use secrecy::ExposeSecret;
use trove_strategy::{EngineError, Grantee, Kind, NewUser, Site, User, UserChange, Users};

use crate::Mongodb;
use crate::access::let_in;
use crate::client::{NOT_FOUND, Session, random_password};
use crate::names::{HOME, split};
use crate::roles::ACCESS;

const ANY_HOST: &str = "%";

/// The server keeps accounts of all databases in one place.
const ACCOUNTS: (&str, &str) = (HOME, "system.users");

fn shown() -> Document {
    doc! {"user": 1, "db": 1, "roles": 1}
}

/// The account as the server has it.
pub(crate) async fn find(session: &mut Session, home: &str, name: &str) -> Result<Option<Document>, EngineError> {
    let filter = doc! {"user": name, "db": home};
    Ok(session.find("look for an account", ACCOUNTS, filter, shown()).await?.into_iter().next())
}

/// An account as it is listed; `None` for one that is not a tenant's.
fn user(account: &Document) -> Option<User> {
    let name = format!("{}.{}", account.get_str("db").ok()?, account.get_str("user").ok()?);
    split(&name).ok()?;
    let roles = account.get_array("roles").into_iter().flatten().filter_map(Bson::as_document);
    let mut databases: Vec<String> = roles
        .filter(|role| role.get_str("role").is_ok_and(|role| role == ACCESS))
        .filter_map(|role| role.get_str("db").ok())
        .map(str::to_owned)
        .collect();
    databases.sort();
    Some(User::new(Grantee::named(&name), databases))
}

/// Ends what runs as these accounts, their transactions included.
pub(crate) async fn cut_sessions(
    session: &mut Session,
    attempt: &str,
    accounts: &[Document],
) -> Result<(), EngineError> {
    let who =
        |account: &Document| Some(doc! {"user": account.get_str("user").ok()?, "db": account.get_str("db").ok()?});
    let all: Vec<Document> = accounts.iter().filter_map(who).collect();
    if all.is_empty() {
        return Ok(());
    }
    // One that has gone meanwhile has no sessions.
    match session.ask(attempt, HOME, doc! {"killAllSessions": all}).await? {
        Err(refused) if !NOT_FOUND.contains(&refused.code) => Err(crate::client::explained(attempt, &refused)),
        _ => Ok(()),
    }
}

/// Removes an account: it loses all its rights, then what it runs ends, then it is gone.
pub(crate) async fn remove(session: &mut Session, attempt: &str, home: &str, name: &str) -> Result<(), EngineError> {
    let Some(account) = find(session, home, name).await? else { return Ok(()) };
    let shut_out = doc! {
        "updateUser": name, "pwd": random_password().expose_secret(), "roles": [], "mechanisms": ["SCRAM-SHA-256"],
    };
    session.write(attempt, home, shut_out, &NOT_FOUND).await?;
    cut_sessions(session, attempt, &[account]).await?;
    session.write(attempt, home, doc! {"dropUser": name}, &NOT_FOUND).await.map(|_| ())
}

#[async_trait]
impl Users for Mongodb {
    async fn list(&self, site: &Site) -> Result<Vec<User>, EngineError> {
        let session = &mut self.held.session(site).await?;
        let accounts = session.find("list accounts", ACCOUNTS, doc! {}, shown()).await?;
        let mut users: Vec<User> = accounts.iter().filter_map(user).collect();
        users.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(users)
    }

    async fn get(&self, site: &Site, id: &Grantee) -> Result<Option<User>, EngineError> {
        let Ok((home, name)) = split(&id.name) else { return Ok(None) };
        let account = find(&mut self.held.session(site).await?, home, name).await?;
        Ok(account.as_ref().and_then(user))
    }

    async fn create(&self, site: &Site, user: &NewUser) -> Result<(), EngineError> {
        let (home, name) = split(&user.id.name)?;
        let attempt = format!("create the account {:?}", user.id.name);
        let session = &mut self.held.session(site).await?;
        let command = |verb: &str| {
            doc! {verb: name, "pwd": user.password.expose_secret(), "mechanisms": ["SCRAM-SHA-256"]}
        };
        let mut create = command("createUser");
        create.insert("roles", Vec::<Document>::new());
        if !session.write(&attempt, home, create, &crate::client::THERE_ALREADY).await? {
            session.write(&attempt, home, command("updateUser"), &[]).await?;
        }
        for database in &user.databases {
            let_in(site, session, &user.id.name, database).await?;
        }
        Ok(())
    }

    async fn delete(&self, site: &Site, id: &Grantee) -> Result<(), EngineError> {
        let (home, name) = split(&id.name)?;
        let attempt = format!("delete the account {:?}", id.name);
        remove(&mut self.held.session(site).await?, &attempt, home, name).await
    }

    async fn change(&self, site: &Site, id: &Grantee, change: &UserChange) -> Result<(), EngineError> {
        let (home, name) = split(&id.name)?;
        let attempt = format!("change the account {:?}", id.name);
        let invalid = |reason: &str| Err(EngineError::new(Kind::Invalid, format!("{attempt}: {reason}")));
        if change.name.as_deref().is_some_and(|new| new != id.name) {
            return invalid("accounts cannot be renamed here");
        }
        if change.host.as_deref().is_some_and(|host| host != ANY_HOST) {
            return invalid("accounts have no hosts here");
        }
        let session = &mut self.held.session(site).await?;
        let Some(password) = &change.password else {
            let gone = || EngineError::new(Kind::Gone, format!("{attempt}: there is no such account"));
            return find(session, home, name).await?.map(|_| ()).ok_or_else(gone);
        };
        let update = doc! {"updateUser": name, "pwd": password.expose_secret(), "mechanisms": ["SCRAM-SHA-256"]};
        session.write(&attempt, home, update, &[]).await.map(|_| ())
    }
}

//! An agent's account that was removed or changed is put right by a server of a few moments that lets in whoever reaches its
//! private socket, and listens nowhere else. Root has no right by which it could come to this; data that was restored has the
//! account of another agent.

use std::time::Duration;

use bson::{Bson, Document, doc};
use secrecy::ExposeSecret;
use trove_strategy::{EngineError, Kind, Site};

use crate::client::{ADMIN, Session, admin_password, patiently};
use crate::config::Purpose;
use crate::names::HOME;
use crate::roles::all_rights;
use crate::server::served;
use crate::users;

/// Crash recovery included.
const LIFE: Duration = Duration::from_secs(600);

/// Starts the server, restores the account, and stops the server.
pub(crate) async fn repair(site: &Site) -> Result<Option<String>, EngineError> {
    served(site, Purpose::Repair, LIFE, |session| mend(site, session)).await
}

/// What is wrong with the account, for a person.
async fn wrong(site: &Site, account: Option<&Document>) -> Result<Option<&'static str>, EngineError> {
    let Some(account) = account else { return Ok(Some("it was gone")) };
    let roles = account.get_array("roles").into_iter().flatten().filter_map(Bson::as_document);
    if !all_rights().iter().all(|right| roles.clone().any(|role| role == right)) {
        return Ok(Some("it had lost rights"));
    }
    match patiently(|| Session::log_in(site)).await {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == Kind::LockedOut => Ok(Some("it had another password")),
        Err(error) => Err(error),
    }
}

/// Makes the agent's account what it should be on a server that lets in whoever reaches it.
pub(crate) async fn mend(site: &Site, mut session: Session) -> Result<Option<String>, EngineError> {
    let attempt = format!("restore the account {ADMIN:?}");
    let account = users::find(&mut session, HOME, ADMIN).await?;
    let Some(wrong) = wrong(site, account.as_ref()).await? else { return Ok(None) };
    let password = admin_password(site).await?;
    let verb = if account.is_some() { "updateUser" } else { "createUser" };
    let command = doc! {
        verb: ADMIN, "pwd": password.expose_secret(), "roles": all_rights(), "mechanisms": ["SCRAM-SHA-256"],
        "authenticationRestrictions": [],
    };
    session.write(&attempt, HOME, command, &[]).await?;
    patiently(|| Session::log_in(site)).await?;
    Ok(Some(format!("restored the account {ADMIN}: {wrong}")))
}

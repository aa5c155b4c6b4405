//! An agent's account that was removed or changed is put right by a server of a few moments that lets in whoever reaches its
//! private socket, and listens nowhere else. Root has no right by which it could come to this; data that was restored has the
//! account of another agent.

use std::pin::pin;
use std::time::Duration;

use bson::{Bson, Document, doc};
use secrecy::ExposeSecret;
use trove_strategy::{Command, EngineError, HostError, Kind, Output, Site};

use crate::client::{ADMIN, Session, admin_password};
use crate::config::{Purpose, program};
use crate::names::HOME;
use crate::roles::all_rights;
use crate::users;

/// Crash recovery included.
const LIFE: Duration = Duration::from_secs(600);
const ASK_AGAIN: Duration = Duration::from_millis(30);

/// Starts the server, restores the account, and stops the server.
pub(crate) async fn repair(site: &Site) -> Result<Option<String>, EngineError> {
    let file = site.path(&Purpose::Repair.file());
    // It ends with the agent, however that ends.
    let command = Command::engine("/usr/bin/setpriv").arg("--pdeathsig").arg("KILL").arg("--");
    let command = command.arg(program(site).to_string_lossy()).arg("--config").arg(file.to_string_lossy());
    let mut run = pin!(site.host.run(command.deadline(LIFE)));
    let mended = tokio::select! {
        mended = mend(site) => mended,
        ended = &mut run => return Err(ended_early(ended)),
    };
    let stop = async {
        // Its answer is the end of the connection.
        let _ = Session::greet(site).await?.ask("stop", HOME, doc! {"shutdown": 1}).await;
        Ok::<(), EngineError>(())
    };
    tokio::select! {
        stopped = stop => {
            stopped?;
            run.await?;
        }
        ended = &mut run => drop(ended?),
    }
    mended
}

fn ended_early(ended: Result<Output, HostError>) -> EngineError {
    match ended {
        Err(error) => error.into(),
        Ok(_) => EngineError::new(Kind::Fatal, "repair: the server ended at once"),
    }
}

/// What is wrong with the account, for a person.
async fn wrong(site: &Site, account: Option<&Document>) -> Result<Option<&'static str>, EngineError> {
    let Some(account) = account else { return Ok(Some("it was gone")) };
    let roles = account.get_array("roles").into_iter().flatten().filter_map(Bson::as_document);
    if !all_rights().iter().all(|right| roles.clone().any(|role| role == right)) {
        return Ok(Some("it had lost rights"));
    }
    match Session::log_in(site).await {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == Kind::LockedOut => Ok(Some("it had another password")),
        Err(error) => Err(error),
    }
}

async fn mend(site: &Site) -> Result<Option<String>, EngineError> {
    let attempt = format!("restore the account {ADMIN:?}");
    let mut session = loop {
        match Session::greet(site).await {
            Ok(session) => break session,
            Err(error) if error.kind() == Kind::Transient => tokio::time::sleep(ASK_AGAIN).await,
            Err(error) => return Err(error),
        }
    };
    let account = users::find(&mut session, HOME, ADMIN).await?;
    let Some(wrong) = wrong(site, account.as_ref()).await? else { return Ok(None) };
    let password = admin_password(site).await?;
    let verb = if account.is_some() { "updateUser" } else { "createUser" };
    let command = doc! {
        verb: ADMIN, "pwd": password.expose_secret(), "roles": all_rights(), "mechanisms": ["SCRAM-SHA-256"],
        "authenticationRestrictions": [],
    };
    session.write(&attempt, HOME, command, &[]).await?;
    Session::log_in(site).await?;
    Ok(Some(format!("restored the account {ADMIN}: {wrong}")))
}

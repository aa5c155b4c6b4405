//! Which databases there are, and how an account is let into one.

use std::collections::BTreeSet;

use bson::{Bson, doc};
use trove_strategy::{EngineError, Kind, Site};

use crate::client::Session;
use crate::names::{HOME, check_database, split};
use crate::roles::{self, ACCESS};

/// Databases that hold something, the server's own included.
async fn in_the_server(session: &mut Session) -> Result<Vec<String>, EngineError> {
    let attempt = "list databases";
    let answer = session.run(attempt, HOME, doc! {"listDatabases": 1, "nameOnly": true}).await?;
    let all = answer.get_array("databases").into_iter().flatten().filter_map(Bson::as_document);
    Ok(all.filter_map(|database| database.get_str("name").ok()).map(str::to_owned).collect())
}

/// All that there are: ordered, or made by a tenant by writing to them.
pub(crate) async fn all(session: &mut Session) -> Result<BTreeSet<String>, EngineError> {
    let mut all: BTreeSet<String> = roles::databases(session).await?.into_iter().collect();
    all.extend(in_the_server(session).await?);
    all.retain(|name| check_database(name).is_ok());
    Ok(all)
}

/// Lets an account into a database.
pub(crate) async fn let_in(site: &Site, session: &mut Session, user: &str, database: &str) -> Result<(), EngineError> {
    check_database(database)?;
    let attempt = format!("let {user:?} into {database:?}");
    if !roles::has_access(session, database).await? {
        if !all(session).await?.contains(database) {
            return Err(EngineError::new(Kind::Gone, format!("{attempt}: there is no such database")));
        }
        roles::put_access(site, session, database).await?;
    }
    let (home, name) = split(user)?;
    let grant = doc! {"grantRolesToUser": name, "roles": [{"role": ACCESS, "db": database}]};
    session.write(&attempt, home, grant, &[]).await.map(|_| ())
}

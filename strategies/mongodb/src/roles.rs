//! What accounts of tenants may do: a role in each database, which is also how the agent remembers a database that is empty, and
//! one for root. Nobody but the agent can change a role. While the volume is full all of them allow to read and to delete.

use bson::{Bson, Document, doc};
use trove_strategy::{EngineError, Site};

use crate::client::{ADMIN, NOT_FOUND, Session, THERE_ALREADY};
use crate::config;
use crate::names::{self, HOME};

/// The role that whoever is let into a database has there.
pub(crate) const ACCESS: &str = "trove_access";

/// The role of root.
pub(crate) const ROOT_ROLE: &str = "trove_root";

/// What the agent's account needs for backups, besides all rights: those do not hold for the server's own collections.
const READER_ROLE: &str = "trove_backup";

/// What the agent's own account needs so that the server lets it do its work.
pub(crate) fn all_rights() -> Vec<Document> {
    vec![doc! {"role": "root", "db": HOME}]
}

/// What makes room.
const DELETES: [&str; 3] = ["dropCollection", "dropIndex", "remove"];

/// What root may see of the server. `clusterMonitor` would let it read the log of writes too, in which accounts are.
const WATCHES: [&str; 13] = [
    "connPoolStats",
    "getCmdLineOpts",
    "getDefaultRWConcern",
    "getLog",
    "getParameter",
    "hostInfo",
    "inprog",
    "listDatabases",
    "listSessions",
    "replSetGetConfig",
    "replSetGetStatus",
    "serverStatus",
    "top",
];

/// What root may do in every database but the server's own, besides what `readWriteAnyDatabase` allows.
///
/// It has no user administration: who may grant roles may grant itself every one, and would shut out the agent. Nor has it what
/// concerns the server and not data: `shutdown`, `setParameter`, `replSetConfigure`, `fsync`, `killop`, `applyOps`.
const ADMINISTERS: [&str; 16] = [
    "bypassDocumentValidation",
    "changeStream",
    "collMod",
    "collStats",
    "compact",
    "dbHash",
    "dbStats",
    "dropDatabase",
    "enableProfiler",
    "indexStats",
    "killCursors",
    "planCacheIndexFilter",
    "planCacheRead",
    "planCacheWrite",
    "renameCollectionSameDB",
    "validate",
];

/// What a role allows.
fn rules(privileges: &[Document], roles: &[Document]) -> Document {
    doc! {"privileges": privileges.to_vec(), "roles": roles.to_vec()}
}

fn actions(database: &str, actions: &[&str]) -> Document {
    doc! {"resource": {"db": database, "collection": ""}, "actions": actions.to_vec()}
}

fn of_access(database: &str, full: bool) -> Document {
    let role = |role: &str| doc! {"role": role, "db": database};
    if full { rules(&[actions(database, &DELETES)], &[role("read")]) } else { rules(&[], &[role("readWrite")]) }
}

fn of_root(full: bool) -> Document {
    let role = |role: &str| doc! {"role": role, "db": HOME};
    let watches = doc! {"resource": {"cluster": true}, "actions": WATCHES.to_vec()};
    if full {
        let makes_room = [&DELETES[..], &["compact", "dropDatabase"]].concat();
        rules(&[actions("", &makes_room), watches], &[role("readAnyDatabase")])
    } else {
        rules(&[actions("", &ADMINISTERS), watches], &[role("readWriteAnyDatabase")])
    }
}

async fn put(session: &mut Session, database: &str, role: &str, rules: Document) -> Result<(), EngineError> {
    let attempt = format!("write down what may be done in {database:?}");
    let command = |verb: &str| {
        let mut command = doc! {verb: role};
        command.extend(rules.clone());
        command
    };
    if !session.write(&attempt, database, command("createRole"), &THERE_ALREADY).await? {
        session.write(&attempt, database, command("updateRole"), &[]).await?;
    }
    Ok(())
}

/// Makes root's role, or puts it right.
pub(crate) async fn put_root(session: &mut Session, full: bool) -> Result<(), EngineError> {
    put(session, HOME, ROOT_ROLE, of_root(full)).await
}

/// Lets the agent's account read views, and what time series consist of.
pub(crate) async fn put_reader(session: &mut Session) -> Result<(), EngineError> {
    let allows = |resource: Document| doc! {"resource": resource, "actions": ["find", "listIndexes"]};
    let views = allows(doc! {"db": "", "collection": "system.views"});
    let series = allows(doc! {"db": "", "system_buckets": ""});
    put(session, HOME, READER_ROLE, rules(&[views, series], &[])).await?;
    let grant = doc! {"grantRolesToUser": ADMIN, "roles": [{"role": READER_ROLE, "db": HOME}]};
    session.write("prepare a backup", HOME, grant, &[]).await.map(|_| ())
}

/// Makes the roles of these databases and root's, and no others are left. For a server without tenants.
pub(crate) async fn remake(session: &mut Session, databases: &[String]) -> Result<(), EngineError> {
    let attempt = "make the roles anew";
    let all = doc! {"delete": "system.roles", "deletes": [{"q": {}, "limit": 0}]};
    session.run(attempt, HOME, all).await?;
    for database in databases {
        put(session, database, ACCESS, of_access(database, false)).await?;
    }
    put_root(session, false).await
}

/// Makes the role of a database, or puts it right.
pub(crate) async fn put_access(site: &Site, session: &mut Session, database: &str) -> Result<(), EngineError> {
    let full = config::is_full(site).await?;
    put(session, database, ACCESS, of_access(database, full)).await
}

/// Removes the role of a database, and with it every grant of it.
pub(crate) async fn drop_access(session: &mut Session, database: &str) -> Result<(), EngineError> {
    let attempt = format!("take away every grant of {database:?}");
    session.write(&attempt, database, doc! {"dropRole": ACCESS}, &NOT_FOUND).await.map(|_| ())
}

/// The databases that have the role.
pub(crate) async fn databases(session: &mut Session) -> Result<Vec<String>, EngineError> {
    let roles = (HOME, "system.roles");
    let found = session.find("list databases", roles, doc! {"role": ACCESS}, doc! {"db": 1}).await?;
    Ok(found.iter().filter_map(|role| role.get_str("db").ok()).map(str::to_owned).collect())
}

/// Whether a database has the role.
pub(crate) async fn has_access(session: &mut Session, database: &str) -> Result<bool, EngineError> {
    let filter = doc! {"_id": format!("{database}.{ACCESS}")};
    let found = session.find("look for a database", (HOME, "system.roles"), filter, doc! {"db": 1}).await?;
    Ok(!found.is_empty())
}

/// Gives all roles what the room on the volume allows. Root's is the last: it tells whether all have it.
pub(crate) async fn follow_room(site: &Site, session: &mut Session) -> Result<(), EngineError> {
    let full = config::is_full(site).await?;
    let filter = doc! {"_id": format!("{HOME}.{ROOT_ROLE}")};
    let attempt = "look for the role of root";
    let found = session.find(attempt, (HOME, "system.roles"), filter, doc! {"roles": 1, "privileges": 1}).await?;
    let same = |role: &Document| {
        let wanted = of_root(full);
        names_of(role.get("roles"), "role") == names_of(wanted.get("roles"), "role")
            && actions_of(role) == actions_of(&wanted)
    };
    if found.first().is_some_and(same) {
        return Ok(());
    }
    for database in databases(session).await? {
        if names::check_database(&database).is_ok() {
            put(session, &database, ACCESS, of_access(&database, full)).await?;
        }
    }
    put_root(session, full).await
}

fn names_of(list: Option<&Bson>, field: &str) -> std::collections::BTreeSet<String> {
    let list = list.and_then(Bson::as_array).into_iter().flatten().filter_map(Bson::as_document);
    list.filter_map(|entry| entry.get_str(field).ok()).map(str::to_owned).collect()
}

fn actions_of(role: &Document) -> std::collections::BTreeSet<String> {
    let privileges = role.get_array("privileges").into_iter().flatten().filter_map(Bson::as_document);
    let actions = privileges.filter_map(|privilege| privilege.get_array("actions").ok()).flatten();
    actions.filter_map(Bson::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_volume_leaves_reading_and_deleting() {
        for (full, role) in [(false, "readWrite"), (true, "read")] {
            let rules = of_access("d", full);
            assert_eq!(names_of(rules.get("roles"), "role"), [role.to_owned()].into());
            assert_eq!(actions_of(&rules).contains("remove"), full);
        }
        let root = of_root(true);
        let allowed = actions_of(&root);
        assert!(allowed.contains("dropDatabase") && !allowed.contains("insert") && !allowed.contains("createIndex"));
    }

    #[test]
    fn root_administers_neither_accounts_nor_the_server() {
        for full in [false, true] {
            let rules = of_root(full);
            for other in
                ["userAdminAnyDatabase", "dbAdminAnyDatabase", "clusterAdmin", "hostManager", "root", "__system"]
            {
                assert!(!names_of(rules.get("roles"), "role").contains(other), "{other}");
            }
            for action in ["createUser", "grantRole", "createRole", "shutdown", "setParameter", "fsync", "anyAction"] {
                assert!(!actions_of(&rules).contains(action), "{action}");
            }
        }
    }
}

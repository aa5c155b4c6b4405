//! The server is a set of one member from its first normal start on, so that it keeps the log of writes that backups, points in
//! time and replicas need.

use bson::{Bson, Document, doc};
use trove_strategy::{EngineError, Kind, Site};

use crate::client::{INITIATED, NOT_INITIATED, Session, explained, whole};
use crate::config::{self, SET};

fn member(site: &Site) -> Document {
    doc! {"_id": 0, "host": config::host(site), "priority": 1, "votes": 1}
}

/// Whether a member is what this server is to be.
fn is_well(member: &Document, site: &Site) -> bool {
    let number = |name: &str| whole(member.get(name)).unwrap_or(1);
    let flag = |name: &str| member.get_bool(name).unwrap_or(false);
    member.get_str("host").is_ok_and(|host| host == config::host(site))
        && number("priority") > 0
        && number("votes") == 1
        && !flag("hidden")
        && !flag("arbiterOnly")
}

/// Looks why the server takes no writes, and does what is missing. `Transient` always: it takes some time to act.
pub(crate) async fn found(site: &Site, session: &mut Session) -> Result<(), EngineError> {
    let attempt = "make the server a set of one member";
    let config = match session.ask(attempt, "admin", doc! {"replSetGetConfig": 1}).await? {
        Ok(answer) => answer.get_document("config").cloned().unwrap_or_default(),
        Err(refused) if refused.code == NOT_INITIATED => {
            let config = doc! {"_id": SET, "members": [member(site)]};
            let initiated = session.ask(attempt, "admin", doc! {"replSetInitiate": config}).await?;
            return match initiated {
                // A probe before this one may have been cut off while the server did it.
                Err(refused) if refused.code != INITIATED => Err(explained(attempt, &refused)),
                _ => Err(EngineError::new(Kind::Transient, "the server has just become a set")),
            };
        }
        Err(refused) => return Err(explained(attempt, &refused)),
    };
    let members: Vec<Document> =
        config.get_array("members").into_iter().flatten().filter_map(Bson::as_document).cloned().collect();
    match members.as_slice() {
        // Its address is another one since it was made, or it was restored elsewhere.
        [only] if !is_well(only, site) => {
            let version = whole(config.get("version")).unwrap_or(1) + 1;
            let mut config = config;
            config.insert("members", vec![member(site)]);
            config.insert("version", version);
            session.run(attempt, "admin", doc! {"replSetReconfig": config, "force": true}).await?;
            Err(EngineError::new(Kind::Transient, "the server has just got its address in its set"))
        }
        _ => Err(EngineError::new(Kind::Transient, "the server takes no writes yet")),
    }
}

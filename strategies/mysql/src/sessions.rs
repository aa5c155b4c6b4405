//! Sessions of tenants, which are ended where what they were let in for is taken away: the server lets them go on.

use std::net::Ipv4Addr;
use std::time::Duration;

use trove_strategy::{EngineError, Grantee, Kind};

use crate::client::{Session, matches};

/// How long sessions that were cut take to end.
const CUT: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// There is no such thread any more.
const UNKNOWN_THREAD: u16 = 1094;

/// Threads of the server's own.
const INTERNAL: [&str; 3] = ["system user", "event_scheduler", "unauthenticated user"];

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    id: u64,
    pub(crate) user: String,
    /// Its address.
    pub(crate) from: String,
    pub(crate) database: String,
}

/// All but the server's own and this one.
async fn open(session: &mut Session<'_>) -> Result<Vec<Open>, EngineError> {
    let attempt = "list sessions";
    let own = session.value(attempt, "select connection_id()").await?.unwrap_or_default();
    let read = |row: Vec<String>| {
        let [id, user, host, database] = <[String; 4]>::try_from(row.into_iter().take(4).collect::<Vec<_>>()).ok()?;
        let from = host.rsplit_once(':').map_or(host.as_str(), |(address, _)| address).to_owned();
        let is_other = id != own && !INTERNAL.contains(&user.as_str());
        is_other.then_some(Open { id: id.parse().ok()?, user, from, database })
    };
    Ok(session.rows(attempt, "show full processlist").await?.into_iter().filter_map(read).collect())
}

/// Ends those for which this holds, and waits for their end.
pub(crate) async fn cut(session: &mut Session<'_>, which: impl Fn(&Open) -> bool) -> Result<(), EngineError> {
    let attempt = "cut sessions";
    let ended = async {
        loop {
            let left: Vec<Open> = open(session).await?.into_iter().filter(|open| which(open)).collect();
            if left.is_empty() {
                return Ok(());
            }
            for open in left {
                session.run_unless(attempt, &format!("kill connection {}", open.id), &[UNKNOWN_THREAD]).await?;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    let late = |_| EngineError::new(Kind::Busy, format!("{attempt}: they do not end within 10 s"));
    tokio::time::timeout(CUT, ended).await.map_err(late)?
}

/// Whether a session came in as this account, when these others of its name are there: of several that fit its address the
/// server takes the one that says most of it.
pub(crate) fn is_of(open: &Open, id: &Grantee, accounts: &[Grantee]) -> bool {
    let fits = |known: &&Grantee| known.name == open.user && host_fits(&known.host, &open.from);
    let better = |known: &Grantee| (specific(&known.host), &known.host) > (specific(&id.host), &id.host);
    fits(&id) && !accounts.iter().filter(fits).any(better)
}

/// How much of an address a pattern says: all of it, or the characters before what stands for any.
fn specific(host: &str) -> usize {
    host.find(['%', '_']).unwrap_or(usize::MAX)
}

fn host_fits(host: &str, from: &str) -> bool {
    if let Some((network, mask)) = host.split_once('/')
        && let (Ok(network), Ok(mask), Ok(from)) = (network.parse(), mask.parse(), from.parse())
    {
        let [network, mask, from]: [Ipv4Addr; 3] = [network, mask, from];
        return u32::from(from) & u32::from(mask) == u32::from(network);
    }
    matches(host, from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_that_of_the_account_that_says_most_of_its_address() {
        let id = |host: &str| Grantee { name: "a".to_owned(), host: host.to_owned() };
        let all = ["%", "127.%", "127.0.0.1", "10.0.0.0/255.0.0.0"].map(id);
        let of = |from: &str| -> Vec<String> {
            let open = Open { id: 1, user: "a".to_owned(), from: from.to_owned(), database: String::new() };
            all.iter().filter(|id| is_of(&open, id, &all)).map(|id| id.host.clone()).collect()
        };
        assert_eq!(of("127.0.0.1"), ["127.0.0.1"]);
        assert_eq!(of("127.0.0.2"), ["127.%"]);
        assert_eq!(of("10.1.2.3"), ["10.0.0.0/255.0.0.0"]);
        assert_eq!(of("192.168.0.1"), ["%"]);
        let other = Open { id: 1, user: "b".to_owned(), from: "127.0.0.1".to_owned(), database: String::new() };
        assert!(!is_of(&other, &all[0], &all));
    }
}

//! Room for those who have a password: the server knows no time within which to log in, and counts whoever is connected
//! against `maxclients`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use trove_strategy::EngineError;

use crate::acl;
use crate::client::Session;

/// Longer than anybody takes to log in.
const IDLE_S: u64 = 10;
/// Closed by one probe at most: the server looks for each among all.
const AT_ONCE: usize = 1000;

/// Closes connections that have not logged in, when three quarters of all that the server gives are taken.
pub(crate) async fn make_room(session: &mut Session, info: &BTreeMap<String, String>) -> Result<(), EngineError> {
    let number = |name: &str| info.get(name).and_then(|value| value.parse::<u64>().ok());
    let (Some(taken), Some(most)) = (number("connected_clients"), number("maxclients")) else { return Ok(()) };
    if taken * 4 < most * 3 {
        return Ok(());
    }
    let mut list = redis::cmd("CLIENT");
    let connected: String = session.ask("list connections", list.arg("LIST").arg("TYPE").arg("normal")).await?;
    let mut strangers: Vec<(Reverse<u64>, u64)> = connected.lines().filter_map(stranger).collect();
    strangers.sort_unstable();
    let mut kill = redis::pipe();
    for (_, id) in strangers.iter().take(AT_ONCE) {
        kill.cmd("CLIENT").arg("KILL").arg("ID").arg(*id);
    }
    if strangers.is_empty() { Ok(()) } else { session.step("close connections that have not logged in", &kill).await }
}

/// How long it has been idle and its number, of one line of `CLIENT LIST`.
///
/// Who has not logged in is listed as `default`, as root is. Whatever only a login makes possible tells root's connection
/// from it: a name, another database, another protocol, a transaction, or waiting for messages. One of root's that has
/// none of these is closed too.
fn stranger(line: &str) -> Option<(Reverse<u64>, u64)> {
    let fields: BTreeMap<&str, &str> = line.split(' ').filter_map(|field| field.split_once('=')).collect();
    let is = |name: &str, value: &str| fields.get(name).is_none_or(|found| *found == value);
    let plain = is("name", "") && is("db", "0") && is("resp", "2") && is("multi", "-1") && is("flags", "N");
    let idle = fields.get("idle")?.parse().ok()?;
    let found = *fields.get("user")? == acl::ROOT && plain && idle >= IDLE_S;
    if found { Some((Reverse(idle), fields.get("id")?.parse().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_stranger_can_be_and_that_is_idle_is_one() {
        let line = "id=7 addr=127.0.0.1:1 laddr=127.0.0.1:2 fd=9 name= age=40 idle=40 flags=N db=0 sub=0 psub=0 ssub=0 \
                    multi=-1 qbuf=0 events=r cmd=NULL user=default redir=-1 resp=2";
        assert_eq!(stranger(line), Some((Reverse(40), 7)));
        for (is, other) in [
            ("user=default", "user=app"),
            ("idle=40", "idle=9"),
            ("flags=N", "flags=P"),
            ("flags=N", "flags=b"),
            ("name=", "name=mine"),
            ("db=0", "db=1"),
            ("multi=-1", "multi=0"),
            ("resp=2", "resp=3"),
        ] {
            assert_eq!(stranger(&line.replace(is, other)), None, "{other}");
        }
        assert_eq!(stranger("nonsense"), None);
    }
}

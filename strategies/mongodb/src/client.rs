//! Talking to the server: over the private socket as `os_admin`.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};
use secrecy::{ExposeSecret, SecretString};
use trove_strategy::{Directory, EngineError, File, Kind, Location, Owner, Site};

use crate::scram::{Login, Salted};
use crate::wire::Wire;

/// The agent's account in the server.
pub(crate) const ADMIN: &str = "os_admin";

const CONNECT: Duration = Duration::from_millis(1500);
/// A lock of a tenant's holds as long as its transaction may live, a minute by default.
const ANSWER: Duration = Duration::from_secs(90);
/// What a write waits for: that it survives a crash.
const WRITTEN_MS: i32 = 30_000;
/// As many connections are kept for the next question.
const KEPT: usize = 4;
/// More than this of anything is not read.
const MOST: usize = 200_000;
/// As much is kept of what the server says of an error.
const WORDS: usize = 400;
const PASSWORD_BYTES: u64 = 1 << 10;

/// What the server answers where an account, a role or a collection is not there.
pub(crate) const NOT_FOUND: [i32; 3] = [11, 26, 31];
/// The same where an account or a role is there already.
pub(crate) const THERE_ALREADY: [i32; 2] = [51002, 51003];
/// The server has never been told of a replica set.
pub(crate) const NOT_INITIATED: i32 = 94;

/// The server's socket: it makes the name from the port.
pub(crate) fn socket(site: &Site) -> Location {
    Directory::Run.join(format!("mongodb-{}.sock", site.port))
}

fn password_file() -> Location {
    Directory::Secrets.join(ADMIN)
}

/// The password of the agent's account, which is made where there is none yet.
pub(crate) async fn admin_password(site: &Site) -> Result<SecretString, EngineError> {
    if let Some(bytes) = site.host.read(&password_file(), PASSWORD_BYTES).await? {
        return Ok(SecretString::from(String::from_utf8_lossy(&bytes).into_owned()));
    }
    let password = random_password();
    let contents = password.expose_secret().as_bytes().to_vec();
    site.host.write(File { at: password_file(), contents, mode: 0o600, owner: Owner::Agent }).await?;
    Ok(password)
}

/// A password that nobody has to remember.
pub(crate) fn random_password() -> SecretString {
    SecretString::from(hex::encode(rand::random::<[u8; 32]>()))
}

/// Bounds what is asked of the server.
pub(crate) async fn within<T>(
    limit: Duration,
    attempt: &str,
    asked: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let late = |_| EngineError::new(Kind::Transient, format!("{attempt}: no answer within {limit:?}"));
    tokio::time::timeout(limit, asked).await.map_err(late)?
}

/// What the server refused, by its number.
pub(crate) struct Refused {
    pub(crate) code: i32,
    said: String,
}

/// A connection of the agent's.
pub(crate) struct Session {
    wire: Wire,
    /// No answer is missing: one whose caller has given up cannot be asked anything else.
    is_whole: bool,
}

impl Session {
    /// Connects, and logs in as nobody.
    pub(crate) async fn greet(site: &Site) -> Result<Self, EngineError> {
        let connect = async {
            let stream = site.host.connect(&socket(site)).await?;
            Ok(Self { wire: Wire::new(stream).await?, is_whole: true })
        };
        within(CONNECT, "connect", connect).await
    }

    async fn open(site: &Site, kept: &Mutex<Option<Salted>>) -> Result<Self, EngineError> {
        let password = admin_password(site).await?;
        let connect = async {
            let mut session = Self::greet(site).await?;
            session.log_in(&password, kept).await?;
            Ok(session)
        };
        within(CONNECT, "connect", connect).await
    }

    /// Shows that the agent knows the password, and has the server show the same.
    pub(crate) async fn log_in(
        &mut self,
        password: &SecretString,
        kept: &Mutex<Option<Salted>>,
    ) -> Result<(), EngineError> {
        let attempt = format!("log in as {ADMIN:?}");
        let shut_out = |said: String| EngineError::new(Kind::LockedOut, format!("{attempt}: {said}"));
        let bytes = |text: String| Binary { subtype: BinarySubtype::Generic, bytes: text.into_bytes() };
        let mut login = Login::new(ADMIN, hex::encode(rand::random::<[u8; 18]>()));
        let start = doc! {
            "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": bytes(login.first()),
            "options": {"skipEmptyExchange": true},
        };
        let answered = match self.ask(&attempt, "admin", start).await? {
            Ok(answered) => answered,
            // The account is not there, or its password is another one.
            Err(refused) if [18, 11].contains(&refused.code) => return Err(shut_out(refused.said)),
            Err(refused) => return Err(explained(&attempt, &refused)),
        };
        let mut salted = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let second = login.second(&payload(&answered), password, &mut salted);
        let second = second.ok_or_else(|| EngineError::new(Kind::Fatal, format!("{attempt}: it answers otherwise")))?;
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = salted;
        let conversation = answered.get("conversationId").cloned().unwrap_or(Bson::Int32(1));
        let go_on = doc! {"saslContinue": 1, "conversationId": conversation, "payload": bytes(second)};
        let proved = match self.ask(&attempt, "admin", go_on).await? {
            Ok(proved) => proved,
            Err(refused) => return Err(shut_out(refused.said)),
        };
        if login.is_proved(&payload(&proved)) {
            return Ok(());
        }
        Err(EngineError::new(Kind::Fatal, format!("{attempt}: the server does not know the password")))
    }

    /// Sends a command. `attempt` says what for: commands are not shown in errors.
    pub(crate) async fn ask(
        &mut self,
        attempt: &str,
        database: &str,
        mut command: Document,
    ) -> Result<Result<Document, Refused>, EngineError> {
        command.insert("$db", database);
        self.is_whole = false;
        let answer = within(ANSWER, attempt, self.wire.ask(&command)).await?;
        self.is_whole = true;
        let failed = match (whole(answer.get("ok")), answer.get_document("writeConcernError")) {
            (Some(1), Err(_)) => return Ok(Ok(answer)),
            (_, Ok(concern)) => concern,
            _ => &answer,
        };
        let code = failed.get_i32("code").unwrap_or_default();
        let said = failed.get_str("errmsg").unwrap_or("the server gives no reason");
        Ok(Err(Refused { code, said: cut(said).to_owned() }))
    }

    /// The same, where every refusal is an error.
    pub(crate) async fn run(
        &mut self,
        attempt: &str,
        database: &str,
        command: Document,
    ) -> Result<Document, EngineError> {
        self.ask(attempt, database, command).await?.map_err(|refused| explained(attempt, &refused))
    }

    /// Changes something, and waits until that survives a crash. Answers whether it was done; it was not where the server
    /// refuses it by one of these numbers.
    pub(crate) async fn write(
        &mut self,
        attempt: &str,
        database: &str,
        mut command: Document,
        unless: &[i32],
    ) -> Result<bool, EngineError> {
        command.insert("writeConcern", doc! {"w": "majority", "wtimeout": WRITTEN_MS});
        match self.ask(attempt, database, command).await? {
            Ok(_) => Ok(true),
            Err(refused) if unless.contains(&refused.code) => Ok(false),
            Err(refused) => Err(explained(attempt, &refused)),
        }
    }

    /// What a collection holds.
    pub(crate) async fn find(
        &mut self,
        attempt: &str,
        (database, collection): (&str, &str),
        filter: Document,
        projection: Document,
    ) -> Result<Vec<Document>, EngineError> {
        let mut found = Vec::new();
        let mut command = doc! {"find": collection, "filter": filter, "projection": projection};
        loop {
            let answer = self.run(attempt, database, command).await?;
            let strange = |_| EngineError::new(Kind::Fatal, format!("{attempt}: the server answers without a cursor"));
            let cursor = answer.get_document("cursor").map_err(strange)?;
            let batch = cursor.get_array("firstBatch").or_else(|_| cursor.get_array("nextBatch")).map_err(strange)?;
            found.extend(batch.iter().filter_map(Bson::as_document).cloned());
            if found.len() > MOST {
                return Err(EngineError::new(Kind::Fatal, format!("{attempt}: there are more than {MOST}")));
            }
            match cursor.get_i64("id") {
                Ok(id) if id != 0 => command = doc! {"getMore": id, "collection": collection},
                _ => return Ok(found),
            }
        }
    }
}

/// The server writes whole numbers in three ways.
pub(crate) fn whole(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        #[allow(clippy::cast_possible_truncation, reason = "it has no fraction and is not large")]
        Bson::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i64),
        _ => None,
    }
}

fn payload(answer: &Document) -> String {
    answer
        .get_binary_generic("payload")
        .map_or_else(|_| String::new(), |text| String::from_utf8_lossy(text).into_owned())
}

/// The beginning of a text that may be long.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(WORDS)]
}

/// What the server said, and what is to be done about it.
pub(crate) fn explained(attempt: &str, refused: &Refused) -> EngineError {
    let kind = match refused.code {
        // The agent's account may do everything.
        13 => Kind::LockedOut,
        code if NOT_FOUND.contains(&code) => Kind::Gone,
        // A lock that others hold, a time limit, a conflict.
        24 | 46 | 50 | 112 | 117 | 202 | 246 | 290 => Kind::Busy,
        // It starts, stops, is elected, or waits for its disk.
        6 | 64 | 91 | 94 | 133 | 189 | 10107 | 11600 | 11602 | 13435 | 13436 | 14031 => Kind::Transient,
        2 | 9 | 14 | 20 | 40 | 59 | 67 | 72 | 73 | 115 | 13297 | 51002 | 51003 => Kind::Invalid,
        _ => Kind::Fatal,
    };
    // The words of this one hold the command.
    let said = if refused.code == 13 { "the agent's account has lost rights" } else { &refused.said };
    EngineError::new(kind, format!("{attempt}: {said}"))
}

/// Connections that are kept, so that a question does not need a login.
#[derive(Default)]
pub(crate) struct Held {
    idle: Mutex<Vec<(PathBuf, Session)>>,
    pub(crate) salted: Mutex<Option<Salted>>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Held")
    }
}

impl Held {
    pub(crate) const fn nothing() -> Self {
        Self { idle: Mutex::new(Vec::new()), salted: Mutex::new(None) }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(PathBuf, Session)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that has logged in and is at the server of this moment.
    pub(crate) async fn session(&self, site: &Site) -> Result<Lease<'_>, EngineError> {
        let lease = |session| Lease { held: self, at: site.run.clone(), session: Some(session) };
        loop {
            let kept = {
                let mut idle = self.idle();
                let at = idle.iter().position(|(at, _)| *at == site.run);
                at.map(|at| idle.swap_remove(at).1)
            };
            let Some(mut session) = kept else { break };
            let ping = session.run("connect", "admin", doc! {"ping": 1});
            match within(CONNECT, "connect", ping).await {
                Ok(_) => return Ok(lease(session)),
                // The server may be another one by now.
                Err(_) if self.idle().is_empty() => break,
                Err(_) => {}
            }
        }
        Ok(lease(Session::open(site, &self.salted).await?))
    }
}

/// A connection that goes back when it is not used any more.
pub(crate) struct Lease<'a> {
    held: &'a Held,
    at: PathBuf,
    session: Option<Session>,
}

impl Lease<'_> {
    /// The connection.
    pub(crate) fn get(&mut self) -> Result<&mut Session, EngineError> {
        self.session.as_mut().ok_or_else(|| EngineError::new(Kind::Fatal, "connect: the connection is given back"))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(session) = self.session.take().filter(|session| session.is_whole) else { return };
        let mut idle = self.held.idle();
        if idle.len() < KEPT {
            idle.push((std::mem::take(&mut self.at), session));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_holds_a_command() {
        let said = "not authorized on admin to execute command { createUser: \"x\" }".to_owned();
        let error = explained("do it", &Refused { code: 13, said });
        assert_eq!(
            (error.kind(), error.chain().as_str()),
            (Kind::LockedOut, "do it: the agent's account has lost rights")
        );
    }

    #[test]
    fn whole_numbers_are_read_however_they_are_written() {
        for value in [Bson::Int32(1), Bson::Int64(1), Bson::Double(1.0)] {
            assert_eq!(whole(Some(&value)), Some(1));
        }
        assert_eq!(whole(Some(&Bson::Double(0.5))), None);
    }
}

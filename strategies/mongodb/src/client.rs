//! Talking to the server: over the private socket as `os_admin`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{AuthMechanism, ClientOptions, Credential, ServerAddress};
use mongodb::{Client, Cursor};
use secrecy::{ExposeSecret, SecretString};
use trove_strategy::{Directory, EngineError, File, Kind, Location, Owner, Relay, Site};

use crate::tls;

/// The agent's account in the server.
pub(crate) const ADMIN: &str = "os_admin";

const CONNECT: Duration = Duration::from_millis(1500);
/// A lock of a tenant's holds as long as its transaction may live, a minute by default.
const ANSWER: Duration = Duration::from_secs(90);
/// How long it is asked again where that is better than giving up.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(30);
/// What a write waits for: that it survives a crash.
const WRITTEN_MS: i32 = 30_000;
/// As many questions are asked at once.
const CONNECTIONS: u32 = 4;
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
/// It has been told already.
pub(crate) const INITIATED: i32 = 23;

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

/// Asks again for a while where no answer comes: long work is not given up because a busy machine was late once.
pub(crate) async fn patiently<T, F>(mut ask: impl FnMut() -> F + Send) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>> + Send,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(error) if error.kind() == Kind::Transient && Instant::now() < end => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// What the server refused, by its number.
pub(crate) struct Refused {
    pub(crate) code: i32,
    said: String,
}

/// The agent's connections to a server, as one account or as nobody.
#[derive(Clone)]
pub(crate) struct Session {
    client: Client,
    relay: Arc<Relay>,
}

impl Session {
    /// Connects, and logs in as nobody.
    pub(crate) async fn greet(site: &Site) -> Result<Self, EngineError> {
        Self::open(site, None).await
    }

    /// Connects, and logs in as the agent's account. Each side shows that it knows the password.
    pub(crate) async fn log_in(site: &Site) -> Result<Self, EngineError> {
        let password = admin_password(site).await?;
        let credential = Credential::builder()
            .username(ADMIN.to_owned())
            .source("admin".to_owned())
            .mechanism(AuthMechanism::ScramSha256)
            .password(password.expose_secret().to_owned())
            .build();
        let mut session = Self::open(site, Some(credential)).await?;
        session.is_open().await?;
        Ok(session)
    }

    async fn open(site: &Site, credential: Option<Credential>) -> Result<Self, EngineError> {
        // The driver asks for some time whether a server has come; here it is known at once.
        within(CONNECT, "connect", async { Ok(site.host.connect(&socket(site)).await.map(drop)?) }).await?;
        let reached = site.clone();
        let reach = move || {
            let site = reached.clone();
            async move { tls::encrypt(site.host.connect(&socket(&site)).await?).await }
        };
        let failed = |error: std::io::Error| EngineError::caused(Kind::Transient, "connect", error);
        let relay = Arc::new(Relay::open(u64::MAX, reach).map_err(failed)?);
        let mut options = ClientOptions::builder()
            .hosts(vec![ServerAddress::Unix { path: relay.path().into() }])
            .direct_connection(true)
            .connect_timeout(CONNECT)
            .server_selection_timeout(CONNECT)
            .max_pool_size(CONNECTIONS)
            .build();
        options.credential = credential;
        let client = Client::with_options(options);
        Ok(Self { client: client.map_err(|error| EngineError::caused(Kind::Fatal, "connect", error))?, relay })
    }

    async fn is_open(&mut self) -> Result<(), EngineError> {
        let ping = self.run("connect", "admin", doc! {"ping": 1});
        within(CONNECT, "connect", ping).await.map(drop)
    }

    /// Sends a command. `attempt` says what for: commands are not shown in errors.
    pub(crate) async fn ask(
        &mut self,
        attempt: &str,
        database: &str,
        command: Document,
    ) -> Result<Result<Document, Refused>, EngineError> {
        let failed = |error| EngineError::caused(Kind::Fatal, attempt, error);
        self.ask_raw(ANSWER, attempt, database, RawDocumentBuf::try_from(&command).map_err(failed)?).await
    }

    /// The same with another limit, and a command that may hold documents of others.
    pub(crate) async fn ask_raw(
        &mut self,
        limit: Duration,
        attempt: &str,
        database: &str,
        command: RawDocumentBuf,
    ) -> Result<Result<Document, Refused>, EngineError> {
        let database = self.client.database(database);
        let asked = async { Ok(database.run_raw_command(command).await) };
        let answer = match within(limit, attempt, asked).await? {
            Ok(answer) => answer,
            Err(error) => return self.refused(attempt, &error).map(Err),
        };
        let Ok(concern) = answer.get_document("writeConcernError") else { return Ok(Ok(answer)) };
        let code = concern.get_i32("code").unwrap_or_default();
        let said = concern.get_str("errmsg").unwrap_or("the server gives no reason");
        Ok(Err(Refused { code, said: cut(said).to_owned() }))
    }

    /// What the server refused, or why it could not be asked.
    fn refused(&self, attempt: &str, error: &Error) -> Result<Refused, EngineError> {
        let failed = |kind, said: &str| Err(EngineError::new(kind, format!("{attempt}: {}", cut(said))));
        match error.kind.as_ref() {
            ErrorKind::Command(refused) => Ok(Refused { code: refused.code, said: cut(&refused.message).to_owned() }),
            ErrorKind::Authentication { message, .. } => failed(Kind::LockedOut, message),
            ErrorKind::Bson(_) | ErrorKind::InvalidArgument { .. } => failed(Kind::Fatal, &error.to_string()),
            _ => failed(Kind::Transient, &self.relay.refusal().map_or_else(|| error.to_string(), |why| why.chain())),
        }
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

    /// A command that is answered with a cursor. It is closed when it is dropped.
    pub(crate) async fn cursor(
        &mut self,
        attempt: &str,
        database: &str,
        command: Document,
    ) -> Result<Result<Cursor<RawDocumentBuf>, Refused>, EngineError> {
        let database = self.client.database(database);
        let asked = async { Ok(database.run_cursor_command(command).await) };
        match within(ANSWER, attempt, asked).await? {
            Ok(cursor) => Ok(Ok(cursor.with_type())),
            Err(error) => self.refused(attempt, &error).map(Err),
        }
    }

    /// Goes on to the next document of a cursor, which is its current one then. `false` at its end.
    pub(crate) async fn advance(
        &mut self,
        attempt: &str,
        cursor: &mut Cursor<RawDocumentBuf>,
    ) -> Result<Result<bool, Refused>, EngineError> {
        match within(ANSWER, attempt, async { Ok(cursor.advance().await) }).await? {
            Ok(more) => Ok(Ok(more)),
            Err(error) => self.refused(attempt, &error).map(Err),
        }
    }

    /// Writes new documents. `false` where not all of them were taken.
    pub(crate) async fn insert(
        &mut self,
        limit: Duration,
        attempt: &str,
        (database, collection): (&str, &str),
        documents: &[RawDocumentBuf],
    ) -> Result<bool, EngineError> {
        let collection = self.client.database(database).collection::<RawDocumentBuf>(collection);
        let asked = collection.insert_many(documents).ordered(false).bypass_document_validation(true);
        match within(limit, attempt, async { Ok(asked.await) }).await? {
            Ok(_) => Ok(true),
            Err(error) => match error.kind.as_ref() {
                ErrorKind::InsertMany(_) | ErrorKind::BulkWrite(_) | ErrorKind::Write(_) => Ok(false),
                _ => self.refused(attempt, &error).map(|_| false),
            },
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
        let collection = self.client.database(database).collection::<Document>(collection);
        let asked = async {
            let mut cursor = collection.find(filter).projection(projection).await?;
            let mut found = Vec::new();
            while found.len() <= MOST && cursor.advance().await? {
                found.push(cursor.deserialize_current()?);
            }
            Ok(found)
        };
        match within(ANSWER, attempt, async { Ok(asked.await) }).await? {
            Ok(found) if found.len() > MOST => {
                Err(EngineError::new(Kind::Fatal, format!("{attempt}: there are more than {MOST}")))
            }
            Ok(found) => Ok(found),
            Err(error) => Err(explained(attempt, &self.refused(attempt, &error)?)),
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
pub(crate) struct Held(Mutex<Option<(PathBuf, Session)>>);

impl std::fmt::Debug for Held {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Held")
    }
}

impl Held {
    pub(crate) const fn nothing() -> Self {
        Self(Mutex::new(None))
    }

    fn kept(&self) -> MutexGuard<'_, Option<(PathBuf, Session)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that have logged in, at the server of this moment.
    pub(crate) async fn session(&self, site: &Site) -> Result<Session, EngineError> {
        let kept = self.kept().as_ref().filter(|(at, _)| *at == site.run).map(|(_, session)| session.clone());
        if let Some(mut session) = kept {
            if session.is_open().await.is_ok() {
                return Ok(session);
            }
            // The server may be another one by now.
            *self.kept() = None;
        }
        let session = Session::log_in(site).await?;
        *self.kept() = Some((site.run.clone(), session.clone()));
        Ok(session)
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

//! Talking to the server: over the private socket as `os_admin`, which the server knows by the agent's account.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};
use trove_strategy::{Directory, EngineError, Kind, Site};

/// The agent's account in the server.
pub(crate) const ADMIN: &str = "os_admin";

/// The database in which the agent works when no other is meant.
pub(crate) const HOME: &str = "postgres";

const CONNECT: Duration = Duration::from_millis(1500);

/// As much as is read in one session: whoever replaces what the agent asks answers as much as he likes.
const ANSWERS: u64 = 16 << 20;
/// As much as is kept of what the server says of an error.
const WORDS: usize = 1000;

/// What holds in the agent's sessions whatever the configuration, a database or a role sets: tenants may set all of these
/// for a database of theirs. [`sql_literal`] relies on the first; with the time limits no lock of a tenant's, and no
/// limit of a tenant's, decides whether the agent gets its work done, nor any standby; no statement of the agent's, which may
/// hold what a password is verified with, is logged; no library of a tenant's is loaded.
const OPTIONS: &str = "-c standard_conforming_strings=on -c search_path=pg_catalog -c role=none \
                       -c default_transaction_read_only=off -c client_min_messages=warning \
                       -c statement_timeout=0 -c lock_timeout=10s -c plpgsql.extra_errors=none \
                       -c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic \
                       -c log_transaction_sample_rate=0 -c synchronous_commit=local \
                       -c session_preload_libraries= -c local_preload_libraries=";

/// The same with what newer servers have: a statement ends when the agent no longer waits for it, and no session for
/// waiting (14), and no event trigger of a tenant's fires at a login, nor does a time limit end a transaction (17).
fn options(site: &Site) -> String {
    let major = crate::config::major(site);
    let given_up = if major >= 14 { " -c client_connection_check_interval=1s -c idle_session_timeout=0" } else { "" };
    let triggers = if major >= 17 { " -c event_triggers=off -c transaction_timeout=0" } else { "" };
    format!("{OPTIONS}{given_up}{triggers}")
}

/// Bounds what is asked of the server.
pub(crate) async fn within<T>(
    limit: Duration,
    attempt: &str,
    asked: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let late = |_| EngineError::new(Kind::Transient, format!("{attempt}: no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, asked).await.map_err(late)?
}

/// A connection of the agent's, in one database.
pub(crate) struct Session {
    client: Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// Connects. `Transient` while the server does not answer, or has no connection left.
    pub(crate) async fn open(site: &Site, database: &str) -> Result<Self, EngineError> {
        let full = || {
            EngineError::new(
                Kind::Transient,
                format!("connect to the database {database:?}: all connections are taken"),
            )
        };
        Self::open_unless_full(site, database).await?.ok_or_else(full)
    }

    /// The same; `None` where the server says that all connections are taken.
    pub(crate) async fn open_unless_full(site: &Site, database: &str) -> Result<Option<Self>, EngineError> {
        let mut config = tokio_postgres::Config::new();
        config.user(ADMIN).dbname(database).application_name("trove-agent").options(options(site));
        let attempt = format!("connect to the database {database:?}");
        let socket = Directory::Run.join(format!(".s.PGSQL.{}", site.port));
        let connect = async {
            let (answers, questions) = tokio::io::split(site.host.connect(&socket).await?);
            let stream = tokio::io::join(answers.take(ANSWERS), questions);
            match config.connect_raw(stream, NoTls).await {
                Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => Ok(None),
                answered => answered.map(Some).map_err(|error| refused(&attempt, database, error)),
            }
        };
        let late = |_| EngineError::new(Kind::Transient, format!("{attempt}: no answer"));
        let connected = tokio::time::timeout(CONNECT, connect).await.map_err(late)??;
        let Some((client, connection)) = connected else { return Ok(None) };
        let driver = tokio::spawn(async move {
            // Its error reaches whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(Some(Self { client, driver }))
    }

    /// Comes when the server has ended this session.
    pub(crate) async fn ended(&mut self) {
        // A task that was cut off has ended, too.
        let _ = (&mut self.driver).await;
    }

    /// Runs statements, one after the other. `attempt` says what for: statements are not shown in errors.
    pub(crate) async fn run(&self, attempt: &str, sql: &str) -> Result<(), EngineError> {
        self.client.batch_execute(sql).await.map_err(|error| explained(attempt, error))
    }

    /// The rows of a statement, as texts; NULL is an empty text.
    pub(crate) async fn rows(&self, attempt: &str, sql: &str) -> Result<Vec<Vec<String>>, EngineError> {
        let messages = self.client.simple_query(sql).await.map_err(|error| explained(attempt, error))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| readable(&row, n)).collect()),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Runs a block of PL/pgSQL, in which [`each`] works on things by their numbers, in one transaction: all of it
    /// happens or nothing. Meanwhile no event trigger of a tenant's fires.
    pub(crate) async fn work(&self, attempt: &str, block: &str) -> Result<(), EngineError> {
        let listed = |verb: &str| {
            format!(
                "array(select format('alter event trigger %I {verb}) from pg_event_trigger where evtenabled <> 'D')"
            )
        };
        let off = listed("disable', evtname");
        let on =
            listed("enable%s', evtname, case evtenabled when 'R' then ' replica' when 'A' then ' always' else '' end");
        let quiet = format!(
            "declare trove_off text[] := {off}; trove_on text[] := {on}; step text; begin \
             foreach step in array trove_off loop execute step; end loop; {block} \
             foreach step in array trove_on loop execute step; end loop; end"
        );
        self.perform(attempt, &quiet).await
    }

    /// Runs a block of PL/pgSQL as it is. A tenant's superuser may have removed the language: it is put back.
    pub(crate) async fn perform(&self, attempt: &str, block: &str) -> Result<(), EngineError> {
        // The block may hold texts of a caller's: its own quote is one that nobody can guess.
        let quote = format!("$t{:016x}$", rand::random::<u64>());
        let sql = format!("do {quote} {block} {quote}");
        match self.client.batch_execute(&sql).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {
                self.run(attempt, "create extension if not exists plpgsql").await?;
                self.run(attempt, &sql).await
            }
            done => done.map_err(|error| explained(attempt, error)),
        }
    }

    /// Whether [`each`] had anything to run in this session.
    pub(crate) async fn found(&self, attempt: &str) -> Result<bool, EngineError> {
        self.any(attempt, "select 1 where current_setting('trove.found', true) = 'yes'").await
    }

    /// Whether a statement has a row.
    pub(crate) async fn any(&self, attempt: &str, sql: &str) -> Result<bool, EngineError> {
        Ok(!self.rows(attempt, sql).await?.is_empty())
    }
}

/// A value; NULL is an empty text. What is no UTF-8 comes from a database without an encoding (SQL_ASCII), and from a setting
/// that was made in one.
fn readable(row: &SimpleQueryRow, column: usize) -> String {
    row.try_get(column).map_or("\u{fffd}", Option::unwrap_or_default).to_owned()
}

/// What the server said to a login of the agent's. Where it always gets in, a refusal means that somebody with all rights
/// shut it out: the account, its database, or whether that takes connections.
fn refused(attempt: &str, database: &str, error: tokio_postgres::Error) -> EngineError {
    let code = error.code().map(SqlState::code).unwrap_or_default();
    let shut_out = code.starts_with("28") || database == HOME && ["3D000", "55000", "42501"].contains(&code);
    let explained = explained(attempt, error);
    if shut_out { EngineError::new(Kind::LockedOut, explained.chain()) } else { explained }
}

/// What the server said, without the statement.
fn explained(attempt: &str, error: tokio_postgres::Error) -> EngineError {
    let Some(said) = error.as_db_error() else {
        return EngineError::caused(Kind::Transient, attempt, error);
    };
    let kind = match said.code() {
        &SqlState::CANNOT_CONNECT_NOW
        | &SqlState::ADMIN_SHUTDOWN
        | &SqlState::CRASH_SHUTDOWN
        | &SqlState::T_R_SERIALIZATION_FAILURE
        | &SqlState::T_R_DEADLOCK_DETECTED => Kind::Transient,
        // Connections, memory or room that others have.
        code if code.code().starts_with("53") => Kind::Transient,
        &SqlState::INVALID_CATALOG_NAME => Kind::Gone,
        &SqlState::OBJECT_IN_USE | &SqlState::LOCK_NOT_AVAILABLE => Kind::Busy,
        code if code.code().starts_with("22") || code.code().starts_with("42") || code.code().starts_with("2B") => {
            Kind::Invalid
        }
        _ => Kind::Fatal,
    };
    let detail = said.detail().map(|detail| format!(" ({})", cut(detail))).unwrap_or_default();
    EngineError::new(kind, format!("{attempt}: {}{detail}", cut(said.message())))
}

/// The beginning of a text that a tenant may have made long.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(WORDS)]
}

/// A part of a block of [`Session::work`]: runs each text that a query answers, and remembers for [`Session::found`] that
/// there was one. The server quotes the names in it (`%I`),
/// as the database that the session is in has them, whatever its encoding.
pub(crate) fn each(query: &str) -> String {
    format!("for step in {query} loop execute step; perform set_config('trove.found', 'yes', false); end loop;\n")
}

/// A name in SQL. Manual, 4.1.1: double quotes, doubled inside.
pub fn sql_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in SQL. Manual, 4.1.2: a backslash is an ordinary character, since `standard_conforming_strings` is on.
pub fn sql_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What the server stores of a password: RFC 5802 with SHA-256 and 4096 rounds, so that no password is ever in a
/// statement.
pub fn scram_verifier(password: &SecretString) -> String {
    let salt: [u8; 16] = rand::random();
    scram_verifier_with(password, &salt, 4096)
}

fn scram_verifier_with(password: &SecretString, salt: &[u8], rounds: u32) -> String {
    let clear = password.expose_secret();
    // As the server and its clients do: a password that cannot be normalised is taken as it is.
    let normal = stringprep::saslprep(clear).unwrap_or(Cow::Borrowed(clear));
    let salted = hi(normal.as_bytes(), salt, rounds);
    let stored = Sha256::digest(mac(&salted, &[b"Client Key"]));
    let server = mac(&salted, &[b"Server Key"]);
    let mut text = String::from("SCRAM-SHA-256$");
    // Writing to a String cannot fail.
    let _ = write!(text, "{rounds}:{}${}:{}", STANDARD.encode(salt), STANDARD.encode(stored), STANDARD.encode(server));
    text
}

/// RFC 5802: PBKDF2 with one block.
fn hi(password: &[u8], salt: &[u8], rounds: u32) -> [u8; 32] {
    let mut last = mac(password, &[salt, &1u32.to_be_bytes()]);
    let mut all = last;
    for _ in 1..rounds {
        last = mac(password, &[&last]);
        for (sum, byte) in all.iter_mut().zip(last) {
            *sum ^= byte;
        }
    }
    all
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes keys of any length (RFC 2104): the error cannot occur, and an empty key would not verify.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_double_what_they_are_made_of() {
        assert_eq!(sql_identifier("a\"b'c"), "\"a\"\"b'c\"");
        assert_eq!(sql_literal("o'neil\\"), "'o''neil\\'");
    }

    #[test]
    fn the_verifier_is_that_of_rfc_7677() {
        // RFC 7677, section 3: user "user", password "pencil"; keys derived from its salt and rounds.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let text = scram_verifier_with(&SecretString::from("pencil"), &salt, 4096);
        assert_eq!(
            text,
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }
}

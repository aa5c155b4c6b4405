//! Talking to the server: over the private socket, as the account that the server knows by the system's word for who connects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{ChangeUserOpts, Conn, DriverError, Error, OptsBuilder, ServerError, Value};
use tokio::sync::{Mutex, MutexGuard};
use trove_strategy::{Directory, EngineError, Kind, Location, Owner, Relay, Site};

use crate::{Flavour, names};

const CONNECT: Duration = Duration::from_millis(1500);
/// Too many connections.
const TOO_MANY: u16 = 1040;
/// As long as a statement waits for a tenant's lock, seconds.
const LOCK_S: u32 = 10;
/// The longest that is asked for.
const ANSWER: Duration = Duration::from_secs(60);
/// As much is read of one answer: what arrives may be a tenant's.
const ANSWER_BYTES: usize = 16 << 20;
/// As long as the server keeps a connection that is idle: the longest that it takes.
const IDLE_S: usize = 31_536_000;
/// As much as is kept of what the server says of an error.
const WORDS: usize = 1000;
/// What the server says to a login of an account that was removed, changed, locked or limited.
const SHUT_OUT: [u16; 10] = [1044, 1045, 1130, 1226, 1524, 1698, 1820, 1862, 3118, 4151];

/// The private socket.
pub(crate) fn socket() -> Location {
    Directory::Run.join("engine.sock")
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

/// A row, as texts; NULL is an empty one.
pub(crate) type Row = Vec<String>;

/// What a statement is answered: names of columns, and rows.
#[derive(Default)]
struct Answer {
    columns: Row,
    rows: Vec<Row>,
}

/// A connection to the server, as the agent's account.
#[derive(Debug)]
struct Opened {
    connection: Conn,
    relay: Relay,
}

impl Opened {
    /// Connects. `None` where the server has as many connections as it takes; `Transient` while it does not answer.
    async fn new(flavour: Flavour, site: &Site) -> Result<Option<Self>, EngineError> {
        let attempt = "connect";
        let connect = async {
            let host = site.host.clone();
            let reach = move || {
                let host = host.clone();
                async move { Ok(host.connect_as(&socket(), Owner::Engine).await?) }
            };
            let relay = Relay::open(u64::MAX, reach);
            let relay = relay.map_err(|error| EngineError::caused(Kind::Transient, attempt, error))?;
            let options = OptsBuilder::default()
                .socket(Some(relay.path()))
                .user(Some(names::admin(flavour, site)))
                // The driver would ask the server for these.
                .max_allowed_packet(Some(ANSWER_BYTES))
                .wait_timeout(Some(IDLE_S))
                .prefer_socket(false);
            let connection = match Conn::new(options).await {
                Ok(connection) => connection,
                Err(Error::Server(said)) if said.code == TOO_MANY => return Ok(None),
                Err(error) => return Err(relay.refusal().unwrap_or_else(|| refused(error))),
            };
            let mut opened = Self { connection, relay };
            opened.connection.query_drop(settings(flavour)).await.map_err(refused)?;
            Ok(Some(opened))
        };
        within(CONNECT, attempt, connect).await
    }

    /// Logs in again, by which the server forgets what the session has set, and says whether the account may still come in.
    /// `None` where it does not let it in, or has closed the connection; `Transient` where it does not answer.
    async fn again(mut self, flavour: Flavour) -> Result<Option<Self>, EngineError> {
        let log_in = async {
            self.connection.change_user(ChangeUserOpts::default()).await?;
            self.connection.query_drop(settings(flavour)).await
        };
        let logged_in = within(CONNECT, "connect", async { Ok(log_in.await) }).await?;
        Ok(logged_in.ok().map(|()| self))
    }

    /// A whole answer; `None` when it is too long.
    async fn answer(&mut self, sql: &str) -> Result<Option<Answer>, Error> {
        let mut answer = self.connection.query_iter(sql).await?;
        let columns = answer.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = answer.next().await? {
            let row = texts(row);
            bytes += row.iter().map(String::len).sum::<usize>();
            if bytes > ANSWER_BYTES {
                return Ok(None);
            }
            rows.push(row);
        }
        Ok(Some(Answer { columns, rows }))
    }
}

/// A connection and the socket that it goes to.
type Kept = Option<(PathBuf, Opened)>;

/// What the agent holds of its server: a connection that stays open. When tenants take all that the server gives, the agent's is
/// one of them, or the one more that the server has for an account with its rights.
#[derive(Debug)]
pub(crate) struct Held {
    connection: Mutex<Kept>,
    /// Whether there is one that has logged in, also while it is in use.
    is_open: AtomicBool,
}

impl Held {
    pub(crate) const fn nothing() -> Self {
        Self { connection: Mutex::const_new(None), is_open: AtomicBool::new(false) }
    }

    /// The connection that is held, or another one while somebody asks something by it. Where the server has no other, the one
    /// that is held is waited for.
    pub(crate) async fn session(&self, flavour: Flavour, site: &Site) -> Result<Session<'_>, EngineError> {
        let at = site.path(&socket());
        let mut held = match self.connection.try_lock() {
            Ok(held) => held,
            // It is being opened. Another could take the last connection that the server gives, which this one is to have.
            Err(_) if !self.is_open.load(Ordering::SeqCst) => self.connection.lock().await,
            Err(_) => match Opened::new(flavour, site).await? {
                Some(opened) => return Ok(Session { held: None, at, opened: Some(opened), is_asking: false }),
                None => self.connection.lock().await,
            },
        };
        // Until it has logged in again it may turn out to be closed.
        self.is_open.store(false, Ordering::SeqCst);
        let mut opened = match held.take().filter(|(before, _)| *before == at) {
            Some((_, before)) => before.again(flavour).await?,
            None => None,
        };
        if opened.is_none() {
            opened = Opened::new(flavour, site).await?;
        }
        let opened = opened.ok_or_else(full)?;
        self.is_open.store(true, Ordering::SeqCst);
        Ok(Session { opened: Some(opened), held: Some((held, &self.is_open)), at, is_asking: false })
    }
}

/// What the agent asks in one go.
pub(crate) struct Session<'a> {
    /// Where the connection goes back to.
    held: Option<(MutexGuard<'a, Kept>, &'a AtomicBool)>,
    at: PathBuf,
    opened: Option<Opened>,
    is_asking: bool,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Some((held, is_open)) = &mut self.held else { return };
        match self.opened.take() {
            Some(opened) if !self.is_asking => **held = Some((std::mem::take(&mut self.at), opened)),
            // One that was given up before its answer had come is closed.
            _ => is_open.store(false, Ordering::SeqCst),
        }
    }
}

impl Session<'_> {
    /// A session of its own, on a server that runs for a while.
    pub(crate) async fn alone(flavour: Flavour, site: &Site) -> Result<Self, EngineError> {
        let opened = Some(Opened::new(flavour, site).await?.ok_or_else(full)?);
        Ok(Self { held: None, at: site.path(&socket()), opened, is_asking: false })
    }

    /// The rows of a statement. `attempt` says what for: statements are not shown in errors.
    pub(crate) async fn rows(&mut self, attempt: &str, sql: &str) -> Result<Vec<Row>, EngineError> {
        self.rows_within(ANSWER, attempt, sql).await
    }

    /// The first row, by the names of its columns: of statements whose columns differ between versions.
    pub(crate) async fn first(&mut self, attempt: &str, sql: &str) -> Result<BTreeMap<String, String>, EngineError> {
        let answer = self.ask(attempt, sql).await?.map_err(|refused| explained(attempt, &refused))?;
        Ok(answer.columns.into_iter().zip(answer.rows.into_iter().next().unwrap_or_default()).collect())
    }

    /// Runs a statement.
    pub(crate) async fn run(&mut self, attempt: &str, sql: &str) -> Result<(), EngineError> {
        self.rows(attempt, sql).await.map(drop)
    }

    /// The same; an error of one of these numbers means that there was nothing to do.
    pub(crate) async fn run_unless(&mut self, attempt: &str, sql: &str, done: &[u16]) -> Result<(), EngineError> {
        match self.ask(attempt, sql).await? {
            Err(refused) if done.contains(&refused.code) => Ok(()),
            asked => asked.map(drop).map_err(|refused| explained(attempt, &refused)),
        }
    }

    /// What the server says against a statement; `None` when it has done it.
    pub(crate) async fn refusal(&mut self, attempt: &str, sql: &str) -> Result<Option<String>, EngineError> {
        Ok(self.ask(attempt, sql).await?.err().map(|refused| cut(&refused.message).to_owned()))
    }

    /// The rows of a statement that may take this long.
    pub(crate) async fn rows_within(
        &mut self,
        limit: Duration,
        attempt: &str,
        sql: &str,
    ) -> Result<Vec<Row>, EngineError> {
        let answer = self.ask_within(limit, attempt, sql).await?;
        answer.map(|answer| answer.rows).map_err(|refused| explained(attempt, &refused))
    }

    async fn ask(&mut self, attempt: &str, sql: &str) -> Result<Result<Answer, ServerError>, EngineError> {
        self.ask_within(ANSWER, attempt, sql).await
    }

    async fn ask_within(
        &mut self,
        limit: Duration,
        attempt: &str,
        sql: &str,
    ) -> Result<Result<Answer, ServerError>, EngineError> {
        let failed = |why: &str| EngineError::new(Kind::Transient, format!("{attempt}: {why}"));
        let opened = self.opened.as_mut().ok_or_else(|| failed("the connection is closed"))?;
        self.is_asking = true;
        let answer = match within(limit, attempt, async { Ok(opened.answer(sql).await) }).await? {
            Ok(answer) => Ok(answer.ok_or_else(|| failed("the answer is longer than 16 MiB"))?),
            Err(Error::Server(refused)) => Err(refused),
            Err(error) => return Err(opened.relay.refusal().unwrap_or_else(|| broken(attempt, error))),
        };
        self.is_asking = false;
        Ok(answer)
    }

    /// The first value of the first row.
    pub(crate) async fn value(&mut self, attempt: &str, sql: &str) -> Result<Option<String>, EngineError> {
        Ok(self.rows(attempt, sql).await?.into_iter().next().and_then(|row| row.into_iter().next()))
    }
}

/// What holds in the agent's sessions whatever the server's configuration says: tenants set parameters, and one who was root
/// could set any. Without `NO_AUTO_CREATE_USER` a grant to an account that is gone would make it, without a password. Values, since
/// `default` is the server's, which may be a tenant's; and shorter than the least `max_allowed_packet`, 1,024 bytes.
fn settings(flavour: Flavour) -> String {
    let common = format!(
        "character_set_client = utf8mb4, character_set_results = utf8mb4, collation_connection = utf8mb4_bin, \
         autocommit = 1, lock_wait_timeout = {LOCK_S}, sql_safe_updates = 0, sql_big_selects = 1, \
         sql_select_limit = 18446744073709551615, sql_quote_show_create = 1, sql_auto_is_null = 0, completion_type = 0, \
         max_sort_length = 1024, tmp_table_size = 16777216, max_heap_table_size = 16777216, lc_messages = 'en_US', \
         wait_timeout = {IDLE_S}"
    );
    let own = flavour.either(
        "max_session_mem_used = 9223372036854775807, tmp_disk_table_size = 18446744073709551615, \
         sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION', tx_read_only = 0, max_statement_time = 0",
        "sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', transaction_read_only = 0, max_execution_time = 0",
    );
    format!("set {own}, {common}")
}

fn texts(row: mysql_async::Row) -> Row {
    let text = |value| match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::NULL => String::new(),
        // Statements without parameters are answered in texts.
        other => other.as_sql(true),
    };
    row.unwrap().into_iter().map(text).collect()
}

/// What the server said to a login of the agent's. Where it always gets in, a refusal means that somebody with all rights
/// shut it out.
fn refused(error: Error) -> EngineError {
    let attempt = "connect";
    let shut_out = |words: String| EngineError::new(Kind::LockedOut, format!("{attempt}: {words}"));
    match error {
        Error::Server(said) if SHUT_OUT.contains(&said.code) => shut_out(cut(&said.message).to_owned()),
        Error::Server(said) => explained(attempt, &said),
        // The account is to log in otherwise than it was made to.
        Error::Driver(
            error @ (DriverError::UnknownAuthPlugin { .. }
            | DriverError::CleartextPluginDisabled
            | DriverError::MysqlOldPasswordDisabled),
        ) => shut_out(error.to_string()),
        error => broken(attempt, error),
    }
}

fn full() -> EngineError {
    EngineError::new(Kind::Transient, "connect: the server has as many connections as it takes")
}

fn broken(attempt: &str, error: Error) -> EngineError {
    EngineError::caused(Kind::Transient, attempt, error)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(WORDS)]
}

/// What the server said, without the statement.
fn explained(attempt: &str, said: &ServerError) -> EngineError {
    let kind = match said.code {
        // Connections or room that others have, the end of the server, a deadlock.
        1021 | 1040 | 1041 | 1053 | 1114 | 1135 | 1203 | 1213 | 1927 => Kind::Transient,
        1205 | 1290 | 1836 => Kind::Busy,
        1008 | 1049 | 1133 | 1141 | 3162 => Kind::Gone,
        1044 | 1142 | 1226 | 1227 | 1370 | 1410 => Kind::LockedOut,
        1007 | 1067 | 1102 | 1115 | 1193 | 1229 | 1231 | 1232 | 1238 | 1253 | 1273 | 1396 | 1470 => Kind::Invalid,
        _ => Kind::Fatal,
    };
    EngineError::new(kind, format!("{attempt}: {}", cut(&said.message)))
}

/// A name in SQL: in backquotes, doubled inside, whatever `sql_mode` says.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text in SQL, as the hexadecimal digits of its bytes.
pub(crate) fn literal(text: &str) -> String {
    if text.is_empty() { "''".to_owned() } else { format!("0x{}", hex::encode(text.as_bytes())) }
}

/// A database in a grant. In MariaDB's `_` and `%` stand for any characters unless they are escaped; in MySQL's, where rights can
/// be revoked in part (`partial_revokes`), all stand for themselves.
pub(crate) fn pattern(flavour: Flavour, database: &str) -> String {
    if !flavour.is_mariadb() {
        return database.to_owned();
    }
    let mut escaped = String::new();
    for c in database.chars() {
        if matches!(c, '_' | '%' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// The database that a pattern of a grant means; `None` when it means more than one.
pub(crate) fn meant(flavour: Flavour, pattern: &str) -> Option<String> {
    if !flavour.is_mariadb() {
        return Some(pattern.to_owned());
    }
    let mut name = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => name.push(rest.next().unwrap_or('\\')),
            '_' | '%' => return None,
            _ => name.push(c),
        }
    }
    Some(name)
}

/// Whether a text is one that a pattern means, where `_` is any character and `%` any number of them.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // Which beginnings of the text fit the part of the pattern that was read.
    let mut fits = vec![false; text.len() + 1];
    fits[0] = true;
    let mut rest = pattern.iter();
    while let Some(c) = rest.next() {
        let mut next = vec![false; text.len() + 1];
        let (any, one, c) = match c {
            '%' => (true, false, '%'),
            '_' => (false, true, '_'),
            '\\' => (false, false, *rest.next().unwrap_or(&'\\')),
            c => (false, false, *c),
        };
        for at in 0..=text.len() {
            next[at] = match any {
                true => fits[at] || at > 0 && next[at - 1],
                false => at > 0 && fits[at - 1] && (one || text[at - 1].eq_ignore_ascii_case(&c)),
            };
        }
        fits = next;
    }
    fits[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_double_what_they_are_made_of() {
        assert_eq!(identifier("a`b'c\\"), "`a``b'c\\`");
        assert_eq!((literal("o'n"), literal("")), ("0x6f276e".to_owned(), "''".to_owned()));
    }

    #[test]
    fn a_database_in_a_grant_means_itself_alone() {
        let mariadb = Flavour::MariaDb;
        for name in ["plain", "x_y", "100%", "back\\slash", "\\_", "ü_\\\\"] {
            for flavour in [mariadb, Flavour::MySql] {
                assert_eq!(meant(flavour, &pattern(flavour, name)).as_deref(), Some(name));
            }
            assert!(matches(&pattern(mariadb, name), name));
            assert_eq!(pattern(Flavour::MySql, name), name);
        }
        assert_eq!(pattern(mariadb, "x_y"), "x\\_y");
        assert!(meant(mariadb, "x_y").is_none() && meant(mariadb, "a%").is_none());
        assert!(matches("x_y", "xzy") && !matches("x\\_y", "xzy"));
        assert!(matches("%", "mysql") && matches("m%l", "mysql") && matches("127.0.0._", "127.0.0.9"));
        assert!(!matches("m%x", "mysql") && !matches("", "a") && matches("%%", ""));
    }
}

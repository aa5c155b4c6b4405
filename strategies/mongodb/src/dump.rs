//! Writes what there is and the log of what happens meanwhile. The server keeps nothing for it but cursors: where the storage is
//! slow, tenants do not wait, and the log may be overwritten before it was read, which ends the backup.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Bson, Document, RawBsonRef, Timestamp, doc};
use mongodb::Cursor;
use trove_strategy::{EngineError, Installation, Kind, Sink};

use crate::client::{Refused, Session, explained};
use crate::names::HOME;
use crate::records::{Record, TAKE, Uuid, Writer, binary, is_copied, split, uuid};

/// Marks cursors and the last entry of the log.
const MARK: &str = "trove_backup";
/// What may be in memory of all collections at once, here and at a restore, bytes.
pub(crate) const DEFINITIONS: usize = 32 << 20;
/// So often is looked whether a collection was renamed while all were listed.
const LISTINGS: usize = 100;
/// So often is a collection read from its beginning: it was renamed, or overwrites itself faster than it is read.
const READINGS: usize = 100;
/// The log is read on after so many bytes of documents, or so much time.
const LOG_BYTES: usize = 8 << 20;
const LOG_EVERY: Duration = Duration::from_millis(200);
/// What was acknowledged as safe is in the log within this time.
const VISIBLE: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// There is no such collection or index any more.
const DROPPED: i32 = 26;
/// A cursor that the server has given up: unknown, killed by a renaming, overtaken by a collection that overwrites itself.
const LOST: [i32; 4] = [43, 136, 175, 237];

/// Collections of a database as they were at some place of the log.
struct Listed {
    at: Timestamp,
    collections: Vec<Document>,
}

/// A backup that is being written.
pub(crate) struct Dump<'a> {
    session: Session,
    writer: Writer<'a>,
    /// By database.
    listed: BTreeMap<String, Listed>,
    /// The last entry of the log that was read.
    read: Timestamp,
    looked: Instant,
    /// Of documents since then.
    bytes: usize,
    documents: i64,
    entries: i64,
    definitions: usize,
}

fn fatal(reason: impl std::fmt::Display) -> EngineError {
    EngineError::new(Kind::Fatal, format!("{TAKE}: {reason}"))
}

/// What the server answers is not as it is described.
fn odd(what: &str) -> EngineError {
    fatal(format!("the server's answer has no {what}"))
}

/// Closes the cursors of a backup that was cut off with its agent.
pub(crate) async fn forget(session: &mut Session) -> Result<(), EngineError> {
    // Of whom they are is not said of those that are idle.
    let left = doc! {"type": "idleCursor", "cursor.originatingCommand.comment": MARK};
    let pipeline = vec![doc! {"$currentOp": {"allUsers": true, "idleCursors": true}}, doc! {"$match": left}];
    let aggregate = doc! {"aggregate": 1, "pipeline": pipeline, "cursor": {}};
    let mut cursor = accepted(session.cursor(TAKE, HOME, aggregate).await?)?;
    while accepted(session.advance(TAKE, &mut cursor).await?)? {
        let current = cursor.current();
        let id = current.get_document("cursor").and_then(|cursor| cursor.get_i64("cursorId"));
        let (Ok(namespace), Ok(id)) = (current.get_str("ns"), id) else { continue };
        if let Some((database, collection)) = split(namespace) {
            let kill = doc! {"killCursors": collection, "cursors": [id]};
            // One that has gone meanwhile need not be closed.
            let _ = session.ask(TAKE, database, kill).await?;
        }
    }
    Ok(())
}

fn accepted<T>(answer: Result<T, Refused>) -> Result<T, EngineError> {
    answer.map_err(|refused| explained(TAKE, &refused))
}

/// The last place in the log before which there is nothing that may still come.
async fn written(session: &mut Session) -> Result<Timestamp, EngineError> {
    let hello = session.run(TAKE, HOME, doc! {"hello": 1}).await?;
    let last = hello.get_document("lastWrite").and_then(|write| write.get_document("majorityOpTime"));
    last.and_then(|time| time.get_timestamp("ts")).map_err(|_| odd("place in its log"))
}

/// Writes an entry to the log, and waits until it and all before it are there to stay. Answers a place not before it. The
/// server's answer names one, but not before the server has made its keys for signing times, some while after its start.
async fn note(session: &mut Session, text: &str) -> Result<Timestamp, EngineError> {
    let note = doc! {"appendOplogNote": 1, "data": {MARK: text}, "writeConcern": {"w": "majority", "wtimeout": 30_000}};
    session.run(TAKE, HOME, note).await?;
    written(session).await
}

/// The collections of a database that are copied.
async fn collections(session: &mut Session, database: &str) -> Result<Vec<Document>, EngineError> {
    let list = doc! {"listCollections": 1, "filter": {"type": "collection"}, "cursor": {}, "comment": MARK};
    let mut cursor = accepted(session.cursor(TAKE, database, list).await?)?;
    let mut found = Vec::new();
    while accepted(session.advance(TAKE, &mut cursor).await?)? {
        let current = cursor.current();
        if is_copied(database, current.get_str("name").map_err(|_| odd("name"))?) {
            found.push(definition(database, current)?);
        }
    }
    Ok(found)
}

/// A collection as its record has it.
fn definition(database: &str, listed: &RawDocument) -> Result<Document, EngineError> {
    let listed = Document::try_from(listed).map_err(|error| EngineError::caused(Kind::Fatal, TAKE, error))?;
    let uuid = listed.get_document("info").ok().and_then(|info| info.get("uuid")).ok_or_else(|| odd("uuid"))?;
    let mut record = doc! {"db": database, "name": listed.get_str("name").unwrap_or_default(), "uuid": uuid.clone()};
    for field in ["options", "idIndex"] {
        if let Some(value) = listed.get(field) {
            record.insert(field, value.clone());
        }
    }
    Ok(record)
}

/// The databases in which a collection was renamed after one place of the log and not after another.
async fn renamed(session: &mut Session, from: Timestamp, until: Timestamp) -> Result<Vec<String>, EngineError> {
    let filter = doc! {
        "ts": {"$gt": from, "$lte": until}, "op": "c", "o.renameCollection": {"$exists": true},
    };
    let find = doc! {"find": "oplog.rs", "filter": filter, "projection": {"ns": 1}, "comment": MARK};
    let mut cursor = accepted(session.cursor(TAKE, "local", find).await?)?;
    let mut found = Vec::new();
    while accepted(session.advance(TAKE, &mut cursor).await?)? {
        let namespace = cursor.current().get_str("ns").map_err(|_| odd("ns"))?;
        found.extend(split(namespace).map(|(database, _)| database.to_owned()));
    }
    Ok(found)
}

/// All collections. A renaming while a database is listed might hide one, so that database is listed again.
async fn listed(session: &mut Session) -> Result<BTreeMap<String, Listed>, EngineError> {
    let answer = session.run(TAKE, HOME, doc! {"listDatabases": 1, "nameOnly": true}).await?;
    let names = answer.get_array("databases").into_iter().flatten().filter_map(Bson::as_document);
    let names = names.filter_map(|database| database.get_str("name").ok()).filter(|name| is_copied(name, "any"));
    let mut left: Vec<String> = names.map(str::to_owned).collect();
    let mut all = BTreeMap::new();
    for _ in 0..LISTINGS {
        let at = written(session).await?;
        for name in &left {
            all.insert(name.clone(), Listed { at, collections: collections(session, name).await? });
        }
        let until = note(session, "listed").await?;
        let renamed = renamed(session, at, until).await?;
        left.retain(|name| renamed.contains(name));
        if left.is_empty() {
            return Ok(all);
        }
    }
    let reason = format!("{TAKE}: collections of {:?} are renamed all the time", left.first());
    Err(EngineError::new(Kind::Busy, reason))
}

impl<'a> Dump<'a> {
    /// Looks what there is, and says so.
    pub(crate) async fn begin(
        mut session: Session,
        installation: &Installation,
        sink: &'a mut Sink,
    ) -> Result<Self, EngineError> {
        let mut writer = Writer::new(sink);
        let read = written(&mut session).await?;
        let header = doc! {"version": &installation.version, "major": &installation.major, "from": read};
        writer.put_new(Record::Header, &header).await?;
        let listed = listed(&mut session).await?;
        let (looked, bytes, documents, entries, definitions) = (Instant::now(), 0, 0, 0, 0);
        Ok(Self { session, writer, listed, read, looked, bytes, documents, entries, definitions })
    }

    /// Writes all of it. Answers the place in the log as of which it is.
    pub(crate) async fn all(mut self) -> Result<Timestamp, EngineError> {
        let mut ids = Vec::new();
        for (database, listed) in &mut self.listed {
            for definition in std::mem::take(&mut listed.collections) {
                let record = crate::records::raw(&definition)?;
                self.definitions += record.as_bytes().len();
                self.writer.put(Record::Collection, &record).await?;
                ids.push((database.clone(), uuid(&record, "uuid").ok_or_else(|| odd("uuid"))?));
            }
        }
        self.within_bounds()?;
        for (database, id) in ids {
            self.collection(&database, id).await?;
            self.follow().await?;
        }
        let mark = format!("{:032x}", rand::random::<u128>());
        note(&mut self.session, &mark).await?;
        let end = Instant::now() + VISIBLE;
        let until = loop {
            if let Some(until) = self.log(Some(&mark)).await? {
                break until;
            }
            if Instant::now() > end {
                let reason = format!("{TAKE}: what was written to the log is not there");
                return Err(EngineError::new(Kind::Transient, reason));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        };
        let last = doc! {"until": until, "documents": self.documents, "entries": self.entries};
        self.writer.put_new(Record::End, &last).await?;
        self.writer.finish().await?;
        Ok(until)
    }

    /// A restore has the definitions of all collections in memory.
    fn within_bounds(&self) -> Result<(), EngineError> {
        if self.definitions > DEFINITIONS {
            return Err(fatal(format!(
                "the definitions of all collections and indexes have more than {DEFINITIONS} bytes"
            )));
        }
        Ok(())
    }

    /// The indexes that are whole; `None` where the collection was dropped.
    async fn indexes(&mut self, database: &str, id: Uuid) -> Result<Option<Vec<Document>>, EngineError> {
        let list = doc! {"listIndexes": binary(id), "includeBuildUUIDs": true, "cursor": {}, "comment": MARK};
        let mut cursor = match self.session.cursor(TAKE, database, list).await? {
            Err(refused) if refused.code == DROPPED => return Ok(None),
            answer => accepted(answer)?,
        };
        let mut found = Vec::new();
        while accepted(self.session.advance(TAKE, &mut cursor).await?)? {
            let current = cursor.current();
            // When one is whole that is being built, the log says so.
            if !current.iter().any(|field| field.is_ok_and(|(name, _)| name.as_str() == "buildUUID")) {
                self.definitions += current.as_bytes().len();
                let failed = |error| EngineError::caused(Kind::Fatal, TAKE, error);
                found.push(Document::try_from(current).map_err(failed)?);
            }
        }
        self.within_bounds()?;
        Ok(Some(found))
    }

    /// Writes a collection, wherever it is by now. One that was dropped is so in the log, too.
    async fn collection(&mut self, database: &str, id: Uuid) -> Result<(), EngineError> {
        for _ in 0..READINGS {
            let Some(indexes) = self.indexes(database, id).await? else { return Ok(()) };
            self.writer.put_new(Record::Documents, &doc! {"uuid": binary(id), "indexes": indexes}).await?;
            let find = doc! {
                "find": binary(id), "hint": {"$natural": 1}, "noCursorTimeout": true, "comment": MARK,
            };
            let cursor = self.session.cursor(TAKE, database, find).await?;
            let read = match cursor {
                Ok(mut cursor) => self.documents(&mut cursor).await?,
                Err(refused) => Err(refused),
            };
            match read {
                Ok(()) => return Ok(()),
                Err(refused) if refused.code == DROPPED => return Ok(()),
                Err(refused) if LOST.contains(&refused.code) => {}
                Err(refused) => return Err(explained(TAKE, &refused)),
            }
        }
        let reason = format!("{TAKE}: a collection of {database:?} is renamed or overwrites itself all the time");
        Err(EngineError::new(Kind::Busy, reason))
    }

    async fn documents(&mut self, cursor: &mut Cursor<RawDocumentBuf>) -> Result<Result<(), Refused>, EngineError> {
        loop {
            match self.session.advance(TAKE, cursor).await? {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(())),
                Err(refused) => return Ok(Err(refused)),
            }
            self.writer.put(Record::Document, cursor.current()).await?;
            self.documents += 1;
            self.bytes += cursor.current().as_bytes().len();
            self.follow().await?;
        }
    }

    /// Reads the log on where it is time to.
    async fn follow(&mut self) -> Result<(), EngineError> {
        if self.bytes >= LOG_BYTES || self.looked.elapsed() >= LOG_EVERY {
            self.log(None).await?;
            (self.looked, self.bytes) = (Instant::now(), 0);
        }
        Ok(())
    }

    /// Reads the log to its present end, or to the entry with this mark and answers where that is.
    async fn log(&mut self, mark: Option<&str>) -> Result<Option<Timestamp>, EngineError> {
        let find = doc! {
            "find": "oplog.rs", "filter": {"ts": {"$gte": self.read}}, "noCursorTimeout": true, "comment": MARK,
        };
        let overwritten = || {
            let reason =
                format!("{TAKE}: the log of writes was overwritten before it was read: the storage is too slow");
            EngineError::new(Kind::Transient, reason)
        };
        let mut cursor = accepted(self.session.cursor(TAKE, "local", find).await?)?;
        let mut follows = false;
        loop {
            match self.session.advance(TAKE, &mut cursor).await? {
                Ok(true) => {}
                Ok(false) if follows => return Ok(None),
                Ok(false) => return Err(overwritten()),
                // The next call goes on.
                Err(refused) if follows && refused.code != 136 && LOST.contains(&refused.code) => return Ok(None),
                Err(refused) if LOST.contains(&refused.code) => return Err(overwritten()),
                Err(refused) => return Err(explained(TAKE, &refused)),
            }
            let entry = cursor.current();
            let at = entry.get_timestamp("ts").map_err(|_| odd("ts"))?;
            if !follows {
                if at != self.read {
                    return Err(overwritten());
                }
                follows = true;
                continue;
            }
            if entry.get_str("op").is_ok_and(|operation| operation == "n") {
                let text = entry.get_document("o").and_then(|note| note.get_str(MARK));
                if mark.is_some() && text.ok() == mark {
                    return Ok(Some(at));
                }
            }
            if self.is_wanted(entry, at)? {
                self.writer.put(Record::Entry, entry).await?;
                self.entries += 1;
            }
            self.read = at;
        }
    }

    /// Whether an entry of the log says something of what is copied.
    fn is_wanted(&mut self, entry: &RawDocument, at: Timestamp) -> Result<bool, EngineError> {
        let (operation, namespace) = (entry.get_str("op").unwrap_or_default(), entry.get_str("ns").unwrap_or_default());
        let Some((database, collection)) = split(namespace) else { return Ok(false) };
        // What was listed later is as of then.
        let is_listed = |database: &str| self.listed.get(database).is_some_and(|listed| at <= listed.at);
        match operation {
            "n" => Ok(false),
            "i" | "u" | "d" => Ok(is_copied(database, collection) && !is_listed(database)),
            "c" => {
                let command = entry.get_document("o").map_err(|_| odd("command in its log"))?;
                let Some(Ok((name, value))) = command.iter().next() else { return Ok(false) };
                if is_transaction(name.as_str(), command)? {
                    return Ok(true);
                }
                if !is_copied(database, "any") || is_listed(database) {
                    return Ok(false);
                }
                if matches!(name.as_str(), "create" | "createIndexes" | "commitIndexBuild") {
                    self.definitions += command.as_bytes().len();
                    self.within_bounds()?;
                }
                is_kept(name.as_str(), value)
            }
            _ => Err(fatal(format!("the log has an entry of the kind {operation:?}, which it does not know"))),
        }
    }
}

/// Whether a command of the log is a transaction that is whole.
fn is_transaction(name: &str, command: &RawDocument) -> Result<bool, EngineError> {
    let is_prepared = name == "applyOps" && command.get_bool("prepare").unwrap_or(false);
    if is_prepared || matches!(name, "commitTransaction" | "abortTransaction") {
        return Err(fatal("the log has a transaction of several sets, which a backup of one cannot hold"));
    }
    Ok(name == "applyOps")
}

/// Whether a command of the log concerns what is copied. One that is not known ends the backup: it may change anything.
fn is_kept(name: &str, value: RawBsonRef<'_>) -> Result<bool, EngineError> {
    let concerned = value.as_str().unwrap_or_default();
    match name {
        "create" | "drop" | "collMod" | "createIndexes" | "startIndexBuild" | "commitIndexBuild"
        | "abortIndexBuild" | "dropIndexes" | "deleteIndexes" => {
            Ok(is_copied("any", concerned) || is_copied("admin", concerned))
        }
        "renameCollection" | "dropDatabase" => Ok(true),
        _ => Err(fatal(format!("the log has the command {name:?}, which it does not know"))),
    }
}

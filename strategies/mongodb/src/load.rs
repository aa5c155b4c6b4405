//! Makes data of a backup on a server of its own: collections with the identities that they had, documents, the log, then indexes
//! and accounts. What the log says waits in a collection of that server until all documents are there.

use std::time::Duration;

use bson::raw::{RawArrayBuf, RawDocumentBuf, cstr};
use bson::{Document, RawBsonRef, Timestamp, doc};
use trove_strategy::{EngineError, Kind, Site, Source};

use crate::backup::LIMIT;
use crate::client::{Session, within};
use crate::records::{RESTORE, Reader, Record, Uuid, invalid, uuid};
use crate::replay::{Collections, Replay, apply, operation};
use crate::{repair, taken_over};

/// Documents are written as many at once.
const BATCH_BYTES: usize = 8 << 20;
const BATCH: usize = 1000;
/// A piece of the log, bytes.
const PIECE: usize = 4 << 20;
/// A write is that of one batch.
pub(crate) const WRITE: Duration = Duration::from_secs(600);

/// The database that no tenant reaches, and what is in it meanwhile.
const LOCAL: &str = "local";
const LOG: &str = "trove_restore";

/// Entries of the log, one after the other, in pieces that are documents.
struct Spool {
    bytes: Vec<u8>,
    pieces: i64,
}

impl Spool {
    async fn put(&mut self, session: &mut Session, entry: &RawDocumentBuf) -> Result<(), EngineError> {
        self.bytes.extend_from_slice(entry.as_bytes());
        while self.bytes.len() >= PIECE {
            let rest = self.bytes.split_off(PIECE);
            let piece = std::mem::replace(&mut self.bytes, rest);
            self.write(session, piece).await?;
        }
        Ok(())
    }

    async fn write(&mut self, session: &mut Session, piece: Vec<u8>) -> Result<(), EngineError> {
        let binary = bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: piece };
        let piece = crate::records::raw(&doc! {"_id": self.pieces, "piece": binary})?;
        self.pieces += 1;
        if session.insert(WRITE, RESTORE, (LOCAL, LOG), &[piece]).await? {
            return Ok(());
        }
        Err(EngineError::new(Kind::Fatal, format!("{RESTORE}: the server does not take the log")))
    }
}

/// A backup that is being read.
struct Load {
    session: Session,
    collections: Collections,
    /// The collection whose documents are being read.
    current: Option<Uuid>,
    batch: Vec<RawDocumentBuf>,
    bytes: usize,
    spool: Spool,
    documents: i64,
    entries: i64,
}

/// Reads a backup to its end, and leaves the data whole, with the agent's account of this site.
pub(crate) async fn load(site: &Site, mut session: Session, source: &mut Source) -> Result<(), EngineError> {
    let mut reader = Reader::open(source).await?;
    let (first, header) = reader.next().await?;
    let major = header.get_str("major").map_err(|_| invalid("its header says no version"))?;
    if first != Record::Header || major != site.installation.major {
        let here = &site.installation.major;
        return Err(invalid(format!("it is of version {major:?} of the engine, and here is {here}")));
    }
    let mut load = Load {
        session: session.clone(),
        collections: Collections::default(),
        current: None,
        batch: Vec::new(),
        bytes: 0,
        spool: Spool { bytes: Vec::new(), pieces: 0 },
        documents: 0,
        entries: 0,
    };
    let end = loop {
        let (record, document) = reader.next().await?;
        if record == Record::End {
            break document;
        }
        load.take(record, document).await?;
    };
    reader.end().await?;
    load.finish(&end).await?;
    taken_over::accounts(&mut session).await?;
    repair::mend(site, session.clone()).await?;
    session.run(RESTORE, LOCAL, doc! {"drop": LOG}).await.map(|_| ()).or_else(|error| match error.kind() {
        Kind::Gone => Ok(()),
        _ => Err(error),
    })
}

impl Load {
    async fn take(&mut self, record: Record, document: RawDocumentBuf) -> Result<(), EngineError> {
        match record {
            Record::Collection => self.collections.define(&mut self.session, &document).await,
            Record::Documents => {
                self.flush().await?;
                let current = uuid(&document, "uuid").ok_or_else(|| invalid("documents are of no collection"))?;
                self.collections.index(current, &document)?;
                self.current = Some(current);
                Ok(())
            }
            Record::Document => {
                self.documents += 1;
                let size = document.as_bytes().len();
                if self.bytes + size > BATCH_BYTES || self.batch.len() >= BATCH {
                    self.flush().await?;
                }
                self.bytes += size;
                self.batch.push(document);
                Ok(())
            }
            Record::Entry => {
                self.entries += 1;
                self.spool.put(&mut self.session, &document).await
            }
            Record::Header | Record::End => Err(invalid("a record is not where it should be")),
        }
    }

    /// Writes the documents that have come. The server sets a time where a document has none and is new, and does not take twice
    /// what was read twice: such a batch is written as the log would.
    async fn flush(&mut self) -> Result<(), EngineError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let missing = || invalid("documents are of no collection");
        let id = self.current.ok_or_else(missing)?;
        let (database, name) = self.collections.name(id).ok_or_else(missing)?;
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let is_plain = !name.starts_with("system.") && !batch.iter().any(has_no_time);
        if is_plain && self.session.insert(WRITE, RESTORE, (&database, &name), &batch).await? {
            return Ok(());
        }
        let mut operations = RawArrayBuf::new();
        for document in &batch {
            operations.push(operation("i", (&database, &name), id, document));
        }
        match apply(&mut self.session, operations).await? {
            Ok(()) => Ok(()),
            Err(code) => {
                Err(invalid(format!("the server does not take documents of {database}.{name} (error {code})")))
            }
        }
    }

    /// What is done when everything was read.
    async fn finish(mut self, end: &RawDocumentBuf) -> Result<(), EngineError> {
        self.flush().await?;
        let counted = |field: &str| end.get_i64(field).ok();
        if (counted("documents"), counted("entries")) != (Some(self.documents), Some(self.entries)) {
            return Err(invalid("it has not as many records as it says"));
        }
        let rest = std::mem::take(&mut self.spool.bytes);
        if !rest.is_empty() {
            self.spool.write(&mut self.session, rest).await?;
        }
        let mut replay = Replay::new(self.session.clone(), self.collections);
        let mut bytes = Vec::new();
        for piece in 0..self.spool.pieces {
            bytes.extend(read_piece(&mut self.session, piece).await?);
            let mut used = 0;
            while let Some(entry) = next_entry(&bytes[used..])? {
                used += entry.as_bytes().len();
                replay.entry(&entry).await?;
            }
            bytes.drain(..used);
        }
        if !bytes.is_empty() {
            return Err(invalid("its log ends within an entry"));
        }
        within(LIMIT, RESTORE, replay.finish()).await
    }
}

/// Whether there is a time in a document of which the server would make the present one.
fn has_no_time(document: &RawDocumentBuf) -> bool {
    let none = Timestamp { time: 0, increment: 0 };
    document.iter().any(|field| field.is_ok_and(|(_, value)| value == RawBsonRef::Timestamp(none)))
}

async fn read_piece(session: &mut Session, piece: i64) -> Result<Vec<u8>, EngineError> {
    let found = session.find(RESTORE, (LOCAL, LOG), doc! {"_id": piece}, doc! {}).await?;
    let piece = found.first().and_then(|piece: &Document| piece.get_binary_generic("piece").ok());
    piece.cloned().ok_or_else(|| EngineError::new(Kind::Fatal, format!("{RESTORE}: a piece of the log is gone")))
}

/// The entry at the beginning of these bytes, where all of it is there.
fn next_entry(bytes: &[u8]) -> Result<Option<RawDocumentBuf>, EngineError> {
    let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(i32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some(entry) = bytes.get(..length) else { return Ok(None) };
    let entry =
        RawDocumentBuf::from_bytes(entry.to_vec()).map_err(|_| invalid("an entry of its log is no document"))?;
    Ok(Some(entry))
}

/// A command that has the server apply operations one by one, with documents that need not be valid by the rules of their
/// collection.
pub(crate) fn apply_command(operations: RawArrayBuf) -> RawDocumentBuf {
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("applyOps"), operations);
    command.append(cstr!("allowAtomic"), false);
    command.append(cstr!("bypassDocumentValidation"), true);
    command
}

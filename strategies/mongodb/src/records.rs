//! The stream of a backup, a format of our own: a line that says what it is, then records. A record is a letter and one document
//! in BSON, which begins with its own length. In this order:
//!
//! | letter | how many | what |
//! |---|---|---|
//! | `H` | one | the engine's `version` and `major`, and `from`: where in the log of writes the backup begins |
//! | `C` | any | a collection as it was found: `db`, `name`, `uuid`, `options`, `idIndex` |
//! | `S` | any | `uuid`, `indexes`: of this collection the indexes, and from here on the documents |
//! | `D` | any | a document as it is |
//! | `O` | any, between the others | an entry of the log of writes as it is |
//! | `E` | one | `until`: the place in the log that is restored; `documents` and `entries`: how many there were |
//!
//! Documents were read while tenants wrote. With all entries applied after all documents they are as they were at `until`
//! (docs/decisions/0039).

use std::io;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Document, RawBsonRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use trove_strategy::{EngineError, Kind, Sink, Source};

/// What is done, as errors say it.
pub(crate) const TAKE: &str = "take a backup";
pub(crate) const RESTORE: &str = "restore a backup";

/// The first line.
const FORMAT: &[u8] = b"trove-mongodb-1\n";
/// A tenant's document has at most 16 MiB; the server's own, such as entries of its log, 16 KiB more.
const LONGEST: usize = (16 << 20) + (16 << 10);
/// What is in memory before it is handed on, and before it is looked at.
const BUFFER: usize = 1 << 20;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Header,
    Collection,
    Documents,
    Document,
    Entry,
    End,
}

impl Record {
    const ALL: [Self; 6] = [Self::Header, Self::Collection, Self::Documents, Self::Document, Self::Entry, Self::End];

    const fn letter(self) -> u8 {
        match self {
            Self::Header => b'H',
            Self::Collection => b'C',
            Self::Documents => b'S',
            Self::Document => b'D',
            Self::Entry => b'O',
            Self::End => b'E',
        }
    }
}

/// Writes records.
pub(crate) struct Writer<'a> {
    sink: &'a mut Sink,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// With the first line.
    pub(crate) fn new(sink: &'a mut Sink) -> Self {
        Self { sink, buffer: FORMAT.to_vec() }
    }

    pub(crate) async fn put(&mut self, record: Record, document: &RawDocument) -> Result<(), EngineError> {
        self.buffer.push(record.letter());
        self.buffer.extend_from_slice(document.as_bytes());
        if self.buffer.len() >= BUFFER { self.hand_on().await } else { Ok(()) }
    }

    /// The same for what is not raw.
    pub(crate) async fn put_new(&mut self, record: Record, document: &Document) -> Result<(), EngineError> {
        self.put(record, &raw(document)?).await
    }

    async fn hand_on(&mut self) -> Result<(), EngineError> {
        let written = self.sink.write_all(&self.buffer).await;
        self.buffer.clear();
        // One document of the largest must not stay in memory for good.
        self.buffer.shrink_to(2 * BUFFER);
        written.map_err(broken)
    }

    /// Hands on the rest.
    pub(crate) async fn finish(mut self) -> Result<(), EngineError> {
        self.hand_on().await?;
        self.sink.flush().await.map_err(broken)
    }
}

fn broken(error: io::Error) -> EngineError {
    EngineError::caused(Kind::Transient, format!("{TAKE}: hand it on"), error)
}

/// A document in the form in which it is sent.
pub(crate) fn raw(document: &Document) -> Result<RawDocumentBuf, EngineError> {
    RawDocumentBuf::try_from(document).map_err(|error| EngineError::caused(Kind::Fatal, "write BSON", error))
}

/// Reads records.
pub(crate) struct Reader<'a> {
    source: BufReader<&'a mut Source>,
}

impl<'a> Reader<'a> {
    /// Reads the first line.
    pub(crate) async fn open(source: &'a mut Source) -> Result<Self, EngineError> {
        let mut source = BufReader::with_capacity(BUFFER, source);
        let mut line = [0; FORMAT.len()];
        source.read_exact(&mut line).await.map_err(unread)?;
        if line != FORMAT {
            return Err(invalid("it is no backup of this engine"));
        }
        Ok(Self { source })
    }

    /// The next record. Something follows until the end record.
    pub(crate) async fn next(&mut self) -> Result<(Record, RawDocumentBuf), EngineError> {
        let letter = self.source.read_u8().await.map_err(unread)?;
        let record = Record::ALL.into_iter().find(|record| record.letter() == letter);
        let record = record.ok_or_else(|| invalid("a record is none that there is"))?;
        let length = self.source.read_u32_le().await.map_err(unread)?;
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if !(5..=LONGEST).contains(&size) {
            return Err(invalid("a record is longer than a document can be"));
        }
        let mut bytes = vec![0; size];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.source.read_exact(&mut bytes[4..]).await.map_err(unread)?;
        let document = RawDocumentBuf::from_bytes(bytes).map_err(|_| invalid("a record is no document"))?;
        Ok((record, document))
    }

    /// Nothing follows.
    pub(crate) async fn end(mut self) -> Result<(), EngineError> {
        match self.source.read(&mut [0]).await.map_err(unread)? {
            0 => Ok(()),
            _ => Err(invalid("something follows its end")),
        }
    }
}

/// The backup is not what it should be.
pub(crate) fn invalid(reason: impl std::fmt::Display) -> EngineError {
    EngineError::new(Kind::Invalid, format!("{RESTORE}: {reason}"))
}

/// An end that comes too early is the backup's fault, and everything else the storage's.
fn unread(error: io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("it ends before its end"),
        _ => EngineError::caused(Kind::Transient, format!("{RESTORE}: read it"), error),
    }
}

/// The identity of a collection, which stays when it is renamed.
pub(crate) type Uuid = [u8; 16];

/// The one in a field.
pub(crate) fn uuid(document: &RawDocument, field: &str) -> Option<Uuid> {
    match document.get(field).ok()?? {
        RawBsonRef::Binary(binary) => binary.bytes.try_into().ok(),
        _ => None,
    }
}

/// As a value.
pub(crate) fn binary(uuid: Uuid) -> bson::Binary {
    bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: uuid.to_vec() }
}

/// A name of the server's own, or with what the server would not take: nothing of it is copied. The server's accounts and roles
/// are, and looked at later.
pub(crate) fn is_copied(database: &str, collection: &str) -> bool {
    let odd = |c: char| matches!(c, '\0' | '/' | '\\' | '.' | '"' | '$' | ' ');
    let foreign = ["config", "local"].iter().any(|own| own.eq_ignore_ascii_case(database));
    if foreign || database.is_empty() || database.len() > 63 || database.contains(odd) {
        return false;
    }
    if collection.is_empty() || collection.starts_with('$') || collection.contains('\0') {
        return false;
    }
    match collection.strip_prefix("system.") {
        None | Some("views" | "js") => true,
        Some("users" | "roles") => database == "admin",
        Some(other) => other.starts_with("buckets."),
    }
}

/// Database and collection of `database.collection`.
pub(crate) fn split(namespace: &str) -> Option<(&str, &str)> {
    namespace.split_once('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    async fn read(bytes: &[u8]) -> Result<Vec<Record>, EngineError> {
        let mut source = io::Cursor::new(bytes.to_vec());
        let mut reader = Reader::open(&mut source).await?;
        let mut all = Vec::new();
        while all.last() != Some(&Record::End) {
            all.push(reader.next().await?.0);
        }
        reader.end().await.map(|()| all)
    }

    #[tokio::test]
    async fn records_are_read_as_they_were_written_and_nothing_else_is() {
        let mut sink = io::Cursor::new(Vec::new());
        let mut writer = Writer::new(&mut sink);
        for record in Record::ALL {
            writer.put_new(record, &doc! {"a": 1}).await.unwrap();
        }
        writer.finish().await.unwrap();
        let bytes = sink.into_inner();
        assert_eq!(read(&bytes).await.unwrap(), Record::ALL);
        let mut wrong: Vec<Vec<u8>> = (0..bytes.len()).map(|length| bytes[..length].to_vec()).collect();
        wrong.push([&bytes[..], b"x"].concat());
        wrong.push([FORMAT, b"X\x05\0\0\0\0"].concat());
        wrong.push([FORMAT, b"E\x04\0\0\0"].concat());
        wrong.push([FORMAT, b"E\xff\xff\xff\xff"].concat());
        wrong.push([FORMAT, b"E\x05\0\0\0\x01"].concat());
        wrong.push(b"trove-mongodb-2\nE\x05\0\0\0\0".to_vec());
        for bytes in wrong {
            let refused = read(&bytes).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::Invalid, "{}", refused.chain());
        }
    }

    #[test]
    fn what_is_the_servers_own_is_not_copied() {
        for (database, collection) in [("a", "b"), ("a", "system.views"), ("admin", "system.users"), ("ü", "x y")] {
            assert!(is_copied(database, collection), "{database} {collection}");
        }
        for (database, collection) in [
            ("config", "x"),
            ("Local", "x"),
            ("admin", "system.version"),
            ("admin", "system.keys"),
            ("a", "system.users"),
            ("a", "system.profile"),
            ("a", "$cmd"),
            ("a", ""),
            ("", "x"),
            ("a.b", "x"),
            ("a", "x\0"),
        ] {
            assert!(!is_copied(database, collection), "{database} {collection}");
        }
    }
}

//! The log of writes, applied as a member that joins a set does it: what was done is done again, also where documents are of later
//! already. Collections are known by their identities, whatever their names are at the moment. Indexes are not built, only
//! remembered, since on the way one may be violated that holds at the end; and what limits itself has no limit until then.

use std::collections::BTreeMap;

use bson::raw::{RawArray, RawArrayBuf, RawDocument, RawDocumentBuf, cstr};
use bson::{Bson, Document, RawBsonRef, doc};
use trove_strategy::{EngineError, Kind};

use crate::backup::LIMIT;
use crate::client::{Session, whole};
use crate::dump::DEFINITIONS;
use crate::load::{WRITE, apply_command};
use crate::records::{RESTORE, Uuid, binary, invalid, is_copied, raw, split, uuid};

/// Operations are sent as many at once.
const BATCH_BYTES: usize = 8 << 20;
const BATCH: usize = 1000;
/// Transactions are nested once.
const DEPTH: usize = 3;
/// The most that the server takes as the size of a collection, bytes.
const NO_LIMIT: i64 = 1 << 50;

/// A collection.
#[derive(Debug)]
struct Collection {
    database: String,
    name: String,
    indexes: Vec<Document>,
    /// What it is limited to, in the words of the command that does it.
    limits: Document,
}

impl Collection {
    fn namespace(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }
}

/// All that there are.
#[derive(Debug, Default)]
pub(crate) struct Collections {
    by_id: BTreeMap<Uuid, Collection>,
    by_name: BTreeMap<String, Uuid>,
    /// Bytes of what is remembered.
    definitions: usize,
}

/// Sends operations. The server's own words hold documents, and are not passed on.
pub(crate) async fn apply(session: &mut Session, operations: RawArrayBuf) -> Result<Result<(), i32>, EngineError> {
    let answer = session.ask_raw(WRITE, RESTORE, "admin", apply_command(operations)).await?;
    Ok(answer.map(|_| ()).map_err(|refused| refused.code))
}

/// One that concerns a document.
pub(crate) fn operation(
    kind: &str,
    (database, name): (&str, &str),
    id: Uuid,
    document: &RawDocument,
) -> RawDocumentBuf {
    let mut operation = RawDocumentBuf::new();
    operation.append(cstr!("op"), kind);
    operation.append(cstr!("ns"), format!("{database}.{name}"));
    operation.append(cstr!("ui"), binary(id));
    operation.append(cstr!("o"), document.to_owned());
    operation
}

fn document(raw: &RawDocument) -> Result<Document, EngineError> {
    Document::try_from(raw).map_err(|_| invalid("a record is no document"))
}

fn text(value: Option<&Bson>) -> &str {
    value.and_then(Bson::as_str).unwrap_or_default()
}

impl Collections {
    /// Where a collection is now.
    pub(crate) fn name(&self, id: Uuid) -> Option<(String, String)> {
        self.by_id.get(&id).map(|found| (found.database.clone(), found.name.clone()))
    }

    fn remember(&mut self, bytes: usize) -> Result<(), EngineError> {
        self.definitions += bytes;
        if self.definitions > 2 * DEFINITIONS {
            return Err(invalid("its definitions of collections and indexes are too large"));
        }
        Ok(())
    }

    /// Makes a collection that was found.
    pub(crate) async fn define(&mut self, session: &mut Session, record: &RawDocument) -> Result<(), EngineError> {
        self.remember(record.as_bytes().len())?;
        let id = uuid(record, "uuid").ok_or_else(|| invalid("a collection has no identity"))?;
        let record = document(record)?;
        let (database, name) = (text(record.get("db")), text(record.get("name")));
        if !is_copied(database, name) || self.by_name.contains_key(&format!("{database}.{name}")) {
            return Err(invalid(format!("it has a collection {database:?}.{name:?}")));
        }
        let mut create = doc! {"create": name};
        create.extend(record.get_document("options").cloned().unwrap_or_default());
        if let Some(index) = record.get("idIndex") {
            create.insert("idIndex", index.clone());
        }
        self.create(session, database, id, create).await
    }

    /// Remembers the indexes that a collection had.
    pub(crate) fn index(&mut self, id: Uuid, record: &RawDocument) -> Result<(), EngineError> {
        self.remember(record.as_bytes().len())?;
        let indexes = document(record)?;
        let indexes = indexes.get_array("indexes").map_err(|_| invalid("a collection has no indexes"))?;
        let found = self.by_id.get_mut(&id).ok_or_else(|| invalid("documents are of no collection"))?;
        found.indexes.clear();
        for index in indexes.iter().filter_map(Bson::as_document) {
            // Of an index that was being built before the answer says more than what it is.
            put_index(&mut found.indexes, index.get_document("spec").unwrap_or(index).clone());
        }
        Ok(())
    }

    async fn create(
        &mut self,
        session: &mut Session,
        database: &str,
        id: Uuid,
        mut create: Document,
    ) -> Result<(), EngineError> {
        let name = text(create.get("create")).to_owned();
        if create.contains_key("viewOn") {
            return Err(invalid("it has a view among its collections"));
        }
        let mut limits = Document::new();
        if create.get_bool("capped").unwrap_or(false) {
            limits.insert("cappedSize", create.insert("size", NO_LIMIT));
            // Zero is no limit, and has to be said where the log goes back on one.
            limits.insert("cappedMax", create.remove("max"));
            limits =
                limits.into_iter().filter(|(_, value)| whole(Some(value)).is_some_and(|limit| limit > 0)).collect();
        }
        command(session, database, Some(id), &create).await?;
        let is_taken = self.by_name.get(&format!("{database}.{name}")).is_some_and(|other| *other != id);
        let is_elsewhere = self.by_id.get(&id).is_some_and(|found| found.database != database || found.name != name);
        if let Some(found) = self.by_id.get_mut(&id) {
            found.limits = limits;
        } else {
            let new = Collection { database: database.to_owned(), name: name.clone(), indexes: Vec::new(), limits };
            self.by_name.insert(new.namespace(), id);
            self.by_id.insert(id, new);
        }
        // The server has given the other one a name of its own choice.
        if is_taken || is_elsewhere { self.look_again(session, database).await } else { Ok(()) }
    }

    fn forget(&mut self, id: Uuid) {
        if let Some(gone) = self.by_id.remove(&id)
            && self.by_name.get(&gone.namespace()) == Some(&id)
        {
            self.by_name.remove(&gone.namespace());
        }
    }

    /// Asks the server for the names of the collections of a database.
    async fn look_again(&mut self, session: &mut Session, database: &str) -> Result<(), EngineError> {
        self.by_name.retain(|namespace, _| split(namespace).is_none_or(|(other, _)| other != database));
        let list = doc! {"listCollections": 1, "filter": {"type": "collection"}, "cursor": {}};
        let failed = || EngineError::new(Kind::Fatal, format!("{RESTORE}: the server does not list its collections"));
        let mut cursor = session.cursor(RESTORE, database, list).await?.map_err(|_| failed())?;
        let mut left: Vec<Uuid> = Vec::new();
        while session.advance(RESTORE, &mut cursor).await?.map_err(|_| failed())? {
            let current = cursor.current();
            let id = current.get_document("info").ok().and_then(|info| uuid(info, "uuid"));
            let (Some(id), Ok(name)) = (id, current.get_str("name")) else { continue };
            if let Some(found) = self.by_id.get_mut(&id) {
                (found.database, found.name) = (database.to_owned(), name.to_owned());
                self.by_name.insert(found.namespace(), id);
                left.push(id);
            }
        }
        self.by_id.retain(|id, found| found.database != database || left.contains(id));
        Ok(())
    }
}

/// Has the server do what a command of the log says.
async fn command(session: &mut Session, database: &str, id: Option<Uuid>, what: &Document) -> Result<(), EngineError> {
    let mut entry = doc! {"op": "c", "ns": format!("{database}.$cmd"), "o": what.clone()};
    if let Some(id) = id {
        entry.insert("ui", binary(id));
    }
    let mut operations = RawArrayBuf::new();
    operations.push(raw(&entry)?);
    let name = what.keys().next().map_or("", String::as_str);
    let refused = |code| {
        invalid(format!("the server does not {name:?} {:?} in {database:?} (error {code})", text(what.get(name))))
    };
    apply(session, operations).await?.map_err(refused)
}

fn put_index(indexes: &mut Vec<Document>, new: Document) {
    indexes.retain(|index| index.get("name") != new.get("name"));
    indexes.push(new);
}

/// What the log says of an index that is changed.
fn change_index(indexes: &mut [Document], change: &Document) {
    let is_it = |index: &&mut Document| match change.get("name") {
        Some(name) => index.get("name") == Some(name),
        None => index.get("key") == change.get("keyPattern"),
    };
    let Some(index) = indexes.iter_mut().find(is_it) else { return };
    for (field, value) in change.iter().filter(|(field, _)| !matches!(field.as_str(), "name" | "keyPattern")) {
        if *value == Bson::Boolean(false) {
            index.remove(field);
        } else {
            index.insert(field, value.clone());
        }
        if field == "unique" {
            index.remove("prepareUnique");
        }
    }
}

/// The log that is being applied.
pub(crate) struct Replay {
    session: Session,
    collections: Collections,
    batch: RawArrayBuf,
    count: usize,
    bytes: usize,
}

impl Replay {
    pub(crate) fn new(session: Session, collections: Collections) -> Self {
        Self { session, collections, batch: RawArrayBuf::new(), count: 0, bytes: 0 }
    }

    /// Applies an entry.
    pub(crate) async fn entry(&mut self, entry: &RawDocument) -> Result<(), EngineError> {
        // Those of a transaction, with how deep they are.
        let mut left = vec![(entry.to_owned(), 0)];
        while let Some((entry, depth)) = left.pop() {
            let kind = entry.get_str("op").map_err(|_| invalid("an entry of its log is of no kind"))?;
            let what = entry.get_document("o").map_err(|_| invalid("an entry of its log says nothing"))?;
            match kind {
                "i" | "u" | "d" => self.change(kind, &entry, what).await?,
                "c" => match what.get("applyOps") {
                    Ok(Some(RawBsonRef::Array(inner))) if depth < DEPTH => left.extend(backwards(inner, depth + 1)?),
                    _ => self.command(&entry, what).await?,
                },
                _ => return Err(invalid("an entry of its log is of an unknown kind")),
            }
        }
        Ok(())
    }

    /// A document is written, changed or removed. A collection that is not there was dropped before the copy began.
    async fn change(&mut self, kind: &str, entry: &RawDocument, what: &RawDocument) -> Result<(), EngineError> {
        let id = uuid(entry, "ui").ok_or_else(|| invalid("an entry of its log is of no collection"))?;
        let Some((database, name)) = self.collections.name(id) else { return Ok(()) };
        let mut operation = operation(kind, (&database, &name), id, what);
        if let Ok(which) = entry.get_document("o2") {
            operation.append(cstr!("o2"), which.to_owned());
        }
        let size = operation.as_bytes().len();
        if self.bytes + size > BATCH_BYTES || self.count >= BATCH {
            self.flush().await?;
        }
        self.batch.push(operation);
        (self.count, self.bytes) = (self.count + 1, self.bytes + size);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), EngineError> {
        if self.count == 0 {
            return Ok(());
        }
        (self.count, self.bytes) = (0, 0);
        let batch = std::mem::take(&mut self.batch);
        let refused = |code| invalid(format!("the server does not take a part of its log (error {code})"));
        apply(&mut self.session, batch).await?.map_err(refused)
    }

    async fn command(&mut self, entry: &RawDocument, what: &RawDocument) -> Result<(), EngineError> {
        self.flush().await?;
        let what = document(what)?;
        let namespace = entry.get_str("ns").ok().and_then(split);
        let (database, _) = namespace.ok_or_else(|| invalid("a command of its log is of no database"))?;
        let name = what.keys().next().cloned().unwrap_or_default();
        if name == "dropDatabase" {
            // Its collections have been dropped one by one.
            return Ok(());
        }
        let id = uuid(entry, "ui").ok_or_else(|| invalid("a command of its log is of no collection"))?;
        let concerned = text(what.get(&name));
        match name.as_str() {
            "create" if is_copied(database, concerned) => {
                self.collections.remember(entry.as_bytes().len())?;
                self.collections.create(&mut self.session, database, id, what).await
            }
            "create" => Ok(()),
            "renameCollection" => self.rename(database, id, what).await,
            _ => self.alter(&name, id, what).await,
        }
    }

    async fn rename(&mut self, database: &str, id: Uuid, mut what: Document) -> Result<(), EngineError> {
        let target = text(what.get("to")).to_owned();
        let dropped = match what.get("dropTarget") {
            Some(Bson::Binary(binary)) => binary.bytes.clone().try_into().ok(),
            _ => None,
        };
        let Some(found) = self.collections.by_id.get(&id) else {
            return Err(invalid("its log renames a collection that it does not have"));
        };
        let Some((_, name)) = split(&target).filter(|(to, name)| *to == database && is_copied(to, name)) else {
            return Err(invalid(format!("its log renames a collection to {target:?}")));
        };
        what.insert("renameCollection", found.namespace());
        let renamed = name.to_owned();
        command(&mut self.session, database, Some(id), &what).await?;
        if let Some(dropped) = dropped.filter(|dropped| *dropped != id) {
            self.collections.forget(dropped);
        }
        let is_taken = self.collections.by_name.get(&target).is_some_and(|other| *other != id);
        if let Some(found) = self.collections.by_id.get_mut(&id) {
            let before = found.namespace();
            found.name = renamed;
            if self.collections.by_name.get(&before) == Some(&id) {
                self.collections.by_name.remove(&before);
            }
            self.collections.by_name.insert(target, id);
        }
        if is_taken { self.collections.look_again(&mut self.session, database).await } else { Ok(()) }
    }

    /// A collection is dropped or changed, or its indexes are.
    async fn alter(&mut self, name: &str, id: Uuid, mut what: Document) -> Result<(), EngineError> {
        let Some(found) = self.collections.by_id.get_mut(&id) else { return Ok(()) };
        match name {
            "drop" => {
                let (database, what) = (found.database.clone(), doc! {"drop": &found.name});
                self.collections.forget(id);
                command(&mut self.session, &database, Some(id), &what).await
            }
            "createIndexes" => {
                what.remove(name);
                self.collections.remember(raw(&what)?.as_bytes().len())?;
                if let Some(found) = self.collections.by_id.get_mut(&id) {
                    put_index(&mut found.indexes, what);
                }
                Ok(())
            }
            "commitIndexBuild" => {
                let indexes = what.get_array("indexes").map_err(|_| invalid("its log has an index that is none"))?;
                for index in indexes.iter().filter_map(Bson::as_document) {
                    put_index(&mut found.indexes, index.clone());
                }
                self.collections.remember(raw(&what)?.as_bytes().len())
            }
            "startIndexBuild" | "abortIndexBuild" => Ok(()),
            "dropIndexes" | "deleteIndexes" => {
                let gone = what.get("index");
                found.indexes.retain(|index| gone != Some(&Bson::from("*")) && index.get("name") != gone);
                Ok(())
            }
            "collMod" => {
                if let Some(Bson::Document(change)) = what.remove("index") {
                    change_index(&mut found.indexes, &change);
                }
                for limit in ["cappedSize", "cappedMax"] {
                    if let Some(value) = what.remove(limit) {
                        found.limits.insert(limit, value);
                    }
                }
                if what.len() == 1 {
                    return Ok(());
                }
                what.insert("collMod", found.name.clone());
                let database = found.database.clone();
                command(&mut self.session, &database, Some(id), &what).await
            }
            _ => Err(invalid(format!("its log has the command {name:?}"))),
        }
    }

    /// Builds the indexes, and limits what limits itself.
    pub(crate) async fn finish(mut self) -> Result<(), EngineError> {
        self.flush().await?;
        for found in self.collections.by_id.values_mut() {
            let indexes: Vec<Document> = std::mem::take(&mut found.indexes).into_iter().filter_map(to_build).collect();
            if !indexes.is_empty() {
                let build = doc! {"createIndexes": &found.name, "indexes": indexes, "ignoreUnknownIndexOptions": true};
                own(&mut self.session, found, &build).await?;
            }
            for (limit, value) in std::mem::take(&mut found.limits) {
                own(&mut self.session, found, &doc! {"collMod": &found.name, limit: value}).await?;
            }
        }
        Ok(())
    }
}

/// Has the server do something with a collection, however long it takes. Its words may hold values of documents.
async fn own(session: &mut Session, found: &Collection, what: &Document) -> Result<(), EngineError> {
    let name = what.keys().next().map_or("", String::as_str);
    let answer = session.ask_raw(LIMIT, RESTORE, &found.database, raw(what)?).await?;
    let refused = |code| invalid(format!("the server does not {name} for {} (error {code})", found.namespace()));
    answer.map(|_| ()).map_err(|error| refused(error.code))
}

/// An index as it is ordered; `None` for one that comes with its collection.
fn to_build(mut index: Document) -> Option<Document> {
    if text(index.get("name")) == "_id_" || index.get_bool("clustered").unwrap_or(false) {
        return None;
    }
    index.remove("ns");
    // Without one it would get that of its collection.
    index.entry("collation".to_owned()).or_insert_with(|| Bson::from(doc! {"locale": "simple"}));
    Some(index)
}

/// The operations of a transaction, the last one first.
fn backwards(inner: &RawArray, depth: usize) -> Result<Vec<(RawDocumentBuf, usize)>, EngineError> {
    let mut all = Vec::new();
    for operation in inner {
        match operation {
            Ok(RawBsonRef::Document(operation)) => all.push((operation.to_owned(), depth)),
            _ => return Err(invalid("a transaction of its log has what is no operation")),
        }
    }
    all.reverse();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_as_the_log_leaves_them() {
        let mut indexes = Vec::new();
        put_index(&mut indexes, doc! {"name": "a", "key": {"a": 1}, "hidden": true});
        put_index(&mut indexes, doc! {"name": "a", "key": {"a": 1}, "prepareUnique": true, "hidden": true});
        change_index(&mut indexes, &doc! {"name": "a", "unique": true, "hidden": false});
        change_index(&mut indexes, &doc! {"keyPattern": {"a": 1}, "expireAfterSeconds": 5});
        change_index(&mut indexes, &doc! {"name": "gone", "hidden": true});
        assert_eq!(indexes, [doc! {"name": "a", "key": {"a": 1}, "unique": true, "expireAfterSeconds": 5}]);
    }

    #[test]
    fn an_index_without_a_collation_gets_none_of_its_collection() {
        assert_eq!(to_build(doc! {"name": "_id_", "key": {"_id": 1}}), None);
        let built = to_build(doc! {"v": 2, "name": "a", "key": {"a": 1}, "ns": "a.b"}).unwrap();
        assert_eq!(built, doc! {"v": 2, "name": "a", "key": {"a": 1}, "collation": {"locale": "simple"}});
        let french = doc! {"name": "a", "key": {"a": 1}, "collation": {"locale": "fr"}};
        assert_eq!(to_build(french.clone()), Some(french));
    }
}

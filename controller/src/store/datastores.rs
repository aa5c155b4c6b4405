//! Rows of datastores and their versions. Deleted ones keep their rows, because instances refer to them, and are in no
//! list.

use std::path::Path;
use std::sync::Arc;

use trove_strategy::{Installation, Manifest};
use uuid::Uuid;

use super::Store;
use crate::error::{Error, Result};
use crate::ids::{DatastoreId, VersionId};
use crate::model::{Datastore, Image, Source, Version};
use crate::store::sql::{Connection, Row, query};

const LIST: &str = "select d.id as datastore_id, d.name as datastore_name, d.default_version_id, \
     v.id, v.name, v.number, v.active, v.bindir \
     from datastore d join datastore_version v on v.datastore_id = d.id and v.removed is null \
     order by d.name, v.name, v.number, v.id";

/// A version to register. Its number and datastore are in the manifest.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    pub manifest: &'a Manifest,
    pub name: &'a str,
    /// The image that the engine is in; `None` if it is installed on this machine.
    pub image: Option<&'a Image>,
    /// Agent program; `None` is the one in the directory of the controller's program, or that of the image.
    pub agent_program: Option<&'a Path>,
    /// Fingerprint of the agent program that made the manifest; empty for an image, which never changes.
    pub agent_print: &'a str,
    /// Whether instances of it can be created.
    pub active: bool,
    /// Whether it becomes the datastore's default version. The first version does in any case.
    pub default: bool,
}

/// How the column `bindir` of an image's version begins; the image's id follows.
const IMAGE: &str = "image/";

/// A registered version of an installed engine.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Name of the datastore.
    pub datastore: String,
    pub installation: Installation,
    /// See [`Registration::agent_print`].
    pub agent_print: Option<String>,
    /// Whether an administrator deleted it.
    pub removed: bool,
}

/// An installed engine that could not be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unregistered {
    /// Name of the datastore; empty if the agent program itself failed.
    pub datastore: String,
    /// Directory of its programs; empty if it is not installed.
    pub bindir: String,
    pub version: String,
    /// Reason, for the administrator.
    pub reason: String,
}

/// Changes to a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionChange {
    pub name: Option<String>,
    /// Whether instances of it can be created.
    pub active: Option<bool>,
    /// Whether it is the datastore's default version.
    pub default: Option<bool>,
}

impl Store {
    /// All datastores with all versions, by name.
    pub async fn list_datastores(&self) -> Result<Vec<Datastore>> {
        datastores(&query(LIST).fetch_all(&self.read).await.map_err(unread)?)
    }

    /// A datastore with all versions, by name or id.
    pub async fn get_datastore(&self, name_or_id: &str) -> Result<Option<Datastore>> {
        let is_it = |datastore: &Datastore| datastore.name == name_or_id || datastore.id.to_string() == name_or_id;
        Ok(self.list_datastores().await?.into_iter().find(is_it))
    }

    /// The datastore of a version, with all versions.
    pub async fn get_datastore_of_version(&self, id: VersionId) -> Result<Option<Datastore>> {
        let has_it = |datastore: &Datastore| datastore.versions.iter().any(|version| version.id == id);
        Ok(self.list_datastores().await?.into_iter().find(has_it))
    }

    pub async fn get_manifest(&self, id: VersionId) -> Result<Option<Arc<Manifest>>> {
        let sql = "select id, manifest from datastore_version where id = $1";
        let row = query(sql).bind(id.to_string()).fetch_optional(&self.read).await.map_err(unread)?;
        row.map(|row| manifest(&row).map(Arc::new)).transpose()
    }

    /// All versions of installed engines that were ever registered, also deleted ones.
    pub async fn registered(&self) -> Result<Vec<Registered>> {
        let sql = "select id, manifest, agent_print, (removed is not null) as gone from datastore_version \
             where image is null";
        let rows = query(sql).fetch_all(&self.read).await.map_err(unread)?;
        let read = |row: &Row| {
            let manifest = manifest(row)?;
            Ok(Registered {
                datastore: manifest.identity.name,
                installation: manifest.installation,
                agent_print: row.try_get("agent_print").map_err(unread)?,
                removed: row.try_get("gone").map_err(unread)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// An image with its manifest, if it was ever registered. `None` if not.
    pub async fn get_image(&self, id: Uuid) -> Result<Option<(Image, Manifest)>> {
        let sql = "select id, manifest, image from datastore_version where image is not null and bindir = $1 limit 1";
        let row = query(sql).bind(format!("{IMAGE}{id}")).fetch_optional(&self.read).await.map_err(unread)?;
        row.map(|row| {
            let text: String = row.try_get("image").map_err(unread)?;
            let image = serde_json::from_str(&text);
            Ok((image.map_err(|error| Error::internal(format!("read the image {id}"), error))?, manifest(&row)?))
        })
        .transpose()
    }

    /// The images of all versions.
    pub async fn list_images(&self) -> Result<Vec<Image>> {
        let sql = "select distinct image from datastore_version where image is not null and removed is null";
        let rows = query(sql).fetch_all(&self.read).await.map_err(unread)?;
        let image = |row: &Row| {
            let text: String = row.try_get("image").map_err(unread)?;
            serde_json::from_str(&text).map_err(|error| Error::internal("read an image", error))
        };
        rows.iter().map(image).collect()
    }

    /// Engines that the last registration run failed to register.
    pub async fn unregistered(&self) -> Result<Vec<Unregistered>> {
        let sql = "select datastore, bindir, version, reason from unregistered order by datastore, bindir";
        let rows = query(sql).fetch_all(&self.read).await.map_err(unread)?;
        let read = |row: &Row| {
            Ok(Unregistered {
                datastore: row.try_get("datastore")?,
                bindir: row.try_get("bindir")?,
                version: row.try_get("version")?,
                reason: row.try_get("reason")?,
            })
        };
        rows.iter().map(read).collect::<sqlx::Result<_>>().map_err(unread)
    }

    /// Replaces the list of engines that failed to register.
    pub async fn set_unregistered(&self, all: &[Unregistered]) -> Result<()> {
        let failed = |error| Error::internal("write which engines could not be registered", error);
        let mut tx = self.begin().await?;
        query("delete from unregistered").execute(&mut *tx).await.map_err(failed)?;
        for one in all {
            query("insert into unregistered (datastore, bindir, version, reason, since) values ($1, $2, $3, $4, $5)")
                .bind(&one.datastore)
                .bind(&one.bindir)
                .bind(&one.version)
                .bind(&one.reason)
                .bind(self.now_micros())
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    /// Registers a version. If the datastore has versions of the same directory or image, updates them instead: an engine
    /// that was updated in place keeps its version's id and name, and a deactivated version stays so. A deleted version
    /// of the same name comes back.
    pub async fn upsert_version(&self, conn: &mut Connection, registration: Registration<'_>) -> Result<VersionId> {
        let manifest = registration.manifest;
        let failed = |error| Error::internal(format!("register a version of {}", manifest.identity.name), error);
        let json = serde_json::to_string(manifest)
            .map_err(|error| Error::internal(format!("write the manifest of {}", manifest.identity.name), error))?;
        let bindir = match registration.image {
            Some(image) => format!("{IMAGE}{}", image.id),
            None => manifest.installation.bindir.to_string_lossy().into_owned(),
        };
        let image = registration.image.map(serde_json::to_string).transpose();
        let image = image.map_err(|error| Error::internal("write what is known of an image", error))?;
        let program = registration.agent_program.map(|path| path.to_string_lossy().into_owned());
        let datastore: String = query(
            "insert into datastore (id, name) values ($1, $2) \
             on conflict (name) do update set removed = null returning id",
        )
        .bind(DatastoreId::random().to_string())
        .bind(&manifest.identity.name)
        .fetch_one(&mut *conn)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
        let kept = query(
            "update datastore_version set number = $3, agent_program = $4, agent_print = $5, manifest = $6, image = $7 \
             where datastore_id = $1 and bindir = $2 and removed is null returning id",
        )
        .bind(&datastore)
        .bind(&bindir)
        .bind(&manifest.installation.version)
        .bind(&program)
        .bind(registration.agent_print)
        .bind(&json)
        .bind(&image)
        .fetch_all(&mut *conn)
        .await
        .map_err(failed)?;
        let version: String = match kept.first() {
            Some(row) => row.try_get(0).map_err(failed)?,
            None => query(
                "insert into datastore_version \
                 (id, datastore_id, name, number, bindir, active, agent_program, agent_print, manifest, image) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict (datastore_id, name, bindir) do update set \
                 number = excluded.number, active = excluded.active, agent_program = excluded.agent_program, \
                 agent_print = excluded.agent_print, manifest = excluded.manifest, image = excluded.image, \
                 removed = null returning id",
            )
            .bind(VersionId::random().to_string())
            .bind(&datastore)
            .bind(registration.name)
            .bind(&manifest.installation.version)
            .bind(&bindir)
            .bind(registration.active)
            .bind(&program)
            .bind(registration.agent_print)
            .bind(&json)
            .bind(&image)
            .fetch_one(&mut *conn)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed)?,
        };
        query("update datastore set default_version_id = $2 where id = $1 and ($3 or default_version_id is null)")
            .bind(&datastore)
            .bind(&version)
            .bind(registration.default)
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
        query("delete from unregistered where datastore = $1 and bindir = $2")
            .bind(&manifest.identity.name)
            .bind(&bindir)
            .execute(conn)
            .await
            .map_err(failed)?;
        parsed(&version).map(VersionId)
    }

    /// Changes a version. `false` if it does not exist, or another version of the same datastore and directory has the
    /// name.
    pub async fn change_version(&self, conn: &mut Connection, id: VersionId, change: &VersionChange) -> Result<bool> {
        let failed = |error| Error::internal(format!("change the version {id}"), error);
        // A condition in the statement, because an error of the unique index would abort the transaction on PostgreSQL.
        let done = query(
            "update datastore_version set name = coalesce($2, name), active = coalesce($3, active) \
             where id = $1 and removed is null and not exists (select 1 from datastore_version o \
             where o.datastore_id = datastore_version.datastore_id and o.bindir = datastore_version.bindir \
             and o.name = $2 and o.id <> datastore_version.id)",
        )
        .bind(id.to_string())
        .bind(&change.name)
        .bind(change.active)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        let sql = match change.default {
            None => return Ok(true),
            Some(true) => {
                "update datastore set default_version_id = $1 \
                 where id = (select v.datastore_id from datastore_version v where v.id = $1)"
            }
            Some(false) => "update datastore set default_version_id = null where default_version_id = $1",
        };
        query(sql).bind(id.to_string()).execute(conn).await.map_err(failed)?;
        Ok(true)
    }

    /// Deletes a version. `false` if it does not exist.
    ///
    /// # Errors
    /// 400 while an instance or a configuration group uses it; internal.
    pub async fn remove_version(&self, conn: &mut Connection, id: VersionId) -> Result<bool> {
        let failed = |error| Error::internal(format!("remove the version {id}"), error);
        for (users, sql) in [
            // What an operation works with is in its state.
            (
                "upgrades",
                "select id from operation where active and kind = 'upgrade_instance' and state like '%' || $1 || '%' limit 1",
            ),
            ("instances", "select id from instance where version_id = $1 and deleted is null limit 1"),
            ("backups", "select id from backup where version_id = $1 limit 1"),
            ("configuration groups", "select id from configuration where version_id = $1 limit 1"),
        ] {
            let used = query(sql).bind(id.to_string()).fetch_optional(&mut *conn).await.map_err(failed)?;
            if used.is_some() {
                return Err(Error::BadRequest(format!("Datastore version {id} is in use by {users}.")));
            }
        }
        query("update datastore set default_version_id = null where default_version_id = $1")
            .bind(id.to_string())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
        let done = query("update datastore_version set removed = $2 where id = $1 and removed is null")
            .bind(id.to_string())
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed)?;
        Ok(done.rows_affected() > 0)
    }

    /// Deletes a datastore, by name or id. `false` if it does not exist.
    ///
    /// # Errors
    /// 400 while it has versions; internal.
    pub async fn remove_datastore(&self, conn: &mut Connection, name_or_id: &str) -> Result<bool> {
        let failed = |error| Error::internal("remove a datastore", error);
        let sql = "select v.id from datastore_version v join datastore d on d.id = v.datastore_id \
             where (d.id = $1 or d.name = $1) and v.removed is null limit 1";
        if query(sql).bind(name_or_id).fetch_optional(&mut *conn).await.map_err(failed)?.is_some() {
            return Err(Error::BadRequest("The datastore has versions: delete them first.".to_owned()));
        }
        let done = query("update datastore set removed = $2 where (id = $1 or name = $1) and removed is null")
            .bind(name_or_id)
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed)?;
        Ok(done.rows_affected() > 0)
    }
}

fn parsed(id: &str) -> Result<Uuid> {
    id.parse().map_err(|error: uuid::Error| Error::internal(format!("read the id {id:?}"), error))
}

fn unread(error: sqlx::Error) -> Error {
    Error::internal("read the datastores", error)
}

/// Groups rows, which are sorted by datastore.
fn datastores(rows: &[Row]) -> Result<Vec<Datastore>> {
    let mut datastores: Vec<Datastore> = Vec::new();
    for row in rows {
        let version = version(row)?;
        if datastores.last().is_none_or(|last| last.id != version.datastore_id) {
            let default: Option<String> = row.try_get("default_version_id").map_err(unread)?;
            datastores.push(Datastore {
                id: version.datastore_id,
                name: row.try_get("datastore_name").map_err(unread)?,
                default_version: default.map(|id| parsed(&id)).transpose()?.map(VersionId),
                versions: Vec::new(),
            });
        }
        if let Some(last) = datastores.last_mut() {
            last.versions.push(version);
        }
    }
    Ok(datastores)
}

fn version(row: &Row) -> Result<Version> {
    let text = |name| row.try_get::<String, _>(name).map_err(unread);
    Ok(Version {
        id: VersionId(parsed(&text("id")?)?),
        datastore_id: DatastoreId(parsed(&text("datastore_id")?)?),
        name: text("name")?,
        number: text("number")?,
        active: row.try_get("active").map_err(unread)?,
        source: source(&text("bindir")?)?,
    })
}

fn source(bindir: &str) -> Result<Source> {
    match bindir.strip_prefix(IMAGE) {
        Some(id) => parsed(id).map(Source::Image),
        None => Ok(Source::Installed(bindir.into())),
    }
}

fn manifest(row: &Row) -> Result<Manifest> {
    let text: String = row.try_get("manifest").map_err(unread)?;
    serde_json::from_str(&text).map_err(|error| {
        let id: String = row.try_get("id").unwrap_or_default();
        Error::internal(format!("read the manifest of version {id}"), error)
    })
}

#[cfg(test)]
mod tests;

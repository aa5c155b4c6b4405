//! Rows of datastores and their versions.

use std::path::Path;

use sqlx::AssertSqlSafe;
use trove_strategy::Manifest;

use super::Store;
use crate::error::{Error, Result};
use crate::ids::{DatastoreId, VersionId};
use crate::model::{Datastore, Version};
use crate::store::sql::{Connection, Row, query};

const SELECT: &str = "select d.id as datastore_id, d.name as datastore_name, d.default_version_id, \
     v.id, v.name, v.number, v.active, v.manifest \
     from datastore d join datastore_version v on v.datastore_id = d.id";
const ORDER: &str = " order by d.name, v.name, v.number, v.id";

/// A version as it is registered: its name, number and datastore are those of the manifest.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    /// What it is and can do.
    pub manifest: &'a Manifest,
    /// Its agent program; `None` is the one beside the controller.
    pub agent_program: Option<&'a Path>,
    /// Whether instances of it can be ordered.
    pub active: bool,
    /// Whether it is meant where an order names no version. A datastore's first version is, in any case.
    pub default: bool,
}

impl Store {
    /// Every datastore with every version, by name.
    ///
    /// # Errors
    /// Internal.
    pub async fn list_datastores(&self) -> Result<Vec<Datastore>> {
        let sql = AssertSqlSafe(format!("{SELECT}{ORDER}"));
        datastores(&query(sql).fetch_all(&self.read).await.map_err(unread)?)
    }

    /// The datastore of this name or id, with every version.
    ///
    /// # Errors
    /// Internal.
    pub async fn get_datastore(&self, name_or_id: &str) -> Result<Option<Datastore>> {
        let sql = AssertSqlSafe(format!("{SELECT} where d.id = $1 or d.name = $1{ORDER}"));
        let rows = query(sql).bind(name_or_id).fetch_all(&self.read).await.map_err(unread)?;
        Ok(datastores(&rows)?.pop())
    }

    /// The datastore of this version, with every version.
    ///
    /// # Errors
    /// Internal.
    pub async fn get_datastore_of_version(&self, id: VersionId) -> Result<Option<Datastore>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} where d.id = (select o.datastore_id from datastore_version o where o.id = $1){ORDER}"
        ));
        let rows = query(sql).bind(id.to_string()).fetch_all(&self.read).await.map_err(unread)?;
        Ok(datastores(&rows)?.pop())
    }

    /// Registers a version, or brings the registered one of the same datastore, name and place up to date: an engine
    /// that was patched where it lies keeps its version's id, and one that was deactivated stays so.
    ///
    /// # Errors
    /// Internal.
    pub async fn upsert_version(&self, conn: &mut Connection, registration: Registration<'_>) -> Result<VersionId> {
        let manifest = registration.manifest;
        let failed = |error| Error::internal(format!("register a version of {}", manifest.identity.name), error);
        let json = serde_json::to_string(manifest)
            .map_err(|error| Error::internal(format!("write the manifest of {}", manifest.identity.name), error))?;
        let datastore: String = query(
            "insert into datastore (id, name) values ($1, $2) \
             on conflict (name) do update set name = excluded.name returning id",
        )
        .bind(DatastoreId::random().to_string())
        .bind(&manifest.identity.name)
        .fetch_one(&mut *conn)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
        let version: String = query(
            "insert into datastore_version (id, datastore_id, name, number, bindir, active, agent_program, manifest) \
             values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (datastore_id, name, bindir) do update set \
             number = excluded.number, agent_program = excluded.agent_program, \
             manifest = excluded.manifest returning id",
        )
        .bind(VersionId::random().to_string())
        .bind(&datastore)
        .bind(&manifest.installation.major)
        .bind(&manifest.installation.version)
        .bind(manifest.installation.bindir.to_string_lossy().into_owned())
        .bind(registration.active)
        .bind(registration.agent_program.map(|path| path.to_string_lossy().into_owned()))
        .bind(json)
        .fetch_one(&mut *conn)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
        query("update datastore set default_version_id = $2 where id = $1 and ($3 or default_version_id is null)")
            .bind(&datastore)
            .bind(&version)
            .bind(registration.default)
            .execute(conn)
            .await
            .map_err(failed)?;
        parsed(&version).map(VersionId)
    }
}

fn parsed(id: &str) -> Result<uuid::Uuid> {
    id.parse().map_err(|error: uuid::Error| Error::internal(format!("read the id {id:?}"), error))
}

fn unread(error: sqlx::Error) -> Error {
    Error::internal("read the datastores", error)
}

/// Groups the rows, which come in the order of their datastores.
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
    let id = text("id")?;
    Ok(Version {
        id: VersionId(parsed(&id)?),
        datastore_id: DatastoreId(parsed(&text("datastore_id")?)?),
        name: text("name")?,
        number: text("number")?,
        active: row.try_get("active").map_err(unread)?,
        manifest: serde_json::from_str(&text("manifest")?)
            .map_err(|error| Error::internal(format!("read the manifest of version {id}"), error))?,
    })
}

#[cfg(test)]
mod tests;

impl Store {
    /// Lets a version be ordered, or not. Whether there is such a version.
    ///
    /// # Errors
    /// Internal.
    pub async fn set_version_active(&self, id: VersionId, active: bool) -> Result<bool> {
        let sql = "update datastore_version set active = $2 where id = $1";
        let done = query(sql).bind(id.to_string()).bind(active).execute(&self.write).await;
        Ok(done.map_err(|error| Error::internal("change a version", error))?.rows_affected() > 0)
    }
}

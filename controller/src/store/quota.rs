//! Rows of quotas and their use. Use is counted in the same transaction that inserts, resizes or deletes an instance,
//! so the counts are always right, and parallel requests wait for each other's rows.

use sqlx::{AssertSqlSafe, SqlSafeStr};

use super::Store;
use crate::error::{Error, Result};
use crate::ids::ProjectId;
use crate::model::{Quota, Resource};
use crate::store::sql::{Connection, Query, Row, query};

/// Change of the use of each resource; negative if it shrinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub instances: i64,
    pub ram_mib: i64,
    pub volumes_gib: i64,
    pub backups: i64,
    /// Configuration groups.
    pub configurations: i64,
}

impl Amounts {
    /// The amounts of one instance.
    pub fn instance(ram_mib: u64, volumes_gib: u64) -> Self {
        let signed = |amount| i64::try_from(amount).unwrap_or(i64::MAX);
        Self { instances: 1, ram_mib: signed(ram_mib), volumes_gib: signed(volumes_gib), ..Self::default() }
    }

    /// Those of one backup.
    pub fn backup() -> Self {
        Self { backups: 1, ..Self::default() }
    }

    /// Those of one configuration group.
    pub fn configuration() -> Self {
        Self { configurations: 1, ..Self::default() }
    }

    #[must_use]
    pub fn negated(self) -> Self {
        Self {
            instances: -self.instances,
            ram_mib: -self.ram_mib,
            volumes_gib: -self.volumes_gib,
            backups: -self.backups,
            configurations: -self.configurations,
        }
    }

    fn of(self, resource: Resource) -> i64 {
        match resource {
            Resource::Instances => self.instances,
            Resource::Ram => self.ram_mib,
            Resource::Volumes => self.volumes_gib,
            Resource::Backups => self.backups,
            Resource::Configurations => self.configurations,
        }
    }
}

impl Store {
    /// Adds to the use of a project. Resources whose use grows are checked against the project's limit, or against
    /// `default`. On an error the caller must roll back.
    ///
    /// # Errors
    /// 413 if limits would be exceeded; the message names them.
    pub async fn take_quota(
        &self,
        conn: &mut Connection,
        project: &ProjectId,
        amounts: Amounts,
        default: impl Fn(Resource) -> i64,
    ) -> Result<()> {
        let sql = AssertSqlSafe(format!("{COUNT} returning resource, in_use, {LIMIT}"));
        let rows = count(sql, project, amounts).fetch_all(conn).await.map_err(uncounted)?;
        let quotas = quotas(&rows, default)?;
        let over = quotas
            .iter()
            .filter(|quota| amounts.of(quota.resource) > 0 && quota.limit >= 0 && quota.in_use > quota.limit);
        let over: Vec<String> = over.map(|quota| format!("'{}'", quota.resource.tag())).collect();
        if over.is_empty() {
            return Ok(());
        }
        let message = format!("Quota exceeded for resources: [{}].", over.join(", "));
        Err(Error::OverLimit { message, retry_after_s: None })
    }

    /// Adds to the use of a project without checking limits.
    pub async fn count_use(&self, conn: &mut Connection, project: &ProjectId, amounts: Amounts) -> Result<()> {
        count(COUNT, project, amounts).execute(conn).await.map_err(uncounted)?;
        Ok(())
    }

    /// Use and limit of every resource of a project; the limit is `default` unless the project has its own.
    pub async fn quotas(&self, project: &ProjectId, default: impl Fn(Resource) -> i64) -> Result<Vec<Quota>> {
        quotas(&query(SELECT).bind(&project.0).fetch_all(&self.read).await.map_err(unread)?, default)
    }

    /// Sets a project's own limit.
    pub async fn set_quota(
        &self,
        conn: &mut Connection,
        project: &ProjectId,
        resource: Resource,
        limit: i64,
    ) -> Result<()> {
        query(
            "insert into quota (project_id, resource, hard_limit) values ($1, $2, $3) \
             on conflict (project_id, resource) do update set hard_limit = excluded.hard_limit",
        )
        .bind(&project.0)
        .bind(resource.tag())
        .bind(limit)
        .execute(conn)
        .await
        .map_err(|error| Error::internal("set a quota", error))?;
        Ok(())
    }
}

const COUNT: &str = "insert into usage (project_id, resource, in_use) \
     values ($1, 'instances', $2), ($1, 'ram', $3), ($1, 'volumes', $4), ($1, 'backups', $5), ($1, 'configurations', $6) \
     on conflict (project_id, resource) do update set in_use = usage.in_use + excluded.in_use";
/// Subquery for the project's own limit of the counted resource.
const LIMIT: &str = "(select q.hard_limit from quota q \
     where q.project_id = usage.project_id and q.resource = usage.resource) as hard_limit";

fn count(sql: impl SqlSafeStr, project: &ProjectId, amounts: Amounts) -> Query {
    let query = query(sql).bind(&project.0).bind(amounts.instances).bind(amounts.ram_mib);
    query.bind(amounts.volumes_gib).bind(amounts.backups).bind(amounts.configurations)
}

fn uncounted(error: sqlx::Error) -> Error {
    Error::internal("count the use of a project", error)
}

/// Returns up to two rows for each resource: one with its use, one with the project's own limit.
const SELECT: &str = "select resource, in_use, null as hard_limit from usage where project_id = $1 \
     union all select resource, null as in_use, hard_limit from quota where project_id = $1";

fn unread(error: sqlx::Error) -> Error {
    Error::internal("read the quotas of a project", error)
}

fn quotas(rows: &[Row], default: impl Fn(Resource) -> i64) -> Result<Vec<Quota>> {
    let empty = |resource| Quota { resource, in_use: 0, limit: default(resource) };
    let mut quotas = Resource::ALL.map(empty);
    for row in rows {
        let resource: String = row.try_get("resource").map_err(unread)?;
        let Some(quota) = quotas.iter_mut().find(|quota| quota.resource.tag() == resource) else { continue };
        if let Some(in_use) = row.try_get::<Option<i64>, _>("in_use").map_err(unread)? {
            quota.in_use = in_use;
        }
        if let Some(limit) = row.try_get::<Option<i64>, _>("hard_limit").map_err(unread)? {
            quota.limit = limit;
        }
    }
    Ok(quotas.to_vec())
}

//! What projects use. Taken in the transaction that inserts an instance and given back in the one that deletes it, so a
//! count is never wrong for longer than a transaction, and parallel orders wait for each other on the rows themselves.

use super::Store;
use crate::error::{Error, Result};
use crate::ids::ProjectId;
use crate::model::Limits;
use crate::store::sql::{Connection, query};

/// What one instance uses, besides being one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// Memory, MiB.
    pub ram_mib: u64,
    /// Volume, GiB.
    pub volumes_gib: u64,
}

/// The resources in the order in which upstream names them.
const RESOURCES: [&str; 3] = ["instances", "ram", "volumes"];

impl Store {
    /// Counts one instance more. On an error the caller's transaction must be rolled back.
    ///
    /// # Errors
    /// 413 when a limit would be exceeded; it names each of those.
    pub async fn take_quota(
        &self,
        conn: &mut Connection,
        project: &ProjectId,
        amounts: Amounts,
        limits: Limits,
    ) -> Result<()> {
        let [instances, ram, volumes] = signed(amounts);
        let rows = query(
            "insert into usage (project_id, resource, in_use) \
             values ($1, 'instances', $2), ($1, 'ram', $3), ($1, 'volumes', $4) \
             on conflict (project_id, resource) do update set in_use = usage.in_use + excluded.in_use \
             returning resource, in_use",
        )
        .bind(&project.0)
        .bind(instances)
        .bind(ram)
        .bind(volumes)
        .fetch_all(conn)
        .await
        .map_err(|error| Error::internal("count the use of a project", error))?;
        let mut in_use = Vec::new();
        for row in rows {
            let read = |error| Error::internal("read the use of a project", error);
            in_use.push((row.try_get::<String, _>(0).map_err(read)?, row.try_get::<i64, _>(1).map_err(read)?));
        }
        let limits = [limits.instances, limits.ram_mib, limits.volumes_gib];
        let over: Vec<String> = RESOURCES
            .iter()
            .zip(limits)
            .filter(|(resource, limit)| {
                *limit >= 0 && in_use.iter().any(|(name, used)| name == *resource && used > limit)
            })
            .map(|(resource, _)| format!("'{resource}'"))
            .collect();
        if over.is_empty() {
            return Ok(());
        }
        let message = format!("Quota exceeded for resources: [{}].", over.join(", "));
        Err(Error::OverLimit { message, retry_after_s: None })
    }

    /// Counts one instance less.
    ///
    /// # Errors
    /// Internal.
    pub async fn give_back(&self, conn: &mut Connection, project: &ProjectId, amounts: Amounts) -> Result<()> {
        let [instances, ram, volumes] = signed(amounts);
        query(
            "update usage set in_use = in_use - \
             case resource when 'instances' then $2 when 'ram' then $3 when 'volumes' then $4 else 0 end \
             where project_id = $1",
        )
        .bind(&project.0)
        .bind(instances)
        .bind(ram)
        .bind(volumes)
        .execute(conn)
        .await
        .map_err(|error| Error::internal("give back the use of a project", error))?;
        Ok(())
    }
}

/// Flavors and volumes are bounded far below the limit of the type.
fn signed(amounts: Amounts) -> [i64; 3] {
    let signed = |amount| i64::try_from(amount).unwrap_or(i64::MAX);
    [1, signed(amounts.ram_mib), signed(amounts.volumes_gib)]
}

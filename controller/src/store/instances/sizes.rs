//! Flavors and volumes of instances that are there.

use super::rows::{column, failed, signed, unsigned};
use crate::error::Result;
use crate::ids::{InstanceId, ProjectId};
use crate::model::Flavor;
use crate::store::Store;
use crate::store::quota::Amounts;
use crate::store::sql::{Connection, Row, query};

impl Store {
    /// Changes its flavor. Answers whose it is and how much more that uses, which is the caller's to count; `None` once it
    /// is deleted.
    pub async fn set_flavor(
        &self,
        conn: &mut Connection,
        id: InstanceId,
        flavor: &Flavor,
    ) -> Result<Option<(ProjectId, Amounts)>> {
        let Some((project, ram_mib, _)) = self.used_by(conn, id).await? else { return Ok(None) };
        query(
            "update instance set flavor_id = $2, flavor_name = $3, ram_mib = $4, vcpus = $5, updated = $6 where id = $1",
        )
        .bind(id.to_string())
        .bind(&flavor.id)
        .bind(&flavor.name)
        .bind(signed(flavor.ram_mib))
        .bind(i64::from(flavor.vcpus))
        .bind(self.now_micros())
        .execute(conn)
        .await
        .map_err(failed("set the flavor of", id))?;
        Ok(Some((project, Amounts { ram_mib: signed(flavor.ram_mib) - ram_mib, ..Amounts::default() })))
    }

    /// Changes the size of its volume. Answers as [`Store::set_flavor`].
    pub async fn set_volume(
        &self,
        conn: &mut Connection,
        id: InstanceId,
        volume_gib: u64,
    ) -> Result<Option<(ProjectId, Amounts)>> {
        let Some((project, _, volumes_gib)) = self.used_by(conn, id).await? else { return Ok(None) };
        query("update instance set volume_gib = $2, updated = $3 where id = $1")
            .bind(id.to_string())
            .bind(signed(volume_gib))
            .bind(self.now_micros())
            .execute(conn)
            .await
            .map_err(failed("set the volume of", id))?;
        Ok(Some((project, Amounts { volumes_gib: signed(volume_gib) - volumes_gib, ..Amounts::default() })))
    }

    /// Its flavor's id and the size of its volume, GiB, for a transaction that depends on them; `None` once it is deleted.
    pub async fn sizes(&self, conn: &mut Connection, id: InstanceId) -> Result<Option<(String, u64)>> {
        let row = query("select flavor_id, volume_gib from instance where id = $1 and deleted is null")
            .bind(id.to_string())
            .fetch_optional(conn)
            .await
            .map_err(failed("read the sizes of", id))?;
        row.map(|row| Ok((column(&row, "flavor_id")?, unsigned(&row, "volume_gib")?))).transpose()
    }

    /// Project, memory (MiB) and volume (GiB) of one that is not deleted.
    async fn used_by(&self, conn: &mut Connection, id: InstanceId) -> Result<Option<(ProjectId, i64, i64)>> {
        let row = query("select project_id, ram_mib, volume_gib from instance where id = $1 and deleted is null")
            .bind(id.to_string())
            .fetch_optional(conn)
            .await
            .map_err(failed("read the use of", id))?;
        let read = |row: Row| {
            Ok((ProjectId(column(&row, "project_id")?), column(&row, "ram_mib")?, column(&row, "volume_gib")?))
        };
        row.map(read).transpose()
    }
}

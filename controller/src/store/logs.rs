//! Rows of logs of writes: which instances ship theirs, containers, and pieces.
//!
//! Methods with `conn` take part in the caller's transaction.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use time::OffsetDateTime;

use super::instances::rows::{column, narrow, parsed, time, unsigned};
use super::{Store, from_micros, micros};
use crate::error::{Error, Result};
use crate::ids::{BackupId, ContainerId, InstanceId, ProjectId};
use crate::model::logs::{LogBase, LogContainer, LogPiece};
use crate::store::sql::{Connection, Row, query};

const SELECT: &str = "select c.id, c.instance_id, c.project_id, c.number, c.chain, c.recipient, c.identity, c.begins, c.ends, \
     c.covered, c.keep_seconds, c.pieces, c.recorded, c.created from log_container c";
/// Clocks of controllers may differ by this: a piece that was recorded so much earlier than a backup was ordered has nothing
/// that the backup lacks.
const SKEW: Duration = Duration::from_secs(60);

fn failed(verb: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| Error::internal(format!("{verb} a log of writes"), error)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn seconds(time: Duration) -> i64 {
    signed(time.as_secs())
}

impl Store {
    /// Has the log of an instance shipped and kept for so long, or shipped no longer. What is stored is kept for so long, too.
    pub async fn set_log_shipping(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
        project: &ProjectId,
        keep: Option<Duration>,
    ) -> Result<()> {
        let id = instance.to_string();
        let Some(keep) = keep else { return self.delete_log_shipping_of(conn, instance).await };
        query(
            "insert into log_shipping (instance_id, project_id, keep_seconds, updated) values ($1, $2, $3, $4) \
             on conflict (instance_id) do update set keep_seconds = excluded.keep_seconds, updated = excluded.updated",
        )
        .bind(&id)
        .bind(&project.0)
        .bind(seconds(keep))
        .bind(self.now_micros())
        .execute(&mut *conn)
        .await
        .map_err(failed("ship"))?;
        query("update log_container set keep_seconds = $2 where instance_id = $1")
            .bind(&id)
            .bind(seconds(keep))
            .execute(conn)
            .await
            .map_err(failed("keep"))?;
        Ok(())
    }

    /// That the log of an instance that is gone is not shipped any more. What is stored stays until it is too old.
    pub(super) async fn delete_log_shipping_of(&self, conn: &mut Connection, instance: InstanceId) -> Result<()> {
        let gone = query("delete from log_shipping where instance_id = $1").bind(instance.to_string());
        gone.execute(conn).await.map_err(failed("stop to ship"))?;
        Ok(())
    }

    /// For how long the log of an instance is kept; `None` where it is not shipped.
    pub async fn log_shipping(&self, instance: InstanceId) -> Result<Option<Duration>> {
        let row = query("select keep_seconds from log_shipping where instance_id = $1").bind(instance.to_string());
        let row = row.fetch_optional(&self.read).await.map_err(failed("look whether to ship"))?;
        row.map(|row| unsigned(&row, "keep_seconds").map(Duration::from_secs)).transpose()
    }

    /// The same, and the project, in a transaction that writes what was shipped.
    pub async fn log_shipping_of(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
    ) -> Result<Option<(ProjectId, Duration)>> {
        let row = query("select project_id, keep_seconds from log_shipping where instance_id = $1");
        let row = row.bind(instance.to_string()).fetch_optional(conn).await.map_err(failed("look whether to ship"))?;
        row.map(|row| {
            let keep = Duration::from_secs(unsigned(&row, "keep_seconds")?);
            Ok((ProjectId(column(&row, "project_id")?), keep))
        })
        .transpose()
    }

    /// The newest container of an instance that is not being removed.
    pub async fn last_log_container(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
    ) -> Result<Option<LogContainer>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} where c.instance_id = $1 and not c.is_deleted order by c.number desc limit 1"
        ));
        let row = query(sql).bind(instance.to_string()).fetch_optional(conn).await.map_err(failed("read"))?;
        row.map(|row| container(&row)).transpose()
    }

    /// The greatest number of an instance's containers, and how many were made since a time.
    pub async fn count_log_containers(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
        since: OffsetDateTime,
    ) -> Result<(u64, u64)> {
        let counted = query(
            "select coalesce(max(number), 0) as last, count(case when created > $2 then 1 end) as begun \
             from log_container where instance_id = $1",
        );
        let row = counted.bind(instance.to_string()).bind(micros(since)).fetch_one(conn).await;
        let row = row.map_err(failed("count the containers of"))?;
        Ok((unsigned(&row, "last")?, unsigned(&row, "begun")?))
    }

    /// The containers of an instance of a project that are not being removed, by number.
    pub async fn log_containers(&self, instance: InstanceId, project: &ProjectId) -> Result<Vec<LogContainer>> {
        let sql = AssertSqlSafe(format!(
            "{SELECT} where c.instance_id = $1 and c.project_id = $2 and not c.is_deleted order by c.number"
        ));
        let rows = query(sql).bind(instance.to_string()).bind(&project.0).fetch_all(&self.read).await;
        rows.map_err(failed("read"))?.iter().map(container).collect()
    }

    pub async fn insert_log_container(&self, conn: &mut Connection, new: &LogContainer) -> Result<()> {
        query(
            "insert into log_container (id, instance_id, project_id, number, chain, recipient, identity, begins, ends, covered, \
             keep_seconds, pieces, bytes, recorded, created) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0, $12, $12)",
        )
        .bind(new.id.to_string())
        .bind(new.instance.to_string())
        .bind(&new.project.0)
        .bind(signed(new.number))
        .bind(new.chain.to_string())
        .bind(&new.recipient)
        .bind(&new.identity)
        .bind(&new.begins)
        .bind(&new.ends)
        .bind(new.covered.map(micros))
        .bind(seconds(new.keep))
        .bind(micros(new.created))
        .execute(conn)
        .await
        .map_err(failed("begin a container of"))?;
        Ok(())
    }

    /// Whether the piece is recorded already: an answer was lost.
    pub async fn has_log_piece(&self, conn: &mut Connection, of: ContainerId, run: &str, object: u32) -> Result<bool> {
        let row = query("select 1 from log_piece where container_id = $1 and run = $2 and object = $3");
        let row = row.bind(of.to_string()).bind(run).bind(i64::from(object)).fetch_optional(conn).await;
        row.map(|row| row.is_some()).map_err(failed("look for a piece of"))
    }

    /// Records a piece at the end of a container.
    pub async fn insert_log_piece(&self, conn: &mut Connection, of: &LogContainer, piece: &LogPiece) -> Result<()> {
        let (now, id) = (self.now_micros(), of.id.to_string());
        query(
            "insert into log_piece (container_id, number, run, object, begins, bytes, sum, recorded, data_bytes, ends) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&id)
        .bind(signed(of.pieces))
        .bind(&piece.run)
        .bind(i64::from(piece.object))
        .bind(&piece.begins)
        .bind(signed(piece.bytes))
        .bind(&piece.sum)
        .bind(now)
        .bind(signed(piece.data_bytes))
        .bind(&piece.ends)
        .execute(&mut *conn)
        .await
        .map_err(failed("record a piece of"))?;
        query(
            "update log_container set ends = $2, pieces = pieces + 1, bytes = bytes + $3, recorded = $4 where id = $1",
        )
        .bind(&id)
        .bind(&piece.ends)
        .bind(signed(piece.bytes))
        .bind(now)
        .execute(conn)
        .await
        .map_err(failed("record a piece of"))?;
        Ok(())
    }

    /// That whatever was acknowledged before this is stored. It never goes back.
    pub async fn cover_log(&self, conn: &mut Connection, of: &LogContainer, time: OffsetDateTime) -> Result<()> {
        let (id, time) = (of.id.to_string(), micros(time));
        query("update log_container set covered = $2 where id = $1 and (covered is null or covered < $2)")
            .bind(&id)
            .bind(time)
            .execute(&mut *conn)
            .await
            .map_err(failed("cover"))?;
        query(
            "update log_piece set covered = $3 where container_id = $1 and number = $2 and (covered is null or covered < $3)",
        )
        .bind(&id)
        .bind(signed(of.pieces) - 1)
        .bind(time)
        .execute(conn)
        .await
        .map_err(failed("cover"))?;
        Ok(())
    }

    /// The complete full backups of an instance of a project.
    pub async fn log_bases(&self, instance: InstanceId, project: &ProjectId) -> Result<Vec<LogBase>> {
        let rows = query(
            "select id, created, updated from backup where instance_id = $1 and project_id = $2 and state = 'COMPLETED' \
             and parent_id is null order by created, id",
        )
        .bind(instance.to_string())
        .bind(&project.0)
        .fetch_all(&self.read)
        .await
        .map_err(failed("list the backups before"))?;
        let base = |row: &Row| {
            let id = BackupId(parsed(row, "id")?);
            Ok(LogBase { id, created: time(row, "created")?, completed: time(row, "updated")? })
        };
        rows.iter().map(base).collect()
    }

    /// What is to be replayed on a backup that was ordered at `since`, to come to `until`: containers of the chain with their
    /// pieces, in order, those without any left out.
    pub async fn log_to_replay(
        &self,
        chain: ContainerId,
        since: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Vec<(LogContainer, Vec<LogPiece>)>> {
        let sql = AssertSqlSafe(format!("{SELECT} where c.chain = $1 and not c.is_deleted order by c.number"));
        let rows = query(sql).bind(chain.to_string()).fetch_all(&self.read).await.map_err(failed("read"))?;
        let mut found = Vec::new();
        for row in &rows {
            let of = container(row)?;
            let rows = query(
                "select run, object, begins, ends, bytes, sum, data_bytes, covered from log_piece where container_id = $1 and recorded >= $2 \
                 order by number",
            )
            .bind(of.id.to_string())
            .bind(micros(since - SKEW))
            .fetch_all(&self.read)
            .await
            .map_err(failed("read the pieces of"))?;
            let (mut pieces, mut is_enough) = (Vec::new(), false);
            for row in &rows {
                pieces.push(piece(row)?);
                let covered: Option<i64> = column(row, "covered")?;
                if covered.is_some_and(|covered| from_micros(covered) >= until) {
                    is_enough = true;
                    break;
                }
            }
            if !pieces.is_empty() {
                found.push((of, pieces));
            }
            if is_enough {
                break;
            }
        }
        Ok(found)
    }

    /// Gives up the containers whose pieces nobody needs any more: they are older than is kept, and no backup needs them to come
    /// to a moment that is kept, because they are of before it or their chain has ended before. The one that is written stays.
    pub async fn give_up_old_logs(&self, conn: &mut Connection) -> Result<u64> {
        let done = query(
            "update log_container set is_deleted = true where not is_deleted and recorded < $1 - keep_seconds * 1000000 \
             and (recorded < coalesce((select max(b.created) from backup b where b.instance_id = log_container.instance_id \
             and b.state = 'COMPLETED' and b.parent_id is null and b.updated <= $1 - log_container.keep_seconds * 1000000), \
             (select min(b.created) from backup b where b.instance_id = log_container.instance_id \
             and b.state in ('NEW', 'BUILDING', 'SAVING', 'COMPLETED') and b.parent_id is null), $1) - $2 \
             or not exists (select 1 from log_container n where n.chain = log_container.chain \
             and (n.recorded >= $1 - n.keep_seconds * 1000000 or n.covered >= $1 - n.keep_seconds * 1000000 \
             or exists (select 1 from log_shipping s where s.instance_id = n.instance_id \
             and n.number = (select max(m.number) from log_container m where m.instance_id = n.instance_id))))) \
             and not exists (select 1 from log_shipping s where s.instance_id = log_container.instance_id \
             and log_container.number = (select max(n.number) from log_container n where n.instance_id = log_container.instance_id)) \
             and not exists (select 1 from operation o where o.active and o.kind = 'restore_instance' \
             and o.state like '%\"chain\":\"' || log_container.chain || '\"%')",
        )
        .bind(self.now_micros())
        .bind(signed(u64::try_from(SKEW.as_micros()).unwrap_or(u64::MAX)))
        .execute(conn)
        .await
        .map_err(failed("give up the old parts of"))?;
        Ok(done.rows_affected())
    }

    /// The containers whose objects are to be removed.
    pub async fn unwanted_log_containers(&self) -> Result<Vec<ContainerId>> {
        let rows =
            query("select id from log_container where is_deleted order by recorded, id").fetch_all(&self.read).await;
        rows.map_err(failed("list the old parts of"))?.iter().map(|row| parsed(row, "id").map(ContainerId)).collect()
    }

    /// That the objects of a container were removed.
    pub async fn log_container_removed(&self, conn: &mut Connection, id: ContainerId) -> Result<()> {
        for sql in
            ["delete from log_piece where container_id = $1", "delete from log_container where id = $1 and is_deleted"]
        {
            query(sql).bind(id.to_string()).execute(&mut *conn).await.map_err(failed("remove an old part of"))?;
        }
        Ok(())
    }

    /// Whether there is such a container.
    pub async fn has_log_container(&self, id: ContainerId) -> Result<bool> {
        let row =
            query("select 1 from log_container where id = $1").bind(id.to_string()).fetch_optional(&self.read).await;
        row.map(|row| row.is_some()).map_err(failed("look for a container of"))
    }
}

fn container(row: &Row) -> Result<LogContainer> {
    let covered: Option<i64> = column(row, "covered")?;
    Ok(LogContainer {
        id: ContainerId(parsed(row, "id")?),
        instance: InstanceId(parsed(row, "instance_id")?),
        project: ProjectId(column(row, "project_id")?),
        number: unsigned(row, "number")?,
        chain: ContainerId(parsed(row, "chain")?),
        recipient: column(row, "recipient")?,
        identity: column(row, "identity")?,
        begins: column(row, "begins")?,
        ends: column(row, "ends")?,
        covered: covered.map(from_micros),
        keep: Duration::from_secs(unsigned(row, "keep_seconds")?),
        pieces: unsigned(row, "pieces")?,
        recorded: time(row, "recorded")?,
        created: time(row, "created")?,
    })
}

fn piece(row: &Row) -> Result<LogPiece> {
    Ok(LogPiece {
        run: column(row, "run")?,
        object: narrow(row, "object")?,
        begins: column(row, "begins")?,
        ends: column(row, "ends")?,
        bytes: unsigned(row, "bytes")?,
        sum: column(row, "sum")?,
        data_bytes: unsigned(row, "data_bytes")?,
    })
}

//! Rows of the controllers that share the store. Each controller renews its row. Links to agents count only while their
//! controller's row is alive, so that those of a killed or stopped controller are ignored.

use std::time::Duration;

use super::{Store, database_now, span};
use crate::error::{Error, Result};
use crate::store::sql::{News, query};

/// How long agents keep trying to reach a controller that is gone. If it comes back later, they get its address again.
pub const GRACE: Duration = Duration::from_secs(3600);

/// The row of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its id, the same after a restart.
    pub id: String,
    /// Address for agents, host:port.
    pub agents_address: String,
    /// [`Compute::location`](crate::compute::Compute::location) of its driver; `None` if every controller reaches the
    /// hosts.
    pub place: Option<String>,
}

impl Store {
    /// Renews the row of a controller for `lifetime`; forever if the store is not shared.
    pub async fn put_controller(&self, controller: &Controller, lifetime: Duration) -> Result<()> {
        let failed = |error| Error::internal(format!("write the controller {}", controller.id), error);
        let mut tx = self.begin().await?;
        let now = database_now(&mut tx).await?;
        let known = query("select 1 from controller where id = $1 and agents_address = $2 and seen_until > $3")
            .bind(&controller.id)
            .bind(&controller.agents_address)
            .bind(now)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
        if known.is_none() {
            // The other controllers send its address to their agents.
            tx.announce(News::Work);
        }
        let until = if self.is_shared() { now.saturating_add(span(lifetime)) } else { i64::MAX };
        query(
            "insert into controller (id, agents_address, place, version, seen_until) values ($1, $2, $3, $4, $5) \
             on conflict (id) do update set agents_address = excluded.agents_address, place = excluded.place, \
             version = excluded.version, seen_until = excluded.seen_until",
        )
        .bind(&controller.id)
        .bind(&controller.agents_address)
        .bind(&controller.place)
        .bind(env!("CARGO_PKG_VERSION"))
        .bind(until)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    /// A live controller whose hosts are elsewhere than in `place`. Two such controllers cannot manage each other's
    /// hosts.
    pub async fn controller_elsewhere(&self, own: &str, place: &str) -> Result<Option<String>> {
        let sql = "select id from controller where id <> $1 and place <> $2 and seen_until > $3 order by id";
        let row = query(sql).bind(own).bind(place).bind(self.now_micros()).fetch_optional(&self.read).await;
        row.and_then(|row| row.map(|row| row.try_get(0)).transpose())
            .map_err(|error| Error::internal("look for controllers elsewhere", error))
    }

    /// Addresses for agents of the controllers that were alive within `grace`, in a stable order.
    pub async fn agents_addresses(&self, grace: Duration) -> Result<Vec<String>> {
        let failed = |error| Error::internal("list the controllers", error);
        let rows =
            query("select distinct agents_address from controller where seen_until > $1 order by agents_address")
                .bind(self.now_micros().saturating_sub(span(grace)))
                .fetch_all(&self.read)
                .await
                .map_err(failed)?;
        rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
    }

    /// Deletes controllers that have been dead for `grace`, and their links.
    pub async fn forget_controllers(&self, grace: Duration) -> Result<()> {
        let failed = |error| Error::internal("forget the controllers that are gone", error);
        let before = self.now_micros().saturating_sub(span(grace));
        let gone = query("select id from controller where seen_until <= $1")
            .bind(before)
            .fetch_all(&self.read)
            .await
            .map_err(failed)?;
        for row in gone {
            let id: String = row.try_get(0).map_err(failed)?;
            let mut tx = self.begin().await?;
            let done = query("delete from controller where id = $1 and seen_until <= $2")
                .bind(&id)
                .bind(before)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            if done.rows_affected() > 0 {
                query("delete from agent_link where controller_id = $1")
                    .bind(&id)
                    .execute(&mut *tx)
                    .await
                    .map_err(failed)?;
                tracing::info!("controller {id} has been gone for long and is forgotten");
            }
            tx.commit().await.map_err(failed)?;
        }
        Ok(())
    }
}

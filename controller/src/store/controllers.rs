//! The controllers that share the store. Each renews its row; links to agents count for as long as their controller's
//! row is alive, so that one that was killed or is paused is not taken to hear anybody.

use std::time::Duration;

use super::{Store, database_now, span};
use crate::error::{Error, Result};
use crate::store::sql::{News, query};

/// How long agents go on trying to reach a controller that is gone; one that comes back later is made known to them anew.
pub const GRACE: Duration = Duration::from_secs(3600);

/// What a controller says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its name, the same after a restart.
    pub id: String,
    /// Where agents reach it, host:port.
    pub agents_address: String,
    /// Where its driver keeps hosts; `None` when every controller reaches them.
    pub place: Option<String>,
}

impl Store {
    /// Writes that a controller lives, for `lifetime` from now; without other controllers, for ever.
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
            // Agents are told of it by those that they are connected to.
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

    /// A controller that lives and keeps its hosts elsewhere than in `place`: neither could look after the other's.
    pub async fn controller_elsewhere(&self, own: &str, place: &str) -> Result<Option<String>> {
        let sql = "select id from controller where id <> $1 and place <> $2 and seen_until > $3 order by id";
        let row = query(sql).bind(own).bind(place).bind(self.now_micros()).fetch_optional(&self.read).await;
        row.and_then(|row| row.map(|row| row.try_get(0)).transpose())
            .map_err(|error| Error::internal("look for controllers elsewhere", error))
    }

    /// Where agents reach the controllers that were alive within `grace`, in an order that stays.
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

    /// Forgets the controllers that have been dead for `grace`, with their links.
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

//! Keeps the row of this controller in the store, and deletes rows of controllers that are gone for long.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::operations::{Changes, Nudge};
use crate::store::Store;
use crate::store::controllers::{Controller, GRACE};
use crate::store::sql::News;

/// A controller counts as alive for this long after it renewed its row.
pub const LIFETIME: Duration = Duration::from_secs(30);
/// Interval in which the row is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// Pause after an error of the store.
const RETRY: Duration = Duration::from_secs(2);

/// Renews the row of this controller until `shutdown`. Does nothing if the store is not shared.
pub async fn keep(store: Store, own: Controller, shutdown: CancellationToken) {
    if !store.is_shared() {
        return shutdown.cancelled().await;
    }
    loop {
        let renewed = async {
            store.put_controller(&own, LIFETIME).await?;
            store.forget_controllers(GRACE).await
        };
        let begun = Instant::now();
        let pause = match renewed.await {
            Ok(()) => RENEW,
            Err(error) => {
                tracing::warn!("this controller could not say that it lives: {}", chain(&error));
                RETRY
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(begun + pause) => {}
        }
    }
}

/// Forwards notifications from other controllers until `shutdown`.
pub async fn listen(store: Store, nudge: Nudge, changes: Changes, shutdown: CancellationToken) {
    if !store.is_shared() {
        return shutdown.cancelled().await;
    }
    loop {
        let told = |news| {
            changes.bump();
            if news == News::Work {
                nudge.now();
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            heard = store.listen(told) => {
                if let Err(error) = heard {
                    tracing::warn!("other controllers are not heard: {}", chain(&error));
                }
            }
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

//! Controllers: this one's row says that it lives, and those that are gone for long are forgotten.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::operations::{Changes, Nudge};
use crate::store::Store;
use crate::store::controllers::{Controller, GRACE};
use crate::store::sql::News;

/// How long a controller that says nothing is taken to live.
pub const LIFETIME: Duration = Duration::from_secs(30);
/// How often it says so.
const RENEW: Duration = Duration::from_secs(10);
/// After an error of the store.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the row of this controller alive, until `shutdown`. Nothing to do for the only one.
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

/// Passes on what controllers announce, until `shutdown`.
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

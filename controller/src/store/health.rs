//! Tests whether the store can be written, by writing; and classifies errors of the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::Store;
use super::sql::{is_of_unknown_outcome, is_unavailable, query};
use crate::error::{Error, Result};

/// How long a result is used for all callers.
const RESULT_LIFETIME: Duration = Duration::from_secs(1);
/// Time limit of the test.
const TEST_LIMIT: Duration = Duration::from_secs(3);

/// The last test. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Health(Arc<Mutex<Option<Look>>>);

struct Look {
    since: Instant,
    /// Result; `None` if the caller was cancelled during the test.
    found: Option<std::result::Result<(), String>>,
}

impl Store {
    /// Tests whether the store can be written. All callers together cause at most one test per second.
    ///
    /// # Errors
    /// 503 with the reason.
    pub async fn check_health(&self) -> Result<()> {
        // Callers that wait here use the result of the one before.
        let mut last = self.health.0.lock().await;
        if let Some(Look { since, found }) = &*last {
            match found {
                Some(found) if since.elapsed() < RESULT_LIFETIME => return said(found.clone()),
                Some(_) => {}
                None => sleep_until(*since + RESULT_LIFETIME).await,
            }
        }
        *last = Some(Look { since: Instant::now(), found: None });
        let found = match timeout(TEST_LIMIT, self.test_write()).await {
            Ok(tested) => tested.map_err(|error| error.to_string()),
            Err(_) => Err(format!("it has not answered within {} s", TEST_LIMIT.as_secs())),
        };
        if let Err(why) = &found {
            tracing::warn!("the store cannot be written: {why}");
        }
        *last = Some(Look { since: Instant::now(), found: Some(found.clone()) });
        said(found)
    }

    async fn test_write(&self) -> sqlx::Result<()> {
        let mut tx = self.write.begin_write().await?;
        query(
            "insert into counter (name, value) values ('health', 1) \
             on conflict (name) do update set value = counter.value + 1",
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }
}

fn said(found: std::result::Result<(), String>) -> Result<()> {
    found.map_err(|why| Error::Unavailable {
        message: format!("The store cannot be written: {why}."),
        retry_after_s: RESULT_LIFETIME.as_secs(),
    })
}

impl Error {
    /// Whether the store could not be reached or written, which is transient.
    pub fn is_of_unavailable_store(&self) -> bool {
        self.of_store().is_some_and(is_unavailable)
    }

    /// Whether the connection to the store was lost during a commit, so that it is unknown whether the change was made.
    pub fn is_of_unknown_outcome(&self) -> bool {
        self.of_store().is_some_and(is_of_unknown_outcome)
    }

    fn of_store(&self) -> Option<&sqlx::Error> {
        let Self::Internal { source: Some(source), .. } = self else { return None };
        source.downcast_ref()
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;
    use crate::testing::store::fixture;

    #[tokio::test]
    async fn many_who_ask_share_one_test_write_a_second() {
        let fixture = fixture().await;
        let written =
            async || fixture.store.number("select coalesce(max(value), 0) from counter where name = 'health'").await;
        let all = join_all((0..50).map(|_| fixture.store.check_health())).await;
        assert!(all.iter().all(Result::is_ok));
        assert!(written().await <= 2, "50 who ask take less than a second, or little more");
        // Cancelled callers do not cause more tests.
        let before = written().await;
        let begun = Instant::now();
        for _ in 0..20 {
            let _gone = timeout(Duration::from_millis(1), fixture.store.check_health()).await;
        }
        fixture.store.check_health().await.unwrap();
        let most = begun.elapsed().as_secs() + 2;
        assert!(u64::try_from(written().await - before).unwrap() <= most);
    }

    #[test]
    fn failures_of_the_store_are_told_from_those_of_statements() {
        let io = sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert!(Error::internal("read", io).is_of_unavailable_store());
        assert!(!Error::internal("read", sqlx::Error::RowNotFound).is_of_unavailable_store());
        assert!(!Error::NotFound("no".to_owned()).is_of_unavailable_store());
    }
}

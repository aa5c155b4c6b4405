//! Tests that a connection goes back to its pool only after a successful commit, and that otherwise the next
//! transaction works and nothing is partly written.

use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, poll_fn, select};
use tempfile::TempDir;

use super::fault::commit_failed;
use super::{Transaction, is_of_unknown_outcome, is_unavailable, query};
use crate::store::Store;
use crate::testing::store as testing_store;

/// A store with a foreign key that is checked at the commit. On SQLite, the single writing connection is marked by a
/// temporary table.
async fn store() -> (Store, TempDir) {
    let directory = TempDir::new().unwrap();
    let store = testing_store::open(directory.path(), 7).await;
    let mut tx = store.begin().await.unwrap();
    say(&mut tx, "create table thing (id bigint not null primary key)").await.unwrap();
    say(&mut tx, "create table part (of bigint not null references thing (id) deferrable initially deferred)")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    mark(&store).await;
    (store, directory)
}

async fn say(tx: &mut Transaction, sql: &'static str) -> sqlx::Result<u64> {
    query(sql).execute(&mut **tx).await.map(super::Done::rows_affected)
}

async fn mark(store: &Store) {
    let mut tx = store.begin().await.unwrap();
    say(&mut tx, "create temporary table mark (id bigint)").await.unwrap();
    tx.commit().await.unwrap();
}

/// Whether the writing connection is the marked one; `None` on PostgreSQL, which has several.
async fn is_marked(store: &Store) -> Option<bool> {
    if store.is_shared() {
        return None;
    }
    let mut tx = store.begin().await.unwrap();
    let row = query("select count(*) from sqlite_temp_master where name = 'mark'").fetch_one(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    Some(row.get::<i64, _>(0) == 1)
}

async fn things(store: &Store) -> i64 {
    store.number("select count(*) from thing").await
}

/// Asserts that another transaction works, on a new connection.
async fn goes_on_anew(store: &Store) {
    assert_ne!(is_marked(store).await, Some(true), "a connection in doubt was given back");
    let mut tx = tokio::time::timeout(Duration::from_secs(4), store.begin()).await.unwrap().unwrap();
    say(&mut tx, "insert into thing (id) values (100)").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(things(store).await, 1, "what was not committed is not there");
}

#[tokio::test]
async fn a_commit_gives_the_connection_back() {
    let (store, _directory) = store().await;
    let mut tx = store.begin().await.unwrap();
    say(&mut tx, "insert into thing (id) values (1)").await.unwrap();
    tx.commit().await.unwrap();
    assert_ne!(is_marked(&store).await, Some(false));
    assert_eq!(things(&store).await, 1);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_undone_and_its_connection_closed() {
    let (store, _directory) = store().await;
    let mut tx = store.begin().await.unwrap();
    say(&mut tx, "insert into thing (id) values (1)").await.unwrap();
    drop(tx);
    goes_on_anew(&store).await;
}

#[tokio::test]
async fn a_transaction_with_a_failed_statement_cannot_be_committed() {
    let (store, _directory) = store().await;
    let mut tx = store.begin().await.unwrap();
    say(&mut tx, "insert into thing (id) values (1)").await.unwrap();
    say(&mut tx, "insert into thing (id) values (1)").await.unwrap_err();
    if std::env::var("TROVE_TEST_STORE_URL").is_ok_and(|url| url == "simulated") {
        return;
    }
    // PostgreSQL answers this commit with success and rolls back.
    tx.commit().await.unwrap_err();
    goes_on_anew(&store).await;
}

#[tokio::test]
async fn a_commit_that_fails_closes_the_connection() {
    let (store, _directory) = store().await;
    let mut tx = store.begin().await.unwrap();
    say(&mut tx, "insert into thing (id) values (1)").await.unwrap();
    say(&mut tx, "insert into part (of) values (7)").await.unwrap();
    tx.commit().await.unwrap_err();
    goes_on_anew(&store).await;
}

#[tokio::test]
async fn a_caller_who_goes_away_at_any_await_leaves_nothing_half_written() {
    let (store, _directory) = store().await;
    let write = async |store: &Store, id: i64| -> sqlx::Result<()> {
        let mut tx = store.write.begin_write().await?;
        for id in [2 * id, 2 * id + 1] {
            query("insert into thing (id) values ($1)").bind(id).execute(&mut *tx).await?;
        }
        tx.commit().await
    };
    let (mut done, mut polls) = (0, 0);
    while polls < 100_000 {
        // Try each of the first numbers of polls, then wider apart, since a busy machine needs many polls.
        polls += 1 + polls / 64;
        let before = things(&store).await;
        let mut left = polls;
        // Poll it so often, then drop it.
        let gone = poll_fn(|context| {
            left -= 1;
            context.waker().wake_by_ref();
            if left == 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        });
        let ended = matches!(select(pin!(write(&store, polls)), gone).await, Either::Left((Ok(()), _)));
        // The next transaction waits until the connection is free, and works.
        let mut tx = tokio::time::timeout(Duration::from_secs(4), store.begin()).await.unwrap().unwrap();
        say(&mut tx, "select 1").await.unwrap();
        tx.commit().await.unwrap();
        let new = things(&store).await - before;
        assert!(new == 2 || (new == 0 && !ended), "{new} of 2 rows after {polls} polls");
        done += i32::from(ended);
        if done == 3 {
            return;
        }
    }
    panic!("it never came to its end");
}

#[tokio::test]
async fn readers_that_fail_leave_no_connection_behind_and_none_is_missing() {
    let (store, _directory) = store().await;
    for _ in 0..20 {
        assert!(query("select id from thing").fetch_one(&store.read).await.is_err());
        assert!(query("select no_such_column from thing").fetch_one(&store.read).await.is_err());
    }
    assert_eq!(things(&store).await, 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_answered_waits_no_longer_than_the_limit() {
    let begun = tokio::time::Instant::now();
    let error = super::answered(std::future::pending::<sqlx::Result<()>>()).await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
    assert!(is_unavailable(&error) && !is_of_unknown_outcome(&error), "{error}");
    let error = commit_failed(error);
    assert!(is_unavailable(&error) && is_of_unknown_outcome(&error), "{error}");
    assert!(error.to_string().contains("not known") && error.to_string().contains("within 10 s"), "{error}");
}

//! Answers that come when what was asked for acts, and requests that clients mistake.

use std::sync::Arc;

use super::*;
use crate::ids::{InstanceId, OperationId};

const GRANT: &str = "users/ann/databases";

async fn with_ann(bench: &Bench) -> InstanceId {
    let id = bench.world.healthy("p").await;
    bench.world.agent.has_databases(&["d1", "d2", "a"]);
    bench.world.agent.has_user("ann", "%", &["d1"]);
    id
}

fn changes() -> [(&'static str, &'static str, Option<Value>); 5] {
    [
        ("PUT", GRANT, Some(json!({"databases": [{"name": "d2"}]}))),
        ("DELETE", "users/ann/databases/d1", None),
        ("PUT", "users/ann", Some(json!({"user": {"name": "anna"}}))),
        ("PUT", "users", Some(json!({"users": [{"name": "ann", "password": "a secret word"}]}))),
        ("DELETE", "root", None),
    ]
}

/// Sends a request, and waits until its operation is queued.
async fn begin(
    bench: &Arc<Bench>,
    id: InstanceId,
    (method, path, body): (&'static str, &'static str, Option<Value>),
) -> (tokio::task::JoinHandle<Answer>, OperationId) {
    let mut queued = bench.world.app.changes.subscribe();
    let asked = bench.clone();
    let path = format!("/v1.0/p/instances/{id}/{path}");
    let asking = tokio::spawn(async move { asked.ask(&asked.member, method, &path, body).await });
    queued.changed().await.unwrap();
    (asking, bench.world.app.store.last_active(id).await.unwrap().unwrap())
}

#[tokio::test]
async fn a_change_of_who_may_enter_answers_when_it_acts() {
    let bench = Arc::new(bench().await);
    let id = with_ann(&bench).await;
    bench.world.run("update instance set root_enabled_at = 1, root_enabled_by = 'u' where id = $1", id).await;
    for change in changes() {
        let status = if change.1 == "root" { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
        let (asking, operation) = begin(&bench, id, change.clone()).await;
        // Something else changes, which is not what is waited for.
        bench.world.app.changes.bump();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!asking.is_finished(), "{change:?}");
        bench.world.end(operation, "done", None).await;
        let answer = asking.await.unwrap();
        assert_eq!((answer.status, answer.body), (status, Value::Null), "{change:?}");
        assert_eq!(answer.headers["x-trove-operation-id"], operation.to_string());

        let (asking, operation) = begin(&bench, id, change).await;
        bench.world.end(operation, "failed", Some("step apply: the engine refused")).await;
        let answer = asking.await.unwrap();
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let said = answer.body.to_string();
        assert!(said.contains("the engine refused") && said.contains(&operation.to_string()), "{said}");
    }
}

#[tokio::test]
async fn what_lasts_longer_than_an_answer_may_is_accepted_and_goes_on() {
    let bench = Arc::new(bench_with(|config| config.api.answer_within = Duration::from_millis(50)).await);
    let id = with_ann(&bench).await;
    let [grant, ..] = changes();
    let (asking, operation) = begin(&bench, id, grant).await;
    let answer = asking.await.unwrap();
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.headers["x-trove-operation-id"], operation.to_string());
    assert_eq!(bench.world.operation(operation).await.1, "queued");
}

#[tokio::test]
async fn neither_a_client_that_goes_away_nor_the_end_of_the_service_stops_a_change() {
    let bench = Arc::new(bench().await);
    let id = with_ann(&bench).await;
    let [grant, ..] = changes();
    let (asking, left) = begin(&bench, id, grant.clone()).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    assert_eq!(bench.world.operation(left).await.1, "queued");
    bench.world.end(left, "done", None).await;

    let (asking, operation) = begin(&bench, id, grant).await;
    assert!(!asking.is_finished());
    bench.shutdown.cancel();
    let answer = tokio::time::timeout(Duration::from_secs(5), asking).await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(bench.world.operation(operation).await.1, "queued");
}

#[tokio::test]
async fn those_who_wait_hold_no_connection_of_the_store() {
    let bench = Arc::new(bench().await);
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let id = bench.world.healthy("p").await;
        bench.world.agent.has_databases(&["d1", "d2"]);
        bench.world.agent.has_user("ann", "%", &["d1"]);
        let [grant, ..] = changes();
        waiting.push(begin(&bench, id, grant).await);
    }
    assert_eq!(bench.get("/v1.0/p/instances?limit=1").await.status, StatusCode::OK);
    for (asking, operation) in waiting {
        bench.world.end(operation, "done", None).await;
        assert_eq!(asking.await.unwrap().status, StatusCode::ACCEPTED);
    }
}

#[tokio::test]
async fn what_a_client_makes_of_a_name_it_does_not_quote_deletes_nothing_else() {
    let bench = bench().await;
    let id = with_ann(&bench).await;
    bench.world.agent.has_databases(&["a", "a?x"]);
    let of = format!("/v1.0/p/instances/{id}");
    let before = bench.world.rows().await;
    for (path, status) in [
        // Of `/users/..`, `/users/ann/databases/..` and `/databases/..`.
        (format!("{of}/"), StatusCode::NOT_FOUND),
        (format!("{of}/users/ann/"), StatusCode::NOT_FOUND),
        // Of `a?x`.
        (format!("{of}/databases/a?x"), StatusCode::BAD_REQUEST),
        (format!("{of}/users/ann?x"), StatusCode::BAD_REQUEST),
        (format!("{of}/users/ann/databases/d1?x"), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(bench.ask(&bench.member, "DELETE", &path, None).await.status, status, "{path}");
    }
    let create = json!({"databases": [{"name": ".."}]});
    let refused = bench.ask(&bench.member, "POST", &format!("{of}/databases"), Some(create)).await;
    assert!(refused.status == StatusCode::BAD_REQUEST && refused.body.to_string().contains("URL"), "{}", refused.body);
    assert_eq!(bench.world.rows().await, before);
    let quoted = bench.ask(&bench.member, "DELETE", &format!("{of}/databases/a%3Fx"), None).await;
    assert_eq!(quoted.status, StatusCode::ACCEPTED);
}

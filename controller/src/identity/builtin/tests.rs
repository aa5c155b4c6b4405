//! Tests of the router with a real store.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::config::Config;
use crate::identity::hash_password;

const HERE: [u8; 4] = [192, 0, 2, 1];

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

/// An identity with one user, `ann`, whose password is `sesame`.
async fn bench() -> (tempfile::TempDir, Router) {
    let directory = tempfile::tempdir().unwrap();
    let store = crate::testing::store::open(directory.path(), 1).await;
    let user = User {
        id: "a".into(),
        name: "ann".into(),
        password_hash: hash_password(&"sesame".into()).unwrap(),
        project_id: "p".into(),
        project_name: "p".into(),
        roles: vec!["member".into()],
    };
    store.put_user(&user).await.unwrap();
    (directory, router(Service::new(store, Arc::new(Config::default())).unwrap()))
}

async fn ask(router: &Router, request: Request<Body>) -> Answer {
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let body = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or_default();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

async fn log_in(router: &Router, source: [u8; 4], identity: Value) -> Answer {
    let body = json!({"auth": {"identity": identity}}).to_string();
    let request = Request::post("/v3/auth/tokens").header("content-type", "application/json");
    let request = request.extension(Source::of(source.into()));
    ask(router, request.body(body.into()).unwrap()).await
}

async fn by_password(router: &Router, name: &str, password: &str) -> Answer {
    by_password_from(router, HERE, name, password).await
}

async fn by_password_from(router: &Router, source: [u8; 4], name: &str, password: &str) -> Answer {
    let user = json!({"name": name, "password": password, "domain": {"id": "default"}});
    log_in(router, source, json!({"methods": ["password"], "password": {"user": user}})).await
}

async fn by_token(router: &Router, answer: &Answer) -> Answer {
    let id = answer.headers["x-subject-token"].to_str().unwrap();
    log_in(router, HERE, json!({"methods": ["token"], "token": {"id": id}})).await
}

#[tokio::test]
async fn a_token_says_how_it_was_got() {
    let (_directory, router) = bench().await;
    let first = by_password(&router, "ann", "sesame").await;
    assert_eq!((first.status, &first.body["token"]["methods"]), (201, &json!(["password"])));
    let second = by_token(&router, &first).await;
    let third = by_token(&router, &second).await;
    for (answer, which) in [(&second, "second"), (&third, "third")] {
        let token = &answer.body["token"];
        assert_eq!(token["methods"], json!(["token", "password"]), "{which}");
        assert_eq!(token["audit_ids"][1], first.body["token"]["audit_ids"][0], "{which}");
        assert_eq!(token["expires_at"], first.body["token"]["expires_at"], "{which}");
    }
    let shown = Request::get("/v3/auth/tokens").header("x-auth-token", &third.headers["x-subject-token"]);
    let shown =
        ask(&router, shown.header("x-subject-token", &third.headers["x-subject-token"]).body(Body::empty()).unwrap());
    assert_eq!(shown.await.body["token"]["audit_ids"], third.body["token"]["audit_ids"], "as the store has it");
}

#[tokio::test]
async fn refusals_say_where_to_log_in_and_when() {
    let (_directory, router) = bench().await;
    let mut refused = 0;
    // The allowance grows with time, so a slow machine may allow more than ten attempts.
    let late = loop {
        let wrong = by_password(&router, "ann", "open").await;
        if wrong.status != 401 || refused == 100 {
            break wrong;
        }
        assert_eq!(wrong.headers[WWW_AUTHENTICATE], "Keystone uri=\"http://127.0.0.1:8779/identity/v3\"");
        refused += 1;
    };
    assert!(refused >= 10, "{refused} were refused for their password");
    assert_eq!(late.status, 429, "{}", late.body);
    let seconds: u64 = late.headers[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=31).contains(&seconds), "{seconds}");
    let elsewhere = by_password_from(&router, [192, 0, 2, 2], "ann", "sesame").await;
    assert_eq!(elsewhere.status, 201, "a quiet source comes in: {}", elsewhere.body);
}

#[tokio::test]
async fn a_hundred_wrong_logins_at_once_lock_nobody_out() {
    let (_directory, router) = bench().await;
    let wrong = futures::future::join_all((0..100).map(|_| by_password(&router, "ann", "open")));
    let owner = by_password_from(&router, [192, 0, 2, 2], "ann", "sesame");
    let (wrong, owner) = futures::future::join(wrong, owner).await;
    assert_eq!(owner.status, 201, "{}", owner.body);
    let refused = wrong.iter().filter(|answer| answer.status == 401).count();
    assert!((10..=12).contains(&refused), "{refused}");
    assert!(wrong.iter().all(|answer| [401, 429, 503].contains(&answer.status)));
}

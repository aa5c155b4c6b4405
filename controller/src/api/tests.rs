//! The real router over a real store; agent and host do as they are told.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use trove_strategy::{Parameter, ParameterType};

use super::http::unbuilt;
use super::{ApiState, router};
use crate::config::Config;
use crate::identity::{Identity, Policy, Service};
use crate::state::{HostState, Task};
use crate::store::identity::User;
use crate::testing::app::{World, world_with};
use crate::testing::store::{manifest, register};

mod backups;
mod configurations;
mod effects;
mod pages;
mod recovery;

/// An API with a member of project `p`, an administrator of `a`, and a reader of `p`.
struct Bench {
    world: World,
    router: Router,
    member: String,
    admin: String,
    reader: String,
    shutdown: CancellationToken,
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

async fn bench() -> Bench {
    bench_with(|_| ()).await
}

async fn bench_with(change: impl FnOnce(&mut Config)) -> Bench {
    let world = world_with(change).await;
    let identity = Service::new(world.app.store.clone(), world.app.config.clone()).unwrap();
    let mut tokens = Vec::new();
    let here = crate::connections::Source::of([127, 0, 0, 1].into());
    let password_hash = crate::identity::hash_password(&"sesame".into()).unwrap();
    for (name, project, role) in [("member", "p", "member"), ("admin", "a", "admin"), ("reader", "p", "reader")] {
        let user = User {
            id: name.into(),
            name: name.into(),
            password_hash: password_hash.clone(),
            project_id: project.into(),
            project_name: project.into(),
            roles: vec![role.into()],
        };
        world.app.store.put_user(&user).await.unwrap();
        let (token, _) = identity.login(here, name, |user| user.name == name, "sesame".into()).await.unwrap();
        tokens.push(token);
    }
    let [member, admin, reader] = <[String; 3]>::try_from(tokens).unwrap();
    let engines_authority_pem = "-----BEGIN CERTIFICATE-----".to_owned();
    let identity = Identity::builtin(identity, Policy::load(None).unwrap());
    let shutdown = CancellationToken::new();
    let state = ApiState::new(world.app.clone(), identity, engines_authority_pem, shutdown.clone());
    let router = router(state, None);
    Bench { world, router, member, admin, reader, shutdown }
}

impl Bench {
    async fn raw(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn ask(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("x-auth-token", token);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.raw(request.body(body).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&self.member, "GET", path, None).await
    }
}

#[tokio::test]
async fn only_the_bearer_of_a_token_comes_in_and_only_into_his_project() {
    let bench = bench().await;
    let nobody = bench.raw(Request::get("/v1.0/p/instances").body(Body::empty()).unwrap()).await;
    assert_eq!((nobody.status, nobody.body["unauthorized"]["code"].as_u64()), (StatusCode::UNAUTHORIZED, Some(401)));
    assert_eq!(bench.ask("made up", "GET", "/v1.0/p/instances", None).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(bench.ask(&bench.admin, "GET", "/v1.0/p/instances", None).await.status, StatusCode::FORBIDDEN);
    assert_eq!(bench.get("/v1.0/p/instances").await.body, json!({"instances": []}));
    let order = json!({"instance": {"name": "n", "flavorRef": "1", "volume": {"size": 1}}});
    let refused = bench.ask(&bench.reader, "POST", "/v1.0/p/instances", Some(order)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(bench.get("/v1.0/p/mgmt/instances").await.status, StatusCode::UNAUTHORIZED);
    for path in ["/", "/v1.0", "/v1.0/", "/healthcheck"] {
        let open = bench.raw(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(open.status, StatusCode::OK, "{path}");
        assert!(open.headers["x-openstack-request-id"].to_str().unwrap().starts_with("req-"), "{path}");
    }
}

#[tokio::test]
async fn what_readers_understand_differently_is_refused() {
    let bench = bench().await;
    let twice = r#"{"instance": {"name": "a", "name": "b", "flavorRef": "1", "volume": {"size": 1}}}"#;
    let request = Request::post("/v1.0/p/instances").header("x-auth-token", &bench.member);
    let answer = bench.raw(request.header(CONTENT_TYPE, "application/json").body(Body::from(twice)).unwrap()).await;
    assert_eq!(answer.status, 400, "{:?}", answer.body);
    assert!(answer.body.to_string().contains(r#"\"name\" stands twice"#), "{}", answer.body);
    let order = json!({"instance": {"name": "n", "flavorRef": "1/../2", "volume": {"size": 1}}});
    let answer = bench.ask(&bench.member, "POST", "/v1.0/p/instances", Some(order)).await;
    assert_eq!(answer.status, 400, "{:?}", answer.body);

    let order = json!({"instance": {"name": "n", "flavorRef": "1", "volume": {"size": 1}}});
    let made = bench.ask(&bench.member, "POST", "/v1.0/p/instances", Some(order)).await.body;
    let id = made["instance"]["id"].as_str().unwrap();
    assert_eq!(bench.get(&format!("/v1.0/p/instances/{id}")).await.status, 200);
    for other in [id.to_uppercase(), format!("%7B{id}%7D"), format!("urn:uuid:{id}"), id.replace('-', "")] {
        assert_eq!(bench.get(&format!("/v1.0/p/instances/{other}")).await.status, 404, "{other}");
    }
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_built_are_told_apart() {
    let bench = bench().await;
    for (method, path, status) in [
        ("GET", "/v1.0/p/nonsense", 404),
        ("GET", "/nonsense", 404),
        ("PATCH", "/v1.0/p/flavors", 404),
        ("GET", "/v1.0/p/instances/no-id", 404),
        ("GET", "/v1.0/p/modules", 501),
        ("GET", "/v1.0/p/configurations/x", 404),
        ("POST", "/v1.0/p/clusters", 501),
        ("GET", "/v1.0/p/instances/", 200),
        ("GET", "/v1.0/p/instances.json", 200),
        ("GET", "/v1.0/p/instances?limit=-1", 400),
        ("GET", "/v1.0/p/instances?limit=many", 400),
        ("GET", "/v1.0/p/instances?marker=%00", 400),
        ("GET", "/v1.0/p/datastores/a%00b", 404),
    ] {
        let answer = bench.ask(&bench.member, method, path, None).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.body);
        assert!(answer.headers.contains_key("x-openstack-request-id"), "{path}");
    }
}

#[tokio::test]
async fn a_refusal_that_comes_before_the_body_leaves_the_connection_open() {
    let bench = bench().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let served = tokio::spawn(axum::serve(listener, bench.router.clone()).into_future());
    let head =
        "POST /v1.0/p/instances HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n";
    let mut answers = [0; 8192];
    for n in 0..3 {
        client.write_all(head.as_bytes()).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), client.read(&mut answers)).await;
        assert!(early.is_err(), "{n}: answered before the body: {early:?}");
        client.write_all(b"{}").await.unwrap();
        let read = client.read(&mut answers).await.unwrap();
        let answer = String::from_utf8_lossy(&answers[..read]);
        assert!(answer.starts_with("HTTP/1.1 401 "), "{n}: {answer}");
    }
    served.abort();
}

#[tokio::test]
async fn bodies_are_json_of_a_sensible_size() {
    let bench = bench().await;
    let send = |content: Option<&'static str>, body: &'static str| {
        let mut request = Request::post("/v1.0/p/instances").header("x-auth-token", &bench.member);
        if let Some(content) = content {
            request = request.header(CONTENT_TYPE, content);
        }
        request.body(Body::from(body)).unwrap()
    };
    for (request, status) in [
        (send(None, "{}"), 400),
        (send(Some("text/plain"), "{}"), 415),
        (send(Some("application/json"), "{"), 400),
        (send(Some("application/json"), ""), 400),
        (send(Some("application/json; charset=utf-8"), "[]"), 400),
    ] {
        assert_eq!(bench.raw(request).await.status.as_u16(), status);
    }
    let large = json!({"instance": {"name": "x".repeat(300_000)}});
    assert_eq!(bench.ask(&bench.member, "POST", "/v1.0/p/instances", Some(large)).await.status.as_u16(), 413);
}

#[tokio::test]
async fn an_instance_is_shown_as_clients_read_it() {
    let bench = bench().await;
    let id = bench.world.healthy("p").await;
    let shown = bench.get(&format!("/v1.0/p/instances/{id}")).await.body["instance"].clone();
    assert_eq!((&shown["status"], &shown["operating_status"]), (&json!("ACTIVE"), &json!("HEALTHY")));
    assert_eq!(shown["flavor"]["id"], "1");
    assert_eq!(shown["datastore"], json!({"type": "enginedb", "version": "15", "version_number": "15.18"}));
    assert_eq!(shown["volume"]["size"], 2);
    assert!(shown["access"].is_object() && shown.get("fault").is_none() && shown.get("tenant_id").is_none());
    let created = shown["created"].as_str().unwrap();
    assert!(created.len() == 19 && !created.ends_with('Z'), "{created}");
    assert_eq!(shown["links"][0]["href"], format!("http://127.0.0.1:8779/v1.0/p/instances/{id}"));
    let admin = bench.ask(&bench.admin, "GET", &format!("/v1.0/a/mgmt/instances/{id}"), None).await.body;
    assert_eq!(admin["instance"]["tenant_id"], "p");
    assert_eq!(admin["instance"]["task_description"], "No tasks for the instance.");
    assert_eq!(bench.ask(&bench.admin, "GET", "/v1.0/a/instances", None).await.body["instances"], json!([]));
}

#[tokio::test]
async fn what_was_written_is_in_the_next_answer_however_often_it_was_asked_for() {
    let bench = bench().await;
    let id = bench.world.healthy("p").await;
    let (one, all) = (format!("/v1.0/p/instances/{id}"), "/v1.0/p/instances/detail");
    for name in ["first", "second", "third"] {
        let named = json!({"instance": {"name": name}});
        assert_eq!(bench.ask(&bench.member, "PATCH", &one, Some(named)).await.status, 202);
        for _ in 0..4 {
            let (show, list) = (bench.get(&one).await, bench.get(all).await);
            assert_eq!(
                (show.status, show.headers[CONTENT_TYPE].to_str().unwrap()),
                (StatusCode::OK, "application/json")
            );
            assert_eq!(
                (&show.body["instance"]["name"], &list.body["instances"][0]["name"]),
                (&json!(name), &json!(name))
            );
            // More is shown to administrators, and nothing of it to others afterwards.
            let admin = bench.ask(&bench.admin, "GET", &format!("/v1.0/a/instances/{id}"), None).await;
            assert_eq!(admin.body["instance"]["tenant_id"], "p");
            assert_eq!(
                (&show.body["instance"]["tenant_id"], &list.body["instances"][0]["tenant_id"]),
                (&Value::Null, &Value::Null)
            );
        }
    }
    let other = bench.ask(&bench.reader, "DELETE", &one, None).await;
    assert_eq!(other.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn pages_are_linked_under_both_names_and_end() {
    let bench = bench().await;
    for _ in 0..3 {
        bench.world.fixture.insert("p").await;
    }
    let first = bench.get("/v1.0/p/instances?limit=2&include_clustered=False").await.body;
    assert_eq!(first["instances"].as_array().unwrap().len(), 2);
    assert_eq!(first["links"], first["instances_links"]);
    let href = first["links"][0]["href"].as_str().unwrap();
    assert!(href.contains("limit=2") && href.contains("include_clustered=False"), "{href}");
    let second = bench.get(href.strip_prefix("http://127.0.0.1:8779").unwrap()).await.body;
    assert_eq!(second["instances"].as_array().unwrap().len(), 1);
    assert!(second.get("links").is_none());
}

#[tokio::test]
async fn a_write_answers_as_clients_expect_and_names_its_operation() {
    let bench = bench().await;
    let order = json!({"instance": {"name": "n", "flavorRef": 1, "volume": {"size": 1}}});
    let created = bench.ask(&bench.member, "POST", "/v1.0/p/instances", Some(order)).await;
    assert_eq!(created.status, StatusCode::OK, "{}", created.body);
    assert_eq!(created.body["instance"]["status"], "BUILD");
    let operation = created.headers["x-trove-operation-id"].to_str().unwrap().to_owned();
    let id = created.body["instance"]["id"].as_str().unwrap().to_owned();
    let operations = bench.get(&format!("/v1.0/p/instances/{id}/operations")).await.body;
    assert_eq!(operations["operations"][0]["id"], operation.as_str());
    let busy = json!({"restart": {}});
    let busy = bench.ask(&bench.member, "POST", &format!("/v1.0/p/instances/{id}/action"), Some(busy)).await;
    assert_eq!(busy.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", busy.body);

    let healthy = bench.world.healthy("p").await;
    bench.world.set(healthy, Task::None, HostState::Active).await;
    let rename = json!({"instance": {"name": "other"}});
    let path = format!("/v1.0/p/instances/{healthy}");
    let renamed = bench.ask(&bench.member, "PUT", &path, Some(rename)).await;
    assert_eq!((renamed.status, &renamed.body), (StatusCode::ACCEPTED, &Value::Null));
    assert_eq!(renamed.headers[CONTENT_TYPE], "application/json");
    let many = json!({"instance": {"replica_of": null, "configuration": "x"}});
    assert_eq!(bench.ask(&bench.member, "PUT", &path, Some(many)).await.status, StatusCode::BAD_REQUEST);
    for version in [Value::Null, json!("none"), json!("15"), json!(5)] {
        let wrong = json!({"instance": {"datastore_version": version}});
        assert_eq!(bench.ask(&bench.member, "PATCH", &path, Some(wrong)).await.status, StatusCode::BAD_REQUEST);
    }
    let unknown = json!({"instance": {"colour": "red"}});
    assert_eq!(bench.ask(&bench.member, "PATCH", &path, Some(unknown)).await.status, StatusCode::BAD_REQUEST);
    let deleted = bench.ask(&bench.member, "DELETE", &path, None).await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn datastores_flavors_and_limits_have_the_shapes_that_clients_index() {
    let bench = bench().await;
    let datastores = bench.get("/v1.0/p/datastores").await.body;
    let datastore = &datastores["datastores"][0];
    assert_eq!(datastore["default_version"], datastore["versions"][0]["id"]);
    assert!(datastore["versions"][0].get("datastore").is_none());
    let version = datastore["versions"][0]["id"].as_str().unwrap();
    let by_id = bench.get(&format!("/v1.0/p/datastores/versions/{version}")).await.body;
    assert_eq!(by_id["version"]["datastore"], datastore["id"]);
    assert_eq!(bench.get("/v1.0/p/datastores/none").await.status, StatusCode::NOT_FOUND);
    assert_eq!(bench.get("/v1.0/p/datastores/enginedb/versions/none").await.status, StatusCode::BAD_REQUEST);
    let flavor = bench.get("/v1.0/p/flavors/2").await.body;
    assert_eq!((&flavor["flavor"]["id"], &flavor["flavor"]["str_id"]), (&json!(2), &json!("2")));
    let limits = bench.get("/v1.0/p/limits").await.body;
    assert_eq!((&limits["limits"][0]["verb"], &limits["limits"][0]["max_instances"]), (&json!("ABSOLUTE"), &json!(10)));
    assert_eq!(limits["limits"].as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn quotas_are_read_by_their_owner_and_set_by_administrators() {
    let bench = bench().await;
    let own = bench.get("/v1.0/p/mgmt/quotas/p").await.body;
    assert_eq!(own["quotas"][0], json!({"resource": "instances", "in_use": 0, "reserved": 0, "limit": 10}));
    assert_eq!(own["quotas"].as_array().unwrap().len(), 5);
    assert_eq!(bench.get("/v1.0/p/mgmt/quotas/other").await.status, StatusCode::FORBIDDEN);
    let limits = json!({"quotas": {"instances": 3, "backups": "-1", "ram": null}});
    let refused = bench.ask(&bench.member, "PUT", "/v1.0/p/mgmt/quotas/p", Some(limits.clone())).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let path = "/v1.0/a/mgmt/quotas/p";
    let set = bench.ask(&bench.admin, "PUT", path, Some(limits)).await;
    assert_eq!((set.status, set.body), (StatusCode::OK, json!({"quotas": {"instances": 3, "backups": -1}})));
    for (body, status, word) in [
        (json!({"quotas": {"instances": -2}}), 400, "instances"),
        (json!({"quotas": {"instances": 5, "colours": 1}}), 404, "colours"),
        (json!({"quotas": {"instances": 5, "ram": "much"}}), 400, "quotas['ram']"),
        (json!({"quotas": [1]}), 400, "quotas"),
        (json!({}), 400, "quotas"),
    ] {
        let refused = bench.ask(&bench.admin, "PUT", path, Some(body.clone())).await;
        assert_eq!(refused.status.as_u16(), status, "{body}");
        assert!(refused.body.to_string().contains(word), "{}", refused.body);
    }
    let limits = bench.get("/v1.0/p/limits").await.body;
    assert_eq!((&limits["limits"][0]["max_instances"], &limits["limits"][0]["max_backups"]), (&json!(3), &json!(-1)));
}

#[tokio::test]
async fn a_project_that_asks_too_often_is_told_when_to_ask_again() {
    let bench = bench().await;
    for n in 0..200 {
        assert_eq!(bench.get("/v1.0/p/flavors").await.status, StatusCode::OK, "{n}");
    }
    let refused = loop {
        // Some of the allowance comes back while the test runs.
        let answer = bench.get("/v1.0/p/flavors").await;
        if answer.status != StatusCode::OK {
            break answer;
        }
    };
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    let fault = &refused.body["overLimit"];
    assert_eq!(fault["code"], 413);
    assert_eq!(refused.headers["retry-after"].to_str().unwrap(), fault["retryAfter"].as_str().unwrap());
    assert!(fault["message"].as_str().unwrap().starts_with("This request was rate-limited"), "{fault}");
    let other = bench.ask(&bench.admin, "GET", "/v1.0/a/limits", None).await;
    assert_eq!(other.body["limits"][4]["remaining"], 199, "another project is not held up: {}", other.body);
    let post = bench.ask(&bench.member, "POST", "/v1.0/p/instances", Some(json!({}))).await;
    assert_eq!(post.status, StatusCode::BAD_REQUEST, "another kind is not either");
}

#[tokio::test]
async fn parameters_are_those_of_the_manifest() {
    let bench = bench().await;
    let mut manifest = manifest();
    let mut parameter = Parameter::new("max_connections", ParameterType::Integer);
    (parameter.min, parameter.max) = (Some(1.into()), Some(i64::MAX.into()));
    parameter.default = Some("100".to_owned());
    parameter.restart_required = true;
    manifest.parameters = vec![parameter];
    register(&bench.world.app.store, &manifest).await;
    let datastore = bench.get("/v1.0/p/datastores/enginedb").await.body["datastore"].clone();
    let version = datastore["versions"][0]["id"].as_str().unwrap();
    let by_name = bench.get("/v1.0/p/datastores/enginedb/versions/15/parameters").await.body;
    let by_id = bench.get(&format!("/v1.0/p/datastores/versions/{version}/parameters")).await.body;
    assert_eq!(by_name, by_id);
    let first = &by_name["configuration-parameters"][0];
    assert_eq!(
        *first,
        json!({"name": "max_connections", "datastore_version_id": version, "type": "integer", "min": 1, "max": i64::MAX,
               "default": "100", "restart_required": true})
    );
    let one = bench.get("/v1.0/p/datastores/enginedb/versions/15/parameters/max_connections").await;
    assert_eq!(one.body, *first, "a single one is not wrapped");
    let one = bench.get(&format!("/v1.0/p/datastores/versions/{version}/parameters/max_connections")).await;
    assert_eq!(one.body, *first);
    let unknown = bench.get(&format!("/v1.0/p/datastores/versions/{version}/parameters/colour")).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.body["itemNotFound"]["message"].as_str().unwrap().contains("\"colour\""), "{}", unknown.body);
    let managed = format!("/v1.0/a/mgmt/datastores/versions/{version}/parameters/max_connections");
    let managed = bench.ask(&bench.admin, "GET", &managed, None).await.body;
    assert_eq!((&managed["min_size"], &managed["max_size"]), (&json!(1), &json!(i64::MAX)));
    let refused = bench.get(&format!("/v1.0/p/mgmt/datastores/versions/{version}/parameters")).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn versions_are_administered_and_wrong_changes_name_their_field() {
    let bench = bench().await;
    let all = bench.ask(&bench.admin, "GET", "/v1.0/a/mgmt/datastore-versions", None).await.body;
    let version = &all["versions"][0];
    assert_eq!((&version["datastore_manager"], &version["default"]), (&json!("enginedb"), &json!(true)));
    assert!(uuid::Uuid::parse_str(version["image"].as_str().unwrap()).is_ok(), "{version}");
    let path = format!("/v1.0/a/mgmt/datastore-versions/{}", version["id"].as_str().unwrap());
    let one = bench.ask(&bench.admin, "GET", &path, None).await.body;
    assert_eq!(one["version"], *version);
    for (body, word) in [
        (json!({"active": "perhaps"}), "active must be true or false"),
        (json!({"colour": "red"}), "colour"),
        (json!({"image": version["image"]}), "image"),
        (json!({"packages": ["p"]}), "packages"),
        (json!({"name": ""}), "name must have 1 to 255"),
    ] {
        let refused = bench.ask(&bench.admin, "PATCH", &path, Some(body.clone())).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(refused.body.to_string().contains(word), "{}", refused.body);
    }
    let hidden = json!({"active": false, "name": "old"});
    assert_eq!(bench.ask(&bench.admin, "PATCH", &path, Some(hidden)).await.status, StatusCode::ACCEPTED);
    assert_eq!(bench.get("/v1.0/p/datastores").await.body, json!({"datastores": []}));
    let used = bench.world.healthy("p").await;
    assert_eq!(bench.ask(&bench.admin, "DELETE", &path, None).await.status, StatusCode::BAD_REQUEST);
    let mut tx = bench.world.app.store.begin().await.unwrap();
    bench.world.app.store.mark_deleted(&mut tx, used).await.unwrap();
    tx.commit().await.unwrap();
    let datastore = "/v1.0/a/datastores/enginedb";
    assert_eq!(bench.ask(&bench.admin, "DELETE", datastore, None).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(bench.ask(&bench.admin, "DELETE", &path, None).await.status, StatusCode::ACCEPTED);
    assert_eq!(bench.ask(&bench.admin, "DELETE", &path, None).await.status, StatusCode::NOT_FOUND);
    let member = bench.ask(&bench.member, "DELETE", "/v1.0/p/datastores/enginedb", None).await;
    assert_eq!(member.status, StatusCode::FORBIDDEN);
    assert_eq!(bench.ask(&bench.admin, "DELETE", datastore, None).await.status, StatusCode::ACCEPTED);
    assert_eq!(bench.ask(&bench.admin, "DELETE", datastore, None).await.status, StatusCode::NOT_FOUND);
}

/// Which of these the handlers have. Of an unknown path, and of a wrong verb, the fallback speaks.
#[tokio::test]
async fn what_is_described_is_there_and_what_is_not_built_is_not_described() {
    let bench = bench().await;
    let served = bench.raw(Request::get("/openapi.json").body(Body::empty()).unwrap()).await;
    assert_eq!((served.status, &served.headers[CONTENT_TYPE]), (StatusCode::OK, &"application/json".parse().unwrap()));
    let (_, document) = router::described();
    assert_eq!(served.body, document, "without a token");
    let paths = document["paths"].as_object().unwrap();
    for (path, item) in paths {
        let path = path.replace("{project}", "a").replace(['{', '}'], "");
        for (verb, _) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let answer = bench.ask("", &verb.to_uppercase(), &path, None).await.status;
            let expected = if path.starts_with("/v1.0/a") { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
            assert_eq!(answer, expected, "{verb} {path}");
        }
    }
    for (path, verbs) in unbuilt::ROUTES {
        for verb in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            let method: axum::http::Method = verb.parse().unwrap();
            if verbs.or(method.try_into().unwrap()) == verbs {
                let described = paths.get(&format!("/v1.0/{{project}}{path}"));
                assert!(described.is_none_or(|item| item.get(verb.to_lowercase()).is_none()), "{verb} {path}");
                let path = format!("/v1.0/a{}", path.replace(['{', '}'], ""));
                let answer = bench.ask(&bench.admin, verb, &path, None).await;
                assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED, "{verb} {path}");
            }
        }
    }
}

//! Bad input must be answered with a clear 4xx, without injection, and leave nothing.

use anyhow::{Context, Result, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{Stack, connect, order_body, rows};

/// Hostile texts.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("'; drop database app; --".to_owned()),
        Just("\"; drop role app; --".to_owned()),
        Just("a\0b".to_owned()),
        Just("x".repeat(65_536)),
        Just("ä".repeat(40)),
        Just("../../etc/passwd".to_owned()),
        Just("%00%2e%2e".to_owned()),
        Just("🦀'\"`$\\".to_owned()),
        Just("os_admin".to_owned()),
        Just("template1".to_owned()),
        "\\PC{1,64}",
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        hostile().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{1,12}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

const FIELDS: &[&str] = &[
    "name",
    "flavorRef",
    "volume",
    "datastore",
    "databases",
    "users",
    "nics",
    "access",
    "availability_zone",
    "configuration",
    "modules",
    "locality",
    "region_name",
    "restorePoint",
    "replica_of",
    "replica_count",
];

/// A create request with one field, or a part of it, replaced. It can never succeed, since its flavor does not exist.
fn orders() -> impl Strategy<Value = Value> {
    (prop::sample::select(FIELDS), anything(), hostile(), 0..4u8).prop_map(|(field, value, text, kind)| {
        let mut body = order_body("bad");
        body["instance"]["flavorRef"] = json!("no-such-flavor");
        match kind {
            0 => body["instance"][field] = value,
            1 => body["instance"]["databases"][0]["name"] = json!(text),
            2 => body["instance"]["users"][0]["name"] = json!(text),
            _ => body = json!({"instance": value}),
        }
        body
    })
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_ever_a_server_error() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        runner(200).run(&orders(), |body| {
            let answer =
                handle.block_on(api.post("/instances", &body)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!((400..500).contains(&answer.status) || answer.status == 501, "{} for {body}", answer.status);
            prop_assert!(!answer.message().is_empty(), "no sentence for {body}");
            prop_assert!(answer.request_id.is_some_and(|id| id.starts_with("req-")));
            Ok(())
        })
    })?;
    assert_eq!(api.get("/instances").await?.body["instances"], json!([]), "a refused order left an instance");
    ensure!(stack.instances().is_empty(), "a refused order left a host");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_cannot_give_is_refused_before_anything_is_made() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    for (field, part) in [
        ("availability_zone", json!({"availability_zone": "nova"})),
        ("volume.type", json!({"volume": {"size": 1, "type": "ssd"}})),
        ("locality", json!({"locality": "anti-affinity"})),
        ("access.is_public", json!({"access": {"is_public": true}})),
    ] {
        let mut body = order_body("elsewhere");
        for (name, value) in part.as_object().into_iter().flatten() {
            body["instance"][name] = value.clone();
        }
        let answer = api.post("/instances", &body).await?;
        ensure!(answer.status == 422 && answer.message().starts_with(field), "{answer:?}");
    }
    assert_eq!(api.get("/instances").await?.body["instances"], json!([]));
    let mut body = order_body("together");
    body["instance"]["locality"] = json!("affinity");
    let answer = api.post("/instances", &body).await?;
    ensure!(answer.status == 200 && answer.body["instance"]["locality"] == "affinity", "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_is_an_injection() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("names").await?;
    let path = format!("/instances/{id}");
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        runner(40).run(&(hostile(), hostile()), |(database, user)| {
            let ask = |method: Method, path: String, body: Option<Value>| {
                let answer = handle.block_on(api.send(method, &path, body.as_ref()));
                let answer = answer.map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert!(answer.status < 500 || answer.status == 501, "{answer:?}");
                Ok(answer.status)
            };
            let body = json!({"databases": [{"name": database}]});
            let made = ask(Method::POST, format!("{path}/databases"), Some(body))?;
            prop_assert!(made == 202 || made == 400, "{made} for the database {database:?}");
            let body = json!({"users": [{"name": user, "password": database, "databases": []}]});
            ask(Method::POST, format!("{path}/users"), Some(body))?;
            for (collection, name) in [("databases", &database), ("users", &user)] {
                let name: String =
                    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).collect();
                if name.len() < 4096 && !name.is_empty() && name != "app" {
                    ask(Method::DELETE, format!("{path}/{collection}/{name}"), None)?;
                }
            }
            Ok(())
        })
    })?;
    let operations = api.await_operations(&id).await?;
    for operation in operations.as_array().context("operations")? {
        ensure!(operation["status"] == "done", "an accepted change failed: {operation}");
    }
    let client = connect(&api.instance(&id).await?, "app", "secret-app-1", "app").await?;
    assert_eq!(rows(&client, "select 1").await?, ["1"], "the tenant's own account is gone");
    Ok(())
}

#[tokio::test]
async fn ids_of_another_project_are_not_found() -> Result<()> {
    let stack = Stack::start().await?;
    let (member, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
    let id = admin.create(&order_body("theirs")).await?;
    let action = json!({"restart": {}});
    for (method, path, body) in [
        (Method::GET, format!("/instances/{id}"), None),
        (Method::DELETE, format!("/instances/{id}"), None),
        (Method::PUT, format!("/instances/{id}"), Some(json!({"instance": {"name": "mine"}}))),
        (Method::POST, format!("/instances/{id}/action"), Some(action)),
        (Method::GET, format!("/instances/{id}/databases"), None),
        (Method::GET, format!("/instances/{id}/users"), None),
        (Method::GET, format!("/instances/{id}/root"), None),
        (Method::POST, format!("/instances/{id}/root"), Some(json!({}))),
        (Method::GET, format!("/instances/{id}/operations"), None),
    ] {
        let answer = member.send(method.clone(), &path, body.as_ref()).await?;
        ensure!(answer.status == 404 || answer.status == 403, "{method} {path}: {answer:?}");
    }
    let foreign = format!("/v1.0/{}/instances", admin.project);
    assert_eq!(member.send_to(Method::GET, &foreign, None).await?.status, 403, "the path of another project");
    assert_eq!(member.get("/mgmt/instances").await?.status, 401, "management is for administrators");
    admin.await_active(&id).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_built_says_so() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    for path in ["/clusters", "/modules"] {
        let answer = api.get(path).await?;
        assert_eq!((answer.status, answer.body["notImplemented"]["code"].as_i64()), (501, Some(501)), "{path}");
    }
    let unknown = api.get("/no-such-thing").await?;
    assert_eq!((unknown.status, unknown.body["itemNotFound"]["code"].as_i64()), (404, Some(404)));
    Ok(())
}

/// The available locales are in the manifest, so a wrong one is refused before anything is accepted.
#[tokio::test]
async fn a_locale_that_the_engine_has_not_is_refused_at_once() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let with = |database: Value| {
        let mut body = order_body("locales");
        body["instance"]["databases"] = json!([database]);
        body["instance"]["users"] = json!([]);
        body
    };
    let known = json!({"name": "d", "character_set": "latin1"});
    for (field, wrong) in [
        ("character_set", json!({"name": "d", "character_set": "latin99"})),
        ("collate", json!({"name": "d", "collate": "en_UX.UTF-8"})),
        ("collate", json!({"name": "d", "character_set": "latin1", "collate": "C.UTF-8"})),
    ] {
        let answer = api.post("/instances", &with(wrong)).await?;
        ensure!(answer.status == 400 && answer.message().starts_with(field), "{answer:?}");
    }
    assert_eq!(api.get("/instances").await?.body["instances"], json!([]), "a refused order left an instance");
    let id = api.create(&with(known)).await?;
    api.await_active(&id).await?;
    let path = format!("/instances/{id}/databases");
    let answer = api.post(&path, &json!({"databases": [{"name": "e", "collate": "en_UX"}]})).await?;
    ensure!(answer.status == 400, "{answer:?}");
    let names = api.get(&path).await?.body["databases"].clone();
    assert_eq!(names, json!([{"name": "d"}]));
    Ok(())
}

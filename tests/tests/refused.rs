//! What is refused changes nothing: names, passwords, values and parameters that are wrong are answered with a 4xx that names
//! the field, on every engine, and its accounts, databases, parameters and state are as before. What is accepted works.

use anyhow::{Context, Result, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{APP, Api, Engine, Stack, each_engine, random};

const ROOT: &str = "Root-secret-1";
const PASSWORD: &str = "Refused-secret-1";

/// An instance with a group.
struct Subject {
    _stack: Stack,
    api: Api,
    engine: Engine,
    id: String,
    view: Value,
    group: String,
}

impl Subject {
    async fn new(engine: Engine) -> Result<Self> {
        let stack = Stack::of(engine).await?;
        let api = stack.login("trove").await?;
        let group = json!({"name": "g", "datastore": {"type": engine.datastore()}, "values": {engine.parameter(): 9}});
        let made = api.post("/configurations", &json!({"configuration": group})).await?;
        let group = made.body["configuration"]["id"].as_str().with_context(|| format!("{made:?}"))?.to_owned();
        let mut order = engine.order("shop");
        order["instance"]["configuration"] = json!(group);
        let id = api.create(&order).await?;
        let view = api.await_active(&id).await?;
        let root = api.post(&format!("/instances/{id}/root"), &json!({"password": ROOT})).await?;
        ensure!(root.status == 200, "{root:?}");
        api.await_operations(&id).await?;
        Ok(Self { _stack: stack, api, engine, id, view, group })
    }

    /// All that a request could change, as the API and the engine show it.
    async fn everything(&self) -> Result<Vec<String>> {
        let path = format!("/instances/{}", self.id);
        let mut all = self.engine.inside(&self.view, ROOT).await?;
        for rest in ["/databases", "/users", "/root", "/configuration", "/parameters", "/operations"] {
            all.push(format!("{rest} {}", self.api.get(&format!("{path}{rest}")).await?.body));
        }
        all.push(still(self.api.instance(&self.id).await?).to_string());
        for path in [format!("/configurations/{}", self.group), "/configurations".to_owned(), "/instances".to_owned()] {
            let mut body = self.api.get(&path).await?.body;
            if let Some(instances) = body["instances"].as_array_mut() {
                instances.iter_mut().for_each(|view| *view = still(view.take()));
            }
            all.push(format!("{path} {body}"));
        }
        Ok(all)
    }

    async fn assert_refused(&self, method: Method, path: &str, body: &Value, word: &str) -> Result<()> {
        let before = self.everything().await?;
        let what = format!("{:?}: {method} {path} {body}", self.engine);
        let answer = self.api.send(method, path, Some(body).filter(|body| !body.is_null())).await?;
        ensure!((400..500).contains(&answer.status), "{what}: {answer:?}");
        let names = answer.message().to_lowercase().contains(&word.to_lowercase());
        ensure!(names, "{what} does not name {word:?}: {}", answer.message());
        ensure!(!answer.message().contains(PASSWORD), "{what} shows the password");
        let after = self.everything().await?;
        let differs: Vec<_> = before.iter().zip(&after).filter(|(one, other)| one != other).collect();
        ensure!(differs.is_empty() && before.len() == after.len(), "{what} has changed {differs:#?}");
        Ok(())
    }

    /// Waits for a change that was accepted.
    async fn settled(&self, what: &str) -> Result<()> {
        let ended = self.api.await_operations(&self.id).await?;
        ensure!(ended[0]["status"] == "done", "{what}: {}", ended[0]);
        Ok(())
    }
}

/// An instance without the use of its volume, which moves by itself.
fn still(mut view: Value) -> Value {
    view["volume"] = view["volume"]["size"].take();
    view
}

/// Names that no engine takes for an account.
fn wrong_names(engine: Engine) -> Vec<String> {
    let whole = ["", "os_admin", "a\0b", engine.root()].map(str::to_owned);
    let long = "x".repeat(300);
    whole.into_iter().chain([long.clone(), engine.account(&long), engine.account("a\0b"), engine.account("")]).collect()
}

async fn users(it: &Subject) -> Result<()> {
    let (engine, path) = (it.engine, format!("/instances/{}/users", it.id));
    let app = engine.account(APP.0);
    let whole = |name: &str, password: &Value| json!({"name": name, "password": password});
    for name in wrong_names(engine) {
        let body = json!({"users": [whole(&name, &json!(PASSWORD))]});
        it.assert_refused(Method::POST, &path, &body, "user").await?;
        let body = json!({"user": {"name": name}});
        it.assert_refused(Method::PUT, &format!("{path}/{app}"), &body, "user").await?;
    }
    for password in [json!("x".repeat(256)), json!("a\0b"), json!(7), json!(["x"])] {
        let body = json!({"users": [whole(&engine.account("new"), &password)]});
        it.assert_refused(Method::POST, &path, &body, "password").await?;
        let body = json!({"users": [whole(&app, &password)]});
        it.assert_refused(Method::PUT, &path, &body, "password").await?;
        it.assert_refused(Method::PUT, &format!("{path}/{app}"), &json!({"user": {"password": password}}), "password")
            .await?;
        let root = format!("/instances/{}/root", it.id);
        it.assert_refused(Method::POST, &root, &json!({"password": password}), "password").await?;
    }
    // The first of two is right, and is not made either.
    let body = json!({"users": [engine.user("right", PASSWORD), whole("os_admin", &json!(PASSWORD))]});
    it.assert_refused(Method::POST, &path, &body, "user").await?;
    let twice = json!({"users": [engine.user("right", PASSWORD), engine.user("right", PASSWORD)]});
    it.assert_refused(Method::POST, &path, &twice, "right").await?;
    it.assert_refused(Method::POST, &path, &json!({"users": [engine.user(APP.0, PASSWORD)]}), APP.0).await?;
    let nobody = engine.account("nobody");
    it.assert_refused(Method::DELETE, &format!("{path}/{nobody}"), &Value::Null, "nobody").await?;
    it.assert_refused(Method::PUT, &format!("{path}/{nobody}"), &json!({"user": {"password": PASSWORD}}), "nobody")
        .await?;
    it.assert_refused(Method::DELETE, &format!("{path}/os_admin"), &Value::Null, "os_admin").await?;
    engine.log_in(&it.view, APP.0, APP.1).await.context("its user")
}

async fn databases(it: &Subject) -> Result<()> {
    let (engine, path) = (it.engine, format!("/instances/{}", it.id));
    if !engine.has_databases() {
        let body = json!({"databases": [{"name": "x"}]});
        return it.assert_refused(Method::POST, &format!("{path}/databases"), &body, "database").await;
    }
    let reserved = match engine {
        Engine::PostgreSql => "template1",
        Engine::MongoDb => "admin",
        Engine::MariaDb | Engine::Redis => "mysql",
    };
    for name in ["", "a\0b", reserved, &"x".repeat(300)] {
        let body = json!({"databases": [{"name": "right"}, {"name": name}]});
        it.assert_refused(Method::POST, &format!("{path}/databases"), &body, "database").await?;
    }
    for (field, body) in [
        ("character_set", json!({"name": "right", "character_set": "no such set"})),
        ("collate", json!({"name": "right", "collate": "no such collation"})),
        ("app", json!({"name": "app"})),
    ] {
        it.assert_refused(Method::POST, &format!("{path}/databases"), &json!({"databases": [body]}), field).await?;
    }
    it.assert_refused(Method::DELETE, &format!("{path}/databases/none"), &Value::Null, "none").await?;
    it.assert_refused(Method::DELETE, &format!("{path}/databases/{reserved}"), &Value::Null, reserved).await?;
    let access = format!("{path}/users/{}/databases", engine.account(APP.0));
    it.assert_refused(Method::PUT, &access, &json!({"databases": [{"name": "none"}]}), "none").await?;
    it.assert_refused(Method::PUT, &access, &json!({"databases": [{"name": reserved}]}), reserved).await?;
    it.assert_refused(Method::DELETE, &format!("{access}/none"), &Value::Null, "none").await
}

async fn parameters(it: &Subject) -> Result<()> {
    let (parameter, group) = (it.engine.parameter(), format!("/configurations/{}", it.group));
    let instance = format!("/instances/{}", it.id);
    for (values, word) in [
        (json!({"no_such_parameter": 1}), "no_such_parameter"),
        (json!({parameter: -1_000_000_000_000_i64}), parameter),
        (json!({parameter: "many"}), parameter),
        (json!({parameter: [1]}), parameter),
        (json!({parameter: true}), parameter),
        (json!({parameter: 10, "datadir": "/tmp"}), "datadir"),
        (json!({parameter: 10, "port": 1}), "port"),
    ] {
        let body = json!({"configuration": {"values": values}});
        it.assert_refused(Method::PATCH, &group, &body, word).await?;
        it.assert_refused(Method::PUT, &group, &body, word).await?;
    }
    let body = json!({"instance": {"configuration": "00000000-0000-0000-0000-000000000000"}});
    it.assert_refused(Method::PUT, &instance, &body, "configuration").await?;
    it.assert_refused(Method::PUT, &instance, &json!({"instance": {"name": ""}}), "name").await?;
    it.assert_refused(Method::DELETE, &group, &Value::Null, "instance").await?;
    for (action, word) in [
        (json!({"resize": {"flavorRef": "no-such"}}), "flavor"),
        (json!({"resize": {"volume": {"size": 1}}}), "size"),
        (json!({"resize": {"volume": {"size": "big"}}}), "size"),
        (json!({"no_such_action": {}}), "action"),
    ] {
        it.assert_refused(Method::POST, &format!("{instance}/action"), &action, word).await?;
    }
    Ok(())
}

/// Names and passwords at random: what is accepted works and can be taken away again, the rest changes nothing.
async fn at_random(it: &Subject, seed: u64) -> Result<()> {
    let path = format!("/instances/{}/users", it.id);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let texts = || proptest::prop_oneof!["\\PC{1,40}", "[ -~]{1,20}", "['\"`\\\\%_$;{}/.:@#&+ -]{1,10}", "[a-z]{1,70}"];
    for _ in 0..12 {
        let case = (texts(), texts()).new_tree(&mut runner).map_err(anyhow::Error::msg)?.current();
        let (name, password) = (it.engine.account(&case.0), case.1);
        let what = format!("seed {seed}, {:?}, {name:?} with {password:?}", it.engine);
        let before = it.engine.inside(&it.view, ROOT).await?;
        let users = it.api.get(&path).await?.body;
        let body = json!({"users": [it.engine.user(&case.0, &password)]});
        let answer = it.api.post(&path, &body).await?;
        if answer.status == 202 {
            it.settled(&what).await?;
            it.engine.log_in(&it.view, &case.0, &password).await.with_context(|| what.clone())?;
            let named = utf8_percent_encode(&name, NON_ALPHANUMERIC);
            let deleted = it.api.delete(&format!("{path}/{named}")).await?;
            ensure!(deleted.status == 202, "{what}: {deleted:?}");
            it.settled(&what).await?;
        } else {
            let names = ["User", "password"].iter().any(|field| answer.message().contains(field));
            ensure!((400..500).contains(&answer.status) && names, "{what}: {answer:?}");
        }
        assert_eq!(it.api.get(&path).await?.body, users, "{what}");
        assert_eq!(it.engine.inside(&it.view, ROOT).await?, before, "{what}");
    }
    Ok(())
}

async fn changes_nothing(engine: Engine) -> Result<()> {
    let seed = random::seed()?;
    let it = Subject::new(engine).await?;
    users(&it).await?;
    databases(&it).await?;
    parameters(&it).await?;
    at_random(&it, seed).await?;
    engine.log_in(&it.view, APP.0, APP.1).await.context("its user")
}

each_engine!(what_is_refused_changes_nothing_in: changes_nothing);

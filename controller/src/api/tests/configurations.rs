//! Configuration groups over HTTP.

use super::*;
use crate::ids::InstanceId;
use crate::store::sql::query;

const GROUPS: &str = "/v1.0/p/configurations";

/// A parameter of each type, of which `cold_limit` needs a restart.
fn parameters() -> Vec<Parameter> {
    let mut limit = Parameter::new("max_connections", ParameterType::Integer);
    (limit.min, limit.max) = (Some(1.into()), Some(1000.into()));
    let mut buffers = Parameter::new("buffers", ParameterType::Integer);
    buffers.unit = Some("8kB".to_owned());
    buffers.restart_required = true;
    let mut level = Parameter::new("level", ParameterType::String);
    level.allowed = vec!["low".to_owned(), "high".to_owned()];
    let plain =
        [("fast", ParameterType::Boolean), ("cost", ParameterType::Float), ("old_password", ParameterType::String)];
    let plain = plain.map(|(name, kind)| Parameter::new(name, kind));
    [limit, buffers, level].into_iter().chain(plain).collect()
}

async fn bench() -> Bench {
    let bench = super::bench().await;
    let mut manifest = manifest();
    manifest.parameters = parameters();
    manifest.capabilities.push(trove_strategy::Capability::Parameters);
    register(&bench.world.app.store, &manifest).await;
    bench
}

impl Bench {
    async fn send(&self, method: &str, path: &str, body: Value) -> Answer {
        self.ask(&self.member, method, path, Some(body)).await
    }

    async fn group(&self, values: Value) -> Value {
        let body = json!({"configuration": {"name": "tuned", "values": values}});
        let made = self.send("POST", GROUPS, body).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.body);
        made.body["configuration"].clone()
    }

    async fn attach(&self, instance: InstanceId, group: &Value) -> Answer {
        let body = json!({"instance": {"configuration": group["id"]}});
        self.send("PUT", &format!("/v1.0/p/instances/{instance}"), body).await
    }

    /// The instances for which the operation was enqueued, in order.
    async fn applications(&self) -> Vec<String> {
        let rows = query(
            "select t.resource from operation o join operation_target t on t.operation_id = o.id \
             where o.kind = 'apply_configuration' order by o.seq",
        );
        let rows = rows.fetch_all(&self.world.app.store.read).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(0)).collect()
    }
}

fn message(answer: &Answer) -> String {
    let fault = answer.body.as_object().and_then(|body| body.values().next());
    fault.and_then(|fault| fault["message"].as_str()).unwrap_or_default().to_owned()
}

fn at(group: &Value) -> String {
    format!("{GROUPS}/{}", group["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_group_is_made_shown_changed_and_deleted_as_clients_expect() {
    let bench = bench().await;
    let order = json!({"configuration": {
        "name": "tuned", "description": "for the shop",
        "values": {"MAX_connections": 100, "buffers": "64MB", "level": "LOW", "fast": true, "cost": 1.5},
        "datastore": {"type": "enginedb", "version": "15", "version_number": "15.18"}}});
    let made = bench.send("POST", GROUPS, order).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    let group = made.body["configuration"].clone();
    let values = json!({"max_connections": 100, "buffers": 8192, "level": "low", "fast": true, "cost": 1.5});
    assert_eq!(group["values"], values);
    assert_eq!((&group["name"], &group["description"]), (&json!("tuned"), &json!("for the shop")));
    assert_eq!((&group["datastore_name"], &group["datastore_version_name"]), (&json!("enginedb"), &json!("15")));
    assert_eq!((&group["datastore_version_number"], &group["instance_count"]), (&json!("15.18"), &json!(0)));
    assert!(group["created"].as_str().unwrap().len() == 19 && group["created"] == group["updated"], "{group}");
    let shown = async || bench.get(&at(&group)).await.body["configuration"].clone();
    assert_eq!(shown().await, group);
    let listed = bench.get(GROUPS).await.body;
    assert_eq!(listed["configurations"].as_array().unwrap().len(), 1);
    assert_eq!(listed["configurations"][0]["id"], group["id"]);
    assert!(listed["configurations"][0].get("values").is_none() && listed.get("links").is_none());

    let patched = bench.send("PATCH", &at(&group), json!({"configuration": {"values": {"fast": false}}})).await;
    assert_eq!((patched.status, &patched.body), (StatusCode::OK, &Value::Null));
    assert_eq!(patched.headers[CONTENT_TYPE], "application/json");
    assert_eq!((&shown().await["values"]["fast"], &shown().await["values"]["buffers"]), (&json!(false), &json!(8192)));
    let away = json!({"configuration": {"values": {"FAST": null, "cost": 2}}});
    assert_eq!(bench.send("PATCH", &at(&group), away).await.status, StatusCode::OK);
    assert_eq!((shown().await["values"].get("fast"), &shown().await["values"]["cost"]), (None, &json!(2)));

    let replacement = json!({"configuration": {"name": "other", "values": {"level": "high"}}});
    let replaced = bench.send("PUT", &at(&group), replacement).await;
    assert_eq!((replaced.status, &replaced.body), (StatusCode::ACCEPTED, &Value::Null));
    let now = shown().await;
    assert_eq!((&now["name"], &now["values"]), (&json!("other"), &json!({"level": "high"})));
    assert_eq!(now["description"], "for the shop", "what is not said stays");
    assert!(bench.applications().await.is_empty(), "no instance has it");

    let deleted = bench.ask(&bench.member, "DELETE", &at(&group), None).await;
    assert_eq!((deleted.status, &deleted.body), (StatusCode::ACCEPTED, &Value::Null));
    assert_eq!(bench.get(&at(&group)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(bench.ask(&bench.member, "DELETE", &at(&group), None).await.status, StatusCode::NOT_FOUND);
    let used: i64 = bench.world.rows().await.iter().filter(|(what, _)| *what == "in use").map(|(_, n)| n).sum();
    assert_eq!(used, 0, "its quota is given back");
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let bench = bench().await;
    let group = bench.group(json!({"max_connections": 100})).await;
    let before = (bench.world.rows().await, bench.get(&at(&group)).await.body);
    let (name, values) = (json!("n"), json!({"fast": true}));
    for (configuration, status, sentence) in [
        (json!(null), 400, "configuration is required"),
        (json!([]), 400, "configuration must be an object"),
        (json!({"values": values}), 400, "configuration['name'] is required"),
        (json!({"name": ["n"], "values": values}), 400, "configuration['name'] must be a string"),
        (json!({"name": "", "values": values}), 400, "configuration['name'] must have 1 to 255 characters"),
        (json!({"name": "a\u{0}b", "values": values}), 400, "configuration['name'] must not contain NUL"),
        (json!({"name": "a\nb", "values": values}), 400, "name"),
        (json!({"name": name}), 400, "configuration['values'] is required"),
        (json!({"name": name, "values": null}), 400, "configuration['values'] is required"),
        (json!({"name": name, "values": [1]}), 400, "configuration['values'] must be an object"),
        (json!({"name": name, "values": "{}"}), 400, "configuration['values'] must be an object"),
        (json!({"name": name, "values": values, "description": 1}), 400, "configuration['description']"),
        (
            json!({"name": name, "values": values, "description": "x".repeat(257)}),
            400,
            "description is longer than 256",
        ),
        (json!({"name": name, "values": values, "description": "\u{0}"}), 400, "NUL"),
        (json!({"name": name, "values": values, "colour": "red"}), 400, "configuration['colour'] is not known here"),
        (json!({"name": name, "values": values, "datastore": "x"}), 400, "configuration['datastore']"),
        (json!({"name": name, "values": values, "datastore": {"kind": "x"}}), 400, "['kind'] is not known here"),
        (json!({"name": name, "values": values, "datastore": {"type": "no"}}), 404, "Datastore \"no\""),
        (json!({"name": name, "values": values, "datastore": {"type": "enginedb", "version": "9"}}), 400, "\"9\""),
        (json!({"name": name, "values": {"colour": 1}}), 422, "The parameter \"colour\" cannot be set"),
        (json!({"name": name, "values": {"max_connections": 0}}), 422, "a whole number from 1 to 1000"),
        (json!({"name": name, "values": {"max_connections": null}}), 422, "The value null of the parameter"),
        (json!({"name": name, "values": {"max_connections": {"a": [1]}}}), 422, "max_connections is not allowed"),
        (json!({"name": name, "values": {"fast": 1, "level": "x"}}), 422, "fast is not allowed"),
        (json!({"name": name, "values": {"level": "x"}}), 422, "one of \"low\", \"high\""),
        (json!({"name": name, "values": {"old_password": "open\nsesame"}}), 422, "The value *** of the parameter"),
        (json!({"name": name, "values": {"fast": true, "Fast": true}}), 422, "fast is given twice"),
    ] {
        let body = json!({"configuration": configuration});
        let refused = bench.send("POST", GROUPS, body.clone()).await;
        let said = message(&refused);
        assert_eq!(refused.status.as_u16(), status, "{body}: {said}");
        assert!(said.contains(sentence), "{body}: {said}");
        assert!(!said.contains("sesame"), "{said}");
    }
    let many: serde_json::Map<String, Value> = (0..501).map(|n| (format!("p{n}"), json!(n))).collect();
    let many = bench.send("POST", GROUPS, json!({"configuration": {"name": "n", "values": many}})).await;
    assert_eq!(many.status, StatusCode::BAD_REQUEST);
    assert!(many.body.to_string().contains("has 501 parameters, and at most 500 are taken"), "{}", many.body);
    for method in ["PUT", "PATCH"] {
        for (configuration, status) in [
            (json!({}), 400),
            (json!({"values": null}), 400),
            (json!({"values": 1}), 400),
            (json!({"name": ""}), 400),
            (json!({"description": 7}), 400),
            (json!({"datastore": {}}), 400),
            (json!({"name": "changed", "values": {"max_connections": 1001}}), 422),
            (json!({"name": "changed", "values": {"colour": null}}), 422),
            (json!({"name": "changed", "values": {"max_connections": 7, "Max_connections": null}}), 422),
        ] {
            let refused = bench.send(method, &at(&group), json!({"configuration": configuration})).await;
            assert_eq!(refused.status.as_u16(), status, "{method} {configuration}: {}", refused.body);
        }
    }
    assert_eq!((bench.world.rows().await, bench.get(&at(&group)).await.body), before);
}

#[tokio::test]
async fn a_group_is_its_projects_and_the_administrators() {
    let bench = bench().await;
    let group = bench.group(json!({"fast": true})).await;
    let id = group["id"].as_str().unwrap();
    // A reader looks, and changes nothing.
    let change = json!({"configuration": {"values": {"fast": false}}});
    let new = json!({"configuration": {"name": "n", "values": {}}});
    for (method, path, body, status) in [
        ("GET", GROUPS.to_owned(), None, 200),
        ("GET", at(&group), None, 200),
        ("GET", at(&group) + "/instances", None, 200),
        ("POST", GROUPS.to_owned(), Some(new.clone()), 403),
        ("PUT", at(&group), Some(change.clone()), 403),
        ("PATCH", at(&group), Some(change.clone()), 403),
        ("DELETE", at(&group), None, 403),
    ] {
        let answer = bench.ask(&bench.reader, method, &path, body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.body);
    }
    // An administrator sees and changes what is another project's.
    let theirs = format!("/v1.0/a/configurations/{id}");
    let seen = bench.ask(&bench.admin, "GET", "/v1.0/a/configurations", None).await.body;
    assert_eq!(seen["configurations"].as_array().unwrap().len(), 1, "{seen}");
    assert_eq!(bench.ask(&bench.admin, "PATCH", &theirs, Some(change.clone())).await.status, StatusCode::OK);
    // What is another project's is not there for a member, nor is what is no id.
    let other = bench.ask(&bench.admin, "POST", "/v1.0/a/configurations", Some(new)).await.body;
    let other = other["configuration"]["id"].as_str().unwrap();
    let listed = bench.get(GROUPS).await.body;
    assert_eq!(listed["configurations"].as_array().unwrap().len(), 1, "{listed}");
    for id in [other, "no-id", &id.to_uppercase(), "00000000-0000-0000-0000-000000000000"] {
        for (method, end, body) in [
            ("GET", "", None),
            ("GET", "/instances", None),
            ("PUT", "", Some(change.clone())),
            ("PATCH", "", Some(change.clone())),
            ("DELETE", "", None),
        ] {
            let answer = bench.ask(&bench.member, method, &format!("{GROUPS}/{id}{end}"), body).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {id}{end}");
        }
    }
    let instance = bench.world.healthy("p").await;
    let refused = bench.attach(instance, &json!({"id": other})).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND, "{}", refused.body);
    let path = format!("/v1.0/a/instances/{instance}");
    let refused = bench.ask(&bench.admin, "PUT", &path, Some(json!({"instance": {"configuration": other}}))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
    assert!(refused.body.to_string().contains("of another project"), "{}", refused.body);
}

#[tokio::test]
async fn a_project_has_so_many_groups_as_its_quota_says() {
    let bench = super::bench_with(|config| config.quota.max_configurations_per_tenant = 1).await;
    let mut manifest = manifest();
    manifest.parameters = parameters();
    register(&bench.world.app.store, &manifest).await;
    let group = bench.group(json!({})).await;
    let body = json!({"configuration": {"name": "n", "values": {}}});
    let refused = bench.send("POST", GROUPS, body.clone()).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(refused.body.to_string().contains("Quota exceeded for resources: ['configurations']"), "{}", refused.body);
    let limits = bench.get("/v1.0/p/limits").await.body;
    assert_eq!(limits["limits"][0]["max_configurations"], 1);
    assert_eq!(bench.ask(&bench.member, "DELETE", &at(&group), None).await.status, StatusCode::ACCEPTED);
    assert_eq!(bench.send("POST", GROUPS, body).await.status, StatusCode::OK);
}

#[tokio::test]
async fn groups_and_their_instances_are_paged_by_id() {
    let bench = bench().await;
    let mut groups = Vec::new();
    for _ in 0..3 {
        groups.push(bench.group(json!({})).await["id"].as_str().unwrap().to_owned());
    }
    groups.sort();
    let ids = |body: &Value, list: &str| -> Vec<String> {
        let items = body[list].as_array().unwrap().iter();
        items.map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let follow = async |first: String, list: &str| {
        let (mut pages, mut next) = (Vec::new(), Some(first));
        while let Some(path) = next {
            let body = bench.get(&path).await.body;
            pages.push(ids(&body, list));
            assert_eq!(body.get("links"), body.get(format!("{list}_links")));
            let href = body["links"][0]["href"].as_str();
            next = href.map(|href| href.strip_prefix("http://127.0.0.1:8779").unwrap().to_owned());
        }
        pages
    };
    assert_eq!(follow(format!("{GROUPS}?limit=2"), "configurations").await, [&groups[..2], &groups[2..]]);
    let group = json!({"id": groups[0]});
    let mut instances = Vec::new();
    for _ in 0..3 {
        let instance = bench.world.healthy("p").await;
        assert_eq!(bench.attach(instance, &group).await.status, StatusCode::ACCEPTED);
        instances.push(instance.to_string());
    }
    instances.sort();
    let path = format!("{}/instances?limit=2", at(&group));
    assert_eq!(follow(path, "instances").await, [&instances[..2], &instances[2..]]);
    assert_eq!(bench.get(&at(&group)).await.body["configuration"]["instance_count"], 3);
}

#[tokio::test]
async fn attaching_detaching_and_changing_give_each_instance_its_values_once() {
    let bench = bench().await;
    let group = bench.group(json!({"max_connections": 100})).await;
    let (one, two) = (bench.world.healthy("p").await, bench.world.healthy("p").await);
    let path = format!("/v1.0/p/instances/{one}");
    let attached = bench.attach(one, &group).await;
    assert_eq!((attached.status, &attached.body), (StatusCode::ACCEPTED, &Value::Null));
    let operation = attached.headers["x-trove-operation-id"].to_str().unwrap().to_owned();
    let operations = bench.get(&format!("{path}/operations")).await.body;
    assert_eq!(
        (&operations["operations"][0]["id"], &operations["operations"][0]["kind"]),
        (&json!(operation), &json!("apply_configuration"))
    );
    let shown = bench.get(&path).await.body["instance"].clone();
    assert_eq!((&shown["configuration"]["id"], &shown["configuration"]["name"]), (&group["id"], &json!("tuned")));
    let href = format!("http://127.0.0.1:8779{}", at(&group));
    assert_eq!(shown["configuration"]["links"][0]["href"], href);
    assert_eq!(shown["status"], "ACTIVE");
    let listed = bench.get("/v1.0/p/instances/detail").await.body;
    let of = |id: InstanceId| {
        let found = listed["instances"].as_array().unwrap().iter().find(|found| found["id"] == id.to_string());
        found.unwrap().get("configuration").cloned()
    };
    assert_eq!((of(one), of(two)), (Some(shown["configuration"].clone()), None));

    let again = bench.attach(one, &group).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST);
    assert!(again.body.to_string().contains("detach it first"), "{}", again.body);
    // By URL, and with a new name.
    let body = json!({"instance": {"name": "renamed", "configuration": href}});
    let second = bench.send("PATCH", &format!("/v1.0/p/instances/{two}"), body).await;
    assert_eq!(second.status, StatusCode::ACCEPTED, "{}", second.body);
    assert_eq!(bench.get(&format!("/v1.0/p/instances/{two}")).await.body["instance"]["name"], "renamed");
    assert_eq!(bench.applications().await, [one.to_string(), two.to_string()]);

    let deleted = bench.ask(&bench.member, "DELETE", &at(&group), None).await;
    assert_eq!(deleted.status, StatusCode::BAD_REQUEST);
    assert!(deleted.body.to_string().contains("2 instances have it"), "{}", deleted.body);
    let changed = bench.send("PATCH", &at(&group), json!({"configuration": {"values": {"fast": true}}})).await;
    assert_eq!(changed.status, StatusCode::OK);
    let mut expected = [one.to_string(), two.to_string()];
    expected.sort();
    assert_eq!(bench.applications().await[2..], expected);
    let renamed = bench.send("PUT", &at(&group), json!({"configuration": {"name": "other"}})).await;
    assert_eq!(renamed.status, StatusCode::ACCEPTED);
    assert_eq!(bench.applications().await.len(), 4, "a name is nothing to an engine");
    // One that is being deleted takes nothing any more.
    bench.world.set(two, Task::Deleting, HostState::Active).await;
    bench.send("PUT", &at(&group), json!({"configuration": {"values": {}}})).await;
    assert_eq!(bench.applications().await[4..], [one.to_string()]);

    for (n, body) in [json!({"instance": {"configuration": null}}), json!({"instance": {}})].into_iter().enumerate() {
        let detached = bench.send("PUT", &path, body.clone()).await;
        assert_eq!(detached.status, StatusCode::ACCEPTED, "{body}: {}", detached.body);
        assert_eq!(detached.headers.contains_key("x-trove-operation-id"), n == 0, "nothing is left to detach");
        assert!(bench.get(&path).await.body["instance"].get("configuration").is_none());
    }
    assert_eq!(bench.applications().await[5..], [one.to_string()]);
    bench.attach(one, &group).await;
    assert_eq!(bench.send("PUT", &path, json!({"instance": {}})).await.status, StatusCode::ACCEPTED);
    assert!(bench.get(&path).await.body["instance"].get("configuration").is_none(), "gophercloud's detach");
}

#[tokio::test]
async fn a_group_is_not_attached_where_it_does_not_fit() {
    let bench = bench().await;
    let group = bench.group(json!({"max_connections": 100})).await;
    let instance = bench.world.healthy("p").await;
    for (task, host, status) in [
        (Task::Building, HostState::Building, 400),
        (Task::Restarting, HostState::Active, 400),
        (Task::Resizing, HostState::Active, 400),
        (Task::Deleting, HostState::Active, 400),
        (Task::Error, HostState::Active, 400),
        (Task::None, HostState::Dead, 400),
        (Task::RestartRequired, HostState::Active, 202),
    ] {
        bench.world.set(instance, task, host).await;
        let answer = bench.attach(instance, &group).await;
        assert_eq!(answer.status.as_u16(), status, "{task:?} {host:?}: {}", answer.body);
    }
    let instance = bench.world.healthy("p").await;
    let path = format!("/v1.0/p/instances/{instance}");
    for (configuration, status) in
        [(json!(""), 400), (json!([]), 400), (json!("none"), 404), (json!({}), 400), (json!("http://h/1/../2"), 400)]
    {
        let answer = bench.send("PUT", &path, json!({"instance": {"configuration": configuration}})).await;
        assert_eq!(answer.status.as_u16(), status, "{configuration}: {}", answer.body);
    }
    let both = json!({"instance": {"configuration": group["id"], "replica_of": null}});
    let refused = bench.send("PUT", &path, both).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.body.to_string().contains("replica_of and configuration"), "{}", refused.body);
    // Another version of the same datastore.
    let mut newer = manifest();
    newer.installation = trove_strategy::Installation::new("16.1", "16", "/opt/engine/16/bin");
    newer.parameters = parameters();
    register(&bench.world.app.store, &newer).await;
    let body =
        json!({"configuration": {"name": "n", "values": {}, "datastore": {"type": "enginedb", "version": "16"}}});
    let other = bench.send("POST", GROUPS, body).await.body["configuration"].clone();
    let refused = bench.attach(instance, &other).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.body.to_string().contains("is for enginedb 16"), "{}", refused.body);
    // The engine was patched, and takes less.
    let mut narrower = manifest();
    narrower.parameters = parameters();
    narrower.parameters[0].max = Some(50.into());
    register(&bench.world.app.store, &narrower).await;
    let refused = bench.attach(instance, &group).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
    assert!(bench.get(&path).await.body["instance"].get("configuration").is_none());
}

#[tokio::test]
async fn an_order_names_its_group() {
    let bench = bench().await;
    let group = bench.group(json!({"max_connections": 100})).await;
    let order = |configuration: Value| json!({"instance": {"name": "n", "flavorRef": 1, "volume": {"size": 1}, "configuration": configuration}});
    let before = bench.world.rows().await;
    for (configuration, status) in [(json!("x"), 404), (json!(7), 404), (json!([]), 400), (json!(true), 400)] {
        let refused = bench.send("POST", "/v1.0/p/instances", order(configuration.clone())).await;
        assert_eq!(refused.status.as_u16(), status, "{configuration}: {}", refused.body);
    }
    assert_eq!(bench.world.rows().await, before);
    let made = bench.send("POST", "/v1.0/p/instances", order(group["id"].clone())).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    assert_eq!(made.body["instance"]["configuration"]["id"], group["id"]);
    assert!(bench.applications().await.is_empty(), "the engine starts with the values");
    let id = made.body["instance"]["id"].as_str().unwrap().parse().unwrap();
    let wanted = bench.world.app.store.wanted_parameters(id).await.unwrap();
    assert_eq!(json!(wanted), json!({"max_connections": 100}));
}

#[tokio::test]
async fn a_password_is_masked_and_kept_when_it_is_sent_back() {
    let bench = bench().await;
    let group = bench.group(json!({"old_password": "sesame", "fast": true})).await;
    assert_eq!(group["values"], json!({"old_password": "***", "fast": true}));
    let replaced = bench.send("PUT", &at(&group), json!({"configuration": {"values": group["values"]}})).await;
    assert_eq!(replaced.status, StatusCode::ACCEPTED, "{}", replaced.body);
    let stored = bench.world.app.store.get_configuration(group["id"].as_str().unwrap().parse().unwrap()).await;
    assert_eq!(json!(stored.unwrap().unwrap().values), json!({"old_password": "sesame", "fast": true}));
}

#[tokio::test]
async fn what_the_engine_runs_with_stands_beside_what_was_asked_for() {
    use trove_proto::v1::ParameterValue;

    let bench = bench().await;
    let group = bench.group(json!({"max_connections": 100, "buffers": "64MB", "fast": true})).await;
    let instance = bench.world.healthy("p").await;
    let path = format!("/v1.0/p/instances/{instance}");
    let values = [("max_connections", "100"), ("buffers", "16384"), ("fast", "on"), ("old_password", "sesame")];
    let value = |(name, value): (&str, &str)| ParameterValue { name: name.to_owned(), value: value.to_owned() };
    *bench.world.agent.parameters.lock().unwrap() = values.map(value).to_vec();
    let real = bench.get(&format!("{path}/configuration")).await.body;
    assert_eq!(
        real,
        json!({"instance": {"configuration":
            {"max_connections": "100", "buffers": "16384", "fast": "on", "old_password": "***"}}})
    );
    assert_eq!(bench.get(&format!("{path}/parameters")).await.body, json!({"parameters": []}));
    let attached = bench.attach(instance, &group).await;
    let operation = attached.headers["x-trove-operation-id"].to_str().unwrap().parse().unwrap();
    bench.world.end(operation, "done", None).await;
    let results = r#"{"max_connections": {"state": "live"}, "buffers": {"state": "needs_restart"}}"#;
    let sql = query("update instance set parameter_results = $2 where id = $1");
    sql.bind(instance.to_string()).bind(results).execute(&bench.world.app.store.write).await.unwrap();
    let shown = bench.get(&path).await.body["instance"].clone();
    assert_eq!((&shown["status"], &shown["operating_status"]), (&json!("RESTART_REQUIRED"), &json!("")));
    let compared = bench.get(&format!("{path}/parameters")).await.body["parameters"].clone();
    let of = |name: &str| compared.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
    assert_eq!(compared.as_array().unwrap().len(), 3);
    assert_eq!(
        of("buffers"),
        json!({"name": "buffers", "wanted": 8192, "in_force": "16384", "differs": true, "state": "needs_restart",
               "reason": null, "unit": "8kB", "restart_required": true})
    );
    assert_eq!((&of("fast")["differs"], &of("fast")["state"]), (&json!(false), &Value::Null));
    assert_eq!((&of("max_connections")["differs"], &of("max_connections")["state"]), (&json!(false), &json!("live")));
    // An engine that does not answer: what was asked for is shown all the same.
    bench.world.says(instance, crate::state::Service::Crashed).await;
    assert_eq!(bench.get(&format!("{path}/configuration")).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let compared = bench.get(&format!("{path}/parameters")).await.body["parameters"].clone();
    assert_eq!((&compared[0]["wanted"], &compared[0]["in_force"]), (&json!(8192), &Value::Null));
    let other = bench.ask(&bench.admin, "GET", &format!("/v1.0/a/instances/{instance}/parameters"), None).await;
    assert_eq!(other.status, StatusCode::OK);
    let strange = bench.world.healthy("q").await;
    for end in ["configuration", "parameters"] {
        let answer = bench.get(&format!("/v1.0/p/instances/{strange}/{end}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
}

/// The management of the parameters of one version.
struct Managed {
    bench: Bench,
    version: String,
}

impl Managed {
    async fn begin() -> Self {
        let bench = bench().await;
        let datastore = bench.get("/v1.0/p/datastores/enginedb").await.body;
        let version = datastore["datastore"]["default_version"].as_str().unwrap().to_owned();
        Self { bench, version }
    }

    fn all(&self) -> String {
        format!("/v1.0/a/mgmt/datastores/versions/{}/parameters", self.version)
    }

    fn one(&self) -> String {
        self.all() + "/max_connections"
    }

    async fn send(&self, method: &str, path: &str, parameter: Option<Value>) -> Answer {
        let body = parameter.map(|parameter| json!({"configuration-parameter": parameter}));
        self.bench.ask(&self.bench.admin, method, path, body).await
    }

    /// What users see of all parameters.
    async fn seen(&self) -> Value {
        self.bench.get(&format!("/v1.0/p/datastores/versions/{}/parameters", self.version)).await.body
    }

    /// What users see of the one.
    async fn seen_one(&self) -> Answer {
        self.bench.get(&format!("/v1.0/p/datastores/versions/{}/parameters/max_connections", self.version)).await
    }

    async fn set(&self, value: i64) -> Answer {
        let body = json!({"configuration": {"name": "n", "values": {"max_connections": value}}});
        self.bench.send("POST", GROUPS, body).await
    }
}

fn limit(min: i64, max: i64) -> Value {
    json!({"name": "max_connections", "data_type": "integer", "restart_required": 1, "min_size": min, "max_size": max})
}

#[tokio::test]
async fn administrators_narrow_and_hide_parameters() {
    let managed = Managed::begin().await;
    let (all, one) = (managed.all(), managed.one());
    let made = managed.send("POST", &all, Some(limit(10, 50))).await;
    let view = json!({"name": "max_connections", "datastore_version_id": managed.version, "type": "integer",
        "restart_required": true, "min_size": 10, "max_size": 50});
    assert_eq!((made.status, &made.body), (StatusCode::OK, &view));
    assert_eq!(managed.send("POST", &all, Some(limit(10, 50))).await.status, StatusCode::BAD_REQUEST, "it is there");
    let seen = managed.seen_one().await.body;
    assert_eq!((&seen["min"], &seen["max"]), (&json!(10), &json!(50)));
    let refused = managed.set(51).await;
    assert!(message(&refused).contains("a whole number from 10 to 50"), "{}", refused.body);
    let group = managed.bench.group(json!({"max_connections": 50})).await;

    let narrower = json!({"data_type": "integer", "restart_required": 0, "min_size": "20", "max_size": 40});
    let changed = managed.send("PUT", &one, Some(narrower)).await;
    assert_eq!((changed.status, &changed.body["max_size"]), (StatusCode::OK, &json!(40)), "{}", changed.body);

    let hidden = managed.send("DELETE", &one, None).await;
    assert_eq!((hidden.status, &hidden.body), (StatusCode::NO_CONTENT, &Value::Null));
    assert_eq!(managed.seen_one().await.status, StatusCode::NOT_FOUND);
    for method in ["GET", "DELETE"] {
        assert_eq!(managed.send(method, &one, None).await.status, StatusCode::NOT_FOUND, "{method}");
    }
    assert_eq!(managed.send("PUT", &one, Some(limit(1, 2))).await.status, StatusCode::NOT_FOUND);
    assert_eq!(managed.set(20).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let instance = managed.bench.world.healthy("p").await;
    let refused = managed.bench.attach(instance, &group).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "the group is of before: {}", refused.body);
    assert_eq!(managed.send("POST", &all, Some(limit(1, 1000))).await.status, StatusCode::OK);
    assert_eq!(managed.bench.attach(instance, &group).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn administrators_open_nothing_that_the_engine_does_not_describe() {
    let managed = Managed::begin().await;
    let (all, one) = (managed.all(), managed.one());
    let text = |more: Value| {
        let mut body = json!({"data_type": "string", "restart_required": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let before = managed.seen().await;
    for (method, path, parameter, status, sentence) in [
        ("POST", &all, json!({"data_type": "string", "restart_required": 0}), 400, "['name'] is required"),
        ("POST", &all, text(json!({"name": "colour"})), 404, "\"colour\" cannot be found"),
        ("POST", &all, text(json!({"name": "fast"})), 400, "fast is of the type boolean"),
        ("POST", &all, text(json!({"name": "level", "min_size": 1})), 400, "level is no number"),
        ("POST", &all, text(json!({"name": "level", "colour": 1})), 400, "['colour'] is not known here"),
        ("POST", &all, json!({"name": "level", "restart_required": 0}), 400, "['data_type'] is required"),
        ("POST", &all, json!({"name": "level", "data_type": "text", "restart_required": 0}), 400, "must be boolean"),
        ("POST", &all, json!({"name": "level", "data_type": "string"}), 400, "['restart_required'] is required"),
        ("POST", &all, json!({"name": "level", "data_type": "string", "restart_required": true}), 400, "0 or 1"),
        ("POST", &all, json!({"name": "level", "data_type": "string", "restart_required": 2}), 400, "0 or 1"),
        (
            "PUT",
            &one,
            json!({"data_type": "integer", "restart_required": 0}),
            400,
            "min_size and max_size are required",
        ),
        ("PUT", &one, limit(0, 50), 400, "takes numbers from 1 to 1000"),
        ("PUT", &one, limit(1, 1001), 400, "takes numbers from 1 to 1000"),
        ("PUT", &one, limit(30, 20), 400, "min_size is greater"),
        ("PUT", &one, text(json!({"name": "level"})), 400, "must be that of the path"),
        (
            "POST",
            &all,
            json!({"name": "buffers", "data_type": "integer", "restart_required": 0, "min_size": 1, "max_size": 2}),
            400,
            "buffers needs a restart",
        ),
    ] {
        let refused = managed.send(method, path, Some(parameter.clone())).await;
        assert_eq!(refused.status.as_u16(), status, "{method} {parameter}: {}", refused.body);
        assert!(message(&refused).contains(sentence), "{method} {parameter}: {}", refused.body);
    }
    assert_eq!(managed.seen().await, before);
    for (method, path) in [("POST", &all), ("PUT", &one), ("DELETE", &one)] {
        let path = path.replacen("/a/", "/p/", 1);
        let refused = managed.bench.ask(&managed.bench.member, method, &path, Some(json!({}))).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
}

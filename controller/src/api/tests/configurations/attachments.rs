//! The group of an instance, and what its engine runs with.

use super::*;

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
        (Task::Upgrading, HostState::Active, 400),
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

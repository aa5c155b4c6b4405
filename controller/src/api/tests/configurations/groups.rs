//! Groups alone: made, shown, changed, refused, counted and paged.

use super::*;

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
async fn a_password_is_masked_and_kept_when_it_is_sent_back() {
    let bench = bench().await;
    let group = bench.group(json!({"old_password": "sesame", "fast": true})).await;
    assert_eq!(group["values"], json!({"old_password": "***", "fast": true}));
    let replaced = bench.send("PUT", &at(&group), json!({"configuration": {"values": group["values"]}})).await;
    assert_eq!(replaced.status, StatusCode::ACCEPTED, "{}", replaced.body);
    let stored = bench.world.app.store.get_configuration(group["id"].as_str().unwrap().parse().unwrap()).await;
    assert_eq!(json!(stored.unwrap().unwrap().values), json!({"old_password": "sesame", "fast": true}));
}

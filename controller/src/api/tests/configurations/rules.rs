//! What administrators narrow and hide.

use super::*;

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

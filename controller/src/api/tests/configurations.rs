//! Configuration groups over HTTP.

use super::*;
use crate::ids::InstanceId;
use crate::store::sql::query;

mod attachments;
mod groups;
mod rules;

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

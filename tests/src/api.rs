//! A client of the API over plain HTTP.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::poll::poll;

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The body; null if it is empty or not JSON.
    pub body: Value,
    pub headers: HeaderMap,
    /// `x-openstack-request-id`.
    pub request_id: Option<String>,
    /// Id of the enqueued operation.
    pub operation: Option<String>,
}

impl Answer {
    /// The message of a fault.
    pub fn message(&self) -> String {
        let fault = self.body.as_object().and_then(|object| object.values().next());
        fault.and_then(|fault| fault["message"].as_str()).unwrap_or_default().to_owned()
    }
}

/// A logged-in user of the API.
pub struct Api {
    client: Client,
    base: String,
    token: String,
    /// Project of the token.
    pub project: String,
}

impl Api {
    /// Logs in with an entry of a clouds file.
    pub async fn login(clouds: &Path, cloud: &str) -> Result<Self> {
        let text = std::fs::read_to_string(clouds).with_context(|| format!("read {}", clouds.display()))?;
        let all: Value = serde_yaml_ng::from_str(&text)?;
        let auth = &all["clouds"][cloud]["auth"];
        let url = auth["auth_url"].as_str().context("auth_url")?;
        let domain = json!({"name": "Default"});
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": auth["username"], "password": auth["password"], "domain": domain}}},
            "scope": {"project": {"name": auth["project_name"], "domain": domain}}}});
        // Keep no connections, since tests kill the controller.
        let mut builder = Client::builder().timeout(Duration::from_secs(90)).pool_max_idle_per_host(0);
        if let Some(authority) = all["clouds"][cloud]["cacert"].as_str() {
            builder = builder.tls_certs_merge([reqwest::Certificate::from_pem(&std::fs::read(authority)?)?]);
        }
        let client = builder.build()?;
        let answer = client.post(format!("{url}/auth/tokens")).json(&body).send().await?;
        if answer.status().as_u16() != 201 {
            bail!("log in as {cloud}: {} {}", answer.status(), answer.text().await?);
        }
        let header = answer.headers().get("x-subject-token").context("x-subject-token")?;
        let token = header.to_str()?.to_owned();
        let body: Value = answer.json().await?;
        let project = body["token"]["project"]["id"].as_str().context("project")?.to_owned();
        let catalog = body["token"]["catalog"].as_array().into_iter().flatten();
        let service =
            catalog.clone().find(|service| service["type"] == "database").context("the catalog's database")?;
        let endpoint = service["endpoints"][0]["url"].as_str().context("the address of the service")?;
        let base = endpoint.split("/v1.0").next().context("the address of the service")?.to_owned();
        Ok(Self { client, base, token, project })
    }

    /// The same user with another token.
    pub fn with_token(&self, token: &str) -> Self {
        let Self { client, base, project, .. } = self;
        Self { client: client.clone(), base: base.clone(), token: token.to_owned(), project: project.clone() }
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// Sends a request under the project's path.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.send_to(method, &format!("/v1.0/{}{path}", self.project), body).await
    }

    /// Sends a request to any path.
    pub async fn send_to(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut request =
            self.client.request(method, format!("{}{path}", self.base)).header("x-auth-token", &self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        Self::answer(request).await
    }

    /// Revokes a token of the same user, which that token itself asks for.
    pub async fn revoke(&self, token: &str) -> Result<Answer> {
        let request = self.client.delete(format!("{}/identity/v3/auth/tokens", self.base));
        Self::answer(request.header("x-auth-token", token).header("x-subject-token", token)).await
    }

    async fn answer(request: RequestBuilder) -> Result<Answer> {
        let answer = request.send().await?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (request_id, operation) = (header("x-openstack-request-id"), header("x-trove-operation-id"));
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let bytes = answer.bytes().await?;
        Ok(Answer {
            status,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            headers,
            request_id,
            operation,
        })
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(Method::DELETE, path, None).await
    }

    /// Creates the instance that a body describes, and returns its id.
    pub async fn create(&self, body: &Value) -> Result<String> {
        let answer = self.post("/instances", body).await?;
        let id = answer.body["instance"]["id"].as_str().filter(|_| answer.status == 200);
        Ok(id.with_context(|| format!("create {body}: {answer:?}"))?.to_owned())
    }

    /// Creates a minimal instance with a database `app` and a user `app`, whose password is `secret-app-1`.
    pub async fn order(&self, name: &str) -> Result<String> {
        self.create(&order_body(name)).await
    }

    /// Creates an instance and waits until it can be used.
    pub async fn order_and_await(&self, name: &str) -> Result<String> {
        let id = self.order(name).await?;
        self.await_active(&id).await?;
        Ok(id)
    }

    /// The instance's view, or null if it is deleted.
    pub async fn instance(&self, id: &str) -> Result<Value> {
        let answer = self.get(&format!("/instances/{id}")).await?;
        Ok(if answer.status == 404 { Value::Null } else { answer.body["instance"].clone() })
    }

    /// Waits for ACTIVE and HEALTHY.
    ///
    /// # Errors
    /// The instance went into an error, or was not active after 60 s.
    pub async fn await_active(&self, id: &str) -> Result<Value> {
        let done = |view: &Value| {
            (view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY") || view["status"] == "ERROR"
        };
        let view = poll("ACTIVE and HEALTHY", Duration::from_secs(60), async || self.instance(id).await, done).await?;
        if view["status"] == "ERROR" {
            bail!("instance {id} is in error: {}", view["fault"]);
        }
        Ok(view)
    }

    /// Waits until the instance is in error and returns its view.
    ///
    /// # Errors
    /// The instance was not in error after 90 s.
    pub async fn await_error(&self, id: &str) -> Result<Value> {
        poll("ERROR", Duration::from_secs(90), async || self.instance(id).await, |view| view["status"] == "ERROR").await
    }

    /// Waits until the instance is deleted, for at most 60 s.
    pub async fn await_gone(&self, id: &str) -> Result<()> {
        poll("404", Duration::from_secs(60), async || self.instance(id).await, Value::is_null).await?;
        Ok(())
    }

    /// Orders a backup of an instance, and returns its id.
    pub async fn back_up(&self, instance: &str, name: &str) -> Result<String> {
        let body = json!({"backup": {"name": name, "instance": instance}});
        let answer = self.post("/backups", &body).await?;
        let id = answer.body["backup"]["id"].as_str().filter(|_| answer.status == 202);
        Ok(id.with_context(|| format!("create {body}: {answer:?}"))?.to_owned())
    }

    /// Waits until a backup is completed or has failed, for at most 120 s, and returns its view.
    pub async fn await_backup(&self, id: &str) -> Result<Value> {
        let ended = |view: &Value| ["COMPLETED", "FAILED"].iter().any(|end| view["status"] == *end);
        let ask = async || Ok(self.get(&format!("/backups/{id}")).await?.body["backup"].clone());
        poll("the end of the backup", Duration::from_secs(120), ask, ended).await
    }

    /// Has a backup verified.
    pub async fn verify_backup(&self, id: &str) -> Result<()> {
        let answer = self.post(&format!("/backups/{id}/action"), &json!({"verify": {}})).await?;
        if answer.status != 202 {
            bail!("verify the backup {id}: {answer:?}");
        }
        Ok(())
    }

    /// Waits until all operations of a backup have ended, for at most 180 s, and returns them, newest first.
    pub async fn await_backup_operations(&self, id: &str) -> Result<Value> {
        let ask = async || Ok(self.get(&format!("/backups/{id}/operations")).await?.body["operations"].clone());
        let ended = |status: &Value| ["done", "failed", "cancelled"].iter().any(|end| status == end);
        poll("the end of the backup's operations", Duration::from_secs(180), ask, |all| {
            all.as_array().is_some_and(|all| all.iter().all(|operation| ended(&operation["status"])))
        })
        .await
    }

    /// Waits until a verification has ended, and returns what the backup shows of it.
    pub async fn await_verification(&self, id: &str) -> Result<Value> {
        self.await_backup_operations(id).await?;
        Ok(self.get(&format!("/backups/{id}")).await?.body["backup"]["verification"].clone())
    }

    /// Deletes a backup and waits until it is gone, for at most 60 s.
    pub async fn remove_backup(&self, id: &str) -> Result<()> {
        let path = format!("/backups/{id}");
        let answer = self.delete(&path).await?;
        if answer.status != 202 {
            bail!("delete the backup {id}: {answer:?}");
        }
        poll("404", Duration::from_secs(60), async || Ok(self.get(&path).await?.status), |status| *status == 404)
            .await?;
        Ok(())
    }

    /// Waits until no operation of the instance is active, for at most 60 s, and returns all of them, newest first.
    pub async fn await_operations(&self, id: &str) -> Result<Value> {
        let ended = |status: &Value| ["done", "failed", "cancelled"].iter().any(|end| status == end);
        poll(
            "the end of all operations",
            Duration::from_secs(60),
            async || Ok(self.get(&format!("/instances/{id}/operations")).await?.body["operations"].clone()),
            |all| all.as_array().is_some_and(|all| all.iter().all(|operation| ended(&operation["status"]))),
        )
        .await
    }
}

/// The body of a minimal create request.
pub fn order_body(name: &str) -> Value {
    json!({"instance": {
        "name": name, "flavorRef": "1", "volume": {"size": 1},
        "databases": [{"name": "app"}],
        "users": [{"name": "app", "password": "secret-app-1", "databases": [{"name": "app"}]}]}})
}

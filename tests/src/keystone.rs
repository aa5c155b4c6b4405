//! A real Keystone for a test, with the users that tests need.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::server::{Program, Server};
use crate::stack::{Stack, StackOptions};

const PROGRAM: Program = Program { name: "Keystone", script: "keystone.sh", cache: "TROVE_TESTS_KEYSTONE", port: 5000 };

/// A Keystone in its own directory. Dropping it stops it.
pub struct Keystone {
    server: Server,
    client: Client,
    token: String,
}

impl Keystone {
    /// Starts a Keystone with the service's user `trove` (role `service` in the project `service`), and a member and a
    /// reader of the project `demo`. Its bootstrap makes the project `admin` and its administrator.
    /// `TROVE_TESTS_KEYSTONE`, which `make test` sets, must be set.
    pub async fn start(tls: bool) -> Result<Self> {
        let (server, client) = Server::new(&PROGRAM, tls)?;
        let mut keystone = Self { server, client, token: String::new() };
        keystone.run()?;
        keystone.token = keystone.log_in("admin", "admin", "admin").await?;
        for (user, project, role) in
            [("trove", "service", "service"), ("demo", "demo", "member"), ("reader", "demo", "reader")]
        {
            keystone.grant(user, project, role).await.with_context(|| format!("make the user {user}"))?;
        }
        keystone.write_clouds()?;
        Ok(keystone)
    }

    /// Starts it, or starts it again with the same state.
    pub fn run(&mut self) -> Result<()> {
        match self.server.run()? {
            None => Ok(()),
            Some(reason) => bail!("Keystone does not run here: {reason}"),
        }
    }

    /// Kills it with SIGKILL; its state stays.
    pub fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.server.signal(signal)
    }

    /// Its v3 API.
    pub fn url(&self) -> String {
        self.server.url() + "/v3"
    }

    /// A clouds file with `trove` (the member), `trove-reader` and `trove-admin`. A stack gets a copy.
    fn clouds_yaml(&self) -> PathBuf {
        self.server.file("clouds.yaml")
    }

    fn write_clouds(&self) -> Result<()> {
        let cloud = |user: &str, project: &str| {
            let mut cloud = json!({"identity_api_version": "3", "region_name": "RegionOne", "auth": {
                "auth_url": self.url(), "username": user, "password": user, "project_name": project,
                "user_domain_name": "Default", "project_domain_name": "Default"}});
            if let Some(file) = self.server.ca_file() {
                cloud["cacert"] = json!(file);
            }
            cloud
        };
        let clouds = json!({"clouds": {
            "trove": cloud("demo", "demo"),
            "trove-reader": cloud("reader", "demo"),
            "trove-admin": cloud("admin", "admin")}});
        Ok(std::fs::write(self.clouds_yaml(), serde_yaml_ng::to_string(&clouds)?)?)
    }

    /// Number of token validations so far.
    pub fn validations(&self) -> Result<usize> {
        let log = std::fs::read_to_string(self.server.state().join("access.log"))?;
        Ok(log.lines().filter(|line| line.starts_with("GET /v3/auth/tokens")).count())
    }

    /// Number of logins so far.
    pub fn logins(&self) -> Result<usize> {
        let log = std::fs::read_to_string(self.server.state().join("access.log"))?;
        Ok(log.lines().filter(|line| line.starts_with("POST /v3/auth/tokens")).count())
    }

    /// A stack that uses this Keystone and is in its catalog. `config` is additional configuration; `section`
    /// additional options of the section `keystone`.
    pub async fn stack(&self, section: &str, config: &str) -> Result<Stack> {
        let (password, ca) = (self.server.secret_file("password", "trove")?, self.server.ca_line());
        let config = format!(
            "[keystone]\nauth_url = {:?}\nusername = \"trove\"\npassword_file = {password:?}\n{ca}{section}\n\
             [identity]\nmode = \"keystone\"\n{config}\n",
            self.url()
        );
        let options = StackOptions { config, ..StackOptions::default() };
        let mut stack = Stack::prepare(options)?;
        self.register(&stack.url()).await?;
        stack.run(&crate::Failpoints::default())?;
        ensure!(!stack.clouds_yaml().exists(), "users of the built-in identity were made");
        std::fs::copy(self.clouds_yaml(), stack.clouds_yaml())?;
        stack.await_datastore().await?;
        Ok(stack)
    }

    /// Adds the service to the catalog, as the operator's guide describes.
    async fn register(&self, url: &str) -> Result<()> {
        let service = json!({"service": {"type": "database", "name": "trove"}});
        let service = self.call(Method::POST, "/services", &service).await?["service"]["id"].clone();
        let endpoint = json!({"endpoint": {"service_id": service, "interface": "public", "region_id": "RegionOne",
            "url": format!("{url}/v1.0/%(project_id)s")}});
        self.call(Method::POST, "/endpoints", &endpoint).await?;
        Ok(())
    }

    /// Gives a user a role in a project. Makes user (with its name as password), role and project if they do not exist.
    async fn grant(&self, user: &str, project: &str, role: &str) -> Result<()> {
        let id = async |kind: &str, name: &str, body: Value| {
            let found = self.call(Method::GET, &format!("/{kind}s?name={name}"), &Value::Null).await?;
            let known = found[format!("{kind}s")][0]["id"].as_str().map(str::to_owned);
            if let Some(id) = known {
                return anyhow::Ok(id);
            }
            let made = self.call(Method::POST, &format!("/{kind}s"), &json!({kind: body})).await?;
            made[kind]["id"].as_str().map(str::to_owned).context("an id")
        };
        let project = id("project", project, json!({"name": project, "domain_id": "default"})).await?;
        let user = id("user", user, json!({"name": user, "password": user, "domain_id": "default"})).await?;
        let role = id("role", role, json!({"name": role})).await?;
        let path = format!("/projects/{project}/users/{user}/roles/{role}");
        self.call(Method::PUT, &path, &Value::Null).await?;
        Ok(())
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let mut request = self.client.request(method, self.url() + path).header("x-auth-token", &self.token);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "Keystone answers {status} to {path}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Logs a user in, for a project or unscoped, and returns the token.
    pub async fn log_in(&self, user: &str, password: &str, project: &str) -> Result<String> {
        let domain = json!({"name": "Default"});
        let mut body = json!({"auth": {"identity": {"methods": ["password"], "password": {
            "user": {"name": user, "password": password, "domain": domain}}}}});
        body["auth"]["scope"] = match project {
            "" => json!("unscoped"),
            name => json!({"project": {"name": name, "domain": domain}}),
        };
        let answer = self.client.post(self.url() + "/auth/tokens").json(&body).send().await?;
        ensure!(answer.status().as_u16() == 201, "log in as {user}: {}", answer.status());
        let token = answer.headers().get("x-subject-token").context("x-subject-token")?;
        Ok(token.to_str()?.to_owned())
    }

    /// Revokes a token.
    pub async fn revoke(&self, token: &str) -> Result<()> {
        let request = self.client.delete(self.url() + "/auth/tokens");
        let answer = request.header("x-auth-token", &self.token).header("x-subject-token", token).send().await?;
        ensure!(answer.status().as_u16() == 204, "revoke a token: {}", answer.status());
        Ok(())
    }

    /// Revokes all tokens of the service's own user, by setting its password to the same value.
    pub async fn forget_the_service(&self) -> Result<()> {
        let found = self.call(Method::GET, "/users?name=trove", &Value::Null).await?;
        let id = found["users"][0]["id"].as_str().context("the user trove")?;
        self.call(Method::PATCH, &format!("/users/{id}"), &json!({"user": {"password": "trove"}})).await?;
        Ok(())
    }
}

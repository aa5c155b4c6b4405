//! The public API: requests, faults, pages, and finding things by name or id.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderMap;
use reqwest::{Certificate, Client, Method};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::auth::{self, Session};
use crate::cloud::Cloud;
use crate::error::{Failure, Result, plain};

/// How long one call waits in all where the service says that it is asked too often.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stream ends when its service says so.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// An accepted request.
pub(crate) struct Answer {
    /// The body; null when there is none.
    pub(crate) body: Value,
    /// The operation that it enqueued.
    pub(crate) operation: Option<String>,
    /// The ids of the increments that were deleted with what they build on.
    pub(crate) increments: Option<String>,
}

/// The API of one cloud.
pub(crate) struct Api {
    client: Client,
    cloud: Cloud,
    session: Session,
}

/// A part of a path.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Refuses a path in which a name is a step to somewhere else: to HTTP clients, and to proxies, an encoded `..` is one too.
///
/// # Errors
/// Wrong usage.
fn refuse_steps(path: &str) -> Result<()> {
    let steps = [segment("."), segment("..")];
    match path.split(['/', '?']).find(|part| steps.iter().any(|step| step == part)) {
        Some(_) => Err(Failure::Usage("Nothing that is named . or .. can be reached by a URL.".to_owned())),
        None => Ok(()),
    }
}

impl Api {
    /// Connects: with the token of the last call, or by logging in.
    ///
    /// # Errors
    /// As of [`auth::login`]; or the authority to trust cannot be read.
    pub(crate) async fn open(cloud: Cloud) -> Result<Self> {
        let mut builder = Client::builder().timeout(Duration::from_secs(90)).user_agent("trovectl");
        if let Some(path) = &cloud.cacert {
            let pem =
                std::fs::read(path).map_err(|error| Failure::Usage(format!("Read {}: {error}.", path.display())))?;
            let certificate = Certificate::from_pem(&pem)
                .map_err(|_| Failure::Usage(format!("{} is no certificate (PEM).", path.display())))?;
            builder = builder.add_root_certificate(certificate);
        }
        if !cloud.verify {
            builder = builder.danger_accept_invalid_certs(true);
        }
        let client = builder.build().map_err(|error| Failure::failed(format!("Set up HTTP: {}.", plain(&error))))?;
        let session = match auth::cached(&cloud) {
            Some(session) => session,
            None => auth::login(&client, &cloud).await?,
        };
        Ok(Self { client, cloud, session })
    }

    /// Sends a request. `what` says what for: `create the instance x`.
    ///
    /// # Errors
    /// The service cannot be reached or refuses: with its own sentence.
    pub(crate) async fn send(
        &mut self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        refuse_steps(path)?;
        let mut again = true;
        let mut patience = PATIENCE;
        loop {
            let url = format!("{}{path}", self.session.endpoint);
            let mut request = self.client.request(method.clone(), &url);
            request = request.header("x-auth-token", self.session.token.expose_secret());
            request = request.header("accept", "application/json");
            if let Some(body) = body {
                request = request.json(body);
            }
            let answer = request.send().await.map_err(|error| {
                let next = "Does the service run?";
                Failure::failed(format!("Could not {what}: {url}: {}. {next}", plain(&error)))
            })?;
            let status = answer.status();
            if status.as_u16() == 401 && again {
                // The kept token may be of a service that was made anew.
                again = false;
                auth::forget(&self.cloud);
                self.session = auth::login(&self.client, &self.cloud).await?;
                continue;
            }
            if status.as_u16() == 413
                && let Some(pause) = retry_after(answer.headers()).filter(|pause| patience >= *pause)
            {
                patience -= pause;
                tokio::time::sleep(pause).await;
                continue;
            }
            let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let (operation, increments) = (header("x-trove-operation-id"), header("x-trove-increments"));
            let body: Value = answer.json().await.unwrap_or_default();
            if status.is_success() {
                return Ok(Answer { body, operation, increments });
            }
            return Err(refused(what, status.as_u16(), &body));
        }
    }

    /// The id of the project that the token is for.
    pub(crate) fn project(&self) -> &str {
        self.session.endpoint.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    /// The id of a project by its name or id, as the identity knows it: the service itself would take any text for an id.
    ///
    /// # Errors
    /// There is no such project, or several; the identity cannot be asked.
    pub(crate) async fn find_project(&mut self, name_or_id: &str) -> Result<String> {
        if name_or_id == self.project() {
            return Ok(name_or_id.to_owned());
        }
        // A kept token that is no good any more is renewed by a call whose answer does not matter.
        self.get("ask who one is", "/limits").await?;
        let what = format!("find the project {name_or_id}");
        let (status, body) = self.ask_identity(&what, &format!("/projects/{}", segment(name_or_id))).await?;
        if let Some(id) = body["project"]["id"].as_str().filter(|_| status == 200) {
            return Ok(id.to_owned());
        }
        let (status, body) = self.ask_identity(&what, &format!("/projects?name={}", segment(name_or_id))).await?;
        match (status, body["projects"].as_array().map(Vec::as_slice)) {
            (200, Some([project])) => Ok(project["id"].as_str().unwrap_or_default().to_owned()),
            (200, Some([])) => {
                Err(Failure::NotFound(format!("Could not {what}: the identity knows no project of this name or id.")))
            }
            (200, Some(_)) => Err(Failure::Usage(format!("Could not {what}: several have this name; give the id."))),
            _ => Err(refused(&what, status, &body)),
        }
    }

    async fn ask_identity(&self, what: &str, path: &str) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.cloud.auth_url.trim_end_matches('/'));
        let request = self.client.get(&url).header("x-auth-token", self.session.token.expose_secret());
        let answer = request
            .send()
            .await
            .map_err(|error| Failure::failed(format!("Could not {what}: {url}: {}.", plain(&error))))?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.unwrap_or_default()))
    }

    /// An answer that goes on until the service ends it.
    ///
    /// # Errors
    /// As of [`Api::send`].
    pub(crate) async fn open_stream(&mut self, what: &str, path: &str) -> Result<reqwest::Response> {
        // A kept token that is no good any more is renewed by a call whose answer does not matter.
        self.get(what, "/limits").await?;
        let request = self.client.get(format!("{}{path}", self.session.endpoint)).timeout(FOREVER);
        let request = request.header("x-auth-token", self.session.token.expose_secret());
        let answer =
            request.send().await.map_err(|error| Failure::failed(format!("Could not {what}: {}.", plain(&error))))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        Err(refused(what, status, &answer.json().await.unwrap_or_default()))
    }

    /// GET.
    ///
    /// # Errors
    /// As of [`Api::send`].
    pub(crate) async fn get(&mut self, what: &str, path: &str) -> Result<Value> {
        Ok(self.send(what, Method::GET, path, None).await?.body)
    }

    /// A whole collection, page after page.
    ///
    /// # Errors
    /// As of [`Api::send`].
    pub(crate) async fn list(&mut self, what: &str, path: &str, collection: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut next = path.to_owned();
        loop {
            let mut body = self.get(what, &next).await?;
            if let Some(Value::Array(page)) = body.get_mut(collection).map(Value::take) {
                items.extend(page);
            }
            let link = body["links"].as_array().and_then(|links| links.iter().find(|link| link["rel"] == "next"));
            let query = link.and_then(|link| link["href"].as_str()?.split_once('?')).map(|(_, query)| query.to_owned());
            let Some(query) = query else { return Ok(items) };
            next = format!("{}?{query}", path.split('?').next().unwrap_or(path));
        }
    }

    /// An instance by id, or by name over all pages.
    ///
    /// # Errors
    /// Not found; several have the name: the sentence lists their ids.
    pub(crate) async fn find_instance(&mut self, wanted: &str) -> Result<Value> {
        if uuid::Uuid::parse_str(wanted).is_ok() {
            let found = self.get(&format!("find the instance {wanted}"), &format!("/instances/{wanted}")).await?;
            return Ok(found["instance"].clone());
        }
        let none = "in this project. `trovectl instance list` shows them.";
        self.named("instance", wanted, "/instances", "instances", none).await
    }

    /// An instance of whichever project, by name over all pages; for administrators.
    ///
    /// # Errors
    /// As of [`Api::find_instance`].
    pub(crate) async fn find_any_instance(&mut self, wanted: &str) -> Result<Value> {
        let none = "in any project. `trovectl instance list --all-projects` shows them.";
        self.named("instance", wanted, "/mgmt/instances?deleted=false", "instances", none).await
    }

    /// A configuration group with its values, by id, or by name over all pages.
    ///
    /// # Errors
    /// As of [`Api::find_instance`].
    pub(crate) async fn find_configuration(&mut self, wanted: &str) -> Result<Value> {
        let id = if uuid::Uuid::parse_str(wanted).is_ok() {
            wanted.to_owned()
        } else {
            let none = "in this project. `trovectl config list` shows them.";
            let found = self.named("configuration group", wanted, "/configurations", "configurations", none).await?;
            found["id"].as_str().unwrap_or_default().to_owned()
        };
        let what = format!("show the configuration group {wanted}");
        Ok(self.get(&what, &format!("/configurations/{id}")).await?["configuration"].take())
    }

    /// A backup by id, or by name over all pages.
    ///
    /// # Errors
    /// As of [`Api::find_instance`].
    pub(crate) async fn find_backup(&mut self, wanted: &str) -> Result<Value> {
        if uuid::Uuid::parse_str(wanted).is_ok() {
            let found = self.get(&format!("find the backup {wanted}"), &format!("/backups/{wanted}")).await?;
            return Ok(found["backup"].clone());
        }
        let none = "in this project. `trovectl backup list` shows them.";
        self.named("backup", wanted, "/backups", "backups", none).await
    }

    /// A schedule of backups by id, or by the name or id of an instance that has one alone.
    ///
    /// # Errors
    /// As of [`Api::find_instance`].
    pub(crate) async fn find_schedule(&mut self, wanted: &str) -> Result<Value> {
        let mut instance = wanted.to_owned();
        if uuid::Uuid::parse_str(wanted).is_ok() {
            let path = format!("/backup_schedules/{wanted}");
            match self.get(&format!("find the backup schedule {wanted}"), &path).await {
                Ok(mut found) => return Ok(found["backup_schedule"].take()),
                Err(Failure::NotFound(_)) => {}
                Err(other) => return Err(other),
            }
        } else {
            let found = self.find_instance(wanted).await?;
            instance = found["id"].as_str().unwrap_or_default().to_owned();
        }
        let what = format!("find the backup schedule of {wanted}");
        let path = format!("/backup_schedules?instance_id={instance}");
        let found = self.list(&what, &path, "backup_schedules").await?;
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Failure::NotFound(format!(
                "There is no backup schedule {wanted}, nor one of an instance {wanted}. `trovectl backup schedule list` shows them."
            ))),
            several => {
                let ids: Vec<&str> = several.iter().filter_map(|found| found["id"].as_str()).collect();
                Err(Failure::Usage(format!(
                    "{wanted} has several backup schedules; say which by id: {}.",
                    ids.join(", ")
                )))
            }
        }
    }

    async fn named(&mut self, noun: &str, wanted: &str, path: &str, collection: &str, none: &str) -> Result<Value> {
        let mut all = self.list(&format!("find the {noun} {wanted}"), path, collection).await?;
        all.retain(|found| found["name"] == wanted);
        match all.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Failure::NotFound(format!("There is no {noun} {wanted} {none}"))),
            several => {
                let ids: Vec<&str> = several.iter().filter_map(|found| found["id"].as_str()).collect();
                Err(Failure::Usage(format!("Several {noun}s are named {wanted}; say which by id: {}.", ids.join(", "))))
            }
        }
    }
}

/// When a service that is asked too often wants to be asked again.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The sentence of a fault: `{"itemNotFound": {"message": …}}` or a flat message.
fn refused(what: &str, status: u16, body: &Value) -> Failure {
    let nested = body.as_object().and_then(|object| object.values().find_map(|fault| fault["message"].as_str()));
    let said = nested.or_else(|| body["message"].as_str()).unwrap_or("no reason was given");
    let hint = match status {
        401 | 403 => " Is it the right cloud and user?",
        422 if said.contains("not ready") => {
            " Try again when the instance is ready: `trovectl operations` shows what it does."
        }
        501 => " This service does not have it.",
        _ => "",
    };
    let text = format!("Could not {what}: {said} ({status}){hint}");
    if status == 404 { Failure::NotFound(text) } else { Failure::Failed(text) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_becomes_one_sentence() {
        let body = json!({"itemNotFound": {"code": 404, "message": "Resource x cannot be found."}});
        let failure = refused("show x", 404, &body);
        assert_eq!(failure.to_string(), "Could not show x: Resource x cannot be found. (404)");
        assert!(matches!(failure, Failure::NotFound(_)));
        assert!(refused("do", 500, &Value::Null).to_string().contains("no reason"));
        let says = |text: &str| refused("do", 422, &json!({"unprocessableEntity": {"message": text}})).to_string();
        assert!(says("Instance x is not ready, status: BUILD.").contains("Try again"));
        assert!(!says("Operation not supported for datastore x.").contains("Try again"));
    }

    #[test]
    fn parts_of_paths_are_encoded() {
        assert_eq!(segment("a/b@%.x"), "a%2Fb%40%25%2Ex");
        let path = |name: &str| format!("/instances/i/users/{}/databases", segment(name));
        for name in [".", ".."] {
            assert!(refuse_steps(&path(name)).is_err(), "{name}");
        }
        for name in ["...", "a/../b", "?..", ".a"] {
            assert!(refuse_steps(&path(name)).is_ok(), "{name}");
        }
    }
}

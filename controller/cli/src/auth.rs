//! Logging in at Keystone, and a token that is kept for the next call.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cloud::Cloud;
use crate::error::{Failure, Result, plain};

/// A token with the service's address, as the catalog has it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    #[serde(serialize_with = "expose")]
    pub(crate) token: SecretString,
    /// `http://…/v1.0/<project>`.
    pub(crate) endpoint: String,
    /// RFC 3339.
    expires_at: String,
}

// Only for the cache, a 0600 file.
fn expose<S: serde::Serializer>(token: &SecretString, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose_secret())
}

/// The token of the last call, if it is good for another minute.
pub(crate) fn cached(cloud: &Cloud) -> Option<Session> {
    let session: Session = serde_json::from_slice(&std::fs::read(cache_file(cloud)?).ok()?).ok()?;
    let expires = OffsetDateTime::parse(&session.expires_at, &Rfc3339).ok()?;
    (expires > OffsetDateTime::now_utc() + time::Duration::minutes(1)).then_some(session)
}

/// Forgets the token of the last call: it was refused.
pub(crate) fn forget(cloud: &Cloud) {
    if let Some(file) = cache_file(cloud) {
        // Not there is as good.
        let _ = std::fs::remove_file(file);
    }
}

/// A file for each place, user and project.
fn cache_file(cloud: &Cloud) -> Option<PathBuf> {
    let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let project = cloud.project_id.as_ref().or(cloud.project_name.as_ref());
    let key = format!("{}|{}|{}", cloud.auth_url, cloud.username, project.map_or("", |project| project));
    let name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    Some(home.join("trovectl").join(format!("{name}.json")))
}

fn keep(cloud: &Cloud, session: &Session) -> Option<()> {
    let file = cache_file(cloud)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(file.parent()?).ok()?;
    // 0600, and with a name of its own: two calls may log in at once.
    let mut new = tempfile::NamedTempFile::new_in(file.parent()?).ok()?;
    new.write_all(&serde_json::to_vec(session).ok()?).ok()?;
    new.persist(file).ok().map(drop)
}

/// Logs in and keeps the token.
///
/// # Errors
/// Keystone cannot be reached or refuses, or its catalog has no database service.
pub(crate) async fn login(client: &Client, cloud: &Cloud) -> Result<Session> {
    let url = format!("{}/auth/tokens", cloud.auth_url.trim_end_matches('/'));
    let answer = client.post(&url).json(&request(cloud)).send().await;
    let answer = answer.map_err(|error| {
        let next = "Does the service run, and is auth_url right?";
        Failure::failed(format!("Log in at {url}: {}. {next}", plain(&error)))
    })?;
    let status = answer.status();
    let token = answer.headers().get("x-subject-token").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body: Value = answer.json().await.unwrap_or_default();
    let (true, Some(token)) = (status.is_success(), token) else {
        let said = body["error"]["message"].as_str().unwrap_or("no reason was given");
        let next = "Check user name, password and project.";
        return Err(Failure::failed(format!(
            "Log in as {} at {url}: {} {said} {next}",
            cloud.username,
            status.as_u16()
        )));
    };
    let endpoint = endpoint(&body["token"]["catalog"], cloud.region.as_deref()).ok_or_else(|| {
        Failure::failed(format!("The catalog of {} has no service of type database in the region.", cloud.auth_url))
    })?;
    let expires_at = body["token"]["expires_at"].as_str().unwrap_or_default().to_owned();
    let session = Session { token: SecretString::from(token), endpoint, expires_at };
    // Without a cache every call logs in.
    let _ = keep(cloud, &session);
    Ok(session)
}

fn request(cloud: &Cloud) -> Value {
    let identity = match &cloud.token {
        Some(token) => json!({"methods": ["token"], "token": {"id": token.expose_secret()}}),
        None => json!({"methods": ["password"], "password": {"user": {
            "name": cloud.username, "password": cloud.password.expose_secret(),
            "domain": {"name": cloud.user_domain}}}}),
    };
    let mut auth = json!({"identity": identity});
    if let Some(id) = &cloud.project_id {
        auth["scope"] = json!({"project": {"id": id}});
    } else if let Some(name) = &cloud.project_name {
        auth["scope"] = json!({"project": {"name": name, "domain": {"name": cloud.project_domain}}});
    }
    json!({"auth": auth})
}

fn endpoint(catalog: &Value, region: Option<&str>) -> Option<String> {
    let service = catalog.as_array()?.iter().find(|service| service["type"] == "database")?;
    let fits = |endpoint: &&Value| {
        endpoint["interface"] == "public"
            && region.is_none_or(|region| endpoint["region"] == region || endpoint["region_id"] == region)
    };
    let url = service["endpoints"].as_array()?.iter().find(fits)?["url"].as_str()?;
    Some(url.trim_end_matches('/').to_owned())
}

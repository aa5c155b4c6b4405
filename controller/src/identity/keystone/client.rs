//! Client of Keystone: logs this service in, and validates tokens of users.

#![allow(clippy::disallowed_methods, reason = "files that the operator names")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::header::{DATE, HeaderMap, HeaderValue};
use reqwest::{Certificate, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};
use tokio::sync::Mutex;

use crate::config;
use crate::error::{Error, Result};
use crate::ids::ProjectId;

/// The service's own token is renewed this long before it expires, or after three quarters of its lifetime if that is
/// later.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// Pause after a failed login.
const PAUSE: Duration = Duration::from_secs(2);

/// Result of the validation of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Valid, and scoped to a project.
    Valid(Bearer),
    /// Valid, but not scoped to a project.
    Unscoped,
    /// Unknown, expired or revoked.
    Invalid,
}

/// User, project and roles of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) user_id: String,
    pub(super) project: ProjectId,
    pub(super) roles: Vec<String>,
}

/// Why Keystone could not be asked. The text is for the log and holds no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unavailable(pub(super) String);

#[derive(Clone)]
struct Own {
    text: SecretString,
    renew_at: Instant,
    /// Counts the service's tokens, to tell a refused one from its successor.
    number: u64,
}

pub(super) struct Client {
    http: reqwest::Client,
    settings: config::Keystone,
    login: Mutex<Login>,
}

/// Result of the last login.
#[derive(Default)]
struct Login {
    own: Option<Own>,
    /// The last failure. It is returned for [`PAUSE`] instead of trying again, so that a wrong password does not lock
    /// the account.
    failed: Option<(Instant, Unavailable)>,
}

#[derive(Deserialize)]
struct Answer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    user: Named,
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<Role>,
    expires_at: String,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

impl Client {
    /// # Errors
    /// 400 if a file is absent or wrong; the message names the option.
    pub(super) fn new(settings: &config::Keystone) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .timeout(settings.timeout)
            // Credentials are sent only to the configured address.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(file) = &settings.ca_file {
            let refuse = |reason: String| Error::BadRequest(format!("keystone.ca_file {}: {reason}.", file.display()));
            let pem = std::fs::read(file).map_err(|error| refuse(format!("cannot be read: {error}")))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|_| refuse("is no PEM".to_owned()))?;
            if certificates.is_empty() {
                return Err(refuse("has no certificate (PEM)".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| Error::internal("make the client of Keystone", error))?;
        settings.warn();
        let client = Self { http, settings: settings.clone(), login: Mutex::default() };
        client.read_password()?;
        Ok(client)
    }

    /// Logs in at the start, so that a wrong configuration is logged before the first request of a user.
    pub(super) async fn greet(&self) {
        if let Err(error) = self.own_token(None).await {
            tracing::warn!(%error, "no token can be checked at Keystone yet");
        }
    }

    /// Reads the password. The file is read each time, so that the password can be changed without a restart.
    fn read_password(&self) -> Result<SecretString> {
        let Some(file) = &self.settings.password_file else {
            let missing = || Error::BadRequest("keystone.password is not set.".to_owned());
            return self.settings.password.clone().ok_or_else(missing);
        };
        config::read_secret("keystone.password_file", file)
    }

    /// Validates a token. A valid one comes with the time at which it expires.
    ///
    /// # Errors
    /// Keystone cannot be reached, or refuses this service.
    pub(super) async fn validate(&self, token: &str) -> std::result::Result<(Verdict, Instant), Unavailable> {
        let mut own = self.own_token(None).await?;
        for last in [false, true] {
            let answer = self.http.get(format!("{}/auth/tokens?nocatalog", self.settings.v3_url()));
            let answer = answer
                .header("x-auth-token", sensitive(own.text.expose_secret())?)
                .header("x-subject-token", sensitive(token)?)
                .send()
                .await
                .map_err(|error| unreachable(&error))?;
            match answer.status() {
                StatusCode::OK => {
                    let now = server_time(answer.headers());
                    let body: Answer = answer.json().await.map_err(|error| unreachable(&error))?;
                    return Ok(verdict(body.token, now));
                }
                StatusCode::NOT_FOUND => return Ok((Verdict::Invalid, Instant::now())),
                // The service's own token was revoked, or Keystone's keys have changed: log in again, once.
                StatusCode::UNAUTHORIZED if !last => own = self.own_token(Some(own.number)).await?,
                StatusCode::UNAUTHORIZED => break,
                status => return Err(refused("check a token", status)),
            }
        }
        // The new token is refused, too. Wait before the next login.
        let error = Unavailable("Keystone refuses a token that it has just given to this service".to_owned());
        self.login.lock().await.failed = Some((Instant::now(), error.clone()));
        Err(error)
    }

    /// The service's own token. Logs in if there is none, it expires soon, or it is the one with the number `refused`.
    async fn own_token(&self, refused: Option<u64>) -> std::result::Result<Own, Unavailable> {
        let mut login = self.login.lock().await;
        if let Some(known) = &login.own
            && Some(known.number) != refused
            && Instant::now() < known.renew_at
        {
            return Ok(known.clone());
        }
        if let Some((at, error)) = &login.failed
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        let number = login.own.as_ref().map_or(0, |known| known.number + 1);
        let new = self.login(number).await;
        match &new {
            Ok(own) => *login = Login { own: Some(own.clone()), failed: None },
            Err(error) => login.failed = Some((Instant::now(), error.clone())),
        }
        new
    }

    async fn login(&self, number: u64) -> std::result::Result<Own, Unavailable> {
        let settings = &self.settings;
        let password = self.read_password().map_err(|error| Unavailable(error.to_string()))?;
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": settings.username, "password": password.expose_secret(),
                "domain": {"name": settings.user_domain_name}}}},
            "scope": {"project": {
                "name": settings.project_name, "domain": {"name": settings.project_domain_name}}}}});
        let url = format!("{}/auth/tokens?nocatalog", settings.v3_url());
        let answer = self.http.post(url).json(&body).send().await.map_err(|error| unreachable(&error))?;
        if answer.status() != StatusCode::CREATED {
            return Err(refused(&format!("log in as {}", settings.username), answer.status()));
        }
        let now = server_time(answer.headers());
        let text = answer.headers().get("x-subject-token").and_then(|value| value.to_str().ok());
        let text = text.ok_or_else(|| Unavailable("Keystone answers a login without a token".to_owned()))?;
        let text = SecretString::from(text.to_owned());
        let body: Answer = answer.json().await.map_err(|error| unreachable(&error))?;
        let life = remaining(&body.token.expires_at, now);
        let renew_at = Instant::now() + life.saturating_sub(MARGIN).max(life * 3 / 4);
        tracing::info!(user = settings.username, "logged in at Keystone");
        Ok(Own { text, renew_at, number })
    }
}

impl config::Keystone {
    /// Logs a warning if passwords go over the network in clear.
    fn warn(&self) {
        let url = url::Url::parse(&self.auth_url).ok();
        let here = |url: &url::Url| match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if url.is_some_and(|url| url.scheme() == "http" && !here(&url)) {
            tracing::warn!(url = self.auth_url, "tokens and the service's password go to keystone.auth_url in clear");
        }
        let open = |file: &PathBuf| std::fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
        if let Some(file) = self.password_file.as_ref().filter(|file| open(file)) {
            tracing::warn!(file = %file.display(), "others can read keystone.password_file: chmod 0600");
        }
    }
}

fn sensitive(text: &str) -> std::result::Result<HeaderValue, Unavailable> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Unavailable("a token is no header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn unreachable(error: &reqwest::Error) -> Unavailable {
    Unavailable(format!("Keystone cannot be reached: {}", crate::error::chain(error)))
}

fn refused(attempt: &str, status: StatusCode) -> Unavailable {
    let hint = match status {
        StatusCode::UNAUTHORIZED => ": keystone.username, its password or keystone.project_name is wrong",
        StatusCode::FORBIDDEN => ": the user of keystone.username needs the role service or admin in its project",
        _ => "",
    };
    Unavailable(format!("Keystone answers {} to an attempt to {attempt}{hint}", status.as_u16()))
}

/// Keystone's time, from the `Date` header, so that a wrong local clock does not change a token's lifetime.
fn server_time(headers: &HeaderMap) -> OffsetDateTime {
    let date = headers.get(DATE).and_then(|value| value.to_str().ok());
    date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok()).unwrap_or_else(OffsetDateTime::now_utc)
}

fn remaining(expires_at: &str, now: OffsetDateTime) -> Duration {
    let expires = OffsetDateTime::parse(expires_at, &Rfc3339).unwrap_or(now);
    Duration::try_from(expires - now).unwrap_or_default()
}

fn verdict(token: Token, now: OffsetDateTime) -> (Verdict, Instant) {
    let end = Instant::now() + remaining(&token.expires_at, now);
    let Some(project) = token.project else { return (Verdict::Unscoped, end) };
    let roles = token.roles.into_iter().map(|role| role.name).collect();
    (Verdict::Valid(Bearer { user_id: token.user.id, project: ProjectId(project.id), roles }), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_counted_by_keystones_clock() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, HeaderValue::from_static("Tue, 24 Nov 2026 12:41:50 GMT"));
        let now = server_time(&headers);
        assert_eq!(remaining("2026-11-24T13:41:50.000000Z", now), Duration::from_secs(3600));
        assert_eq!(remaining("2026-11-24T12:41:49.000000Z", now), Duration::ZERO);
        assert_eq!(remaining("soon", now), Duration::ZERO);
    }
}

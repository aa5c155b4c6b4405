//! Addresses of a container of Swift, signed as its TempURL has it. Only a list needs a token, for which this program logs in at
//! Keystone or at Swift itself.

use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::percent_decode_str;
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use ring::hmac;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::Mutex;
use url::Url;

use super::client::{Entry, Page, Signed, Verb, age};
use crate::config::Swift;
use crate::error::{Error, Result, chain};

/// Objects of a page.
const PAGE: usize = 1000;
/// Time limit of a login.
const LOGIN: Duration = Duration::from_secs(10);

/// The container, and what signs.
pub(super) struct Container {
    /// Ends with a slash.
    url: Url,
    key: hmac::Key,
    settings: Swift,
    name: String,
    token: Mutex<Option<String>>,
}

/// An object, as a list has it.
#[derive(Deserialize)]
struct Listed {
    name: String,
    bytes: u64,
    /// Without a zone: it is UTC.
    last_modified: String,
}

impl Container {
    /// # Errors
    /// 400 if the configuration names no container, or the key cannot be read.
    pub(super) fn new(settings: &Swift) -> Result<Self> {
        let Swift { storage_url, container, .. } = settings;
        let url = Url::parse(&format!("{}/{container}/", storage_url.trim_end_matches('/')));
        let url = url.map_err(|error| Error::BadRequest(format!("swift.storage_url and swift.container: {error}.")))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, settings.signing_key()?.expose_secret().as_bytes());
        let name = format!("container {container} at {storage_url}");
        Ok(Self { url, key, settings: settings.clone(), name, token: Mutex::default() })
    }

    /// What it is, in words.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// An address for one thing to do with an object.
    pub(super) fn sign(&self, verb: Verb, key: &str, lifetime: Duration) -> Signed {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.sign_until(verb, key, (since + lifetime).as_secs())
    }

    /// The same with the second of its end. Neither the size of what is written is signed nor that it replaces nothing: an agent
    /// that is honest keeps to both, and what is read later tells the others.
    fn sign_until(&self, verb: Verb, key: &str, end: u64) -> Signed {
        let (method, headers) = match verb {
            Verb::Get => ("GET", Vec::new()),
            Verb::Delete => ("DELETE", Vec::new()),
            Verb::PutNew(_) => ("PUT", vec![("if-none-match", "*".to_owned())]),
        };
        let mut url = self.url.clone();
        url.set_path(&format!("{}{key}", self.url.path()));
        let path = percent_decode_str(url.path()).decode_utf8_lossy().into_owned();
        let signature = hmac::sign(&self.key, format!("{method}\n{end}\n{path}").as_bytes());
        let (signature, end) = (hex::encode(signature), end.to_string());
        url.query_pairs_mut().append_pair("temp_url_sig", &signature).append_pair("temp_url_expires", &end);
        Signed { url, headers }
    }

    /// The address of a list, which needs a token.
    pub(super) fn list(&self, prefix: &str, from: Option<&str>) -> Url {
        let mut url = self.url.clone();
        url.set_path(self.url.path().trim_end_matches('/'));
        let limit = PAGE.to_string();
        url.query_pairs_mut().append_pair("format", "json").append_pair("limit", &limit).append_pair("prefix", prefix);
        if let Some(from) = from {
            url.query_pairs_mut().append_pair("marker", from);
        }
        url
    }

    /// Reads a list.
    pub(super) fn page(text: &str, now: OffsetDateTime) -> std::result::Result<Page, String> {
        let listed: Vec<Listed> =
            serde_json::from_str(text).map_err(|error| format!("its list cannot be read: {error}"))?;
        let next = listed.last().filter(|_| listed.len() >= PAGE).map(|last| last.name.clone());
        let entries = listed.into_iter().map(|object| Entry {
            age: age(&format!("{}Z", object.last_modified.trim_end_matches('Z')), now),
            bytes: object.bytes,
            key: object.name,
        });
        Ok(Page { entries: entries.collect(), next })
    }

    /// The service's token. Logs in if there is none, or it is the one that was refused.
    ///
    /// # Errors
    /// Permission denied: the user is not let in. Else it cannot be asked.
    pub(super) async fn token(&self, http: &reqwest::Client, refused: Option<&str>) -> io::Result<String> {
        let mut known = self.token.lock().await;
        if let Some(token) = known.as_deref().filter(|token| Some(*token) != refused) {
            return Ok(token.to_owned());
        }
        *known = None;
        let token = self.log_in(http).await?;
        *known = Some(token.clone());
        Ok(token)
    }

    async fn log_in(&self, http: &reqwest::Client) -> io::Result<String> {
        let Swift { auth_url, username, .. } = &self.settings;
        let attempt = format!("log in as {username} at {auth_url}");
        let password = self.settings.secret().map_err(|error| io::Error::other(format!("{attempt}: {error}")))?;
        let url = auth_url.trim_end_matches('/');
        let (request, field) = if url.ends_with("/v3") {
            let Swift { user_domain_name, project_name, project_domain_name, .. } = &self.settings;
            let body = json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": {
                    "name": username, "password": password.expose_secret(), "domain": {"name": user_domain_name}}}},
                "scope": {"project": {"name": project_name, "domain": {"name": project_domain_name}}}}});
            (http.post(format!("{url}/auth/tokens?nocatalog")).json(&body), "x-subject-token")
        } else {
            let failed = |_| io::Error::other(format!("{attempt}: the password is no header"));
            let mut password = HeaderValue::from_str(password.expose_secret()).map_err(failed)?;
            password.set_sensitive(true);
            (http.get(url).header("x-auth-user", username).header("x-auth-key", password), "x-auth-token")
        };
        let failed = |error: reqwest::Error| io::Error::other(format!("{attempt}: {}", chain(&error.without_url())));
        let answer = request.timeout(LOGIN).send().await.map_err(failed)?;
        let status = answer.status();
        if !status.is_success() {
            let denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let kind = if denied { ErrorKind::PermissionDenied } else { ErrorKind::Other };
            return Err(io::Error::new(kind, format!("{attempt}: it answers {status}")));
        }
        let token = answer.headers().get(field).and_then(|value| value.to_str().ok());
        token.map(str::to_owned).ok_or_else(|| io::Error::other(format!("{attempt}: it answers without a token")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        let settings = Swift {
            storage_url: "https://swift.example.org/v1/AUTH_account/".to_owned(),
            container: "container".to_owned(),
            temp_url_key: Some("mykey".to_owned().into()),
            ..Swift::default()
        };
        Container::new(&settings).unwrap()
    }

    /// Against what `openssl dgst -sha256 -hmac mykey` says of the three lines.
    #[test]
    fn a_method_a_path_and_an_end_are_signed() {
        let Signed { url, headers } = container().sign_until(Verb::Get, "a/b", 1_323_479_485);
        let expected = "https://swift.example.org/v1/AUTH_account/container/a/b?temp_url_sig=ed4e78b4e97a9fe3d7bd73c17fd993c54705018487a9c2a5fd7cfbfd8a3b04b9&temp_url_expires=1323479485";
        assert_eq!((url.as_str(), headers.len()), (expected, 0));
        let written = container().sign_until(Verb::PutNew(7), "a/b", 1_323_479_485);
        assert_eq!(written.headers, [("if-none-match", "*".to_owned())]);
        assert_ne!(written.url, url, "what may be read may not be written");
    }

    #[test]
    fn a_list_is_asked_for_and_read() {
        let url = container().list("a/", Some("a/b c"));
        let expected =
            "https://swift.example.org/v1/AUTH_account/container?format=json&limit=1000&prefix=a%2F&marker=a%2Fb+c";
        assert_eq!(url.as_str(), expected);
        let text = r#"[{"name": "a/b", "bytes": 7, "hash": "x", "last_modified": "2026-11-24T12:00:00.500000"}]"#;
        let page = Container::page(text, time::macros::datetime!(2026-11-24 12:01 UTC)).unwrap();
        assert!(page.next.is_none());
        assert_eq!((page.entries[0].key.as_str(), page.entries[0].bytes), ("a/b", 7));
        assert_eq!(page.entries[0].age, Duration::from_millis(59_500));
    }
}

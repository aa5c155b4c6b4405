//! Requests to the storage. What is signed into an address is a secret: errors and logs name the object and never the address.

#![allow(clippy::disallowed_methods, reason = "files that the operator names")]

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, DATE, HeaderValue};
use reqwest::{Certificate, Response, StatusCode};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};
use trove_proto::v1;
use url::Url;

use super::super::grants::Access;
use super::s3::Bucket;
use super::swift::Container;
use crate::config::{Config, StorageKind};
use crate::error::{Error, Result, chain};

/// Time limit of a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// A request ends when nothing came for this long.
const SILENCE: Duration = Duration::from_secs(60);
/// Time limit of a request that moves little.
const SMALL: Duration = Duration::from_secs(30);
/// How long an address is good that this program uses at once.
const AT_ONCE: Duration = Duration::from_secs(60);
/// Bytes that are read of an object that says something.
const TEXT: u64 = 1000;
/// Bytes that are read of the text of a refusal.
const MOST_WORDS: usize = 2000;

/// What is done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    /// Writes an object of so many bytes, unless there is one of its name.
    PutNew(u64),
    Delete,
}

/// What lets its bearer do one thing with one object.
pub(super) struct Signed {
    pub(super) url: Url,
    /// Header fields that the request must carry, besides the length of its body.
    pub(super) headers: Vec<(&'static str, String)>,
}

/// An object in a list.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) bytes: u64,
    /// Since when it was not changed, by the storage's clock.
    pub(super) age: Duration,
}

/// A part of a list, in the order of names.
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// Where the next part begins, if there is more.
    pub(super) next: Option<String>,
}

#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum Account {
    S3(Bucket),
    Swift(Container),
}

/// The client of the storage.
pub(super) struct Client {
    http: reqwest::Client,
    account: Account,
    /// Who signs the storage's certificate, where that is not for the system to say.
    authorities_pem: Option<String>,
}

impl Client {
    /// # Errors
    /// 400 if a file that the configuration names cannot be read or is wrong.
    pub(super) fn new(config: &Config) -> Result<Self> {
        let (account, ca_file, option) = match config.backups.storage {
            StorageKind::Swift => {
                (Account::Swift(Container::new(&config.swift)?), &config.swift.ca_file, "swift.ca_file")
            }
            _ => (Account::S3(Bucket::new(&config.s3)?), &config.s3.ca_file, "s3.ca_file"),
        };
        let authorities_pem = ca_file.as_ref().map(|file| read_authorities(option, file)).transpose()?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // What is signed is for the configured address alone.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = &authorities_pem {
            let failed = |error| Error::internal(format!("read {option}"), error);
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(pem.as_bytes()).map_err(failed)?);
        }
        let http =
            builder.build().map_err(|error| Error::internal("make the client of the storage of backups", error))?;
        Ok(Self { http, account, authorities_pem })
    }

    /// What is configured, in words.
    pub(super) fn name(&self) -> &str {
        match &self.account {
            Account::S3(bucket) => bucket.name(),
            Account::Swift(container) => container.name(),
        }
    }

    fn sign(&self, verb: Verb, key: &str, lifetime: Duration) -> Signed {
        match &self.account {
            Account::S3(bucket) => bucket.sign(verb, key, lifetime),
            Account::Swift(container) => container.sign(verb, key, lifetime),
        }
    }

    /// What lets an agent read or write the object.
    pub(super) fn grant(&self, access: Access, key: &str, bytes: u64, lifetime: Duration) -> v1::ObjectGrant {
        let verb = if access == Access::Read { Verb::Get } else { Verb::PutNew(bytes) };
        let Signed { url, headers } = self.sign(verb, key, lifetime);
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value));
        v1::ObjectGrant {
            url: url.into(),
            headers: headers.collect(),
            authorities_pem: self.authorities_pem.clone().unwrap_or_default(),
        }
    }

    fn failed(&self, attempt: &str, error: reqwest::Error) -> io::Error {
        io::Error::other(format!("{attempt} in {}: {}", self.name(), chain(&error.without_url())))
    }

    /// An error for an answer that was not hoped for.
    async fn refused(&self, attempt: &str, answer: Response) -> io::Error {
        let status = answer.status();
        let kind = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::PermissionDenied,
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            _ => ErrorKind::Other,
        };
        let words = code(answer).await.map_or_else(String::new, |code| format!(" ({code})"));
        io::Error::new(kind, format!("{attempt} in {}: it answers {status}{words}", self.name()))
    }

    /// An object that is being read, after its size; `None` if it is not there.
    pub(super) async fn get(&self, key: &str) -> io::Result<Option<(u64, Response)>> {
        let attempt = format!("read {key}");
        let url = self.sign(Verb::Get, key, AT_ONCE).url;
        let answer = self.http.get(url).send().await.map_err(|error| self.failed(&attempt, error))?;
        match answer.status() {
            StatusCode::OK => {
                let length = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
                let unknown = || io::Error::other(format!("{attempt} in {}: it does not tell the size", self.name()));
                Ok(Some((length.ok_or_else(unknown)?, answer)))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(&attempt, answer).await),
        }
    }

    /// A small object that is a text.
    pub(super) async fn text(&self, key: &str) -> io::Result<Option<String>> {
        let attempt = format!("read {key}");
        let read = async {
            let Some((bytes, answer)) = self.get(key).await? else { return Ok(None) };
            if bytes > TEXT {
                return Err(io::Error::other(format!("{attempt} in {}: it has {bytes} bytes", self.name())));
            }
            answer.text().await.map(Some).map_err(|error| self.failed(&attempt, error))
        };
        let late = |_| io::Error::other(format!("{attempt} in {}: it does not answer", self.name()));
        tokio::time::timeout(SMALL, read).await.map_err(late)?
    }

    /// Writes a small object, unless there is one of its name.
    pub(super) async fn put_new(&self, key: &str, text: &str) -> io::Result<()> {
        let attempt = format!("write {key}");
        let Signed { url, headers } = self.sign(Verb::PutNew(text.len() as u64), key, AT_ONCE);
        let mut request = self.http.put(url).timeout(SMALL).body(text.to_owned());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.send().await.map_err(|error| self.failed(&attempt, error))?;
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::PRECONDITION_FAILED => Ok(()),
            _ => Err(self.refused(&attempt, answer).await),
        }
    }

    /// Removes an object. What is not there counts as removed.
    pub(super) async fn delete(&self, key: &str) -> io::Result<()> {
        let attempt = format!("remove {key}");
        let url = self.sign(Verb::Delete, key, AT_ONCE).url;
        let answer = self.http.delete(url).timeout(SMALL).send().await;
        let answer = answer.map_err(|error| self.failed(&attempt, error))?;
        match answer.status() {
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
            _ => Err(self.refused(&attempt, answer).await),
        }
    }

    /// Objects whose names begin like this: the first ones, or those from where an earlier page said.
    pub(super) async fn page(&self, prefix: &str, from: Option<String>) -> io::Result<Page> {
        let attempt = format!("list {prefix:?}");
        let (text, now) = match &self.account {
            Account::S3(bucket) => {
                let request = self.http.get(bucket.list(prefix, from.as_deref(), AT_ONCE)).timeout(SMALL);
                let answer = request.send().await.map_err(|error| self.failed(&attempt, error))?;
                self.listed(&attempt, answer).await?
            }
            Account::Swift(container) => {
                let url = container.list(prefix, from.as_deref());
                let mut token = container.token(&self.http, None).await?;
                let mut answer = self.with_token(&attempt, &url, &token).await?;
                if answer.status() == StatusCode::UNAUTHORIZED {
                    token = container.token(&self.http, Some(&token)).await?;
                    answer = self.with_token(&attempt, &url, &token).await?;
                }
                self.listed(&attempt, answer).await?
            }
        };
        let page = match &self.account {
            Account::S3(_) => Bucket::page(&text, now),
            Account::Swift(_) => Container::page(&text, now),
        };
        page.map_err(|error| io::Error::other(format!("{attempt} in {}: {error}", self.name())))
    }

    async fn with_token(&self, attempt: &str, url: &Url, token: &str) -> io::Result<Response> {
        let failed = |_| io::Error::other(format!("{attempt} in {}: the token is no header", self.name()));
        let mut token = HeaderValue::from_str(token).map_err(failed)?;
        token.set_sensitive(true);
        let request = self.http.get(url.clone()).timeout(SMALL).header("x-auth-token", token);
        request.send().await.map_err(|error| self.failed(attempt, error))
    }

    /// The text of a list, and the storage's time.
    async fn listed(&self, attempt: &str, answer: Response) -> io::Result<(String, OffsetDateTime)> {
        if answer.status() != StatusCode::OK {
            return Err(self.refused(attempt, answer).await);
        }
        let date = answer.headers().get(DATE).and_then(|value| value.to_str().ok());
        let now = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok());
        let text = answer.text().await.map_err(|error| self.failed(attempt, error))?;
        Ok((text, now.unwrap_or_else(OffsetDateTime::now_utc)))
    }
}

/// How long before `now` something was changed. A time that cannot be read counts as now: what is young is left alone.
pub(super) fn age(changed: &str, now: OffsetDateTime) -> Duration {
    let changed = OffsetDateTime::parse(changed, &Rfc3339).unwrap_or(now);
    Duration::try_from(now - changed).unwrap_or_default()
}

/// What an answer says of itself in one word, such as `SignatureDoesNotMatch`. The rest may have in it what was signed.
async fn code(mut answer: Response) -> Option<String> {
    let mut text = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        text.extend_from_slice(&piece);
        if text.len() > MOST_WORDS {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    code.chars().all(|c| c.is_ascii_alphanumeric()).then(|| code.to_owned())
}

fn read_authorities(option: &str, file: &PathBuf) -> Result<String> {
    let refuse = |reason: String| Error::BadRequest(format!("{option} {}: {reason}.", file.display()));
    let pem = std::fs::read_to_string(file).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|_| refuse("is no PEM".to_owned()))?;
    if certificates.is_empty() { Err(refuse("has no certificate (PEM)".to_owned())) } else { Ok(pem) }
}

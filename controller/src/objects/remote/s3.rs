//! Addresses of a bucket of S3, signed by its Signature Version 4.

use std::time::Duration;

use rusty_s3::actions::{DeleteObject, GetObject, ListObjectsV2, PutObject, S3Action as _};
use rusty_s3::{Credentials, UrlStyle};
use secrecy::ExposeSecret as _;
use time::OffsetDateTime;
use url::Url;

use super::client::{Entry, Page, Signed, Verb, age};
use crate::config::S3;
use crate::error::{Error, Result};

/// The bucket, and what signs.
pub(super) struct Bucket {
    bucket: rusty_s3::Bucket,
    credentials: Credentials,
    name: String,
}

impl Bucket {
    /// # Errors
    /// 400 if the configuration names no bucket, or the secret key cannot be read.
    pub(super) fn new(settings: &S3) -> Result<Self> {
        let S3 { endpoint, bucket, region, access_key, .. } = settings;
        let style = if settings.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let url = Url::parse(endpoint).map_err(|error| Error::BadRequest(format!("s3.endpoint: {error}.")))?;
        let name = format!("bucket {bucket} at {endpoint}");
        let bucket = rusty_s3::Bucket::new(url, style, bucket.clone(), region.clone());
        let bucket = bucket.map_err(|error| Error::BadRequest(format!("s3.endpoint and s3.bucket: {error}.")))?;
        let credentials = Credentials::new(access_key, settings.secret()?.expose_secret());
        Ok(Self { bucket, credentials, name })
    }

    /// What it is, in words.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// An address for one thing to do with an object. The size of what is written is signed, too, and that it replaces nothing.
    pub(super) fn sign(&self, verb: Verb, key: &str, lifetime: Duration) -> Signed {
        let by = Some(&self.credentials);
        match verb {
            Verb::Get => Signed { url: GetObject::new(&self.bucket, by, key).sign(lifetime), headers: Vec::new() },
            Verb::Delete => {
                Signed { url: DeleteObject::new(&self.bucket, by, key).sign(lifetime), headers: Vec::new() }
            }
            Verb::PutNew(bytes) => {
                let mut action = PutObject::new(&self.bucket, by, key);
                action.headers_mut().insert("content-length", bytes.to_string());
                action.headers_mut().insert("if-none-match", "*");
                Signed { url: action.sign(lifetime), headers: vec![("if-none-match", "*".to_owned())] }
            }
        }
    }

    /// An address that lists objects.
    pub(super) fn list(&self, prefix: &str, from: Option<&str>, lifetime: Duration) -> Url {
        let mut action = ListObjectsV2::new(&self.bucket, Some(&self.credentials));
        action.with_prefix(prefix);
        if let Some(from) = from {
            action.with_continuation_token(from);
        }
        action.sign(lifetime)
    }

    /// Reads a list.
    pub(super) fn page(text: &str, now: OffsetDateTime) -> std::result::Result<Page, String> {
        let listed =
            ListObjectsV2::parse_response(text).map_err(|error| format!("its list cannot be read: {error}"))?;
        let entries = listed.contents.into_iter().map(|object| Entry {
            bytes: object.size.unwrap_or_default(),
            age: object.last_modified.map_or(Duration::ZERO, |changed| age(&changed, now)),
            key: object.key,
        });
        Ok(Page { entries: entries.collect(), next: listed.next_continuation_token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(path_style: bool) -> Bucket {
        let settings = S3 {
            endpoint: "https://s3.example.org:9000".to_owned(),
            bucket: "backups".to_owned(),
            path_style,
            access_key: "access".to_owned(),
            secret_key: Some("never shown".to_owned().into()),
            ..S3::default()
        };
        Bucket::new(&settings).unwrap()
    }

    fn query(url: &Url, name: &str) -> String {
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    }

    #[test]
    fn the_size_of_what_is_written_is_signed_and_that_it_replaces_nothing() {
        let lifetime = Duration::from_secs(300);
        let Signed { url, headers } = bucket(true).sign(Verb::PutNew(7), "a/b", lifetime);
        assert_eq!(url.as_str().split('?').next(), Some("https://s3.example.org:9000/backups/a/b"));
        assert_eq!(query(&url, "X-Amz-SignedHeaders"), "content-length;host;if-none-match");
        assert_eq!(query(&url, "X-Amz-Expires"), "300");
        assert_eq!(headers, [("if-none-match", "*".to_owned())]);
        assert!(!url.as_str().contains("never"));
        let other = bucket(true).sign(Verb::PutNew(8), "a/b", lifetime).url;
        assert_ne!(query(&other, "X-Amz-Signature"), query(&url, "X-Amz-Signature"));
        let read = bucket(false).sign(Verb::Get, "a/b", lifetime).url;
        assert_eq!(read.as_str().split('?').next(), Some("https://backups.s3.example.org:9000/a/b"));
        assert_eq!(query(&read, "X-Amz-SignedHeaders"), "host");
    }

    #[test]
    fn a_list_is_read() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>backups</Name><Prefix/>
            <KeyCount>1</KeyCount><MaxKeys>1</MaxKeys><IsTruncated>true</IsTruncated>
            <NextContinuationToken>more</NextContinuationToken>
            <Contents><Key>a%2Fb</Key><LastModified>2026-11-24T12:00:00.000Z</LastModified><ETag>"x"</ETag><Size>7</Size>
            <StorageClass>STANDARD</StorageClass></Contents><EncodingType>url</EncodingType></ListBucketResult>"#;
        let now = time::macros::datetime!(2026-11-24 12:01 UTC);
        let page = Bucket::page(text, now).unwrap();
        let [Entry { key, bytes, age }] = &page.entries[..] else { panic!() };
        assert_eq!(
            (key.as_str(), *bytes, *age, page.next.as_deref()),
            ("a/b", 7, Duration::from_secs(60), Some("more"))
        );
        assert!(Bucket::page("<html>", now).is_err());
    }
}

//! What a request is read into: JSON bodies, and what is said about others; paths and queries that are not well formed.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::form;
use crate::error::{Error, Result};

/// A body, read into its type; an answer too.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let body = value(request, state).await?.ok_or_else(|| Error::BadRequest("The body is missing.".to_owned()))?;
        form::read(body).map(Self)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>> {
        let body = value(request, state).await?;
        body.map(form::read).transpose().map(|body| body.map(Self))
    }
}

/// JSON of the body; `None` where there is no body.
async fn value<S: Send + Sync>(request: Request, state: &S) -> Result<Option<Value>> {
    let header = request.headers().get(CONTENT_TYPE).cloned();
    let bytes = Bytes::from_request(request, state).await.map_err(unread)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let said = header.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/json" | "application/vnd.openstack.trove+json" => {}
        "" => return Err(Error::BadRequest("The body has no Content-Type: application/json is needed.".to_owned())),
        other => return Err(Error::BadMediaType(format!("The content type {other} is not application/json."))),
    }
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| Error::BadRequest(format!("The body is no JSON: {error}.")))
}

fn unread(rejection: BytesRejection) -> Error {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Error::OverLimit { message: "The body is larger than 256 KiB.".to_owned(), retry_after_s: None };
    }
    Error::BadRequest(format!("The body could not be read: {}.", rejection.body_text()))
}

/// Nothing has a NUL in its name, and one of the databases that the store runs on refuses such texts.
fn has_nul(encoded: &str) -> bool {
    encoded.contains("%00")
}

/// The variable parts of a path, each percent-decoded once.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        if has_nul(parts.uri.path()) {
            return Err(Error::NotFound("The resource could not be found: there is a NUL in the path.".to_owned()));
        }
        let found = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        found.map(|path| Self(path.0)).map_err(|rejection| {
            // An id that is no id is that of nothing.
            Error::NotFound(format!("The resource could not be found: {}.", rejection.body_text()))
        })
    }
}

/// The query.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        if parts.uri.query().is_some_and(has_nul) {
            return Err(Error::BadRequest("The query is wrong: there is a NUL in it.".to_owned()));
        }
        let found = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        let wrong = |rejection: axum::extract::rejection::QueryRejection| {
            Error::BadRequest(format!("The query is wrong: {}.", rejection.body_text()))
        };
        found.map(|query| Self(query.0)).map_err(wrong)
    }
}

//! What a request is read into: JSON bodies, and what is said about others; paths and queries that are not well formed.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::form;
use super::unique::Unique;
use crate::error::{Error, Result};

/// Largest body of a request.
const LARGEST: usize = 256 * 1024;
/// What is taken of a larger one, so that its sender comes to read the refusal.
const DISCARDED: usize = 16 * 1024 * 1024;
/// How long a body may take.
const TIME: Duration = Duration::from_secs(30);

/// Takes the whole body before anything is answered. Where an answer comes before the body, as a refusal for want of a token
/// may, the server closes the connection after it, and the client's next request on it is lost.
pub(in crate::api) async fn receive(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let refused = match tokio::time::timeout(TIME, read(body)).await {
        Ok(Ok(bytes)) => return next.run(Request::from_parts(parts, bytes.into())).await,
        Ok(Err(error)) => error,
        Err(_) => Error::BadRequest(format!("The body did not arrive within {} s.", TIME.as_secs())),
    };
    let mut response = refused.into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn read(body: Body) -> Result<Bytes> {
    let (mut chunks, mut bytes, mut size) = (body.into_data_stream(), Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Error::BadRequest(format!("The body could not be read: {error}.")))?;
        size += chunk.len();
        if size <= LARGEST {
            bytes.extend_from_slice(&chunk);
        } else if size > DISCARDED {
            break;
        }
    }
    if size > LARGEST {
        let message = format!("The body is larger than {} KiB.", LARGEST / 1024);
        return Err(Error::OverLimit { message, retry_after_s: None });
    }
    Ok(bytes.into())
}

/// A body, read into its type; an answer too.
pub(in crate::api) struct Json<T>(pub(in crate::api) T);

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
    let unread = |error| Error::internal("read a body that was received", error);
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
    match serde_json::from_slice::<Unique>(&bytes) {
        Ok(Unique(body)) => Ok(Some(body)),
        Err(error) if error.is_data() => Err(Error::BadRequest(format!("The body is wrong: {error}."))),
        Err(error) => Err(Error::BadRequest(format!("The body is no JSON: {error}."))),
    }
}

/// Nothing has a NUL in its name, and one of the databases that the store runs on refuses such texts.
fn has_nul(encoded: &str) -> bool {
    encoded.contains("%00")
}

/// The variable parts of a path, each percent-decoded once.
pub(in crate::api) struct Path<T>(pub(in crate::api) T);

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

/// A request without a query. Some clients do not quote a name in the path, and what follows a `?` in it is then taken for
/// the query: of what the rest of the name names, nothing may be deleted.
pub(in crate::api) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        match parts.uri.query() {
            None => Ok(Self),
            Some(_) => Err(Error::BadRequest("There is a query: a ? in a name is to be sent as %3F.".to_owned())),
        }
    }
}

/// The query.
pub(in crate::api) struct Query<T>(pub(in crate::api) T);

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

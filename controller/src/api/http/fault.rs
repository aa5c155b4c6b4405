//! The one place where an error becomes a response, and where faults are described.

use std::any::Any;
use std::collections::BTreeMap;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use utoipa::IntoResponses;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Content, Ref, RefOr};
use uuid::Uuid;

use crate::error::{Error, chain};

/// After how many seconds a client may try whether the store is back.
const STORE_BACK_S: u64 = 2;

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        if !matches!(self, Self::Internal { .. }) {
            tracing::debug!(status = status.as_u16(), error = chain(&self), "a request was refused");
            return fault(status, &self.to_string(), self.retry_after_s());
        }
        let id = Uuid::new_v4();
        tracing::error!(fault = %id, error = chain(&self), "a request failed");
        if self.is_of_unavailable_store() {
            let made = if self.is_of_unknown_outcome() {
                " It is not known whether the change was made: look before you ask for it again."
            } else {
                ""
            };
            let message = format!("The service cannot use its store just now.{made} Look for {id} in its log.");
            return fault(status, &message, Some(STORE_BACK_S));
        }
        let message = format!(
            "The server has either erred or is incapable of performing the requested operation. Look for {id} in its log."
        );
        fault(status, &message, None)
    }
}

impl Error {
    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::OverLimit { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BadMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal { .. } if self.is_of_unavailable_store() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Trove's name of the fault of a status.
fn name(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "badRequest",
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "itemNotFound",
        StatusCode::CONFLICT => "conflict",
        StatusCode::PAYLOAD_TOO_LARGE => "overLimit",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "badMediaType",
        StatusCode::UNPROCESSABLE_ENTITY => "unprocessableEntity",
        StatusCode::NOT_IMPLEMENTED => "notImplemented",
        StatusCode::SERVICE_UNAVAILABLE => "serviceUnavailable",
        _ => "instanceFault",
    }
}

fn fault(status: StatusCode, message: &str, retry_after_s: Option<u64>) -> Response {
    let mut body = json!({"code": status.as_u16(), "message": message});
    let Some(seconds) = retry_after_s else { return (status, Json(json!({name(status): body}))).into_response() };
    // Trove's clients read the seconds from the body too, as a text.
    body["retryAfter"] = json!(seconds.to_string());
    (status, [(RETRY_AFTER, HeaderValue::from(seconds))], Json(json!({name(status): body}))).into_response()
}

/// In the description of the API: a fault of this status is among a handler's answers. Those that every handler may give are
/// added for all by `openapi.rs`.
pub(in crate::api) struct Fault<const STATUS: u16>;

impl<const STATUS: u16> IntoResponses for Fault<STATUS> {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        BTreeMap::from([(STATUS.to_string(), reference(STATUS))])
    }
}

/// What any handler may answer when the service itself is in trouble.
impl IntoResponses for Error {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        [500, 503].into_iter().map(|status| (status.to_string(), reference(status))).collect()
    }
}

/// Refers to a fault of [`described`].
pub(in crate::api) fn reference(status: u16) -> RefOr<Described> {
    let status = StatusCode::from_u16(status).unwrap_or_default();
    Ref::from_response_name(name(status)).into()
}

/// All faults by their names, as they are described.
pub(in crate::api) fn described() -> Vec<(&'static str, Described)> {
    let described = |(status, description)| (name(status), describe(status, description));
    [
        (StatusCode::BAD_REQUEST, "Something in the request is wrong; the sentence names the field."),
        (StatusCode::UNAUTHORIZED, "There is no valid token, or the call is for administrators."),
        (StatusCode::FORBIDDEN, "The caller may not do this, or the project in the path is not the token's."),
        (StatusCode::NOT_FOUND, "There is no such thing that the caller may see."),
        (StatusCode::CONFLICT, "What the order is about is not in the state that it needs."),
        (StatusCode::PAYLOAD_TOO_LARGE, "More than a quota, a rate or the size of a body allows."),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not `application/json`."),
        (StatusCode::UNPROCESSABLE_ENTITY, "Not now: the instance is busy, or its agent cannot be asked."),
        (StatusCode::NOT_IMPLEMENTED, "A part of Trove's API that this service does not have yet."),
        (StatusCode::SERVICE_UNAVAILABLE, "Something that is needed cannot be asked."),
        (StatusCode::INTERNAL_SERVER_ERROR, "The service has erred; its log has more under the id in the sentence."),
    ]
    .map(described)
    .into()
}

fn describe(status: StatusCode, description: &str) -> Described {
    let text = |text| ObjectBuilder::new().schema_type(Type::String).description(Some(text));
    let code = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([status.as_u16()]));
    let mut body = ObjectBuilder::new()
        .property("code", code)
        .required("code")
        .property("message", text("One sentence that names what is wrong."))
        .required("message");
    let waits = matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::SERVICE_UNAVAILABLE);
    if waits {
        body = body.property("retryAfter", text("Seconds after which it may work."));
    }
    let fault = ObjectBuilder::new().property(name(status), body).required(name(status));
    let content = Content::new(Some(fault));
    let mut response = ResponseBuilder::new().description(description).content("application/json", content);
    if waits {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer);
        response = response.header(RETRY_AFTER.as_str(), HeaderBuilder::new().schema(Some(seconds)).build());
    }
    if status == StatusCode::UNAUTHORIZED {
        let header = HeaderBuilder::new().schema(Some(text("Where to log in.")));
        response = response.header(WWW_AUTHENTICATE.as_str(), header.build());
    }
    response.build()
}

/// 404, also for a known path with a wrong method.
pub(in crate::api) async fn unknown_path(uri: Uri) -> Error {
    Error::NotFound(format!("The resource {} could not be found.", crate::app::names::shown(uri.path())))
}

/// A handler that panicked: a fault like every other. The panic itself is logged by the hook of the process.
#[allow(clippy::needless_pass_by_value)]
pub(in crate::api) fn panicked(_panic: Box<dyn Any + Send>) -> Response {
    Error::Internal { attempt: "a handler panicked".to_owned(), source: None }.into_response()
}

//! The one place where an error becomes a response.

use std::any::Any;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use uuid::Uuid;

use crate::error::{Error, chain};

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, name) = match &self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "badRequest"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "itemNotFound"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::OverLimit { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "overLimit"),
            Self::BadMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "badMediaType"),
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessableEntity"),
            Self::NotImplemented(_) => (StatusCode::NOT_IMPLEMENTED, "notImplemented"),
            Self::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "serviceUnavailable"),
            Self::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "instanceFault"),
        };
        let message = if let Self::Internal { .. } = &self {
            let id = Uuid::new_v4();
            tracing::error!(fault = %id, error = chain(&self), "a request failed");
            format!(
                "The server has either erred or is incapable of performing the requested operation. Look for {id} in its log."
            )
        } else {
            tracing::debug!(status = status.as_u16(), error = chain(&self), "a request was refused");
            self.to_string()
        };
        fault(status, name, &message, self.retry_after_s())
    }
}

fn fault(status: StatusCode, name: &str, message: &str, retry_after_s: Option<u64>) -> Response {
    let mut body = json!({"code": status.as_u16(), "message": message});
    let Some(seconds) = retry_after_s else { return (status, Json(json!({name: body}))).into_response() };
    // Trove's clients read the seconds from the body too, as a text.
    body["retryAfter"] = json!(seconds.to_string());
    (status, [(RETRY_AFTER, HeaderValue::from(seconds))], Json(json!({name: body}))).into_response()
}

/// 404, also for a known path with a wrong method.
pub(super) async fn unknown_path(uri: Uri) -> Error {
    Error::NotFound(format!("The resource {} could not be found.", crate::app::names::shown(uri.path())))
}

/// A handler that panicked: a fault like every other. The panic itself is logged by the hook of the process.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn panicked(_panic: Box<dyn Any + Send>) -> Response {
    Error::Internal { attempt: "a handler panicked".to_owned(), source: None }.into_response()
}

/// 202 without a body: clients crash on `null`.
pub(super) fn accepted() -> Response {
    (StatusCode::ACCEPTED, [(CONTENT_TYPE, "application/json")]).into_response()
}

/// 202 without a body, with the operation that was enqueued.
pub(super) fn accepted_as(accepted: &crate::app::instances::Accepted) -> Response {
    with_operation(self::accepted(), &accepted.operation.to_string())
}

/// Names the operation in a header.
pub(super) fn with_operation(mut response: Response, operation: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(operation) {
        response.headers_mut().insert("x-trove-operation-id", value);
    }
    response
}

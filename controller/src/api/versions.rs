//! Versions of the API. No token is needed.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::ApiState;

fn version(state: &ApiState) -> Value {
    let href = format!("{}/v1.0/", state.app.config.public_url());
    json!({"id": "v1.0", "status": "CURRENT", "updated": "2012-08-01T00:00:00Z", "links": [{"rel": "self", "href": href}]})
}

/// `GET /`.
pub(super) async fn list(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    // A media type may name a version; there is one.
    let accept = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match accept.split_once(";version=").map(|(_, wanted)| wanted.trim()) {
        None => Json(json!({"versions": [version(&state)]})).into_response(),
        Some("1.0") => Json(json!({"version": version(&state)})).into_response(),
        Some(_) => StatusCode::NOT_ACCEPTABLE.into_response(),
    }
}

/// `GET /v1.0`.
pub(super) async fn show(State(state): State<ApiState>) -> Json<Value> {
    Json(json!({"version": version(&state)}))
}

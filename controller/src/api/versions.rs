//! Versions of the API. No token is needed.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::{Content, RefOr};
use utoipa::{IntoResponses, ToSchema};

use super::ApiState;
use super::http::answer::{self, json_body};
use super::http::body::Json;
use super::http::links::{Link, to_itself};
use crate::error::Result;

/// A version of the API.
#[derive(Serialize, ToSchema)]
struct ApiVersion {
    id: &'static str,
    status: &'static str,
    updated: &'static str,
    links: Vec<Link>,
}

impl ApiVersion {
    fn of(state: &ApiState) -> Self {
        let href = format!("{}/v1.0/", state.app.config.public_url());
        Self { id: "v1.0", status: "CURRENT", updated: "2012-08-01T00:00:00Z", links: to_itself(href) }
    }
}

/// All versions, or the one that was asked for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ApiVersions {
    Versions(Vec<ApiVersion>),
    Version(ApiVersion),
}

#[derive(Serialize, ToSchema)]
pub(super) struct ApiVersionBody {
    version: ApiVersion,
}

/// There is one version, and a media type may name another.
pub(super) struct Negotiated(Option<ApiVersions>);

impl IntoResponse for Negotiated {
    fn into_response(self) -> Response {
        self.0.map_or_else(|| StatusCode::NOT_ACCEPTABLE.into_response(), |versions| Json(versions).into_response())
    }
}

impl IntoResponses for Negotiated {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Described>> {
        let mut all = answer::one(StatusCode::OK, json_body::<ApiVersions>("The versions that there are."));
        let none = ResponseBuilder::new().description("The media type names a version that there is not.");
        all.append(&mut answer::one(StatusCode::NOT_ACCEPTABLE, none));
        all
    }
}

/// List the versions of the API
#[utoipa::path(get, path = "/", tag = "service", operation_id = "list_api_versions")]
pub(super) async fn list(State(state): State<ApiState>, headers: HeaderMap) -> Negotiated {
    let accept = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    Negotiated(match accept.split_once(";version=").map(|(_, wanted)| wanted.trim()) {
        None => Some(ApiVersions::Versions(vec![ApiVersion::of(&state)])),
        Some("1.0") => Some(ApiVersions::Version(ApiVersion::of(&state))),
        Some(_) => None,
    })
}

/// Show the version of the API
#[utoipa::path(get, path = "/v1.0", tag = "service", operation_id = "show_api_version")]
pub(super) async fn show(State(state): State<ApiState>) -> Json<ApiVersionBody> {
    Json(ApiVersionBody { version: ApiVersion::of(&state) })
}

/// What is said while the service serves.
pub(super) struct Healthy;

impl IntoResponse for Healthy {
    fn into_response(self) -> Response {
        "OK".into_response()
    }
}

impl IntoResponses for Healthy {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Described>> {
        let content = Content::new(Some(<String as utoipa::PartialSchema>::schema()));
        let answer = ResponseBuilder::new().description("The service serves.").content("text/plain", content);
        answer::one(StatusCode::OK, answer)
    }
}

/// Check whether the service can serve, which it can while its store can be written
#[utoipa::path(get, path = "/healthcheck", tag = "service", operation_id = "check_health")]
pub(super) async fn health(State(state): State<ApiState>) -> Result<Healthy> {
    state.app.check_health().await?;
    Ok(Healthy)
}

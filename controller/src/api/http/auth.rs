//! Who asks: the token, and the project of the path that has to be the token's.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRef, FromRequestParts, RawPathParams, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::rates::Kind;
use super::request::RequestId;
use crate::api::ApiState;
use crate::error::{Error, Result};
use crate::identity::{Caller, Identity};

/// A request of a known caller in its own project.
pub(in crate::api) struct Authorized {
    pub(in crate::api) caller: Caller,
    pub(in crate::api) request_id: String,
    identity: Arc<Identity>,
    token: String,
}

impl Authorized {
    /// Whether the caller may do this with what its own project has; what lies in others is for administrators alone.
    /// `rule` is one of `identity/policy/rules.rs`; every handler asks for one, or takes an [`Administrator`].
    pub(in crate::api) fn may(&self, rule: &str) -> Result<()> {
        self.identity.policy().check(rule, &self.caller, &self.caller.project)
    }

    /// Waits until the token is good no more, for answers that take long.
    pub(in crate::api) async fn refused(&self) -> Error {
        self.identity.refused(&self.token).await
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Authorized
where
    ApiState: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let token = parts.headers.get("x-auth-token").and_then(|value| value.to_str().ok());
        let missing = || Error::Unauthorized("The header X-Auth-Token is missing. Log in first.".to_owned());
        let api = ApiState::from_ref(state);
        let token = token.ok_or_else(missing)?.to_owned();
        let caller = api.identity.authenticate(&token).await?;
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|error| Error::BadRequest(format!("The path is not well formed: {error}.")))?;
        let project = params.iter().find_map(|(name, value)| (name == "project").then_some(value));
        if project != Some(caller.project.0.as_str()) {
            return Err(Error::Forbidden("The project in the path is not the one that the token is for.".to_owned()));
        }
        if let Some(kind) = Kind::of(&parts.method, parts.uri.path()) {
            api.rates.take(&caller.project, kind, Instant::now())?;
        }
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        Ok(Self { caller, request_id, identity: api.identity.clone(), token })
    }
}

/// Says where to log in, on every 401.
pub(in crate::api) async fn challenge(State(state): State<ApiState>, mut response: Response) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED
        && let Ok(value) = HeaderValue::from_str(state.identity.challenge())
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// A request of an administrator (the rule `context_is_admin`), for the management API: others get 401, as in Trove.
pub(in crate::api) struct Administrator(pub(in crate::api) Authorized);

impl<S: Send + Sync> FromRequestParts<S> for Administrator
where
    ApiState: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let authorized = Authorized::from_request_parts(parts, state).await?;
        if authorized.caller.is_admin() {
            return Ok(Self(authorized));
        }
        Err(Error::Unauthorized("User does not have admin privileges.".to_owned()))
    }
}

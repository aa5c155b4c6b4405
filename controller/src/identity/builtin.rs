//! The built-in identity's HTTP API: the part of Keystone's v3 API that clients need to log in and find the service
//! (tokens, catalog, projects and users).

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::Service;
use crate::connections::Source;
use crate::error::{Error, chain};
use crate::store::identity::{Token, User};

const DOMAIN: &str = "default";
/// `Retry-After` while the store is unavailable, seconds.
const STORE_BACK_S: u64 = 2;
/// Greatest number of methods in a login request.
const METHODS: usize = 10;

/// An error in Keystone's format.
struct Fault {
    status: StatusCode,
    message: String,
    retry_after_s: Option<u64>,
}

impl Fault {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: None }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Unauthorized(message) => Self::new(StatusCode::UNAUTHORIZED, message),
            Error::Forbidden(message) => Self::new(StatusCode::FORBIDDEN, message),
            Error::NotFound(message) => Self::new(StatusCode::NOT_FOUND, message),
            Error::BadRequest(message) => Self::new(StatusCode::BAD_REQUEST, message),
            Error::OverLimit { message, retry_after_s } => {
                Self { status: StatusCode::TOO_MANY_REQUESTS, message, retry_after_s }
            }
            Error::Unavailable { message, retry_after_s } => {
                Self { status: StatusCode::SERVICE_UNAVAILABLE, message, retry_after_s: Some(retry_after_s) }
            }
            store if store.is_of_unavailable_store() => {
                tracing::error!(error = chain(&store), "identity");
                let message = "The service cannot use its store just now.".to_owned();
                Self { status: StatusCode::SERVICE_UNAVAILABLE, message, retry_after_s: Some(STORE_BACK_S) }
            }
            other => {
                tracing::error!(error = chain(&other), "identity");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred.")
            }
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let Self { status, message, retry_after_s } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let body = json!({"error": {"code": status.as_u16(), "title": title, "message": message}});
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Adds the `WWW-Authenticate` header to every 401.
async fn challenge(State(service): State<Arc<Service>>, mut response: Response) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED
        && let Ok(value) = HeaderValue::from_str(&super::challenge(&service.url()))
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

type Answer = Result<Response, Fault>;

/// The routes. They are mounted at `/identity`.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/", get(versions))
        .route("/v3", get(version))
        .route("/v3/", get(version))
        .route("/v3/auth/tokens", get(validate).post(login).delete(revoke))
        .route("/v3/auth/catalog", get(catalog))
        .route("/v3/auth/projects", get(own_projects))
        .route("/v3/projects", get(projects))
        .route("/v3/projects/{id}", get(project))
        .route("/v3/users", get(users))
        .route("/v3/users/{id}", get(user))
        .route("/v3/domains", get(domains))
        .route("/v3/domains/{id}", get(domain))
        .fallback(async || Fault::new(StatusCode::NOT_FOUND, "The built-in identity does not have this.".to_owned()))
        .layer(map_response_with_state(service.clone(), challenge))
        .with_state(service)
}

fn version_body(service: &Service) -> Value {
    let href = format!("{}/identity/v3/", service.config.public_url());
    let media = json!([{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}]);
    json!({"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
           "links": [{"rel": "self", "href": href}], "media-types": media})
}

async fn versions(State(service): State<Arc<Service>>) -> Response {
    let body = json!({"versions": {"values": [version_body(&service)]}});
    (StatusCode::MULTIPLE_CHOICES, Json(body)).into_response()
}

async fn version(State(service): State<Arc<Service>>) -> Response {
    Json(json!({"version": version_body(&service)})).into_response()
}

#[derive(Deserialize)]
struct Login {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    identity: Identity,
    #[serde(default)]
    scope: Value,
}

#[derive(Deserialize)]
struct Identity {
    methods: Vec<String>,
    password: Option<Password>,
    token: Option<Bearer>,
}

#[derive(Deserialize)]
struct Password {
    user: Credentials,
}

#[derive(Deserialize)]
struct Credentials {
    id: Option<String>,
    name: Option<String>,
    password: SecretString,
    #[serde(default)]
    domain: Value,
}

#[derive(Deserialize)]
struct Bearer {
    id: SecretString,
}

fn bad(message: &str) -> Fault {
    Fault::new(StatusCode::BAD_REQUEST, message.to_owned())
}

/// Whether a request's domain is the default domain, the only one. An absent domain counts as the default.
fn is_default(domain: &Value) -> bool {
    let said = domain.get("id").or_else(|| domain.get("name")).and_then(Value::as_str);
    said.is_none_or(|said| said.eq_ignore_ascii_case(DOMAIN))
}

async fn login(
    State(service): State<Arc<Service>>,
    Extension(source): Extension<Source>,
    body: Result<Json<Login>, JsonRejection>,
) -> Answer {
    let Json(Login { auth }) = body.map_err(|rejection| bad(&rejection.body_text()))?;
    let Auth { identity, scope } = auth;
    if identity.methods.len() > METHODS {
        return Err(bad("auth.identity.methods has more than 10 items."));
    }
    let (text, token) = match (identity.password, identity.token) {
        (Some(Password { user }), _) if identity.methods.iter().any(|method| method == "password") => {
            let Credentials { id, name, password, domain } = user;
            let here = is_default(&domain);
            let asked = id.clone().or_else(|| name.clone()).unwrap_or_default();
            let same = move |user: &User| match (&id, &name) {
                (Some(id), _) => user.id == *id,
                (None, Some(name)) => here && user.name == *name,
                (None, None) => false,
            };
            service.login(source, &asked, same, password).await?
        }
        (_, Some(Bearer { id })) if identity.methods.iter().any(|method| method == "token") => {
            service.exchange(secrecy::ExposeSecret::expose_secret(&id)).await?
        }
        _ => return Err(bad("auth.identity.methods must be one of: password, token.")),
    };
    if !may_scope(&token, &scope) {
        service.revoke(&text).await?;
        return Err(Fault::new(StatusCode::UNAUTHORIZED, "The user has no role in this project.".to_owned()));
    }
    let body = json!({"token": token_body(&service, &token, true)});
    Ok((StatusCode::CREATED, [("x-subject-token", text)], Json(body)).into_response())
}

/// Whether the user may have a token with this scope: that of the user's only project, or no scope given.
fn may_scope(token: &Token, scope: &Value) -> bool {
    let Some(project) = scope.get("project") else { return scope.is_null() || scope == "unscoped" };
    let said = |field: &str| project.get(field).and_then(Value::as_str);
    match (said("id"), said("name")) {
        (Some(id), _) => id == token.user.project_id,
        (None, Some(name)) => name == token.user.project_name && is_default(&project["domain"]),
        (None, None) => false,
    }
}

fn token_body(service: &Service, token: &Token, catalog: bool) -> Value {
    let user = &token.user;
    let domain = json!({"id": DOMAIN, "name": "Default"});
    let roles: Vec<Value> = user.roles.iter().map(|role| json!({"id": role, "name": role})).collect();
    let time = |time: time::OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    // As in Keystone, a token got with another token also lists the methods of that one.
    let (methods, audit_ids) = match &token.parent_audit_id {
        None => (json!(["password"]), json!([token.audit_id])),
        Some(first) => (json!(["token", "password"]), json!([token.audit_id, first])),
    };
    let mut body = json!({
        "methods": methods, "audit_ids": audit_ids, "roles": roles, "is_domain": false,
        "user": {"id": user.id, "name": user.name, "domain": domain, "password_expires_at": null},
        "project": {"id": user.project_id, "name": user.project_name, "domain": domain},
        "issued_at": time(token.issued_at), "expires_at": time(token.expires_at)});
    if catalog {
        body["catalog"] = catalog_body(service, user);
    }
    body
}

fn catalog_body(service: &Service, user: &User) -> Value {
    let (base, region) = (service.config.public_url(), &service.config.region);
    let endpoints = |kind: &str, url: &str| -> Vec<Value> {
        let endpoint = |interface: &&str| {
            json!({"id": format!("{kind}-{interface}"), "interface": interface, "region": region,
                   "region_id": region, "url": url})
        };
        ["public", "internal", "admin"].iter().map(endpoint).collect()
    };
    json!([
        {"id": "database", "type": "database", "name": "trove",
         "endpoints": endpoints("database", &format!("{base}/v1.0/{}", user.project_id))},
        {"id": "identity", "type": "identity", "name": "keystone",
         "endpoints": endpoints("identity", &format!("{base}/identity"))},
    ])
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether a user may see and revoke tokens of others. The policy file does not decide this, since it has only Trove's
/// rules.
fn is_admin(user: &User) -> bool {
    user.roles.iter().any(|role| role == "admin")
}

async fn caller(service: &Service, headers: &HeaderMap) -> Result<Token, Fault> {
    Ok(service.find(header(headers, "x-auth-token")).await?)
}

/// The token in `X-Subject-Token`. It must be the caller's own, unless the caller is an administrator.
async fn subject(service: &Service, headers: &HeaderMap) -> Result<(String, Token), Fault> {
    let bearer = caller(service, headers).await?;
    let text = header(headers, "x-subject-token").to_owned();
    let missing = || Fault::new(StatusCode::NOT_FOUND, "There is no such token.".to_owned());
    let found = service.find(&text).await.map_err(|error| match error {
        Error::Unauthorized(_) => missing(),
        other => other.into(),
    })?;
    if found.user.id != bearer.user.id && !is_admin(&bearer.user) {
        return Err(Fault::new(StatusCode::FORBIDDEN, "The token is another user's.".to_owned()));
    }
    Ok((text, found))
}

async fn validate(State(service): State<Arc<Service>>, headers: HeaderMap) -> Answer {
    let (text, token) = subject(&service, &headers).await?;
    let body = json!({"token": token_body(&service, &token, true)});
    Ok(([("x-subject-token", text)], Json(body)).into_response())
}

async fn revoke(State(service): State<Arc<Service>>, headers: HeaderMap) -> Answer {
    let (text, _) = subject(&service, &headers).await?;
    service.revoke(&text).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn catalog(State(service): State<Arc<Service>>, headers: HeaderMap) -> Answer {
    let token = caller(&service, &headers).await?;
    Ok(Json(json!({"catalog": catalog_body(&service, &token.user), "links": {"next": null}})).into_response())
}

fn project_body(user: &User) -> Value {
    json!({"id": user.project_id, "name": user.project_name, "domain_id": DOMAIN, "parent_id": DOMAIN,
           "enabled": true, "is_domain": false, "description": "", "tags": [], "options": {}, "links": {}})
}

fn user_body(user: &User) -> Value {
    json!({"id": user.id, "name": user.name, "domain_id": DOMAIN, "enabled": true,
           "default_project_id": user.project_id, "options": {}, "password_expires_at": null, "links": {}})
}

/// The users that the caller may see: all for an administrator, otherwise only the caller.
async fn visible(service: &Service, headers: &HeaderMap) -> Result<Vec<User>, Fault> {
    let token = caller(service, headers).await?;
    let all = is_admin(&token.user);
    let mut users = service.users().await?;
    users.retain(|user| all || user.id == token.user.id);
    Ok(users)
}

#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

fn list(name: &str, items: Vec<Value>) -> Response {
    Json(json!({name: items, "links": {"next": null, "previous": null}})).into_response()
}

/// One user for each project, since several users may share one.
fn distinct(users: &[User]) -> Vec<&User> {
    let mut seen = std::collections::BTreeSet::new();
    users.iter().filter(|user| seen.insert(user.project_id.clone())).collect()
}

async fn own_projects(State(service): State<Arc<Service>>, headers: HeaderMap) -> Answer {
    let token = caller(&service, &headers).await?;
    Ok(list("projects", vec![project_body(&token.user)]))
}

async fn projects(State(service): State<Arc<Service>>, headers: HeaderMap, Query(named): Query<Named>) -> Answer {
    let users = visible(&service, &headers).await?;
    let wanted = |user: &&User| named.name.as_ref().is_none_or(|name| *name == user.project_name);
    Ok(list("projects", distinct(&users).into_iter().filter(wanted).map(project_body).collect()))
}

fn missing(what: &str, id: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Could not find {what}: {id}."))
}

async fn project(State(service): State<Arc<Service>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let users = visible(&service, &headers).await?;
    let found = users.iter().find(|user| user.project_id == id).ok_or_else(|| missing("project", &id))?;
    Ok(Json(json!({"project": project_body(found)})).into_response())
}

async fn users(State(service): State<Arc<Service>>, headers: HeaderMap, Query(named): Query<Named>) -> Answer {
    let mut users = visible(&service, &headers).await?;
    users.retain(|user| named.name.as_ref().is_none_or(|name| *name == user.name));
    Ok(list("users", users.iter().map(user_body).collect()))
}

async fn user(State(service): State<Arc<Service>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let users = visible(&service, &headers).await?;
    let found = users.iter().find(|user| user.id == id).ok_or_else(|| missing("user", &id))?;
    Ok(Json(json!({"user": user_body(found)})).into_response())
}

fn domain_body() -> Value {
    json!({"id": DOMAIN, "name": "Default", "enabled": true, "description": "", "links": {}})
}

async fn domains(State(service): State<Arc<Service>>, headers: HeaderMap) -> Answer {
    caller(&service, &headers).await?;
    Ok(list("domains", vec![domain_body()]))
}

async fn domain(State(service): State<Arc<Service>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    caller(&service, &headers).await?;
    if id.eq_ignore_ascii_case(DOMAIN) {
        return Ok(Json(json!({"domain": domain_body()})).into_response());
    }
    Err(missing("domain", &id))
}

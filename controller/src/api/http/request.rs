//! What is done to every request: an id, and a tidy path.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::{counter, histogram};
use tracing::Instrument;
use uuid::Uuid;

use crate::directory::Presence;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");

/// The id of a request: in the answer, the logs and the operations that it enqueues.
#[derive(Clone, Debug)]
pub(in crate::api) struct RequestId(pub(in crate::api) String);

/// Gives the request its id, and the answer too.
pub(in crate::api) async fn identify(mut request: Request, next: Next) -> Response {
    let id = format!("req-{}", Uuid::new_v4());
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!("request", request_id = id, method = %request.method(), path = request.uri().path());
    let mut response = next.run(request).instrument(span).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Refuses what would be written while the state directory is not there, and says so to those who ask for health.
pub async fn refuse_without_state(State(presence): State<Arc<Presence>>, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let asks_health = request.uri().path().trim_end_matches('/') == "/healthcheck";
    if (!reads || asks_health)
        && let Err(error) = presence.check()
    {
        return error.into_response();
    }
    next.run(request).await
}

/// Counts the request and the time that it took, by its route and not by its path, which has ids in it.
pub(in crate::api) async fn measure(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let method = request.method().as_str().to_owned();
    let begun = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    histogram!("trove_http_request_duration_seconds", "method" => method.clone(), "route" => route.clone())
        .record(begun.elapsed());
    counter!("trove_http_requests_total", "method" => method, "route" => route, "status" => status).increment(1);
    response
}

/// Takes a slash off the end, and the suffix `.json` where it can be no part of a name. Not of a deletion: clients make
/// `…/instances/I/` of `…/instances/I/users/..`.
pub(in crate::api) async fn tidy_path(mut request: Request) -> Request {
    if *request.method() != Method::DELETE
        && let Some(uri) = tidied(request.uri())
    {
        *request.uri_mut() = uri;
    }
    request
}

fn tidied(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let mut tidy = path;
    if path.len() > 1 && path != "/v1.0/" {
        tidy = tidy.trim_end_matches('/');
    }
    let named = tidy == "/openapi.json" || ["/users/", "/databases/"].iter().any(|part| tidy.contains(part));
    if !named {
        tidy = tidy.strip_suffix(".json").unwrap_or(tidy);
    }
    if tidy == path {
        return None;
    }
    let tidy = if tidy.is_empty() { "/" } else { tidy };
    let text = uri.query().map_or_else(|| tidy.to_owned(), |query| format!("{tidy}?{query}"));
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_tidied_but_names_are_left_alone() {
        for (path, tidy) in [
            ("/v1.0/p/instances/?limit=1", Some("/v1.0/p/instances?limit=1")),
            ("/v1.0/p/instances.json", Some("/v1.0/p/instances")),
            ("/v1.0/p/instances/i/users/a.json", None),
            ("/openapi.json", None),
            ("/v1.0/", None),
            ("/", None),
        ] {
            let uri: Uri = path.parse().unwrap();
            assert_eq!(tidied(&uri).map(|uri| uri.to_string()).as_deref(), tidy, "{path}");
        }
    }
}

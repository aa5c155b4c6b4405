//! Which web pages of other origins may use the API from a browser.

use std::time::Duration;

use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::CorsLayer;

use crate::error::{Error, Result};

/// How long a browser remembers what it was allowed.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Lets pages of these origins in, such as `https://dashboard.example.org`; none by default. Tokens travel in a header of
/// the page's own making, never in cookies, so credentials are not allowed.
///
/// # Errors
/// 400: names the origin that is none.
pub fn cors(origins: &[String]) -> Result<CorsLayer> {
    let header = |name| HeaderName::from_static(name);
    let origins = origins.iter().map(|origin| {
        let url = url::Url::parse(origin).ok().filter(|url| url.origin().ascii_serialization() == *origin);
        let value = url.and_then(|_| HeaderValue::from_str(origin).ok());
        value.ok_or_else(|| {
            Error::BadRequest(format!(
                "api.cors_origins: {origin} is not an origin such as https://dashboard.example.org."
            ))
        })
    });
    let origins = origins.collect::<Result<Vec<_>>>()?;
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            ACCEPT,
            CONTENT_TYPE,
            header("x-auth-token"),
            header("x-subject-token"),
            header("last-event-id"),
        ])
        .expose_headers([
            RETRY_AFTER,
            header("x-openstack-request-id"),
            header("x-subject-token"),
            header("x-trove-operation-id"),
        ])
        .max_age(REMEMBERED))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_page_is_let_in_from_its_own_origin_only() {
        let page = "https://dashboard.example.org";
        let router = Router::new().route("/v1.0/{project}/instances", get(async || StatusCode::UNAUTHORIZED));
        let router = router.layer(cors(&[page.to_owned()]).unwrap());
        let ask = async |method: &str, origin: &str| {
            let request = Request::builder()
                .method(method)
                .uri("/v1.0/p/instances")
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "x-auth-token,content-type");
            router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
        };
        let preflight = ask("OPTIONS", page).await;
        assert_eq!(preflight.status(), StatusCode::OK, "without a token");
        assert_eq!(preflight.headers()["access-control-allow-origin"], page);
        assert!(preflight.headers()["access-control-allow-headers"].to_str().unwrap().contains("x-auth-token"));
        assert!(!preflight.headers().contains_key("access-control-allow-credentials"));
        let answer = ask("GET", page).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()["access-control-allow-origin"], page, "a page reads refusals too");
        assert!(answer.headers()["access-control-expose-headers"].to_str().unwrap().contains("x-openstack-request-id"));
        for method in ["OPTIONS", "GET"] {
            let stranger = ask(method, "https://evil.example.org").await;
            assert!(!stranger.headers().contains_key("access-control-allow-origin"), "{method}");
        }
    }

    #[test]
    fn what_is_no_origin_is_named() {
        for wrong in ["*", "dashboard.example.org", "https://dashboard.example.org/", "https://a.org/path", ""] {
            let error = cors(&[wrong.to_owned()]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("api.cors_origins: {wrong} is not")), "{error}");
        }
        assert!(cors(&["http://localhost:3000".to_owned(), "https://a.org".to_owned()]).is_ok());
    }
}

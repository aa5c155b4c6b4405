//! Known parts of Trove's API that are not built yet: said so, never a fake success. They are not described.

use axum::Router;
use axum::http::Uri;
use axum::routing::{MethodFilter, get, on};

use super::auth::Authorized;
use crate::api::ApiState;
use crate::error::Error;

const READ: MethodFilter = MethodFilter::GET;
const WRITE: MethodFilter = MethodFilter::POST;
const DELETE: MethodFilter = MethodFilter::DELETE;
const READ_OR_WRITE: MethodFilter = READ.or(WRITE);
const ANY: MethodFilter = READ_OR_WRITE.or(MethodFilter::PUT).or(MethodFilter::PATCH).or(DELETE);

/// Their paths and verbs.
pub(in crate::api) const ROUTES: [(&str, MethodFilter); 16] = [
    ("/instances/{id}/log", READ_OR_WRITE),
    ("/instances/{id}/ssl", READ_OR_WRITE),
    ("/instances/{id}/modules", READ_OR_WRITE),
    ("/instances/{id}/modules/{module}", DELETE),
    ("/clusters", READ_OR_WRITE),
    ("/clusters/{id}", ANY),
    ("/clusters/{id}/instances/{instance}", READ),
    ("/clusters/{id}/root", ANY),
    ("/modules", READ_OR_WRITE),
    ("/modules/{id}", ANY),
    ("/modules/{id}/instances", READ.or(MethodFilter::PUT)),
    ("/datastores/{datastore}/versions/{version}/volume-types", READ),
    ("/mgmt/instances/{id}/upgrade", WRITE),
    ("/mgmt/clusters", READ),
    ("/mgmt/clusters/{id}", READ),
    ("/mgmt/clusters/{id}/action", WRITE),
];

/// All of them, below the project.
pub(in crate::api) fn routes() -> Router<ApiState> {
    let routes = Router::new().route("/instances/{id}/databases/{name}", get(show_database));
    ROUTES.into_iter().fold(routes, |routes, (path, verbs)| routes.route(path, on(verbs, answer)))
}

/// 501.
async fn answer(_authorized: Authorized, uri: Uri) -> Error {
    let path = crate::app::names::shown(uri.path());
    Error::NotImplemented(format!("{path} is a part of Trove's API that this service does not have yet."))
}

/// 501, as in Trove: a single database has nothing to show.
async fn show_database(_authorized: Authorized) -> Error {
    Error::NotImplemented("A single database cannot be shown: list the databases of the instance.".to_owned())
}

//! Known parts of Trove's API that are not built yet: said so, never a fake success.

use axum::http::Uri;

use super::auth::Authorized;
use crate::error::Error;

/// 501.
pub(super) async fn answer(_authorized: Authorized, uri: Uri) -> Error {
    let path = crate::app::names::shown(uri.path());
    Error::NotImplemented(format!("{path} is a part of Trove's API that this service does not have yet."))
}

/// 501, as in Trove: a single database has nothing to show.
pub(super) async fn show_database(_authorized: Authorized) -> Error {
    Error::NotImplemented("A single database cannot be shown: list the databases of the instance.".to_owned())
}

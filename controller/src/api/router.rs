//! The table of routes. Known routes that are not built yet answer 501; unknown paths and wrong methods 404.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, map_request, map_response_with_state};
use axum::routing::{MethodRouter, delete, get, post, put};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    ApiState, auth, connection, databases, datastores, events, fault, flavors, instances, limits, mgmt, mgmt_versions,
    operations, parameters, quotas, request, root, unbuilt, users, versions,
};

/// Largest body of a request.
const BODY_BYTES: usize = 256 * 1024;

/// Every path of the API, to be served at the root.
pub fn router(state: ApiState) -> Router {
    let routes = Router::new()
        .route("/", get(versions::list))
        .route("/v1.0", get(versions::show))
        .route("/v1.0/", get(versions::show))
        .route("/healthcheck", get(async || "OK"))
        .nest("/v1.0/{project}", project_routes())
        .fallback(fault::unknown_path)
        .method_not_allowed_fallback(fault::unknown_path)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(CatchPanicLayer::custom(fault::panicked))
        .layer(map_response_with_state(state.clone(), auth::challenge))
        .layer(from_fn(request::identify))
        .layer(from_fn(request::measure))
        .with_state(state);
    // Paths are tidied before they are matched, so this stands around the routes and not in them.
    Router::new().fallback_service(ServiceBuilder::new().layer(map_request(request::tidy_path)).service(routes))
}

fn project_routes() -> Router<ApiState> {
    Router::new()
        .merge(instance_routes())
        .merge(datastore_routes())
        .merge(mgmt_routes())
        .merge(unbuilt_routes())
        .route("/flavors", get(flavors::list))
        .route("/flavors/{id}", get(flavors::show))
        .route("/limits", get(limits::show))
        .route("/events", get(events::watch))
}

fn instance_routes() -> Router<ApiState> {
    Router::new()
        .route("/instances", get(instances::list::summary).post(instances::create::create))
        .route("/instances/detail", get(instances::list::detail))
        .route(
            "/instances/{id}",
            get(instances::show::show)
                .put(instances::update::update)
                .patch(instances::update::update)
                .delete(instances::delete::delete),
        )
        .route("/instances/{id}/action", post(instances::action::act))
        .route("/instances/{id}/operations", get(operations::list))
        .route("/instances/{id}/connection", get(connection::show))
        .route("/instances/{id}/databases", get(databases::list).post(databases::create))
        .route("/instances/{id}/databases/{name}", get(unbuilt::show_database).delete(databases::delete))
        .route("/instances/{id}/users", get(users::list).post(users::create).put(users::change_passwords))
        .route(
            "/instances/{id}/users/{user}",
            get(users::show).put(users::update).delete(users::delete).post(users::create_named),
        )
        .route("/instances/{id}/users/{user}/databases", get(users::list_access).put(users::grant))
        .route("/instances/{id}/users/{user}/databases/{name}", delete(users::revoke))
        .route("/instances/{id}/root", get(root::show).post(root::enable).delete(root::disable))
}

fn datastore_routes() -> Router<ApiState> {
    Router::new()
        .route("/datastores", get(datastores::list))
        .route("/datastores/{datastore}", get(datastores::show).delete(datastores::delete))
        .route("/datastores/{datastore}/versions", get(datastores::list_versions))
        .route("/datastores/{datastore}/versions/{version}", get(datastores::show_version))
        .route("/datastores/versions/{id}", get(datastores::show_version_by_id))
        .route("/datastores/{datastore}/versions/{version}/flavors", get(datastores::list_flavors))
        .route("/datastores/{datastore}/versions/{version}/volume-types", get(unbuilt::answer))
        .route("/datastores/{datastore}/versions/{version}/parameters", get(parameters::list))
        .route("/datastores/{datastore}/versions/{version}/parameters/{name}", get(parameters::show))
        .route("/datastores/versions/{id}/parameters", get(parameters::list_by_id))
        .route("/datastores/versions/{id}/parameters/{name}", get(parameters::show_by_id))
}

fn mgmt_routes() -> Router<ApiState> {
    Router::new()
        .route("/mgmt/instances", get(mgmt::list))
        .route("/mgmt/instances/{id}", get(mgmt::show))
        .route("/mgmt/instances/{id}/action", post(mgmt::act))
        .route("/mgmt/instances/{id}/root", get(mgmt::show_root))
        .route("/mgmt/instances/{id}/diagnostics", get(mgmt::diagnostics))
        .route("/mgmt/instances/{id}/hwinfo", get(mgmt::hardware))
        .route("/mgmt/instances/{id}/rpc_ping", get(mgmt::ping))
        .route("/mgmt/instances/{id}/upgrade", post(unbuilt::answer))
        .route("/mgmt/clusters", get(unbuilt::answer))
        .route("/mgmt/clusters/{id}", get(unbuilt::answer))
        .route("/mgmt/clusters/{id}/action", post(unbuilt::answer))
        .route("/mgmt/datastore-versions", get(mgmt_versions::list).post(mgmt_versions::create))
        .route(
            "/mgmt/datastore-versions/{id}",
            get(mgmt_versions::show).patch(mgmt_versions::update).delete(mgmt_versions::delete),
        )
        .route("/mgmt/datastores/versions/{id}/parameters", get(parameters::list_managed).post(unbuilt::answer))
        .route(
            "/mgmt/datastores/versions/{id}/parameters/{name}",
            get(parameters::show_managed).put(unbuilt::answer).delete(unbuilt::answer),
        )
        .route("/mgmt/events", get(events::watch_all))
        .route("/mgmt/quotas/{tenant}", get(quotas::show).put(quotas::update))
}

fn read_or_write() -> MethodRouter<ApiState> {
    get(unbuilt::answer).post(unbuilt::answer)
}

fn any_verb() -> MethodRouter<ApiState> {
    get(unbuilt::answer).put(unbuilt::answer).patch(unbuilt::answer).post(unbuilt::answer).delete(unbuilt::answer)
}

/// Whole subjects of Trove's API that come later.
fn unbuilt_routes() -> Router<ApiState> {
    Router::new()
        .route("/instances/{id}/backups", get(unbuilt::answer))
        .route("/instances/{id}/configuration", get(unbuilt::answer))
        .route("/instances/{id}/log", read_or_write())
        .route("/instances/{id}/ssl", read_or_write())
        .route("/instances/{id}/modules", read_or_write())
        .route("/instances/{id}/modules/{module}", delete(unbuilt::answer))
        .route("/backups", read_or_write())
        .route("/backups/{id}", any_verb())
        .route("/backup_strategies", any_verb())
        .route("/configurations", read_or_write())
        .route("/configurations/{id}", any_verb())
        .route("/configurations/{id}/instances", get(unbuilt::answer))
        .route("/clusters", read_or_write())
        .route("/clusters/{id}", any_verb())
        .route("/clusters/{id}/instances/{instance}", get(unbuilt::answer))
        .route("/clusters/{id}/root", any_verb())
        .route("/modules", read_or_write())
        .route("/modules/{id}", any_verb())
        .route("/modules/{id}/instances", get(unbuilt::answer).merge(put(unbuilt::answer)))
}

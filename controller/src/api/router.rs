//! The table of routes, which is that of the description too: each handler says its verb, its path and what belongs to it.
//! Known routes that are not built yet answer 501; unknown paths and wrong methods 404.

use axum::Router;
use axum::middleware::{from_fn, map_request, map_response_with_state};
use axum::routing::get;
use serde_json::Value;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::http::{auth, body, fault, request, unbuilt};
use super::openapi::{self, Document};
use super::{
    ApiState, backup_schedules, backup_strategies, backups, configurations, connection, databases, datastores, events,
    flavors, instances, limits, mgmt, operations, parameters, quotas, root, users, versions,
};

/// Every path of the service, to be served at the root; `identity` is the one that is built in, if it is used.
pub fn router(state: ApiState, identity: Option<Router>) -> Router {
    let (routes, document) = described();
    let document = Document::of(&document);
    let routes = routes
        .route("/v1.0/", get(versions::show))
        .route("/openapi.json", get(async move || document))
        .nest("/v1.0/{project}", unbuilt::routes())
        .fallback(fault::unknown_path)
        .method_not_allowed_fallback(fault::unknown_path)
        .layer(CatchPanicLayer::custom(fault::panicked))
        .layer(map_response_with_state(state.clone(), auth::challenge))
        .layer(from_fn(request::identify))
        .layer(from_fn(request::measure))
        .with_state(state);
    // Paths are tidied before they are matched, so this stands around the routes and not in them.
    let mut all =
        Router::new().fallback_service(ServiceBuilder::new().layer(map_request(request::tidy_path)).service(routes));
    if let Some(identity) = identity {
        all = all.nest("/identity", identity.layer(CatchPanicLayer::custom(fault::panicked)));
    }
    all.layer(from_fn(body::receive))
}

/// The routes that are built, and the description of them.
pub(super) fn described() -> (Router<ApiState>, Value) {
    let (routes, api) = OpenApiRouter::with_openapi(openapi::begin())
        .routes(routes!(versions::list))
        .routes(routes!(versions::show))
        .routes(routes!(versions::health))
        .nest("/v1.0/{project}", project_routes())
        .split_for_parts();
    (routes, openapi::finish(api))
}

fn project_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .merge(instance_routes())
        .merge(datastore_routes())
        .merge(configuration_routes())
        .merge(backup_routes())
        .merge(mgmt_routes())
        .routes(routes!(flavors::list))
        .routes(routes!(flavors::show))
        .routes(routes!(limits::show))
        .routes(routes!(events::watch))
}

fn instance_routes() -> OpenApiRouter<ApiState> {
    use instances::{action, create, delete, list, recovery_window, show, update};
    OpenApiRouter::default()
        .routes(routes!(list::summary, create::create))
        .routes(routes!(list::detail))
        .routes(routes!(show::show, update::update, update::patch, delete::delete))
        .routes(routes!(action::act))
        .routes(routes!(recovery_window::show, recovery_window::set))
        .routes(routes!(operations::list))
        .routes(routes!(connection::show))
        .routes(routes!(databases::list::list, databases::create::create))
        .routes(routes!(databases::delete::delete))
        .routes(routes!(users::list::list, users::create::create, users::change::change_passwords))
        .routes(routes!(users::show::show, users::change::update, users::delete::delete, users::create::create_named))
        .routes(routes!(users::access::list_access, users::access::grant))
        .routes(routes!(users::access::revoke))
        .routes(routes!(root::show, root::enable, root::disable))
}

fn datastore_routes() -> OpenApiRouter<ApiState> {
    use datastores::{delete, list, list_flavors, show, versions};
    OpenApiRouter::default()
        .routes(routes!(list::list))
        .routes(routes!(show::show, delete::delete))
        .routes(routes!(versions::list))
        .routes(routes!(versions::show))
        .routes(routes!(versions::show_by_id))
        .routes(routes!(list_flavors::list_flavors))
        .routes(routes!(parameters::list))
        .routes(routes!(parameters::show))
        .routes(routes!(parameters::list_by_id))
        .routes(routes!(parameters::show_by_id))
}

fn configuration_routes() -> OpenApiRouter<ApiState> {
    use super::instances::configuration;
    use configurations::{create, delete, instances, list, show, update};
    OpenApiRouter::default()
        .routes(routes!(list::list, create::create))
        .routes(routes!(show::show, update::replace, update::merge, delete::delete))
        .routes(routes!(instances::list))
        .routes(routes!(configuration::show))
        .routes(routes!(configuration::compare))
}

fn backup_routes() -> OpenApiRouter<ApiState> {
    use backups::{action, create, delete, list, show};
    OpenApiRouter::default()
        .routes(routes!(list::list, create::create))
        .routes(routes!(show::show, delete::delete))
        .routes(routes!(action::act))
        .routes(routes!(operations::of_backup))
        .routes(routes!(list::of_instance))
        .routes(routes!(
            backup_strategies::list::list,
            backup_strategies::create::create,
            backup_strategies::delete::delete
        ))
        .routes(routes!(backup_schedules::list::list, backup_schedules::create::create))
        .routes(routes!(
            backup_schedules::show::show,
            backup_schedules::update::update,
            backup_schedules::delete::delete
        ))
}

fn mgmt_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .routes(routes!(mgmt::list::list))
        .routes(routes!(mgmt::show::show))
        .routes(routes!(mgmt::action::act))
        .routes(routes!(mgmt::root::show_root))
        .routes(routes!(mgmt::guest::diagnostics))
        .routes(routes!(mgmt::guest::hardware))
        .routes(routes!(mgmt::guest::ping))
        .routes(routes!(mgmt::versions::list, mgmt::versions::create))
        .routes(routes!(mgmt::versions::show, mgmt::versions::update, mgmt::versions::delete))
        .routes(routes!(parameters::list_managed, mgmt::parameters::add))
        .routes(routes!(parameters::show_managed, mgmt::parameters::change, mgmt::parameters::hide))
        .routes(routes!(events::watch_all))
        .routes(routes!(quotas::show, quotas::update))
}

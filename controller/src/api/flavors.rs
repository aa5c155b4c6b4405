//! Sizes that can be ordered.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::http::auth::Authorized;
use super::http::body::{Json, Path};
use super::http::fault::Fault;
use super::http::links::{Link, links};
use super::http::paging::Paging;
use crate::app::instances::Flavor;
use crate::error::Result;
use crate::ids::ProjectId;

/// A size that can be ordered.
#[derive(Serialize, ToSchema)]
struct FlavorView {
    /// Its id where that looks like a number, else null.
    id: Option<u32>,
    /// Its id.
    str_id: String,
    name: String,
    /// MiB.
    ram: u64,
    vcpus: u32,
    disk: u32,
    ephemeral: u32,
    links: Vec<Link>,
}

impl FlavorView {
    fn of(base: &str, project: &ProjectId, flavor: &Flavor) -> Self {
        Self {
            id: flavor.id.parse().ok().filter(|number: &u32| number.to_string() == flavor.id),
            str_id: flavor.id.clone(),
            name: flavor.name.clone(),
            ram: flavor.ram_mib,
            vcpus: flavor.vcpus,
            disk: 0,
            ephemeral: 0,
            links: links(base, project, "flavors", &flavor.id),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct FlavorsBody {
    flavors: Vec<FlavorView>,
}

impl FlavorsBody {
    /// All of these, or what is left of them.
    pub(super) fn of(base: &str, project: &ProjectId, flavors: &[Flavor], paging: &Paging) -> Self {
        let flavors = flavors.iter().map(|flavor| FlavorView::of(base, project, flavor)).collect();
        Self { flavors: paging.rest(flavors, |flavor| flavor.str_id.clone()) }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct FlavorBody {
    flavor: FlavorView,
}

#[derive(Deserialize, IntoParams)]
pub(super) struct OfFlavor {
    /// The flavor.
    id: String,
}

/// List the flavors
///
/// In one page.
#[utoipa::path(get, path = "/flavors", tag = "datastores", operation_id = "list_flavors")]
pub(super) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    paging: Paging,
) -> Result<Json<FlavorsBody>> {
    authorized.may("flavor:index")?;
    let base = state.app.config.public_url();
    Ok(Json(FlavorsBody::of(&base, &authorized.caller.project, state.app.list_flavors(), &paging)))
}

/// Show a flavor
#[utoipa::path(get, path = "/flavors/{id}", tag = "datastores", operation_id = "show_flavor", params(OfFlavor),
    responses(Fault<404>))]
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfFlavor>,
) -> Result<Json<FlavorBody>> {
    authorized.may("flavor:show")?;
    let base = state.app.config.public_url();
    let flavor = FlavorView::of(&base, &authorized.caller.project, state.app.get_flavor(&of.id)?);
    Ok(Json(FlavorBody { flavor }))
}

//! How to connect to an instance: ours, beyond Trove.

use std::net::IpAddr;

use axum::extract::State;
use serde::Serialize;
use trove_strategy::Client;
use utoipa::ToSchema;

use super::ApiState;
use super::http::auth::Authorized;
use super::http::body::{Json, Path};
use super::http::fault::Fault;
use super::instances::{OfInstance, instance_id};
use crate::error::{Error, Result};

#[derive(Serialize, ToSchema)]
pub(super) struct ConnectionBody {
    connection: Connection,
}

/// How the engine's own client program is opened. `{address}`, `{port}`, `{tls_port}`, `{user}`, `{database}`, `{password}`
/// and `{ca_file}` are to be replaced.
#[derive(Serialize, ToSchema)]
struct ClientView {
    program: String,
    args: Vec<String>,
    /// Pairs of a name and a value.
    env: Vec<[String; 2]>,
    /// Variables of the caller whose names begin like these are to be kept from it.
    unset: Vec<String>,
    /// The package that brings the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    package: Option<String>,
}

impl From<Client> for ClientView {
    fn from(client: Client) -> Self {
        let env = client.env.into_iter().map(|(name, value)| [name, value]).collect();
        Self { program: client.program, args: client.args, env, unset: client.unset, package: client.package }
    }
}

/// How to connect, without secrets.
#[derive(Serialize, ToSchema)]
struct Connection {
    #[schema(value_type = String)]
    address: IpAddr,
    port: u16,
    /// Where TLS has another port.
    tls_port: Option<u16>,
    /// The authority that signed the engine's certificate.
    ca_pem: String,
    /// For engines that have one.
    client: Option<ClientView>,
    database: Option<String>,
}

/// Show how to connect to an instance
#[utoipa::path(get, path = "/instances/{id}/connection", tag = "instances", operation_id = "show_connection",
    params(OfInstance), responses(Fault<404>, Fault<422>))]
pub(super) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
) -> Result<Json<ConnectionBody>> {
    authorized.may("instance:show")?;
    let id = of.id;
    let (instance, manifest) = state.app.get_instance_with_manifest(&authorized.caller, instance_id(&id)?).await?;
    let none = || Error::Unprocessable(format!("Instance {id} has no address yet."));
    let connection = Connection {
        address: instance.address.ok_or_else(none)?,
        port: instance.port,
        tls_port: manifest.identity.tls_port,
        ca_pem: state.engines_authority_pem.to_string(),
        client: manifest.identity.client.clone().map(Into::into),
        database: None,
    };
    Ok(Json(ConnectionBody { connection }))
}

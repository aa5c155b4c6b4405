//! What can be ordered: datastores, versions, sizes, and how much of it.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::Session;
use crate::api::segment;
use crate::error::{Failure, Result};

/// What can be done with datastores.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List datastores with their versions.
    List {
        /// Wait until the service has registered what is installed: one that was started just now is looking for it.
        #[arg(long)]
        wait: bool,
    },
    /// Show a datastore.
    Show {
        /// By name or id.
        datastore: String,
    },
    /// Delete a datastore that has no versions; for administrators.
    Delete {
        /// By name or id.
        datastore: String,
    },
    /// Versions of a datastore.
    #[command(subcommand)]
    Version(VersionVerb),
}

/// What can be done with versions.
#[derive(Subcommand)]
pub(crate) enum VersionVerb {
    /// List versions.
    List {
        /// The datastore, by name or id.
        datastore: String,
    },
    /// Show a version.
    Show {
        /// The datastore, by name or id.
        datastore: String,
        /// The version, by name or id.
        version: String,
    },
    #[command(flatten)]
    Managed(ManagedVerb),
}

/// What can be done with versions by administrators.
#[derive(Subcommand)]
pub(crate) enum ManagedVerb {
    /// List the versions of all datastores, also those that cannot be ordered, with the engines that they stand for.
    ListAll,
    /// Register an installed engine as a version.
    #[command(
        after_help = "The image is the id that stands for an installed engine: `list-all` shows those of the versions that \
            there are, and a wrong one is answered with those that could be meant."
    )]
    Create {
        /// The datastore, by name.
        datastore: String,
        /// The name of the version.
        name: String,
        /// The id that stands for the engine.
        #[arg(long)]
        image: uuid::Uuid,
        /// Use it where an order names none.
        #[arg(long)]
        default: bool,
        /// Register it without letting it be ordered.
        #[arg(long)]
        inactive: bool,
    },
    /// Change a version.
    Set {
        /// By id.
        version: uuid::Uuid,
        /// Another name.
        #[arg(long)]
        name: Option<String>,
        /// Whether it can be ordered.
        #[arg(long, value_name = "true|false")]
        active: Option<bool>,
        /// Whether it is the one that is meant where an order names none.
        #[arg(long, value_name = "true|false")]
        default: Option<bool>,
    },
    /// Delete a version of which there are no instances.
    Delete {
        /// By id.
        version: uuid::Uuid,
    },
}

/// What can be done with flavors.
#[derive(Subcommand)]
pub(crate) enum FlavorVerb {
    /// List flavors.
    List,
    /// Show a flavor.
    Show {
        /// Its id.
        flavor: String,
    },
}

const DATASTORE: &[(&str, &str)] = &[("NAME", "name"), ("VERSIONS", "versions"), ("ID", "id")];
const VERSION: &[(&str, &str)] = &[("NAME", "name"), ("NUMBER", "version"), ("ID", "id")];
const MANAGED: &[(&str, &str)] = &[
    ("ID", "id"),
    ("DATASTORE", "datastore_name"),
    ("NAME", "name"),
    ("NUMBER", "version"),
    ("ACTIVE", "active"),
    ("DEFAULT", "default"),
    ("IMAGE", "image"),
    ("ENGINE", "bindir"),
];
const FLAVOR: &[(&str, &str)] = &[("ID", "str_id"), ("NAME", "name"), ("MEMORY MIB", "ram"), ("CORES", "vcpus")];

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::List { wait } => {
            let list = if wait { await_registered(session).await? } else { all(session).await? };
            session.output.list(&list, DATASTORE)
        }
        Verb::Show { datastore } => {
            let path = format!("/datastores/{}", segment(&datastore));
            let body = session.api.get(&format!("show the datastore {datastore}"), &path).await?;
            session.output.one(&body["datastore"], DATASTORE)
        }
        Verb::Delete { datastore } => {
            let path = format!("/datastores/{}", segment(&datastore));
            session.api.send(&format!("delete the datastore {datastore}"), Method::DELETE, &path, None).await?;
            Ok(())
        }
        Verb::Version(VersionVerb::Managed(verb)) => manage(session, verb).await,
        Verb::Version(VersionVerb::List { datastore }) => {
            let path = format!("/datastores/{}/versions", segment(&datastore));
            let list = session.api.list(&format!("list the versions of {datastore}"), &path, "versions").await?;
            session.output.list(&list, VERSION)
        }
        Verb::Version(VersionVerb::Show { datastore, version }) => {
            let path = format!("/datastores/{}/versions/{}", segment(&datastore), segment(&version));
            let body = session.api.get(&format!("show the version {version} of {datastore}"), &path).await?;
            session.output.one(&body["version"], VERSION)
        }
    }
}

async fn manage(session: &mut Session, verb: ManagedVerb) -> Result<()> {
    const PATH: &str = "/mgmt/datastore-versions";
    match verb {
        ManagedVerb::ListAll => {
            let list = session.api.list("list the versions of all datastores", PATH, "versions").await?;
            session.output.list(&list, MANAGED)
        }
        ManagedVerb::Create { datastore, name, image, default, inactive } => {
            let version = json!({
                "name": name, "datastore_name": datastore, "datastore_manager": datastore, "image": image,
                "active": !inactive, "default": default});
            let what = format!("create the version {name} of {datastore}");
            session.api.send(&what, Method::POST, PATH, Some(&json!({"version": version}))).await?;
            Ok(())
        }
        ManagedVerb::Set { version, name, active, default } => {
            let given = [
                ("name", name.map(Value::from)),
                ("active", active.map(Value::from)),
                ("default", default.map(Value::from)),
            ];
            let body: Value = given
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect::<serde_json::Map<_, _>>()
                .into();
            if body.as_object().is_some_and(serde_json::Map::is_empty) {
                return Err(Failure::Usage("Say what to change: --name, --active or --default.".to_owned()));
            }
            let what = format!("change the version {version}");
            session.api.send(&what, Method::PATCH, &format!("{PATH}/{version}"), Some(&body)).await?;
            Ok(())
        }
        ManagedVerb::Delete { version } => {
            let what = format!("delete the version {version}");
            session.api.send(&what, Method::DELETE, &format!("{PATH}/{version}"), None).await?;
            Ok(())
        }
    }
}

async fn all(session: &mut Session) -> Result<Vec<Value>> {
    session.api.list("list the datastores", "/datastores", "datastores").await
}

/// What there is once the service has registered what is installed: it holds the answer for as long, a minute at most.
async fn await_registered(session: &mut Session) -> Result<Vec<Value>> {
    let list = session.api.list("list the datastores", "/datastores?wait=60", "datastores").await?;
    if list.is_empty() {
        return Err(Failure::Late(
            "No datastore is registered: `trove-controller datastore list` and the service's log say why.".to_owned(),
        ));
    }
    Ok(list)
}

/// Flavors.
pub(crate) async fn run_flavors(session: &mut Session, verb: FlavorVerb) -> Result<()> {
    match verb {
        FlavorVerb::List => {
            let list = session.api.list("list the flavors", "/flavors", "flavors").await?;
            session.output.list(&list, FLAVOR)
        }
        FlavorVerb::Show { flavor } => {
            let path = format!("/flavors/{}", segment(&flavor));
            let body = session.api.get(&format!("show the flavor {flavor}"), &path).await?;
            session.output.one(&body["flavor"], FLAVOR)
        }
    }
}

/// The flavor with the least memory.
pub(crate) async fn smallest_flavor(session: &mut Session) -> Result<String> {
    let list = session.api.list("list the flavors", "/flavors", "flavors").await?;
    let smallest = list.iter().min_by_key(|flavor| flavor["ram"].as_u64().unwrap_or(u64::MAX));
    let id = smallest.and_then(|flavor| flavor["str_id"].as_str()).map(str::to_owned);
    id.ok_or_else(|| Failure::failed("The service offers no flavor."))
}

/// The absolute limits, or those of requests.
pub(crate) async fn limits(session: &mut Session, rates: bool) -> Result<()> {
    let mut list = session.api.list("ask for the limits", "/limits", "limits").await?;
    let absolute = if list.is_empty() { Value::Null } else { list.remove(0) };
    if rates {
        let columns =
            [("VERB", "verb"), ("URI", "uri"), ("A MINUTE", "value"), ("LEFT", "remaining"), ("NEXT", "nextAvailable")];
        return session.output.list(&list, &columns);
    }
    session.output.one(
        &absolute,
        &[
            ("INSTANCES", "max_instances"),
            ("MEMORY MIB", "max_ram"),
            ("VOLUMES GIB", "max_volumes"),
            ("BACKUPS", "max_backups"),
            ("CONFIGURATION GROUPS", "max_configurations"),
        ],
    )
}

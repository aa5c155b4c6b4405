//! What can be set in an engine.

use clap::Subcommand;

use super::Session;
use crate::api::segment;
use crate::error::{Failure, Result};
use crate::output::Column;

/// What can be done with parameters.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List what can be set, with its rules.
    List {
        /// The datastore, by name or id.
        datastore: String,
        /// The version, by name or id; the default when absent.
        version: Option<String>,
    },
    /// Show one parameter.
    Show {
        /// The datastore, by name or id.
        datastore: String,
        /// The parameter's name.
        name: String,
        /// The version, by name or id; the default when absent.
        #[arg(long)]
        version: Option<String>,
    },
}

/// The columns of a parameter.
pub(super) const PARAMETER: &[Column] = &[
    ("NAME", "name"),
    ("TYPE", "type"),
    ("MIN", "min"),
    ("MAX", "max"),
    ("UNIT", "unit"),
    ("DEFAULT", "default"),
    ("RESTART", "restart_required"),
    ("ALLOWED", "allowed_values"),
];

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::List { datastore, version } => {
            let path = path(session, &datastore, version).await?;
            let what = format!("list the parameters of {datastore}");
            let list = session.api.list(&what, &path, "configuration-parameters").await?;
            session.output.list(&list, PARAMETER)
        }
        Verb::Show { datastore, name, version } => {
            let path = format!("{}/{}", path(session, &datastore, version).await?, segment(&name));
            let body = session.api.get(&format!("show the parameter {name} of {datastore}"), &path).await?;
            session.output.one(&body, PARAMETER)
        }
    }
}

/// Where the parameters of a version are; of the default one when none is named.
pub(super) async fn path(session: &mut Session, datastore: &str, version: Option<String>) -> Result<String> {
    let version = match version {
        Some(version) => version,
        None => {
            let shown = format!("/datastores/{}", segment(datastore));
            let body = session.api.get(&format!("show the datastore {datastore}"), &shown).await?;
            let default = body["datastore"]["default_version"].as_str().map(str::to_owned);
            default.ok_or_else(|| {
                Failure::Usage(format!(
                    "{datastore} has no default version: `trovectl datastore version list {datastore}`."
                ))
            })?
        }
    };
    Ok(format!("/datastores/{}/versions/{}/parameters", segment(datastore), segment(&version)))
}

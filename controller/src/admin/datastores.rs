//! `trove-controller datastore`.

use super::arguments::{DatastoreVerb, Options, existing, print};
use crate::compute;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::VersionId;
use crate::register;
use crate::store::datastores::{Unregistered, VersionChange};

pub(super) async fn dispatch(verb: DatastoreVerb) -> Result<()> {
    match verb {
        DatastoreVerb::List(options) => list(&options).await,
        DatastoreVerb::Register { options, image, bindir, datastore, name } => {
            let config = Config::load(options.config.as_deref())?;
            let store = existing(&options.state)?.store(&config).await?;
            let name = name.as_deref();
            let version = if let Some(image) = image {
                register::images::register(&store, &image, name).await?
            } else {
                compute::check_installed(&config)?;
                let Some((bindir, datastore)) = bindir.zip(datastore) else {
                    return register::register_installed(&store, &config).await;
                };
                register::register_directory(&store, &config, &datastore, &bindir, name).await?
            };
            print(&format!("{version}\n"))
        }
        DatastoreVerb::Activate { options, version } => set_active(&options, &version, true).await,
        DatastoreVerb::Deactivate { options, version } => set_active(&options, &version, false).await,
    }
}

async fn list(options: &Options) -> Result<()> {
    let store = existing(&options.state)?.store(&Config::load(options.config.as_deref())?).await?;
    let mut text = format!("{:<38} {:<14} {:<8} {:<10} ACTIVE\n", "ID", "DATASTORE", "VERSION", "NUMBER");
    for datastore in store.list_datastores().await?.iter() {
        for version in &datastore.versions {
            let default = if datastore.default_version == Some(version.id) { " (default)" } else { "" };
            text.push_str(&format!(
                "{:<38} {:<14} {:<8} {:<10} {}{default}\n",
                version.id.to_string(),
                datastore.name,
                version.name,
                version.number,
                if version.active { "yes" } else { "no" },
            ));
        }
    }
    let left = store.unregistered().await?;
    if !left.is_empty() {
        text.push_str("\nNot registered:\n");
    }
    for Unregistered { datastore, bindir, version, reason } in left {
        let what =
            [datastore, version, bindir].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        let what = if what.is_empty() { "the agent program".to_owned() } else { what };
        text.push_str(&format!("{what}: {}\n", reason.trim_end()));
    }
    print(&text)
}

async fn set_active(options: &Options, version: &str, active: bool) -> Result<()> {
    let unknown = || Error::NotFound(format!("There is no version {version}. `datastore list` shows their ids."));
    let id: VersionId = version.parse().map_err(|_| unknown())?;
    let store = existing(&options.state)?.store(&Config::load(options.config.as_deref())?).await?;
    let mut tx = store.begin().await?;
    let change = VersionChange { active: Some(active), ..VersionChange::default() };
    if !store.change_version(&mut tx, id, &change).await? {
        return Err(unknown());
    }
    tx.commit().await.map_err(|error| Error::internal("change a version", error))
}

//! Backups: all documents by cursor, and the log of writes from their beginning to their end.

use std::time::Duration;

use async_trait::async_trait;
use trove_strategy::{Backup, Directory, EngineError, Location, Owner, Sink, Site, Source, Taken};

use crate::Mongodb;
use crate::client::patiently;
use crate::config::{self, Purpose};
use crate::dump::{self, Dump};
use crate::engine::{data, unsecured};
use crate::load;
use crate::roles;
use crate::server::served;

/// A storage may be slow, and so is the building of indexes; a job's own deadline comes first.
pub(crate) const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Where the server works until what was backed up is whole.
pub(crate) fn unfinished() -> Location {
    Directory::Data.join("data.new")
}

#[async_trait]
impl Backup for Mongodb {
    async fn take(&self, site: &Site, sink: &mut Sink) -> Result<Taken, EngineError> {
        let session = &mut patiently(|| self.held.session(site)).await?;
        dump::forget(session).await?;
        roles::put_reader(session).await?;
        let until = Dump::begin(session.clone(), &site.installation, sink).await?.all().await?;
        let mut taken = Taken::default();
        taken.position = Some(format!("{}:{}", until.time, until.increment));
        Ok(taken)
    }

    async fn restore(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        let new = unfinished();
        site.host.remove(&new).await?;
        site.host.make_directory(&new, 0o700, Owner::Engine).await?;
        config::write_for_restore(site).await?;
        let loaded = served(site, Purpose::Restore, LIMIT, |session| load::load(site, session, source)).await;
        if let Err(error) = loaded {
            // What is in the way is removed by the next call, too.
            let _ = site.host.remove(&new).await;
            return Err(error);
        }
        // It would have the data made anew.
        site.host.remove(&unsecured()).await?;
        Ok(site.host.rename(&new, &data()).await?)
    }
}

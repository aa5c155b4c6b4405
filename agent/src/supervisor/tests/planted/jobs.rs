//! What strategies do to files and with programs in their longer jobs, as the real ones do it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use trove_strategy::{Backup, Command, Sink, Source, Taken};

use super::*;

/// Most of what is read of a file.
const MOST: usize = 1 << 20;

fn data(name: &str) -> Location {
    Directory::Data.join(format!("data/{name}"))
}

fn path(site: &Site, name: &str) -> String {
    site.data.join(name).to_string_lossy().into_owned()
}

/// An engine's file, which is written by the agent.
fn file(at: Location, contents: &[u8]) -> File {
    File { at, contents: contents.to_vec(), mode: 0o600, owner: Owner::Engine }
}

/// Backups: of a file that the engine has written and that is renamed while it is read, and by a program of the engine's.
pub(super) struct Keeper;

#[async_trait]
impl Backup for Keeper {
    async fn take(&self, site: &Site, sink: &mut Sink) -> Result<Taken, EngineError> {
        let fatal = |error| EngineError::caused(Kind::Fatal, "back up", error);
        site.host.rename(&data("snapshot"), &data("kept")).await?;
        let piece = site.host.read_at(&data("kept"), 0, MOST).await?;
        sink.write_all(&piece.map(|piece| piece.bytes).unwrap_or_default()).await.map_err(fatal)?;
        let tool = Command::engine("/bin/cat").arg(path(site, "accounts")).arg(path(site, "log"));
        let mut said = site.host.read_from(tool).await?;
        let mut bytes = Vec::new();
        said.read_to_end(&mut bytes).await.map_err(fatal)?;
        sink.write_all(&bytes).await.map_err(fatal)?;
        said.finish().await?;
        site.host.remove(&data("kept")).await?;
        Ok(Taken::default())
    }

    async fn restore(&self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        let fatal = |error| EngineError::caused(Kind::Fatal, "restore", error);
        let new = Directory::Data.join("data.new");
        site.host.remove(&new).await?;
        site.host.make_directory(&new, 0o700, Owner::Engine).await?;
        site.host.make_directory(&Directory::Data.join("data.new/logs"), 0o700, Owner::Engine).await?;
        let out = site.data.with_file_name("data.new").join("accounts");
        let tool = Command::engine("/bin/dd").arg(format!("of={}", out.display())).arg("status=none");
        let mut files = site.host.write_to(tool).await?;
        tokio::io::copy(source, &mut files).await.map_err(fatal)?;
        files.shutdown().await.map_err(fatal)?;
        files.finish().await?;
        site.host.write(file(Directory::Data.join("data.new/log"), b"log\n")).await?;
        site.host.write(file(Directory::Data.join("data.new/snapshot"), b"snapshot\n")).await?;
        Ok(site.host.rename(&new, &Directory::Data.join("data")).await?)
    }
}

/// Reads the log of writes, and where the engine is in it.
pub(super) async fn ship(site: &Site) -> Result<Vec<u8>, EngineError> {
    let whole = site.host.read(&data("pid"), 64).await?.unwrap_or_default();
    let piece = site.host.read_at(&data("log"), 0, MOST).await?;
    Ok([whole, piece.map(|piece| piece.bytes).unwrap_or_default()].concat())
}

/// Replays a piece of the log, while the engine does not run.
pub(super) async fn replay(site: &Site) -> Result<(), EngineError> {
    site.host.make_directory(&data("logs"), 0o700, Owner::Engine).await?;
    site.host.write(file(data("logs/1"), b"log\n")).await?;
    site.host.write(file(data("signal"), b"")).await?;
    let tool = Command::engine("/bin/cat").arg(path(site, "logs/1"));
    site.host.run(tool).await?;
    Ok(site.host.remove(&data("signal")).await?)
}

/// Sets aside what a tenant has changed, has a program look at what is left, and puts it back changed.
pub(super) async fn repair(site: &Site) -> Result<(), EngineError> {
    let altered = site.host.read(&data("altered"), MOST as u64).await?.unwrap_or_default();
    if site.host.exists(&data("altered")).await? {
        site.host.rename(&data("altered"), &data("altered.old")).await?;
    }
    site.host.run(Command::engine("/bin/ls").arg(path(site, ""))).await?;
    site.host.write(file(data("altered"), &altered)).await?;
    Ok(site.host.remove(&data("altered.old")).await?)
}

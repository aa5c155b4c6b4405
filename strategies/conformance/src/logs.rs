//! A backup and the log of what was written after it become the state of any later moment, on another site.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use trove_strategy::{Backup, Directory, Kind, LogPiece, Logs, PIECE_LIMIT, StartMode};

use crate::backup::starts;
use crate::bench::{Bench, Running};
use crate::{Durability, Login, Tenant, plain};

/// On both sides of the moment to which is replayed: some engines know whole seconds.
const APART: Duration = Duration::from_millis(1500);
/// Written before the backup, after it, and after the moment to which is replayed.
const TEXTS: [&str; 3] = ["before the log was needed", "in the log", "later in the log"];
/// How often what is open is closed and read until nothing is left, where nobody writes.
const CLOSES: usize = 5;

/// What was shipped, and where the next piece begins.
struct Shipped {
    pieces: Vec<LogPiece>,
    next: String,
}

impl Shipped {
    /// As the agent does, until nothing is open.
    async fn ship(&mut self, bench: &Bench<'_>, logs: &dyn Logs) -> Result<()> {
        let site = &bench.site;
        for _ in 0..CLOSES {
            if logs.open_bytes(site).await.map_err(plain)? > 0 {
                logs.close(site).await.map_err(plain)?;
            }
            while let Some(piece) = logs.piece(site, &self.next).await.map_err(plain)? {
                ensure!(piece.from == self.next, "the piece that begins at {} is said to at {}", self.next, piece.from);
                ensure!(piece.until != piece.from, "the piece {} ends where it begins", piece.from);
                ensure!(piece.bytes.len() <= PIECE_LIMIT, "a piece has {} bytes", piece.bytes.len());
                for place in [&piece.from, &piece.until] {
                    ensure!(is_place(place), "{place:?} is no place");
                }
                let again = logs.piece(site, &self.next).await.map_err(plain)?;
                ensure!(
                    again.as_ref() == Some(&piece),
                    "the piece {} is another one when it is read again",
                    piece.from
                );
                logs.stored(site, &piece.until).await.map_err(plain)?;
                logs.stored(site, &piece.until).await.map_err(plain).context("told again")?;
                self.next.clone_from(&piece.until);
                self.pieces.push(piece);
            }
            if logs.open_bytes(site).await.map_err(plain)? == 0 {
                return Ok(());
            }
        }
        bail!("after {CLOSES} closes something is still open, though nobody writes")
    }
}

fn is_place(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic())
}

/// Ships the log around a backup and a restart, and replays it elsewhere.
pub(crate) async fn point_in_time(
    bench: &Bench<'_>,
    tenant: &dyn Tenant,
    keeper: &Login,
    running: Running,
) -> Result<Running> {
    let backup = bench.datastore.backup().context("announced, but not there")?;
    let logs = backup.logs().context("announced, but not there")?;
    let durability = tenant.durability().context("the tenant cannot write and read texts, though data is kept")?;
    let (site, file) = (&bench.site, bench.scratch().join("log-backup"));
    let next = logs.keep(site).await.map_err(plain)?;
    ensure!(logs.keep(site).await.map_err(plain)? == next, "asked again it begins elsewhere");
    let mut shipped = Shipped { pieces: Vec::new(), next };
    durability.write(site, keeper, TEXTS[0]).await?;
    let early = SystemTime::now();
    let mut into = File::create(&file).await?;
    backup.take(site, &mut into).await.map_err(plain)?;
    into.flush().await?;
    durability.write(site, keeper, TEXTS[1]).await?;
    ensure!(logs.open_bytes(site).await.map_err(plain)? > 0, "something was written, and nothing is open");
    shipped.ship(bench, logs).await?;
    let first = shipped.pieces.len();
    tokio::time::sleep(APART).await;
    let between = SystemTime::now();
    tokio::time::sleep(APART).await;
    durability.write(site, keeper, TEXTS[2]).await?;
    running.stop(bench).await?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    ensure!(logs.keep(site).await.map_err(plain)? == shipped.next, "what was not stored is not kept over a restart");
    shipped.ship(bench, logs).await?;
    ensure!(first > 0 && shipped.pieces.len() > first, "{first} pieces, then {}", shipped.pieces.len());

    let elsewhere = Bench::new(bench.datastore).await?;
    let replay = Replay { backup, logs, durability, keeper, file: &file, on: &elsewhere };
    replay.comes_to(&shipped.pieces, Some(between), &TEXTS[..2]).await.context("to between two writes")?;
    replay.comes_to(&shipped.pieces, None, &TEXTS).await.context("to the end")?;
    let far = SystemTime::now() + Duration::from_secs(3600);
    replay.comes_to(&shipped.pieces, Some(far), &TEXTS).await.context("to after the last write")?;
    replay.refuses(&shipped.pieces, Some(early - Duration::from_secs(3600)), "before the backup").await?;
    if let [first, _, rest @ ..] = shipped.pieces.as_slice()
        && let Some(last) = rest.last()
    {
        replay.refuses(&[first.clone(), last.clone()], None, "without what is between").await?;
    }
    logs.forget(site).await.map_err(plain)?;
    logs.forget(site).await.map_err(plain).context("told again")?;
    Ok(running)
}

/// What is replayed, and where.
struct Replay<'a> {
    backup: &'a dyn Backup,
    logs: &'a dyn Logs,
    durability: &'a dyn Durability,
    keeper: &'a Login,
    file: &'a std::path::Path,
    on: &'a Bench<'a>,
}

impl Replay<'_> {
    /// Restores in the place of what is there.
    async fn replayed(
        &self,
        pieces: &[LogPiece],
        until: Option<SystemTime>,
    ) -> Result<(), trove_strategy::EngineError> {
        let site = &self.on.site;
        site.host.remove(&Directory::Data.join("data")).await?;
        let unread = |error| trove_strategy::EngineError::caused(Kind::Transient, "open the backup", error);
        self.backup.restore(site, &mut File::open(self.file).await.map_err(unread)?).await?;
        for piece in pieces {
            self.logs.take(site, piece.clone()).await?;
        }
        self.logs.replay(site, until).await
    }

    /// What came back is what is expected, and the engine takes writes.
    async fn comes_to(&self, pieces: &[LogPiece], until: Option<SystemTime>, expected: &[&str]) -> Result<()> {
        self.replayed(pieces, until).await.map_err(plain)?;
        let running = starts(self.on).await?;
        let texts = self.durability.read(&self.on.site, self.keeper).await?;
        for text in TEXTS {
            let (is_there, should) = (texts.iter().any(|found| found == text), expected.contains(&text));
            ensure!(is_there == should, "{text:?} {} back", if is_there { "came" } else { "did not come" });
        }
        self.durability.write(&self.on.site, self.keeper, "after the replay").await?;
        running.stop(self.on).await
    }

    async fn refuses(&self, pieces: &[LogPiece], until: Option<SystemTime>, what: &str) -> Result<()> {
        let refused = self.replayed(pieces, until).await.err().map(|error| (error.kind(), error.chain()));
        ensure!(matches!(refused, Some((Kind::Invalid, _))), "{what}: {refused:?}");
        Ok(())
    }
}

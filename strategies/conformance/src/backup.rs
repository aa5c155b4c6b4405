//! What was backed up comes back, here and on another site, and nothing else does.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context as Waker, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::oneshot;
use trove_strategy::{
    Backup, Directory, FirstStart, Grantee, Incremental, Kind, NewUser, Settings, StartMode, UserChange,
};

use crate::access::{MARK, account_name, enters};
use crate::bench::{Bench, Running};
use crate::{Durability, Login, Tenant, plain};

/// How long a tenant may have to wait for a write while a backup is taken.
const WRITE: Duration = Duration::from_secs(10);
/// How long what a backup needed may be there after it was given up.
const GONE: Duration = Duration::from_secs(10);

/// A storage that stops after the first bytes, says so, and goes on when it is told to.
struct Gate {
    file: File,
    first: Option<oneshot::Sender<()>>,
    open: Option<oneshot::Receiver<()>>,
    /// Of the first bytes it takes a few at a time.
    slow: u32,
}

impl Gate {
    /// With what tells that bytes have come, and what opens it.
    fn new(file: File) -> (Self, oneshot::Receiver<()>, oneshot::Sender<()>) {
        let ((first, came), (opener, open)) = (oneshot::channel(), oneshot::channel());
        (Self { file, first: Some(first), open: Some(open), slow: 100 }, came, opener)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Waker<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(first) = self.first.take() {
            // Whoever waits for it may have gone.
            let _ = first.send(());
        }
        if let Some(open) = self.open.as_mut() {
            if Pin::new(open).poll(context).is_pending() {
                return Poll::Pending;
            }
            self.open = None;
        }
        let most = if self.slow > 0 { bytes.len().min(100) } else { bytes.len() };
        self.slow = self.slow.saturating_sub(1);
        Pin::new(&mut self.file).poll_write(context, &bytes[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(context)
    }
}

/// A source whose end is an error, as the agent's is where a sum is wrong.
struct Wrong<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for Wrong<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Waker<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        match Pin::new(&mut self.0).poll_read(context, into) {
            Poll::Ready(Ok(())) if into.filled().len() == before => {
                Poll::Ready(Err(io::Error::other("the sum of a segment is wrong")))
            }
            polled => polled,
        }
    }
}

/// What is asked about after a restore.
struct Known<'a> {
    tenant: &'a dyn Tenant,
    durability: &'a dyn Durability,
    /// Who wrote the texts.
    keeper: &'a Login,
    /// Texts that were acknowledged before the backup began.
    before: Vec<String>,
    /// Let in with what was their password then.
    returning: Vec<Login>,
    /// Not let in: made later, or with a later password.
    unknown: Vec<Login>,
}

/// A backup is taken while tenants write, and is restored on another site and in its own place.
pub(crate) async fn backup(
    bench: &Bench<'_>,
    tenant: &dyn Tenant,
    keeper: &Login,
    running: Running,
) -> Result<Running> {
    let Some(backup) = bench.datastore.backup() else { bail!("announced, but not there") };
    let durability = tenant.durability().context("the tenant cannot write and read texts, though data is kept")?;
    let file = bench.scratch().join("backup");
    durability.write(&bench.site, keeper, "before the backup").await?;
    let before = durability.read(&bench.site, keeper).await?;
    let mut known = Known { tenant, durability, keeper, before, returning: vec![keeper.clone()], unknown: Vec::new() };
    make_account(bench, keeper, "returning").await?;

    leaves_nothing_when_given_up(bench, backup, &file).await?;
    take_while_written(bench, backup, &known, &file).await?;
    durability.write(&bench.site, keeper, "after the backup").await?;
    make_account(bench, keeper, "later").await?;
    if let Some(users) = bench.datastore.users() {
        let of = |name: &str, password: &str| {
            let name = account_name(&bench.datastore.identity().users, &keeper.database, name);
            Login::new(&name, &format!("{MARK}-{password}"), &keeper.database)
        };
        let change = UserChange { password: Some(format!("{MARK}-changed").into()), ..UserChange::default() };
        let id = Grantee::named(&of("returning", "").user);
        users.change(&bench.site, &id, &change).await.map_err(plain)?;
        ensure!(enters(bench, tenant, &of("returning", "changed")).await, "a changed password is not in force");
        known.returning.push(of("returning", "returning"));
        known.unknown.extend([of("returning", "changed"), of("later", "later")]);
    }

    let elsewhere = Bench::new(bench.datastore).await?;
    refuses_what_is_broken(&elsewhere, backup, &file).await?;
    let restored = comes_back(&elsewhere, backup, &known, &file).await.context("on another site")?;
    restored.stop(&elsewhere).await?;
    if let Some(increments) = backup.incremental() {
        elsewhere.site.host.remove(&Directory::Data.join("data")).await?;
        chain(bench, &elsewhere, (backup, increments), &known).await.context("increments")?;
    }
    running.stop(bench).await?;
    bench.site.host.remove(&Directory::Data.join("data")).await?;
    comes_back(bench, backup, &known, &file).await.context("in its own place")
}

/// An account beside the keeper's, where there are accounts; its password has its name.
async fn make_account(bench: &Bench<'_>, keeper: &Login, name: &str) -> Result<()> {
    let Some(users) = bench.datastore.users() else { return Ok(()) };
    let databases = bench.datastore.databases().map(|_| keeper.database.clone()).into_iter().collect();
    let id = Grantee::named(&account_name(&bench.datastore.identity().users, &keeper.database, name));
    let user = NewUser { id, password: format!("{MARK}-{name}").into(), databases };
    users.create(&bench.site, &user).await.map_err(plain)
}

/// Given up where it had begun, it leaves no process that it started.
async fn leaves_nothing_when_given_up(bench: &Bench<'_>, backup: &dyn Backup, file: &Path) -> Result<()> {
    let before = bench.commands()?;
    let (mut gate, came, _opener) = Gate::new(File::create(file).await?);
    tokio::select! {
        taken = backup.take(&bench.site, &mut gate) => {
            bail!("it ends before its bytes are taken: {:?}", taken.map_err(|error| error.chain()))
        }
        came = came => came.context("the storage is not written to")?,
    }
    let end = Instant::now() + GONE;
    loop {
        let left: BTreeSet<i32> = bench.commands()?.difference(&before).copied().collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "processes of a backup that was given up: {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A storage that stands still keeps no tenant from writing, and the backup is whole all the same.
async fn take_while_written(bench: &Bench<'_>, backup: &dyn Backup, known: &Known<'_>, file: &Path) -> Result<()> {
    let (mut gate, came, opener) = Gate::new(File::create(file).await?);
    let write = async {
        came.await.context("the storage is not written to")?;
        let written = known.durability.write(&bench.site, known.keeper, "during the backup");
        let written = tokio::time::timeout(WRITE, written).await;
        written.context("a tenant waits for a backup that waits for its storage")??;
        // It has ended where it does not wait.
        let _ = opener.send(());
        Ok(())
    };
    let (taken, written) = tokio::join!(backup.take(&bench.site, &mut gate), write);
    let counts = taken.map_err(plain)?.memory_bytes.is_some();
    let is_in_memory = bench.datastore.identity().data_memory_percent.is_some();
    ensure!(
        counts == is_in_memory,
        "a backup says how much memory data took ({counts}), which are there ({is_in_memory})"
    );
    written
}

/// What breaks off, or is something else, is refused, and does not stand in the way of the next.
async fn refuses_what_is_broken(bench: &Bench<'_>, backup: &dyn Backup, file: &Path) -> Result<()> {
    let length = std::fs::metadata(file)?.len();
    for part in [length / 2, length - 1] {
        let refused = backup.restore(&bench.site, &mut Wrong(File::open(file).await?.take(part))).await;
        ensure!(refused.is_err(), "of {length} bytes {part} could be read, and it is taken for whole");
    }
    for part in [0, 1, length / 2] {
        let refused = backup.restore(&bench.site, &mut File::open(file).await?.take(part)).await;
        let refused = refused.err().map(|error| (error.kind(), error.chain()));
        let is_invalid = matches!(refused, Some((Kind::Invalid, _)));
        ensure!(is_invalid, "of {length} bytes there are {part}: {refused:?}");
    }
    let mut nonsense = io::Cursor::new(vec![b'x'; 100_000]);
    let refused = backup.restore(&bench.site, &mut nonsense).await.err();
    let refused = refused.map(|error| (error.kind(), error.chain()));
    ensure!(matches!(refused, Some((Kind::Invalid, _))), "what is no backup at all: {refused:?}");
    // One that is killed midway.
    let mut source = File::open(file).await?;
    let killed = tokio::time::timeout(Duration::from_millis(50), backup.restore(&bench.site, &mut source)).await;
    if matches!(killed, Ok(Ok(()))) {
        bench.site.host.remove(&Directory::Data.join("data")).await?;
    }
    Ok(())
}

/// Two increments on a full backup are restored in their order, and in no other.
async fn chain(
    bench: &Bench<'_>,
    elsewhere: &Bench<'_>,
    (backup, increments): (&dyn Backup, &dyn Incremental),
    known: &Known<'_>,
) -> Result<()> {
    let file = |number: usize| bench.scratch().join(format!("chain-{number}"));
    let text = |number: usize| format!("in the chain {number}");
    let mut checkpoints: Vec<String> = Vec::new();
    for number in 0..3 {
        known.durability.write(&bench.site, known.keeper, &text(number)).await?;
        let mut into = File::create(file(number)).await?;
        let taken = match checkpoints.last() {
            None => backup.take(&bench.site, &mut into).await,
            Some(checkpoint) => increments.take(&bench.site, checkpoint, &mut into).await,
        };
        into.flush().await?;
        let checkpoint = taken.map_err(plain)?.checkpoint;
        checkpoints.push(checkpoint.context("what an increment begins at is not said")?);
    }
    known.durability.write(&bench.site, known.keeper, "after the chain").await?;
    let refused = increments.take(&bench.site, "no checkpoint", &mut tokio::io::sink()).await.err();
    let refused = refused.map(|error| (error.kind(), error.chain()));
    ensure!(matches!(refused, Some((Kind::Invalid, _))), "what is no checkpoint: {refused:?}");

    let site = &elsewhere.site;
    // One is missing between them. Where two begin at the same point the later one holds what the earlier one does.
    if checkpoints[0] != checkpoints[1] {
        increments.begin(site, &mut File::open(file(0)).await?).await.map_err(plain)?;
        let refused = increments.apply(site, &mut File::open(file(2)).await?).await.err();
        let refused = refused.map(|error| (error.kind(), error.chain()));
        let is_invalid = matches!(refused, Some((Kind::Invalid, _)));
        ensure!(
            is_invalid,
            "checkpoints {checkpoints:?}, and the second increment is taken without the first: {refused:?}"
        );
    }
    // It breaks off midway, and begins anew.
    increments.begin(site, &mut File::open(file(0)).await?).await.map_err(plain)?;
    let half = std::fs::metadata(file(1))?.len() / 2;
    let broken = increments.apply(site, &mut Wrong(File::open(file(1)).await?.take(half))).await;
    ensure!(broken.is_err(), "half of an increment is taken for whole");

    increments.begin(site, &mut File::open(file(0)).await?).await.map_err(plain)?;
    for number in 1..3 {
        increments.apply(site, &mut File::open(file(number)).await?).await.map_err(plain)?;
    }
    increments.finish(site).await.map_err(plain)?;
    let running = starts(elsewhere).await?;
    let texts = known.durability.read(site, known.keeper).await?;
    let missing: Vec<_> = (0..3).map(text).filter(|text| !texts.contains(text)).collect();
    ensure!(missing.is_empty(), "{missing:?} did not come back");
    ensure!(!texts.iter().any(|text| text == "after the chain"), "what was written later came back");
    known.durability.write(site, known.keeper, "after the restore").await?;
    running.stop(elsewhere).await
}

/// Restores and starts as the agent does, and looks at what is there.
async fn comes_back(bench: &Bench<'_>, backup: &dyn Backup, known: &Known<'_>, file: &Path) -> Result<Running> {
    let site = &bench.site;
    backup.restore(site, &mut File::open(file).await?).await.map_err(plain)?;
    let running = starts(bench).await?;
    let texts = known.durability.read(site, known.keeper).await?;
    let missing: Vec<&String> = known.before.iter().filter(|text| !texts.contains(text)).collect();
    ensure!(missing.is_empty(), "{missing:?} did not come back");
    ensure!(!texts.iter().any(|text| text == "after the backup"), "what was written later came back");
    let more = known.before.len() + usize::from(texts.iter().any(|text| text == "during the backup"));
    ensure!(texts.len() == more, "{texts:?} came back");
    backup.check(site).await.map_err(plain).context("the engine's own check of what came back")?;
    for login in &known.returning {
        ensure!(enters(bench, known.tenant, login).await, "{:?} is not let in as then", login.user);
    }
    for login in &known.unknown {
        ensure!(!enters(bench, known.tenant, login).await, "{:?} is let in as later", login.user);
    }
    known.durability.write(site, known.keeper, "after the restore").await?;
    Ok(running)
}

/// Starts what was restored as the agent does.
pub(crate) async fn starts(bench: &Bench<'_>) -> Result<Running> {
    let (engine, site) = (bench.datastore.engine(), &bench.site);
    let first = engine.initialise(site).await.map_err(plain)?;
    ensure!(first == FirstStart::Normal, "what was restored is not found made: {first:?}");
    engine.configure(site, &Settings::default()).await.map_err(plain)?;
    engine.forget_earlier_life(site).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    Ok(running)
}

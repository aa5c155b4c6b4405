//! Takes a backup: the engine's stream into objects, and the manifest last.

use std::io;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trove_proto::backup::{FORMAT, MANIFEST_LIMIT, MANIFEST_NAME, Manifest, SEGMENT_LIMIT, Segment, segment_name};
use trove_proto::v1;
use trove_strategy::{Backup, EngineError, Kind, Site, Taken};

use super::buffers::Buffers;
use super::parts::{PartSink, QUEUE, next_part};
use super::segments::{Full, SegmentWriter};
use super::{Bounds, Part, Passed, SLOTS, Storage, Tell, incremental, joined, of_object, told};
use crate::supervisor::pass;

/// The level at which zstd is about as fast as a disk.
const LEVEL: i32 = 3;
/// How long a strategy may clean up once nothing takes its stream any more.
const CLEANING: Duration = Duration::from_secs(10);
/// As many as a manifest has room for.
const MOST_SEGMENTS: usize = 100_000;

/// What backup is taken of what.
pub struct TakeOrder<'a> {
    pub strategy: &'a dyn Backup,
    /// The datastore's name.
    pub datastore: &'a str,
    pub site: &'a Site,
    /// The backup's id.
    pub backup: &'a str,
    /// The run's name, which was drawn for it.
    pub run: &'a str,
    /// Public keys of age.
    pub recipients: &'a [String],
    /// Greatest size of a segment.
    pub segment_bytes: u64,
    /// See [`super::STANDSTILL`].
    pub standstill: Duration,
    /// The backup on which it builds.
    pub parent: Option<&'a v1::Parent>,
}

/// What the strategy came to.
struct Written {
    taken: Taken,
    bytes: u64,
    sum: blake3::Hash,
}

/// Takes the backup. When it returns an error, or is dropped, no manifest was written: what is stored of the run is no
/// backup.
///
/// # Errors
/// [`Kind::Invalid`]: the order cannot be carried out. [`Kind::Transient`]: its stream stands still. Else the strategy's, or the
/// storage's, or a cancellation.
pub async fn take(
    order: &TakeOrder<'_>,
    storage: &dyn Storage,
    cancel: &CancellationToken,
    tell: Tell<'_>,
) -> Result<v1::BackedUp, EngineError> {
    let (passed, watched) = watch::channel(Passed::default());
    let bounds = Bounds { cancel, standstill: order.standstill, storage };
    told(take_all(order, storage, passed), bounds, watched, |bytes| tell(bytes, None)).await
}

async fn take_all(
    order: &TakeOrder<'_>,
    storage: &dyn Storage,
    passed: watch::Sender<Passed>,
) -> Result<v1::BackedUp, EngineError> {
    let encryptor = encryptor(order.recipients)?;
    let size = usize::try_from(order.segment_bytes).ok().filter(|_| (1..=SEGMENT_LIMIT).contains(&order.segment_bytes));
    let size = size.ok_or_else(|| {
        let text = format!("segments of {} bytes: they have from 1 to {SEGMENT_LIMIT}", order.segment_bytes);
        EngineError::new(Kind::Invalid, text)
    })?;
    let (sender, mut parts) = mpsc::channel(QUEUE);
    let (out, segments) = mpsc::channel(SLOTS);
    let writer = SegmentWriter::new(Buffers::new(SLOTS, size), Handle::current(), out);
    let sealing = tokio::task::spawn_blocking(move || {
        let sealed = seal(&mut parts, encryptor, writer);
        sealed.map_err(|error| EngineError::caused(Kind::Transient, "compress and encrypt", error))
    });
    let upload = async {
        let segments = upload(order, storage, segments).await?;
        // It has ended, or the channel would still be open.
        joined("compress and encrypt", sealing).await?;
        Ok(segments)
    };
    let write = write(order, sender, passed);
    tokio::pin!(write, upload);
    // The first error ends both: the strategy's tool is ended, and nothing more is stored.
    let (written, segments) = tokio::select! {
        written = &mut write => {
            let written = written?;
            let segments = upload.await?;
            (written, segments)
        }
        segments = &mut upload => match segments {
            Ok(segments) => (write.await?, segments),
            Err(error) => {
                // Its next write fails, and it removes what it needed in the engine.
                let _ = timeout(CLEANING, write).await;
                return Err(error);
            }
        },
    };
    let broken = || EngineError::new(Kind::Transient, "the pipeline of the backup has ended");
    store_manifest(order, storage, written.ok_or_else(broken)?, segments).await
}

/// Lets the strategy write. `None`: it could not, since the other side has ended with an error, which says more than
/// this one.
async fn write(
    order: &TakeOrder<'_>,
    sender: mpsc::Sender<Part>,
    passed: watch::Sender<Passed>,
) -> Result<Option<Written>, EngineError> {
    let mut sink = PartSink::new(sender, passed);
    let taken = match order.parent {
        None => order.strategy.take(order.site, &mut sink).await,
        Some(parent) => incremental(order.strategy)?.take(order.site, &parent.checkpoint, &mut sink).await,
    };
    let finished = match taken {
        Ok(taken) => sink.finish().await.map(|(bytes, sum)| Written { taken, bytes, sum }),
        Err(error) if !sink.is_broken() => return Err(error),
        Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
    };
    Ok(finished.ok())
}

pub(crate) fn encryptor(recipients: &[String]) -> Result<age::Encryptor, EngineError> {
    let parse = |text: &String| {
        let wrong = |why| EngineError::new(Kind::Invalid, format!("encrypt to {text:?}: {why}"));
        text.parse::<age::x25519::Recipient>().map_err(wrong)
    };
    let recipients = recipients.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let all = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    age::Encryptor::with_recipients(all).map_err(|error| EngineError::caused(Kind::Invalid, "encrypt", error))
}

/// Compresses and encrypts up to the end. In a thread. What breaks off leaves an age file without its last chunk, and
/// the last segment is not given away.
fn seal(parts: &mut mpsc::Receiver<Part>, encryptor: age::Encryptor, writer: SegmentWriter) -> io::Result<()> {
    use io::Write as _;
    let sealed = encryptor.wrap_output(writer)?;
    let mut compressed = zstd::stream::write::Encoder::new(sealed, LEVEL)?;
    while let Some(bytes) = next_part(parts)? {
        compressed.write_all(&bytes)?;
    }
    compressed.finish()?.finish()?.finish()
}

/// Stores segments, one after the other, until there are no more.
async fn upload(
    order: &TakeOrder<'_>,
    storage: &dyn Storage,
    mut segments: mpsc::Receiver<Full>,
) -> Result<Vec<Segment>, EngineError> {
    let mut stored = Vec::new();
    while let Some(Full { bytes, sum }) = segments.recv().await {
        if stored.len() == MOST_SEGMENTS {
            let text = format!("backup {}: it has more than {MOST_SEGMENTS} segments", order.backup);
            return Err(EngineError::new(Kind::Fatal, text));
        }
        let segment =
            Segment { name: segment_name(stored.len()), bytes: bytes.len() as u64, blake3: sum.to_hex().to_string() };
        let put = storage.put(&segment.name, bytes).await;
        put.map_err(|error| of_object(&segment.name, order.backup, error))?;
        pass("agent.backup.segment_stored")?;
        stored.push(segment);
    }
    Ok(stored)
}

async fn store_manifest(
    order: &TakeOrder<'_>,
    storage: &dyn Storage,
    written: Written,
    segments: Vec<Segment>,
) -> Result<v1::BackedUp, EngineError> {
    let manifest = Manifest {
        format: FORMAT,
        backup: order.backup.to_owned(),
        run: order.run.to_owned(),
        datastore: order.datastore.to_owned(),
        version: order.site.installation.version.clone(),
        major: order.site.installation.major.clone(),
        recipients: order.recipients.to_vec(),
        position: written.taken.position,
        parent: order.parent.map(|parent| parent.backup.clone()),
        checkpoint: written.taken.checkpoint,
        memory_bytes: written.taken.memory_bytes,
        data_bytes: written.bytes,
        data_blake3: written.sum.to_hex().to_string(),
        segments,
    };
    let json = manifest.to_json().map_err(|error| EngineError::caused(Kind::Fatal, "write the manifest", error))?;
    if json.len() as u64 > MANIFEST_LIMIT {
        let text = format!("the manifest of backup {} has {} bytes, which are too many", order.backup, json.len());
        return Err(EngineError::new(Kind::Fatal, text));
    }
    let manifest_sum = blake3::hash(&json).to_hex().to_string();
    pass("agent.backup.before_manifest")?;
    let put = storage.put(MANIFEST_NAME, Bytes::from(json)).await;
    put.map_err(|error| of_object(MANIFEST_NAME, order.backup, error))?;
    let (run, stored_bytes) = (order.run.to_owned(), manifest.stored_bytes());
    Ok(v1::BackedUp { run, manifest_sum, data_bytes: manifest.data_bytes, stored_bytes })
}

//! Restores a backup, and the increments on it: their objects into the engine's streams. Nothing of an object goes on before its
//! size and sum are right, and the strategy reads a stream's end only when the whole was right.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use trove_proto::backup::{MANIFEST_LIMIT, MANIFEST_NAME, Manifest, SEGMENT_LIMIT, Segment};
use trove_strategy::{Backup, EngineError, Incremental, Kind, Site, Source};

use super::buffers::Buffers;
use super::parts::{PART, PartSource, QUEUE};
use super::segments::SegmentReader;
use super::{Bounds, Part, Passed, SLOTS, Storage, Tell, incremental, joined, object, of_object, told};

/// Logarithm of the most that the decompressor keeps: four times what the level needs at which backups are compressed.
pub(crate) const MOST_WINDOW: u32 = 23;

/// The longest header of an encrypted stream, bytes. One of ours, with its two recipients, has less than 4 KiB. Whoever reads one
/// keeps it whole until it has seen its end.
pub(crate) const MOST_HEADER: usize = 64 << 10;

/// What is restored where.
pub struct RestoreOrder<'a> {
    pub strategy: &'a dyn Backup,
    /// The datastore's name.
    pub datastore: &'a str,
    pub site: &'a Site,
    /// A full backup, and the increments on it in the order in which they were taken.
    pub chain: &'a [Link<'a>],
    /// See [`super::STANDSTILL`].
    pub standstill: Duration,
}

/// A backup of a chain.
pub struct Link<'a> {
    /// Where its objects lie.
    pub storage: &'a dyn Storage,
    /// Its id.
    pub backup: &'a str,
    /// The run that took it.
    pub run: &'a str,
    /// BLAKE3 sum of its manifest, hex.
    pub manifest_sum: &'a str,
    /// The secret key of age.
    pub identity: age::x25519::Identity,
}

/// What each backup of the chain consists of.
///
/// # Errors
/// [`Kind::Invalid`]: the first is not full, or another does not build on the one before it. Else those of [`manifest`].
async fn manifests(order: &RestoreOrder<'_>) -> Result<Vec<Manifest>, EngineError> {
    if order.chain.is_empty() {
        return Err(EngineError::new(Kind::Invalid, "no backup was named"));
    }
    let mut all: Vec<Manifest> = Vec::new();
    for link in order.chain {
        let next = manifest(order, link).await?;
        let before = all.last().map(|before| before.backup.as_str());
        if next.parent.as_deref() != before {
            let on = |backup: Option<&str>| backup.map_or("none".to_owned(), |backup| format!("backup {backup}"));
            let text = format!(
                "{}: it builds on {}, and the one before it is {}",
                object(MANIFEST_NAME, link.backup),
                on(next.parent.as_deref()),
                on(before)
            );
            return Err(EngineError::new(Kind::Invalid, text));
        }
        all.push(next);
    }
    Ok(all)
}

/// Reads the manifest, which must be this backup's and of this site's datastore.
///
/// # Errors
/// [`Kind::Invalid`]: it is not. Else the storage's.
async fn manifest(order: &RestoreOrder<'_>, link: &Link<'_>) -> Result<Manifest, EngineError> {
    let name = object(MANIFEST_NAME, link.backup);
    let invalid = |what: String| EngineError::new(Kind::Invalid, format!("{name}: {what}"));
    let mut bytes = Vec::new();
    let got = link.storage.get(MANIFEST_NAME, MANIFEST_LIMIT, &mut bytes).await;
    got.map_err(|error| of_object(MANIFEST_NAME, link.backup, error))?;
    let sum = blake3::hash(&bytes).to_hex();
    if sum.as_str() != link.manifest_sum {
        return Err(invalid(format!("its sum is {sum} and not {}", link.manifest_sum)));
    }
    let read = Manifest::from_json(&bytes, link.backup, link.run);
    let manifest = read.map_err(|error| invalid(error.to_string()))?;
    let (datastore, installed) = (order.datastore, &order.site.installation);
    if manifest.datastore != datastore || manifest.major != installed.major {
        let of = format!("{} {}", manifest.datastore, manifest.major);
        return Err(invalid(format!("it is of {of}, and this is {datastore} {}", installed.major)));
    }
    if let Some(large) = manifest.segments.iter().find(|segment| segment.bytes > SEGMENT_LIMIT) {
        let text = format!("segment {} has {} bytes, and this agent takes {SEGMENT_LIMIT}", large.name, large.bytes);
        return Err(invalid(text));
    }
    Ok(manifest)
}

/// Restores the chain; bytes of the engine's streams.
///
/// # Errors
/// [`Kind::Invalid`]: an object is not what was written, which names it; or a backup is not for this site, or its key
/// does not open it, or the chain is none. [`Kind::Transient`]: a stream stands still. Else the strategy's, or the storage's,
/// or a cancellation.
pub async fn restore(order: &RestoreOrder<'_>, cancel: &CancellationToken, tell: Tell<'_>) -> Result<u64, EngineError> {
    let manifests = unless_cancelled(cancel, manifests(order)).await?;
    let increments = if manifests.len() > 1 { Some(incremental(order.strategy)?) } else { None };
    let total = manifests.iter().map(|manifest| manifest.data_bytes).sum();
    let mut before = 0;
    for (number, (link, manifest)) in order.chain.iter().zip(manifests).enumerate() {
        let bytes = manifest.data_bytes;
        let (passed, watched) = watch::channel(Passed::default());
        let reader = match increments {
            None => Reader::Whole(order.strategy),
            Some(increments) if number == 0 => Reader::First(increments),
            Some(increments) => Reader::Next(increments),
        };
        let work = read(link, manifest, passed, (reader, order.site));
        let bounds = Bounds { cancel, standstill: order.standstill, storage: link.storage };
        told(work, bounds, watched, |bytes| tell(before + bytes, Some(total))).await?;
        before += bytes;
    }
    if let Some(increments) = increments {
        unless_cancelled(cancel, increments.finish(order.site)).await?;
    }
    Ok(total)
}

async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(EngineError::new(Kind::Transient, "it is not waited for any more")),
        done = work => done,
    }
}

/// How the strategy reads a backup, by its place in the chain.
#[derive(Clone, Copy)]
enum Reader<'a> {
    Whole(&'a dyn Backup),
    First(&'a dyn Incremental),
    Next(&'a dyn Incremental),
}

impl Reader<'_> {
    async fn read(self, site: &Site, source: &mut Source) -> Result<(), EngineError> {
        match self {
            Self::Whole(strategy) => strategy.restore(site, source).await,
            Self::First(strategy) => strategy.begin(site, source).await,
            Self::Next(strategy) => strategy.apply(site, source).await,
        }
    }
}

/// Lets the strategy read a backup.
async fn read(
    link: &Link<'_>,
    manifest: Manifest,
    passed: watch::Sender<Passed>,
    strategy: (Reader<'_>, &Site),
) -> Result<(), EngineError> {
    let (fetched, inbox) = mpsc::channel(1);
    let (out, parts) = mpsc::channel(QUEUE);
    let opening = Opening {
        identity: link.identity.clone(),
        backup: link.backup.to_owned(),
        bytes: manifest.data_bytes,
        blake3: manifest.data_blake3,
        out,
        passed,
    };
    let opening = tokio::task::spawn_blocking(move || opening.run(SegmentReader::new(inbox)));
    let feed = async {
        fetch(link, &manifest.segments, fetched).await?;
        joined("decrypt and decompress", opening).await
    };
    // The first error ends both: the strategy's tool is ended, or nothing more is fetched.
    tokio::try_join!(feed, to_the_end(parts, strategy)).map(drop)
}

/// Lets the strategy read, up to the end.
async fn to_the_end(parts: mpsc::Receiver<Part>, strategy: (Reader<'_>, &Site)) -> Result<(), EngineError> {
    let mut source = PartSource::new(parts);
    let (reader, site) = strategy;
    let read = match reader.read(site, &mut source).await {
        // A tool may not ask for the last bytes; without them nobody knows whether the whole was right.
        Ok(()) => source.drain().await,
        Err(error) if !source.is_broken() => return Err(error),
        Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
    };
    match read {
        Ok(()) => Ok(()),
        // The other side has ended with an error, which it returns at once and which says more than this one.
        Err(_) => std::future::pending().await,
    }
}

/// Fetches the segments one after the other, each when there is room for it, up to the end or until nobody takes
/// them.
async fn fetch(link: &Link<'_>, segments: &[Segment], fetched: mpsc::Sender<Option<Bytes>>) -> Result<(), EngineError> {
    let largest = segments.iter().map(|segment| segment.bytes).max().unwrap_or_default();
    let buffers = Buffers::new(SLOTS, usize::try_from(largest).unwrap_or_default());
    for segment in segments {
        let next = async {
            let mut buffer = buffers.take().await;
            let got = link.storage.get(&segment.name, segment.bytes, &mut buffer.bytes).await;
            got.map_err(|error| of_object(&segment.name, link.backup, error))?;
            checked(buffer.into_bytes(), segment, link.backup).await
        };
        let next = tokio::select! {
            biased;
            // The thread has ended, and says why.
            () = fetched.closed() => return Ok(()),
            next = next => next?,
        };
        if fetched.send(Some(next)).await.is_err() {
            return Ok(());
        }
    }
    // Where it fails, the thread has ended, too.
    let _ = fetched.send(None).await;
    Ok(())
}

/// The segment's bytes, where they are what was written.
async fn checked(bytes: Bytes, segment: &Segment, backup: &str) -> Result<Bytes, EngineError> {
    let invalid = |what: String| EngineError::new(Kind::Invalid, format!("{}: {what}", object(&segment.name, backup)));
    if bytes.len() as u64 != segment.bytes {
        return Err(invalid(format!("it has {} bytes and not {}", bytes.len(), segment.bytes)));
    }
    let summed = bytes.clone();
    let sum = tokio::task::spawn_blocking(move || blake3::hash(&summed)).await;
    let sum = sum.map_err(|error| EngineError::caused(Kind::Fatal, "sum a segment", error))?.to_hex();
    if sum.as_str() != segment.blake3 {
        return Err(invalid(format!("its sum is {sum} and not {}", segment.blake3)));
    }
    Ok(bytes)
}

/// Segments, of which no more than [`MOST_HEADER`] bytes are given until the header was read.
struct Headed {
    segments: SegmentReader,
    left: usize,
    is_read: Rc<Cell<bool>>,
}

impl BufRead for Headed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.segments.fill_buf()?;
        if self.is_read.get() {
            return Ok(bytes);
        }
        if self.left == 0 && !bytes.is_empty() {
            let text = format!("its header has more than {MOST_HEADER} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(&bytes[..bytes.len().min(self.left)])
    }

    fn consume(&mut self, length: usize) {
        self.left = self.left.saturating_sub(length);
        self.segments.consume(length);
    }
}

impl Read for Headed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let open = self.fill_buf()?;
        let length = out.len().min(open.len());
        out[..length].copy_from_slice(&open[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// What the thread needs that decrypts and decompresses.
struct Opening {
    identity: age::x25519::Identity,
    backup: String,
    /// What the manifest says of the whole.
    bytes: u64,
    blake3: String,
    out: mpsc::Sender<Part>,
    passed: watch::Sender<Passed>,
}

impl Opening {
    fn invalid(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::new(Kind::Invalid, format!("backup {}: {what}", self.backup))
    }

    /// Passes the stream on, and its end when it was whole and right.
    fn run(self, segments: SegmentReader) -> Result<(), EngineError> {
        let is_read = Rc::new(Cell::new(false));
        let headed = Headed { segments, left: MOST_HEADER, is_read: is_read.clone() };
        let decryptor = age::Decryptor::new_buffered(headed);
        is_read.set(true);
        let identity: &dyn age::Identity = &self.identity;
        let plain = decryptor.and_then(|decryptor| decryptor.decrypt(std::iter::once(identity)));
        let plain = plain.map_err(|error| self.invalid(format_args!("it is not decrypted: {error}")))?;
        let unreadable = |error: io::Error| self.invalid(format_args!("it cannot be read: {error}"));
        let mut stream = zstd::stream::read::Decoder::new(plain).map_err(unreadable)?;
        stream.window_log_max(MOST_WINDOW).map_err(unreadable)?;
        let (mut sum, mut bytes) = (blake3::Hasher::new(), 0);
        loop {
            let mut part = Vec::with_capacity(PART);
            stream.by_ref().take(PART as u64).read_to_end(&mut part).map_err(unreadable)?;
            if part.is_empty() {
                break;
            }
            bytes += part.len() as u64;
            if bytes > self.bytes {
                return Err(self.invalid(format_args!("it holds more than {} bytes", self.bytes)));
            }
            sum.update(&part);
            self.send(Part::Bytes(part.into()))?;
            self.passed.send_modify(|passed| passed.bytes = bytes);
        }
        // The compressed stream has ended where the encrypted one did, and that one where the last segment did: each of
        // them was read to its end, and would have failed where it was cut off.
        let mut rest = [0];
        if stream.finish().read(&mut rest).map_err(unreadable)? > 0 {
            return Err(self.invalid("more follows than it has"));
        }
        if bytes != self.bytes {
            return Err(self.invalid(format_args!("it holds {bytes} bytes and not {}", self.bytes)));
        }
        let sum = sum.finalize().to_hex();
        if sum.as_str() != self.blake3 {
            return Err(self.invalid(format_args!("the sum of what it holds is {sum} and not {}", self.blake3)));
        }
        self.send(Part::End)?;
        self.passed.send_modify(|passed| passed.has_ended = true);
        Ok(())
    }

    fn send(&self, part: Part) -> Result<(), EngineError> {
        let gone = |_| EngineError::new(Kind::Transient, "nobody reads the backup any more");
        self.out.blocking_send(part).map_err(gone)
    }
}

//! The pipeline with a strategy that is a tape, and a storage that is a shelf.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use trove_proto::backup::{Manifest, SEGMENT_LIMIT, segment_name};
use trove_proto::v1;
use trove_strategy::{Account, Backup, Installation, Places, RealHost, Sink, Site, Size, Source, Taken};

use super::parts::{PART, QUEUE};
use super::*;

const SOON: Duration = Duration::from_secs(20);
const SEGMENT: u64 = 64 << 10;

/// Keeps objects while its gate is open.
struct Shelf {
    objects: Mutex<BTreeMap<String, Bytes>>,
    gate: Semaphore,
    /// Requests that have come to the gate.
    asked: AtomicUsize,
    /// The object that cannot be stored or read.
    fails: Mutex<Option<String>>,
}

impl Shelf {
    fn open() -> Self {
        Self::with_gate(Semaphore::MAX_PERMITS)
    }

    fn with_gate(permits: usize) -> Self {
        let (objects, fails) = (Mutex::default(), Mutex::default());
        Self { objects, gate: Semaphore::new(permits), asked: AtomicUsize::new(0), fails }
    }

    async fn pass(&self, name: &str) -> Result<(), EngineError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        if self.fails.lock().unwrap().as_deref() == Some(name) {
            return Err(EngineError::new(Kind::Transient, "the disk is full"));
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.objects.lock().unwrap().contains_key(name)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.objects.lock().unwrap();
        let mut bytes = objects[name].to_vec();
        change(&mut bytes);
        objects.insert(name.to_owned(), bytes.into());
    }

    fn manifest_sum(&self) -> String {
        blake3::hash(&self.objects.lock().unwrap()[MANIFEST_NAME]).to_hex().to_string()
    }

    fn manifest(&self) -> Manifest {
        serde_json::from_slice(&self.objects.lock().unwrap()[MANIFEST_NAME]).unwrap()
    }

    /// Changes the manifest; its new sum, as a controller would know it.
    fn change_manifest(&self, change: impl FnOnce(&mut Manifest)) -> String {
        self.change(MANIFEST_NAME, |bytes| {
            let mut manifest: Manifest = serde_json::from_slice(bytes).unwrap();
            change(&mut manifest);
            *bytes = manifest.to_json().unwrap();
        });
        self.manifest_sum()
    }
}

#[async_trait]
impl Storage for Shelf {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), EngineError> {
        self.pass(name).await?;
        // A copy: the buffer is needed again.
        let before = self.objects.lock().unwrap().insert(name.to_owned(), Bytes::copy_from_slice(&bytes));
        assert!(before.is_none(), "{name} was there");
        Ok(())
    }

    async fn get(&self, name: &str, limit: u64, into: &mut Vec<u8>) -> Result<(), EngineError> {
        self.pass(name).await?;
        let bytes = self.objects.lock().unwrap().get(name).cloned();
        let bytes = bytes.ok_or_else(|| EngineError::new(Kind::Gone, "it is not there"))?;
        if bytes.len() as u64 > limit {
            return Err(EngineError::new(Kind::Invalid, "it has too many bytes"));
        }
        into.clear();
        into.extend_from_slice(&bytes);
        Ok(())
    }
}

/// An engine's tool.
#[derive(Default)]
pub(crate) struct Tape {
    contents: Vec<u8>,
    /// After so many bytes it fails, or never comes to an end.
    fails_after: Option<usize>,
    hangs_after: Option<usize>,
    written: AtomicU64,
    /// How much it reads of what is restored.
    reads: Option<u64>,
    has_increments: bool,
    pub(crate) restored: Mutex<Vec<u8>>,
    /// Whether it has seen the end.
    has_ended: Mutex<bool>,
}

impl Tape {
    pub(crate) fn of(contents: Vec<u8>) -> Self {
        Self { contents, ..Self::default() }
    }
}

#[async_trait]
impl Backup for Tape {
    async fn take(&self, _site: &Site, sink: &mut Sink) -> Result<Taken, EngineError> {
        let broken = |error| EngineError::caused(Kind::Fatal, "the tool ended", error);
        let end = self.fails_after.or(self.hangs_after).unwrap_or(self.contents.len());
        for piece in self.contents[..end].chunks(10_000) {
            sink.write_all(piece).await.map_err(broken)?;
            self.written.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
        if self.fails_after.is_some() {
            return Err(EngineError::new(Kind::Fatal, "the tool ended with 1"));
        }
        if self.hangs_after.is_some() {
            std::future::pending::<()>().await;
        }
        let mut taken = Taken::default();
        taken.position = Some("0/16".to_owned());
        taken.checkpoint = self.has_increments.then(|| format!("after-{}", self.contents.len()));
        Ok(taken)
    }

    async fn restore(&self, _site: &Site, source: &mut Source) -> Result<(), EngineError> {
        let broken = |error| EngineError::caused(Kind::Fatal, "the tool ended", error);
        let mut restored = Vec::new();
        let read = match self.reads {
            Some(most) => source.take(most).read_to_end(&mut restored).await,
            None => source.read_to_end(&mut restored).await,
        };
        *self.restored.lock().unwrap() = restored;
        read.map_err(broken)?;
        *self.has_ended.lock().unwrap() = self.reads.is_none();
        Ok(())
    }

    fn incremental(&self) -> Option<&dyn Incremental> {
        self.has_increments.then_some(self)
    }
}

/// An increment begins with its checkpoint, and a restore puts a bar between them.
#[async_trait]
impl Incremental for Tape {
    async fn take(&self, site: &Site, checkpoint: &str, sink: &mut Sink) -> Result<Taken, EngineError> {
        sink.write_all(checkpoint.as_bytes()).await.expect("it is taken");
        Backup::take(self, site, sink).await
    }

    async fn begin(&self, _site: &Site, source: &mut Source) -> Result<(), EngineError> {
        let mut restored = Vec::new();
        let read = source.read_to_end(&mut restored).await;
        *self.restored.lock().unwrap() = restored;
        read.map(drop).map_err(|error| EngineError::caused(Kind::Fatal, "the tool ended", error))
    }

    async fn apply(&self, _site: &Site, source: &mut Source) -> Result<(), EngineError> {
        let mut increment = b"|".to_vec();
        let read = source.read_to_end(&mut increment).await;
        self.restored.lock().unwrap().append(&mut increment);
        read.map(drop).map_err(|error| EngineError::caused(Kind::Fatal, "the tool ended", error))
    }

    async fn finish(&self, _site: &Site) -> Result<(), EngineError> {
        *self.has_ended.lock().unwrap() = true;
        Ok(())
    }
}

/// A key, and a site in a directory of its own.
pub(crate) struct Stage {
    key: age::x25519::Identity,
    site: Site,
    standstill: Duration,
    cancel: CancellationToken,
    _scratch: tempfile::TempDir,
}

pub(crate) fn stage() -> Stage {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let places = Places { data: at("v/1"), config: at("etc"), run: at("run"), log: at("log"), secrets: at("secrets") };
    let host = RealHost::for_site(Account::own().unwrap(), Account::own().unwrap(), &places).unwrap();
    let (size, address) = (Size { memory_mib: 1, vcpus: 1, volume_gib: 1 }, IpAddr::from(Ipv4Addr::LOCALHOST));
    let site = Site::new(Installation::new("1.2", "1", "/bin"), places, address, 1, size, &host);
    let (key, cancel) = (age::x25519::Identity::generate(), CancellationToken::new());
    Stage { key, site, standstill: STANDSTILL, cancel, _scratch: scratch }
}

impl Stage {
    pub(crate) async fn take_in(
        &self,
        tape: &Tape,
        storage: &dyn Storage,
        segment_bytes: u64,
    ) -> Result<v1::BackedUp, EngineError> {
        let recipients = [self.key.to_public().to_string()];
        let (strategy, site): (&dyn Backup, _) = (tape, &self.site);
        let (datastore, backup, run, standstill) = ("tape", "b", "r", self.standstill);
        let recipients = &recipients;
        let order =
            TakeOrder { strategy, datastore, site, backup, run, recipients, segment_bytes, standstill, parent: None };
        timeout(SOON, take(&order, storage, &self.cancel, &|_, _| {})).await.expect("it ends")
    }

    /// The backup that [`Stage::take`] takes.
    fn link<'a>(&self, storage: &'a dyn Storage, manifest_sum: &'a str) -> Link<'a> {
        Link { storage, backup: "b", run: "r", manifest_sum, identity: self.key.clone() }
    }

    async fn take(&self, tape: &Tape, storage: &dyn Storage) -> Result<v1::BackedUp, EngineError> {
        self.take_in(tape, storage, SEGMENT).await
    }

    pub(crate) async fn restore(
        &self,
        tape: &Tape,
        storage: &dyn Storage,
        manifest_sum: &str,
    ) -> Result<u64, EngineError> {
        self.restore_as("tape", tape, storage, manifest_sum).await
    }

    async fn restore_as(
        &self,
        datastore: &str,
        tape: &Tape,
        storage: &dyn Storage,
        manifest_sum: &str,
    ) -> Result<u64, EngineError> {
        let (chain, standstill) = ([self.link(storage, manifest_sum)], self.standstill);
        let order = RestoreOrder { strategy: tape, datastore, site: &self.site, chain: &chain, standstill };
        timeout(SOON, restore(&order, &self.cancel, &|_, _| {})).await.expect("it ends")
    }
}

/// Bytes that do not become less.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A backup of five segments, and the sum of its manifest.
async fn taken(stage: &Stage) -> (Shelf, String) {
    let shelf = Shelf::open();
    let backed_up = stage.take(&Tape::of(noise(300_000, 1)), &shelf).await.unwrap();
    assert_eq!(shelf.objects.lock().unwrap().len(), 6);
    (shelf, backed_up.manifest_sum)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_taken_is_restored_and_the_manifest_says_what_it_is(
        noisy in prop_oneof![Just(0usize), 1..300_000usize],
        even in prop_oneof![Just(0usize), 1..1_000_000usize],
        segment_bytes in prop_oneof![Just(1u64 << 20), 300..100_000u64],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (stage, shelf) = (stage(), Shelf::open());
            let contents = [noise(noisy, 3), vec![7; even]].concat();
            let tape = Tape::of(contents.clone());
            let backed_up = stage.take_in(&tape, &shelf, segment_bytes).await.unwrap();
            let stored = shelf.objects.lock().unwrap().clone();
            let manifest = Manifest::from_json(&stored[MANIFEST_NAME], "b", "r").unwrap();
            let versions = (manifest.version.as_str(), manifest.major.as_str());
            assert_eq!((versions, manifest.position.as_deref()), (("1.2", "1"), Some("0/16")));
            assert_eq!(manifest.data_bytes, contents.len() as u64);
            assert_eq!(manifest.data_blake3, blake3::hash(&contents).to_hex().as_str());
            assert_eq!(backed_up.manifest_sum, blake3::hash(&stored[MANIFEST_NAME]).to_hex().as_str());
            assert_eq!((backed_up.data_bytes, backed_up.stored_bytes), (manifest.data_bytes, manifest.stored_bytes()));
            assert_eq!(manifest.segments.len() + 1, stored.len());
            let (last, full) = manifest.segments.split_last().unwrap();
            assert!(full.iter().all(|segment| segment.bytes == segment_bytes));
            assert!((1..=segment_bytes).contains(&last.bytes));
            for segment in &manifest.segments {
                assert_eq!(segment.bytes, stored[&segment.name].len() as u64);
                assert_eq!(segment.blake3, blake3::hash(&stored[&segment.name]).to_hex().as_str());
            }
            let bytes = stage.restore(&tape, &shelf, &backed_up.manifest_sum).await.unwrap();
            assert_eq!(bytes, contents.len() as u64);
            assert!(*tape.restored.lock().unwrap() == contents, "another stream came back");
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_cut_where_a_segment_is_full_and_nowhere_else() {
    for (length, expected) in [(0, vec![]), (1, vec![1]), (8, vec![8]), (9, vec![8, 1]), (16, vec![8, 8])] {
        let (out, mut segments) = tokio::sync::mpsc::channel(9);
        let buffers = buffers::Buffers::new(9, 8);
        let mut writer = segments::SegmentWriter::new(buffers, tokio::runtime::Handle::current(), out);
        let written = tokio::task::spawn_blocking(move || {
            std::io::Write::write_all(&mut writer, &vec![1; length]).and_then(|()| writer.finish())
        });
        written.await.unwrap().unwrap();
        let mut sizes = Vec::new();
        while let Some(full) = segments.recv().await {
            assert_eq!(full.sum, blake3::hash(&full.bytes));
            sizes.push(full.bytes.len());
        }
        assert_eq!(sizes, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_found_and_named_and_the_end_is_never_read() {
    type Damage = fn(&Shelf);
    let damages: [(&str, Damage, &str); 7] = [
        ("a bit", |shelf| shelf.change("00000002", |bytes| bytes[9] ^= 4), "segment 00000002 of backup b: its sum is "),
        (
            "cut off",
            |shelf| shelf.change("00000003", |bytes| bytes.truncate(bytes.len() - 1)),
            "segment 00000003 of backup b: it has 65535 bytes and not 65536",
        ),
        (
            "longer",
            |shelf| shelf.change("00000003", |bytes| bytes.push(0)),
            "segment 00000003 of backup b: it has too many bytes",
        ),
        (
            "missing",
            |shelf| drop(shelf.objects.lock().unwrap().remove("00000004")),
            "segment 00000004 of backup b: it is not there",
        ),
        (
            "swapped",
            |shelf| {
                let first = shelf.objects.lock().unwrap()["00000001"].to_vec();
                let second = shelf.objects.lock().unwrap()["00000002"].to_vec();
                shelf.change("00000001", |bytes| *bytes = second);
                shelf.change("00000002", |bytes| *bytes = first);
            },
            "segment 00000001 of backup b: its sum is ",
        ),
        (
            "a bit of the manifest",
            |shelf| shelf.change(MANIFEST_NAME, |bytes| bytes[30] ^= 1),
            "the manifest of backup b: its sum is ",
        ),
        (
            "no manifest",
            |shelf| drop(shelf.objects.lock().unwrap().remove(MANIFEST_NAME)),
            "the manifest of backup b: it is not there",
        ),
    ];
    let stage = stage();
    for (name, damage, said) in damages {
        let (shelf, sum) = taken(&stage).await;
        damage(&shelf);
        let tape = Tape::default();
        let error = stage.restore(&tape, &shelf, &sum).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{name}: {}", error.chain());
        assert!(error.chain().starts_with(said), "{name}: {}", error.chain());
        assert!(!*tape.has_ended.lock().unwrap(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_do_not_belong_to_what_is_stored_or_to_this_site_are_refused() {
    type Change = fn(&mut Manifest);
    let changes: [(Change, &str); 8] = [
        (|manifest| manifest.backup = "other".to_owned(), "the manifest of backup b: it is of run r of backup other"),
        (|manifest| manifest.run = "other".to_owned(), "the manifest of backup b: it is of run other of backup b"),
        (|manifest| manifest.major = "2".to_owned(), "the manifest of backup b: it is of tape 2, and this is tape 1"),
        (|manifest| manifest.segments[1].bytes = SEGMENT_LIMIT + 1, "the manifest of backup b: segment 00000001 has "),
        // Whose objects are all right and do not make a whole.
        (|manifest| drop(manifest.segments.pop()), "backup b: it cannot be read: "),
        (|manifest| manifest.data_bytes += 1, "backup b: it holds 300000 bytes and not 300001"),
        (|manifest| manifest.data_bytes -= 1, "backup b: it holds more than 299999 bytes"),
        (|manifest| manifest.data_blake3.replace_range(..4, "0000"), "backup b: the sum of what it holds is "),
    ];
    let stage = stage();
    for (change, said) in changes {
        let (shelf, _) = taken(&stage).await;
        let sum = shelf.change_manifest(change);
        let tape = Tape::default();
        let error = stage.restore(&tape, &shelf, &sum).await.unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.chain().starts_with(said), "{}", error.chain());
        assert!(!*tape.has_ended.lock().unwrap(), "{said}");
    }
    let (shelf, sum) = taken(&stage).await;
    let error = stage.restore_as("disk", &Tape::default(), &shelf, &sum).await.unwrap_err();
    assert!(error.chain().contains("it is of tape 1, and this is disk 1"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_opens_nothing() {
    let (one, other) = (stage(), stage());
    let (shelf, sum) = taken(&one).await;
    let tape = Tape::default();
    let error = other.restore(&tape, &shelf, &sum).await.unwrap_err();
    assert!(
        error.kind() == Kind::Invalid && error.chain().starts_with("backup b: it is not decrypted: "),
        "{}",
        error.chain()
    );
    assert!(tape.restored.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_does_not_read_to_the_end_proves_nothing() {
    let stage = stage();
    let (shelf, sum) = taken(&stage).await;
    let tape = Tape { reads: Some(10), ..Tape::default() };
    assert_eq!(stage.restore(&tape, &shelf, &sum).await.unwrap(), 300_000);
    shelf.change("00000004", |bytes| bytes[0] ^= 1);
    let error = stage.restore(&tape, &shelf, &sum).await.unwrap_err();
    assert!(error.chain().starts_with("segment 00000004 of backup b: its sum is "), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_stalls_stops_the_tool_and_two_segments_are_in_memory() {
    let (stage, shelf, tape) = (stage(), Shelf::with_gate(1), Tape::of(noise(8 << 20, 5)));
    let segment = 1 << 20;
    let stalled = async {
        let (mut before, mut still) = (0, 0);
        while still < 10 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let now = tape.written.load(Ordering::SeqCst);
            still = if now == before && now > 0 { still + 1 } else { 0 };
            before = now;
        }
        assert_eq!(shelf.asked.load(Ordering::SeqCst), 2, "one is stored, and the next one waits");
        // One that is stored, two in memory, the parts that wait or are written, and what zstd and age hold.
        let most = (1 + SLOTS as u64) * segment + ((QUEUE + 2) * PART) as u64 + (512 << 10);
        assert!(before > 2 * segment && before < most, "{before} of {most}");
        shelf.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    };
    let (backed_up, ()) = tokio::join!(stage.take_in(&tape, &shelf, segment), stalled);
    let sum = backed_up.unwrap().manifest_sum;
    stage.restore(&tape, &shelf, &sum).await.unwrap();
    assert!(*tape.restored.lock().unwrap() == tape.contents);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_fetches_two_segments_and_waits_for_the_tool() {
    let stage = stage();
    let contents = noise(8 << 20, 6);
    let shelf = Shelf::open();
    let sum = stage.take_in(&Tape::of(contents), &shelf, 1 << 20).await.unwrap().manifest_sum;
    /// Reads nothing.
    struct Stuck;
    #[async_trait]
    impl Backup for Stuck {
        async fn take(&self, _site: &Site, _sink: &mut Sink) -> Result<Taken, EngineError> {
            std::future::pending().await
        }
        async fn restore(&self, _site: &Site, _source: &mut Source) -> Result<(), EngineError> {
            std::future::pending().await
        }
    }
    let before = shelf.asked.load(Ordering::SeqCst);
    let (chain, standstill) = ([stage.link(&shelf, &sum)], STANDSTILL);
    let order = RestoreOrder { strategy: &Stuck, datastore: "tape", site: &stage.site, chain: &chain, standstill };
    let waits = restore(&order, &stage.cancel, &|_, _| {});
    assert!(timeout(Duration::from_secs(2), waits).await.is_err());
    // The manifest, the segments that the parts on their way are of, and two.
    let fetched = shelf.asked.load(Ordering::SeqCst) - before;
    assert!((3..=5).contains(&fetched), "{fetched}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_fails_leaves_no_manifest_and_its_own_words() {
    let (stage, shelf) = (stage(), Shelf::open());
    for fails_after in [0, 10_000, 250_000] {
        let tape = Tape { contents: noise(300_000, 1), fails_after: Some(fails_after), ..Tape::default() };
        let error = stage.take(&tape, &shelf).await.unwrap_err();
        assert_eq!((error.kind(), error.chain().as_str()), (Kind::Fatal, "the tool ended with 1"));
        assert!(!shelf.has(MANIFEST_NAME));
        shelf.objects.lock().unwrap().clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_fails_is_what_the_error_tells_of() {
    let stage = stage();
    let tape = Tape::of(noise(3 << 20, 1));
    for (name, said) in [
        (segment_name(2), "segment 00000002 of backup b: the disk is full"),
        (MANIFEST_NAME.to_owned(), "the manifest of backup b: the disk is full"),
    ] {
        let shelf = Shelf::open();
        *shelf.fails.lock().unwrap() = Some(name);
        let error = stage.take(&tape, &shelf).await.unwrap_err();
        assert_eq!((error.kind(), error.chain().as_str()), (Kind::Transient, said));
        assert!(!shelf.has(MANIFEST_NAME));
    }
    let (shelf, sum) = taken(&stage).await;
    *shelf.fails.lock().unwrap() = Some(segment_name(1));
    let error = stage.restore(&Tape::default(), &shelf, &sum).await.unwrap_err();
    let said = "segment 00000001 of backup b: the disk is full";
    assert_eq!((error.kind(), error.chain().as_str()), (Kind::Transient, said));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_out_is_refused_before_the_tool_runs() {
    let (stage, shelf, tape) = (stage(), Shelf::open(), Tape::of(noise(10, 1)));
    for segment_bytes in [0, SEGMENT_LIMIT + 1] {
        let error = stage.take_in(&tape, &shelf, segment_bytes).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{}", error.chain());
    }
    for recipients in [vec![], vec!["age1nonsense".to_owned()], vec!["ssh-ed25519 AAAA".to_owned()]] {
        let (strategy, site): (&dyn Backup, _) = (&tape, &stage.site);
        let (datastore, backup, run, segment_bytes, standstill) = ("tape", "b", "r", SEGMENT, STANDSTILL);
        let recipients = &recipients;
        let order =
            TakeOrder { strategy, datastore, site, backup, run, recipients, segment_bytes, standstill, parent: None };
        let error = take(&order, &shelf, &stage.cancel, &|_, _| {}).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{}", error.chain());
    }
    assert_eq!(tape.written.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_ends_everything_within_a_second() {
    let long = || noise(4 << 20, 2);
    let takes = [
        (Shelf::with_gate(0), Tape::of(long())),
        (Shelf::open(), Tape { contents: long(), hangs_after: Some(1 << 20), ..Tape::default() }),
        (Shelf::open(), Tape { contents: long(), hangs_after: Some(0), ..Tape::default() }),
    ];
    for (shelf, tape) in takes {
        let stage = stage();
        let cancel = stage.cancel.clone();
        let later = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            cancel.cancel();
            Instant::now()
        };
        let (ended, begun) = tokio::join!(stage.take(&tape, &shelf), later);
        assert_eq!(ended.unwrap_err().kind(), Kind::Transient);
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert!(!shelf.has(MANIFEST_NAME));
    }
    for permits in [0, 1, 2] {
        let stage = stage();
        let (mut shelf, sum) = taken(&stage).await;
        shelf.gate = Semaphore::new(permits);
        let cancel = stage.cancel.clone();
        let later = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            cancel.cancel();
            Instant::now()
        };
        let tape = Tape::default();
        let (ended, begun) = tokio::join!(stage.restore(&tape, &shelf, &sum), later);
        assert_eq!(ended.unwrap_err().kind(), Kind::Transient);
        assert!(begun.elapsed() < Duration::from_secs(1) && !*tape.has_ended.lock().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_with_the_whole_at_the_end_and_not_often() {
    let (stage, shelf, tape) = (stage(), Shelf::open(), Tape::of(noise(3 << 20, 8)));
    let told = Mutex::new(Vec::new());
    let tell = |bytes, total| told.lock().unwrap().push((bytes, total));
    let recipients = [stage.key.to_public().to_string()];
    let (strategy, site): (&dyn Backup, _) = (&tape, &stage.site);
    let (datastore, backup, run, segment_bytes, standstill) = ("tape", "b", "r", SEGMENT, STANDSTILL);
    let recipients = &recipients;
    let order =
        TakeOrder { strategy, datastore, site, backup, run, recipients, segment_bytes, standstill, parent: None };
    let begun = Instant::now();
    let sum = take(&order, &shelf, &stage.cancel, &tell).await.unwrap().manifest_sum;
    let most = begun.elapsed().as_millis() / 500 + 2;
    let said = std::mem::take(&mut *told.lock().unwrap());
    assert_eq!(said.last(), Some(&(3 << 20, None)));
    assert!(said.len() as u128 <= most && said.is_sorted(), "{said:?}");
    let chain = [stage.link(&shelf, &sum)];
    let order = RestoreOrder { strategy, datastore, site, chain: &chain, standstill };
    restore(&order, &stage.cancel, &tell).await.unwrap();
    assert_eq!(told.lock().unwrap().last(), Some(&(3 << 20, Some(3 << 20))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_without_an_end_is_not_read_to_it() {
    let stage = stage();
    let (shelf, _) = taken(&stage).await;
    // A recipient that nobody knows, with a name that does not end.
    let header = format!("age-encryption.org/v1\n-> {}", "A".repeat(200_000));
    let sum = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    shelf.change("00000000", |bytes| *bytes = header.clone().into_bytes());
    let manifest_sum = shelf.change_manifest(|manifest| {
        manifest.segments[0].bytes = header.len() as u64;
        manifest.segments[0].blake3 = sum(header.as_bytes());
    });
    let error = stage.restore(&Tape::default(), &shelf, &manifest_sum).await.unwrap_err();
    let said = "backup b: it is not decrypted: its header has more than 65536 bytes";
    assert_eq!((error.kind(), error.chain().as_str()), (Kind::Invalid, said));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_which_no_byte_moves_is_given_up() {
    let stage = Stage { standstill: Duration::from_secs(1), ..stage() };
    let long = noise(5_000_000, 1);
    let given_up = |error: EngineError, what: &str| {
        let said = "no byte of it moved for 1 s: the engine's tool or the storage stands still";
        assert_eq!((error.kind(), error.chain().as_str()), (Kind::Transient, said), "{what}");
    };
    let shelf = Shelf::with_gate(1);
    given_up(stage.take(&Tape::of(long.clone()), &shelf).await.unwrap_err(), "the storage takes no more");
    assert!(!shelf.has(MANIFEST_NAME));
    let stops = Tape { contents: long.clone(), hangs_after: Some(1 << 20), ..Tape::default() };
    given_up(stage.take(&stops, &Shelf::open()).await.unwrap_err(), "the tool writes no more");

    let shelf = Shelf::open();
    let backed_up = stage.take(&Tape::of(long.clone()), &shelf).await.unwrap();
    // The manifest, and half of the segments.
    let shelf = Shelf { objects: Mutex::new(shelf.objects.lock().unwrap().clone()), ..Shelf::with_gate(40) };
    let restored = stage.restore(&Tape::default(), &shelf, &backed_up.manifest_sum).await;
    given_up(restored.unwrap_err(), "nothing comes any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_moves_slowly_or_has_not_begun_is_not_given_up() {
    let stage = Stage { standstill: Duration::from_secs(1), ..stage() };
    let shelf = Shelf::with_gate(0);
    let tape = Tape::of(noise(2_000_000, 1));
    let slowly = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            shelf.gate.add_permits(6);
        }
    };
    let begun = Instant::now();
    tokio::select! {
        taken = stage.take(&tape, &shelf) => drop(taken.unwrap()),
        () = slowly => {}
    }
    assert!(begun.elapsed() > stage.standstill, "it was too fast to tell");
    // An engine may prepare for long before the first byte.
    let prepares = Tape { contents: vec![1], hangs_after: Some(0), ..Tape::default() };
    let waited = timeout(Duration::from_secs(3), stage.take(&prepares, &Shelf::open())).await;
    assert!(waited.is_err(), "it ended: {waited:?}");
}

/// A full backup and two increments, each on a shelf of its own.
async fn chain(stage: &Stage) -> Vec<(Shelf, String, v1::BackedUp)> {
    let mut all: Vec<(Shelf, String, v1::BackedUp)> = Vec::new();
    for (number, contents) in ["full", "first", "second"].into_iter().enumerate() {
        let tape = Tape { has_increments: true, ..Tape::of(contents.as_bytes().to_vec()) };
        let (shelf, backup, run) = (Shelf::open(), format!("b{number}"), format!("r{number}"));
        let parent = all.last().map(|(shelf, backup, _)| v1::Parent {
            backup: backup.clone(),
            checkpoint: shelf.manifest().checkpoint.expect("a checkpoint"),
        });
        let order = TakeOrder {
            strategy: &tape,
            datastore: "tape",
            site: &stage.site,
            backup: &backup,
            run: &run,
            recipients: &[stage.key.to_public().to_string()],
            segment_bytes: SEGMENT,
            parent: parent.as_ref(),
            standstill: STANDSTILL,
        };
        let done = take(&order, &shelf, &stage.cancel, &|_, _| {}).await.unwrap();
        all.push((shelf, backup, done));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_restored_in_its_order_and_nothing_else_is() {
    let stage = stage();
    let chain = chain(&stage).await;
    assert_eq!(chain[2].0.manifest().parent.as_deref(), Some("b1"));
    let restored = async |numbers: &[usize], has_increments: bool| {
        let link = |number: &usize| {
            let (storage, backup, done) = &chain[*number];
            Link { storage, backup, run: &done.run, manifest_sum: &done.manifest_sum, identity: stage.key.clone() }
        };
        let links: Vec<_> = numbers.iter().map(link).collect();
        let tape = Tape { has_increments, ..Tape::default() };
        let order = RestoreOrder {
            strategy: &tape,
            datastore: "tape",
            site: &stage.site,
            chain: &links,
            standstill: STANDSTILL,
        };
        let done = restore(&order, &stage.cancel, &|_, _| {}).await;
        let text = String::from_utf8(tape.restored.lock().unwrap().clone()).unwrap();
        done.map(|bytes| (bytes, text, *tape.has_ended.lock().unwrap())).map_err(|error| (error.kind(), error.chain()))
    };
    let whole = "full|after-4first|after-5second";
    assert_eq!(restored(&[0, 1, 2], true).await.unwrap(), (29, whole.to_owned(), true));
    assert_eq!(restored(&[0, 1], true).await.unwrap().1, "full|after-4first");
    assert_eq!(restored(&[0], true).await.unwrap(), (4, "full".to_owned(), true));
    for (numbers, has_increments, why) in [
        (&[0, 2][..], true, "the manifest of backup b2: it builds on backup b1, and the one before it is backup b0"),
        (&[1], true, "the manifest of backup b1: it builds on backup b0, and the one before it is none"),
        (&[0, 1, 1], true, "builds on backup b0"),
        (&[0, 0], true, "the manifest of backup b0: it builds on none"),
        (&[], true, "no backup was named"),
        (&[0, 1], false, "does not announce incremental"),
    ] {
        let (kind, text) = restored(numbers, has_increments).await.unwrap_err();
        assert!(kind == Kind::Invalid && text.contains(why), "{numbers:?}: {text}");
    }
    // What is damaged in the middle is named, and nothing is finished.
    chain[1].0.change("00000000", |bytes| bytes[0] ^= 1);
    let (kind, text) = restored(&[0, 1, 2], true).await.unwrap_err();
    assert!(kind == Kind::Invalid && text.contains("segment 00000000 of backup b1"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_is_refused_by_an_engine_without_them() {
    let (stage, shelf, tape) = (stage(), Shelf::open(), Tape::of(noise(10, 1)));
    let parent = v1::Parent { backup: "b0".to_owned(), checkpoint: "1".to_owned() };
    let order = TakeOrder {
        strategy: &tape,
        datastore: "tape",
        site: &stage.site,
        backup: "b",
        run: "r",
        recipients: &[stage.key.to_public().to_string()],
        segment_bytes: SEGMENT,
        parent: Some(&parent),
        standstill: STANDSTILL,
    };
    let error = take(&order, &shelf, &stage.cancel, &|_, _| {}).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{}", error.chain());
    assert!(!shelf.has(MANIFEST_NAME));
}

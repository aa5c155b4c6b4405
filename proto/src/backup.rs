//! The manifest of a backup: the object that is written last, as JSON. Whoever restores by hand reads it too.

use serde::{Deserialize, Serialize};

/// The version of the format, which grows when an older program would misunderstand a newer manifest.
pub const FORMAT: u32 = 1;

/// The manifest's name within its run.
pub const MANIFEST_NAME: &str = "manifest.json";

/// The greatest size of a manifest, bytes: of 100,000 segments, and some more.
pub const MANIFEST_LIMIT: u64 = 16 << 20;

/// The greatest size of a segment, bytes: an agent has two of them in memory, and less than 64 MiB in all.
pub const SEGMENT_LIMIT: u64 = 24 << 20;

/// Name of a segment within its run, by its number from 0 on: eight digits, so that sorted names are in order.
pub fn segment_name(number: usize) -> String {
    format!("{number:08}")
}

/// One object of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its name within its run.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its BLAKE3 sum, hex.
    pub blake3: String,
}

/// What a backup is, and what it consists of. The segments, one after the other, are one age file; it holds one zstd stream, which
/// holds what the engine's tool wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// The backup's id.
    pub backup: String,
    /// The run's name.
    pub run: String,
    /// The datastore, such as `postgresql`.
    pub datastore: String,
    /// The whole version of the engine, such as `15.18`.
    pub version: String,
    /// The part of the version within which data directories are compatible.
    pub major: String,
    /// The public keys of age that it is encrypted to.
    pub recipients: Vec<String>,
    /// How far the engine's log had come, in the engine's own words; what is restored is at least as new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The id of the backup on which this one builds: it holds what has changed since. Absent from a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// What an increment on this one begins at, in the engine's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Bytes of memory that the data took, in an engine that holds all of them there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Bytes of what the engine's tool wrote.
    pub data_bytes: u64,
    /// BLAKE3 sum of what the engine's tool wrote, hex.
    pub data_blake3: String,
    /// The objects, in order.
    pub segments: Vec<Segment>,
}

/// The longest position or checkpoint, bytes.
const POSITION_BYTES: usize = 256;

/// Why a manifest is not taken.
#[derive(Debug)]
pub enum ManifestError {
    /// It is no manifest.
    Json(serde_json::Error),
    /// It is of a newer program.
    Format(u32),
    /// It says of itself that it is of this backup and this run.
    Foreign(String, String),
    /// A segment's name is not the one that its place has.
    Segment(usize),
    /// The position or the checkpoint is no short word.
    Position,
}

impl std::fmt::Display for ManifestError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(error) => write!(out, "it is no manifest of a backup: {error}"),
            Self::Format(format) => write!(out, "format {format} is not known, only {FORMAT} and older"),
            Self::Foreign(backup, run) => write!(out, "it is of run {run} of backup {backup}"),
            Self::Position => {
                write!(out, "its position or checkpoint is not of at most {POSITION_BYTES} printable characters")
            }
            Self::Segment(number) => write!(out, "segment {number} has another name than its number"),
        }
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Bytes of all segments.
    pub fn stored_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The object's bytes.
    ///
    /// # Errors
    /// None that this type meets.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }

    /// Reads an object that must be the manifest of this run of this backup.
    ///
    /// # Errors
    /// It is not, or is of a newer format.
    pub fn from_json(bytes: &[u8], backup: &str, run: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        // The version first: what is new cannot be read otherwise.
        let version: Version = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if version.format > FORMAT {
            return Err(ManifestError::Format(version.format));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if manifest.backup != backup || manifest.run != run {
            return Err(ManifestError::Foreign(manifest.backup, manifest.run));
        }
        let is_word = |text: &String| text.len() <= POSITION_BYTES && text.chars().all(|c| c.is_ascii_graphic());
        if ![&manifest.position, &manifest.checkpoint].into_iter().flatten().all(is_word) {
            return Err(ManifestError::Position);
        }
        let misnamed = |(number, segment): &(usize, &Segment)| segment.name != segment_name(*number);
        match manifest.segments.iter().enumerate().find(misnamed) {
            Some((number, _)) => Err(ManifestError::Segment(number)),
            None => Ok(manifest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let segment = |number| Segment { name: segment_name(number), bytes: 3, blake3: "00".to_owned() };
        Manifest {
            format: FORMAT,
            backup: "b".to_owned(),
            run: "r".to_owned(),
            datastore: "postgresql".to_owned(),
            version: "15.18".to_owned(),
            major: "15".to_owned(),
            recipients: vec!["age1x".to_owned()],
            position: None,
            parent: None,
            checkpoint: None,
            memory_bytes: None,
            data_bytes: 9,
            data_blake3: "00".to_owned(),
            segments: vec![segment(0), segment(1)],
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_only_as_its_own() {
        let bytes = manifest().to_json().unwrap();
        assert_eq!(Manifest::from_json(&bytes, "b", "r").unwrap(), manifest());
        assert!(matches!(Manifest::from_json(&bytes, "other", "r"), Err(ManifestError::Foreign(..))));
        assert!(matches!(Manifest::from_json(&bytes, "b", "other"), Err(ManifestError::Foreign(..))));
        assert!(matches!(Manifest::from_json(&bytes[1..], "b", "r"), Err(ManifestError::Json(_))));
    }

    #[test]
    fn a_newer_format_and_segments_in_another_order_are_refused() {
        let newer = Manifest { format: FORMAT + 1, ..manifest() }.to_json().unwrap();
        assert!(matches!(Manifest::from_json(&newer, "b", "r"), Err(ManifestError::Format(2))));
        let mut swapped = manifest();
        swapped.segments.swap(0, 1);
        let swapped = swapped.to_json().unwrap();
        assert!(matches!(Manifest::from_json(&swapped, "b", "r"), Err(ManifestError::Segment(0))));
    }

    #[test]
    fn a_position_is_a_short_word() {
        for (position, is_taken) in
            [("0/2000100", true), ("0-1-5,1-2-7", true), ("a\0b", false), (&"x".repeat(257), false)]
        {
            let manifest = Manifest { position: Some(position.to_owned()), ..manifest() };
            let read = Manifest::from_json(&manifest.to_json().unwrap(), "b", "r");
            assert_eq!(read.is_ok(), is_taken, "{position:?}");
        }
    }
}

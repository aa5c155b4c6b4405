//! The stream of `mariadb-backup`, looked at while it goes by. The program that unpacks it writes where a name says, so what leads
//! out of the data directory is refused before that sees it, with every kind of chunk that is not known.
//!
//! A stream is one chunk after the other (MariaDB's sources, `extra/mariabackup/xbstream_write.cc`; numbers are little-endian):
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `XBSTCK01` |
//! | 1 | flags |
//! | 1 | `P`: some of a file; `E`: the end of one |
//! | 4 | length of the name, less than 512 |
//! | | the name |
//! | 8, 8, 4 | of `P` alone: length of the contents, their place in the file, their sum |
//! | | of `P` alone: the contents |

const MAGIC: &[u8] = b"XBSTCK01";
const KIND: usize = 9;
/// What every chunk begins with.
const FIXED: usize = 14;
/// What stands between the name and the contents.
const OF_CONTENTS: usize = 20;
/// A name has fewer bytes.
const NAME: usize = 512;

/// What is known of a stream so far.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    header: Vec<u8>,
    /// Bytes of the present chunk's contents that are still to come.
    contents: u64,
}

impl Chunks {
    /// Looks at the next bytes. Those that are looked at with them may be passed on only when all are right.
    ///
    /// # Errors
    /// Why this is no stream of the tool's.
    pub(crate) fn look(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.contents > 0 {
                let passed = usize::try_from(self.contents).map_or(bytes.len(), |contents| contents.min(bytes.len()));
                self.contents -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            let length = length(&self.header)?;
            let taken = (length - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            // It is longer than was known before there was enough of it to tell.
            if self.header.len() == self::length(&self.header)? {
                self.contents = contents(&self.header)?;
                self.header.clear();
            }
        }
        Ok(())
    }

    /// Whether the last chunk is whole.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn end(&self) -> Result<(), String> {
        let whole = self.contents == 0 && self.header.is_empty();
        if whole { Ok(()) } else { Err("it ends before its end".to_owned()) }
    }
}

/// How long a header is of which this is the beginning, as far as that says.
fn length(header: &[u8]) -> Result<usize, String> {
    if header.len() < FIXED {
        return Ok(FIXED);
    }
    let name = u32::from_le_bytes(header[FIXED - 4..FIXED].try_into().unwrap_or_default());
    let name = usize::try_from(name).ok().filter(|name| *name < NAME);
    match (header.starts_with(MAGIC), header[KIND], name) {
        (true, b'P', Some(name)) => Ok(FIXED + name + OF_CONTENTS),
        (true, b'E', Some(name)) => Ok(FIXED + name),
        _ => Err("it is no stream of mariadb-backup".to_owned()),
    }
}

/// How many bytes follow a whole header.
fn contents(header: &[u8]) -> Result<u64, String> {
    let (name, rest) = match header[KIND] {
        b'P' => header[FIXED..].split_at(header.len() - FIXED - OF_CONTENTS),
        _ => (&header[FIXED..], &[][..]),
    };
    // A name with `~` in front is somebody's home for the programs of this engine.
    let leads_out =
        name.starts_with(b"/") || name.starts_with(b"~") || name.split(|byte| *byte == b'/').any(|part| part == b"..");
    if leads_out || name.is_empty() || name.contains(&0) {
        return Err(format!("the name {:?} in it leads out of the data directory", String::from_utf8_lossy(name)));
    }
    Ok(rest.first_chunk().map_or(0, |length| u64::from_le_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(kind: u8, name: &[u8], contents: &[u8]) -> Vec<u8> {
        let length = u32::try_from(name.len()).unwrap().to_le_bytes();
        let mut chunk = [MAGIC, &[0, kind], &length, name].concat();
        if kind == b'P' {
            chunk.extend_from_slice(&(contents.len() as u64).to_le_bytes());
            chunk.extend_from_slice(&[7; 12]);
            chunk.extend_from_slice(contents);
        }
        chunk
    }

    /// What is found when the stream comes in these pieces.
    fn look(stream: &[u8], mut lengths: impl Iterator<Item = usize>) -> Result<(), String> {
        let (mut chunks, mut rest) = (Chunks::default(), stream);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(lengths.next().unwrap_or(1).clamp(1, rest.len()));
            chunks.look(piece)?;
            rest = later;
        }
        chunks.end()
    }

    fn whole(stream: &[u8]) -> Result<(), String> {
        look(stream, std::iter::once(stream.len()))
    }

    #[test]
    fn what_the_tool_writes_passes() {
        let file = [chunk(b'P', b"./ibdata1", &[b'x'; 1000]), chunk(b'P', b"./ibdata1", b"")].concat();
        let other = [chunk(b'P', b"shop/..@002f.ibd", b"XBSTCK01"), chunk(b'E', b"shop/..@002f.ibd", b"")].concat();
        whole(&[file.clone(), other, chunk(b'E', b"./ibdata1", b"")].concat()).unwrap();
        assert!(whole(&file[..file.len() - 1]).is_err(), "without its last byte");
        assert!(whole(&file[..500]).is_err(), "without half of its contents");
        assert!(whole(b"XBSTCK0").is_err());
    }

    #[test]
    fn what_leads_out_or_is_not_known_is_refused() {
        let names: [&[u8]; 9] = [b"/etc/x", b"../x", b"a/../x", b"a/..", b"..", b"", b"~/x", b"a\0b", b"./../x"];
        for name in names {
            for kind in [b'P', b'E'] {
                let refused = whole(&chunk(kind, name, b"x")).unwrap_err();
                assert!(refused.contains("leads out of the data directory"), "{refused}");
            }
        }
        for kind in *b"\0RSDpe" {
            assert!(whole(&chunk(kind, b"./x", b"")).is_err(), "{:?}", char::from(kind));
        }
        assert!(whole(&chunk(b'E', &[b'x'; NAME], b"")).is_err(), "a name that is too long");
        whole(&chunk(b'E', &[b'x'; NAME - 1], b"")).unwrap();
        let mut long = chunk(b'P', b"x", b"");
        long[15..23].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(whole(&long).is_err(), "it does not end");
    }

    /// Chunks, some of which are not to pass.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let name = prop_oneof![
            8 => "[a-z./]{1,12}".prop_map(String::into_bytes),
            1 => Just(b"../x".to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..600),
        ];
        let kind = prop_oneof![6 => Just(b'P'), 3 => Just(b'E'), 1 => any::<u8>()];
        let chunk = (kind, name, proptest::collection::vec(any::<u8>(), 0..80));
        let chunks = proptest::collection::vec(
            chunk.prop_map(|(kind, name, contents)| self::chunk(kind, &name, &contents)),
            0..6,
        );
        let damage = proptest::option::weighted(0.3, (any::<proptest::sample::Index>(), any::<u8>()));
        let cut = proptest::option::weighted(0.3, any::<proptest::sample::Index>());
        (chunks, damage, cut).prop_map(|(chunks, damage, cut)| {
            let mut stream = chunks.concat();
            if let (Some((at, byte)), false) = (damage, stream.is_empty()) {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
            if let Some(cut) = cut {
                stream.truncate(cut.index(stream.len() + 1));
            }
            stream
        })
    }

    proptest! {
        #[test]
        fn however_a_stream_comes_the_answer_is_the_same(
            stream in streams(),
            lengths in proptest::collection::vec(1..40usize, 1..20),
        ) {
            prop_assert_eq!(look(&stream, lengths.into_iter().cycle()), whole(&stream));
        }
    }
}

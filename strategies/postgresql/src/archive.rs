//! The tar archive that a server makes of its data directory, looked at while it goes by. A server puts plain files and
//! directories into it and nothing else (manual, 55.4, BASE_BACKUP), so everything else is refused before a program
//! sees it: links and devices, names that lead out, extensions of the format that give the next file another name or
//! length.
//!
//! Headers are those of POSIX ustar: blocks of 512 bytes, numbers in octal digits; two blocks of zeros end the archive.

const BLOCK: usize = 512;

/// Where in a header a field begins, and its length.
type Field = (usize, usize);

const NAME: Field = (0, 100);
const SIZE: Field = (124, 12);
const CHECKSUM: Field = (148, 8);
const KIND: usize = 156;
const MAGIC: Field = (257, 8);
const PREFIX: usize = 345;

/// What is known of an archive so far.
#[derive(Debug)]
pub(crate) struct Archive {
    header: Vec<u8>,
    /// Bytes of the present file that are still to come, with what fills its last block.
    content: u64,
    /// Blocks of zeros in a row.
    zeros: u8,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self { header: Vec::with_capacity(BLOCK), content: 0, zeros: 0 }
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// Why this is no archive of a server's.
    pub(crate) fn look(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.content > 0 {
                let passed = usize::try_from(self.content).map_or(bytes.len(), |content| content.min(bytes.len()));
                self.content -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (BLOCK - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.header.len() == BLOCK {
                self.block()?;
                self.header.clear();
            }
        }
        Ok(())
    }

    /// Whether the archive is whole.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn end(&self) -> Result<(), String> {
        let whole = self.zeros == 2 && self.header.is_empty();
        if whole { Ok(()) } else { Err("it ends before its end".to_owned()) }
    }

    fn block(&mut self) -> Result<(), String> {
        if self.header.iter().all(|byte| *byte == 0) {
            self.zeros = (self.zeros + 1).min(2);
            return Ok(());
        }
        if self.zeros > 0 {
            return Err("something follows its end".to_owned());
        }
        let size = entry(&self.header)?;
        let filled = size.checked_next_multiple_of(BLOCK as u64);
        self.content = filled.ok_or_else(|| "a file is longer than any".to_owned())?;
        Ok(())
    }
}

/// The length of what follows a header.
fn entry(header: &[u8]) -> Result<u64, String> {
    let sum = |from: usize, to: usize| header[from..to].iter().map(|byte| u64::from(*byte)).sum::<u64>();
    // The sum is over the header with spaces in its place.
    let expected = sum(0, CHECKSUM.0) + 8 * u64::from(b' ') + sum(CHECKSUM.0 + CHECKSUM.1, BLOCK);
    if field(header, MAGIC) != b"ustar\x0000" || number(field(header, CHECKSUM)) != Some(expected) {
        return Err("it is no tar archive of a server's".to_owned());
    }
    let name = field(header, NAME);
    let name = &name[..name.iter().position(|byte| *byte == 0).unwrap_or(name.len())];
    let shown = String::from_utf8_lossy(name);
    let leads_out = name.starts_with(b"/") || name.split(|byte| *byte == b'/').any(|part| part == b"..");
    if leads_out || name.is_empty() || header[PREFIX] != 0 {
        return Err(format!("the name {shown:?} in it leads out of the data directory"));
    }
    let size = number(field(header, SIZE)).ok_or_else(|| format!("the size of {shown:?} is no number"))?;
    match (header[KIND], size) {
        (b'0', size) => Ok(size),
        (b'5', 0) => Ok(0),
        _ => Err(format!("{shown:?} in it is neither a file nor a directory")),
    }
}

fn field(header: &[u8], (from, length): Field) -> &[u8] {
    &header[from..from + length]
}

/// Octal digits; where those are too few the highest bit is set, and all after it is the number (as GNU tar has it).
fn number(field: &[u8]) -> Option<u64> {
    if field.first() == Some(&0x80) {
        let (high, low) = field[1..].split_at_checked(field.len().checked_sub(9)?)?;
        return high.iter().all(|byte| *byte == 0).then(|| u64::from_be_bytes(low.try_into().unwrap_or_default()));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u64::from_str_radix(text, 8).ok().filter(|_| !text.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, kind: u8, size: &[u8; 12]) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(size);
        header[KIND] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum::<u64>() + 8 * 32;
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    fn whole(headers: &[Vec<u8>]) -> Result<(), String> {
        let mut archive = Archive::new();
        // In pieces of any size.
        for piece in headers.concat().chunks(77) {
            archive.look(piece)?;
        }
        archive.end()
    }

    #[test]
    fn files_and_directories_pass() {
        let end = vec![0; 2 * BLOCK];
        let directory = header("base/", b'5', b"00000000000\0");
        let file = [header("base/1", b'0', b"00000001001\0"), vec![b'x'; 2 * BLOCK]].concat();
        whole(&[directory.clone(), file.clone(), end.clone()]).unwrap();
        let large = header("large", b'0', b"\x80\0\0\0\0\0\0\0\0\0\x02\0");
        whole(&[large, vec![0; BLOCK], end.clone()]).unwrap();
        assert!(whole(&[directory.clone(), file.clone()]).is_err(), "without its end");
        assert!(whole(&[directory.clone(), file.clone(), vec![0; BLOCK]]).is_err(), "without half of its end");
        assert!(whole(&[directory.clone(), end.clone(), file]).is_err(), "beyond its end");
        assert!(whole(&[directory, vec![b'x'; BLOCK], end]).is_err(), "what is no header");
        assert!(whole(&[]).is_err());
    }

    #[test]
    fn what_leads_out_or_is_no_file_is_refused() {
        for name in ["/etc/passwd", "../x", "base/../../x", "base/..", "..", ""] {
            assert!(entry(&header(name, b'0', b"00000000000\0")).is_err(), "{name}");
        }
        for kind in *b"\x001234678LKxgSV" {
            let kind_of = entry(&header("base/1", kind, b"00000000000\0"));
            assert!(kind_of.is_err(), "{:?}", char::from(kind));
        }
        assert!(entry(&header("base/", b'5', b"00000000001\0")).is_err(), "a directory with content");
        for size in [b"+0000000001\0", b"-0000000001\0", b"00000000009\0", b"\x80\x01\0\0\0\0\0\0\0\0\x02\0"] {
            assert!(entry(&header("base/1", b'0', size)).is_err(), "{size:?}");
        }
        let mut long = header("base/1", b'0', b"00000000000\0");
        long[PREFIX] = b'/';
        assert!(entry(&long).is_err(), "a prefix");
        assert_eq!(entry(&header("..base", b'0', b"00000000012\0")).unwrap(), 10);
    }
}

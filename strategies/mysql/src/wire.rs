//! The client's side of the protocol (manuals, "Client/Server Protocol"), as much of it as the agent needs: a login without a
//! password over a stream that is there already, and statements as text. Drivers open their connections themselves: the agent's
//! is opened by its host, which verifies who listens, and comes from the engine's account.
//!
//! What arrives may be a tenant's: it is bounded, and nothing in it is followed.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// As much as is read in one connection.
const ANSWERS: u64 = 16 << 20;
/// A payload of this size goes on in the next packet.
const WHOLE: usize = 0xff_ffff;
/// As many packets as a login takes at most.
const LOGIN: usize = 8;

/// The protocol of version 4.1 with its plugins of authentication. No TLS, no files, one statement at a time.
const CAPABILITIES: u32 = 0x1 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
/// `utf8mb4_general_ci`.
const CHARACTERS: u8 = 45;
const OK: u8 = 0x00;
const LOCAL_FILE: u8 = 0xfb;
const NULL: u8 = 0xfb;
const END: u8 = 0xfe;
const ERROR: u8 = 0xff;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The server refused.
    #[error("{text} ({code})")]
    Refused {
        /// The server's number of the error.
        code: u16,
        /// Its words.
        text: String,
    },
    /// The connection broke, or the server spoke otherwise than agreed.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// A row, as texts; NULL is an empty one.
pub(crate) type Row = Vec<String>;

/// A connection that has logged in.
pub(crate) struct Wire {
    stream: UnixStream,
    sequence: u8,
    left: u64,
}

fn malformed(what: &str) -> WireError {
    WireError::Broken(io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}")))
}

impl Wire {
    /// Logs in as an account that the server lets in without a password.
    pub(crate) async fn log_in(stream: UnixStream, user: &str) -> Result<Self, WireError> {
        let mut wire = Self { stream, sequence: 0, left: ANSWERS };
        let greeting = wire.packet().await?;
        match greeting.first() {
            Some(10) => {}
            Some(&ERROR) => return Err(refusal(&greeting)),
            _ => return Err(malformed("no greeting of version 10")),
        }
        let mut answer = Vec::with_capacity(64);
        answer.extend(CAPABILITIES.to_le_bytes());
        answer.extend((ANSWERS as u32).to_le_bytes());
        answer.push(CHARACTERS);
        answer.extend([0; 23]);
        answer.extend(user.as_bytes());
        // The end of the name, and a password of no bytes.
        answer.extend([0, 0]);
        answer.extend(b"mysql_native_password\0");
        wire.send(&answer).await?;
        for _ in 0..LOGIN {
            let said = wire.packet().await?;
            match said.first() {
                Some(&OK) => return Ok(wire),
                Some(&ERROR) => return Err(refusal(&said)),
                // It asks again in another way; the answer is the same.
                _ => wire.send(&[]).await?,
            }
        }
        Err(malformed("no end of its questions"))
    }

    /// Runs one statement; its rows.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Vec<Row>, WireError> {
        self.sequence = 0;
        self.send(&[b"\x03", sql.as_bytes()].concat()).await?;
        let first = self.packet().await?;
        match first.first() {
            Some(&OK) => return Ok(Vec::new()),
            Some(&ERROR) => return Err(refusal(&first)),
            Some(&LOCAL_FILE) | None => return Err(malformed("a question for a file")),
            Some(_) => {}
        }
        let columns = length(&mut &*first)?.ok_or_else(|| malformed("no number of columns"))?;
        for _ in 0..columns {
            self.packet().await?;
        }
        let end = self.packet().await?;
        if !is_end(&end) {
            return Err(malformed("more columns than it said"));
        }
        let mut rows = Vec::new();
        loop {
            let packet = self.packet().await?;
            match packet.first() {
                Some(&ERROR) => return Err(refusal(&packet)),
                _ if is_end(&packet) => return Ok(rows),
                _ => rows.push(row(&packet, columns)?),
            }
        }
    }

    async fn packet(&mut self) -> Result<Vec<u8>, WireError> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await?;
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        self.left = self.left.checked_sub(length as u64 + 4).ok_or_else(|| malformed("more than is read of it"))?;
        if length == WHOLE {
            return Err(malformed("more than is read of it"));
        }
        if head[3] != self.sequence {
            return Err(malformed("a packet out of its order"));
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok(payload)
    }

    async fn send(&mut self, payload: &[u8]) -> Result<(), WireError> {
        if payload.len() >= WHOLE {
            return Err(WireError::Broken(io::Error::new(io::ErrorKind::InvalidInput, "the statement is too long")));
        }
        let head = (payload.len() as u32 | u32::from(self.sequence) << 24).to_le_bytes();
        self.sequence = self.sequence.wrapping_add(1);
        self.stream.write_all(&[&head, payload].concat()).await?;
        Ok(())
    }
}

fn is_end(packet: &[u8]) -> bool {
    packet.first() == Some(&END) && packet.len() < 9
}

fn refusal(packet: &[u8]) -> WireError {
    let code = packet.get(1..3).map_or(0, |code| u16::from_le_bytes([code[0], code[1]]));
    let text = packet.get(3..).unwrap_or_default();
    // `#` and five characters of SQLSTATE, but in what comes before the login.
    let text = if text.first() == Some(&b'#') { text.get(6..).unwrap_or_default() } else { text };
    WireError::Refused { code, text: String::from_utf8_lossy(text).into_owned() }
}

/// A number of one to nine bytes; `None` is NULL.
fn length(rest: &mut &[u8]) -> Result<Option<u64>, WireError> {
    let cut = || malformed("half a packet");
    let first = *rest.first().ok_or_else(cut)?;
    *rest = &rest[1..];
    let bytes = match first {
        NULL => return Ok(None),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        ERROR => return Err(cut()),
        small => return Ok(Some(small.into())),
    };
    let (number, behind) = rest.split_at_checked(bytes).ok_or_else(cut)?;
    *rest = behind;
    Ok(Some(number.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))))
}

fn row(packet: &[u8], columns: u64) -> Result<Row, WireError> {
    let mut rest = packet;
    let mut row = Row::new();
    for _ in 0..columns {
        let length = length(&mut rest)?.unwrap_or_default();
        let value = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
        let (value, behind) = value.ok_or_else(|| malformed("half a row"))?;
        row.push(String::from_utf8_lossy(value).into_owned());
        rest = behind;
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says these packets, whatever it is asked: a greeting, the end of the login, and an answer.
    async fn said(packets: &[&[u8]]) -> Result<Vec<Row>, WireError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for (packet, sequence) in packets.iter().zip([0u32, 2, 1, 2, 3, 4]) {
            theirs.write_all(&(packet.len() as u32 | sequence << 24).to_le_bytes()).await.unwrap();
            theirs.write_all(packet).await.unwrap();
        }
        let asked = async { Wire::log_in(ours, "x").await?.query("select 1").await };
        // It ends behind its last packet.
        let close = async { theirs.shutdown().await.unwrap() };
        tokio::join!(asked, close).0
    }

    #[test]
    fn numbers_have_one_to_nine_bytes() {
        for (bytes, expected) in [
            (&[250u8] as &[u8], Some(250)),
            (&[0xfb], None),
            (&[0xfc, 1, 2], Some(0x201)),
            (&[0xfd, 1, 2, 3], Some(0x3_0201)),
            (&[0xfe, 1, 0, 0, 0, 0, 0, 0, 1], Some(0x100_0000_0000_0001)),
        ] {
            assert_eq!(length(&mut &*bytes).unwrap(), expected);
            for cut in 0..bytes.len() {
                assert!(length(&mut &bytes[..cut]).is_err());
            }
        }
        assert!(length(&mut &[0xffu8][..]).is_err());
    }

    #[test]
    fn rows_are_read_and_half_ones_refused() {
        assert_eq!(row(b"\x01a\xfb\x00", 3).unwrap(), ["a", "", ""]);
        assert!(row(b"\x05a", 1).is_err() && row(b"\x01a", 2).is_err());
        assert!(row(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff", 1).is_err());
    }

    #[tokio::test]
    async fn what_is_no_greeting_is_an_error_and_nothing_is_followed() {
        assert!(matches!(said(&[b"\xff\x10\x04Too many"]).await, Err(WireError::Refused { code: 1040, .. })));
        assert!(matches!(said(&[b"\x09old"]).await, Err(WireError::Broken(_))));
        assert!(matches!(said(&[]).await, Err(WireError::Broken(_))));
        let rows = said(&[b"\x0a", b"\x00", b"\x01", b"column", b"\xfe\x00\x00\x02\x00", b"\x017"]).await;
        assert!(matches!(rows, Err(WireError::Broken(_))), "the end is missing");
        let file = said(&[b"\x0a", b"\x00", b"\xfb/etc/passwd"]).await.unwrap_err();
        assert!(file.to_string().contains("file"), "{file}");
    }
}

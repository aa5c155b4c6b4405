//! A piece of the log as an object: zstd, then age.

use std::io::{Read as _, Write as _};

use trove_strategy::{EngineError, Kind, PIECE_LIMIT};

use crate::backup::{MOST_HEADER, MOST_WINDOW, encryptor};

/// A piece is mostly empty where little was written.
const LEVEL: i32 = 3;

async fn in_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(EngineError::caused(Kind::Fatal, what, error)))
}

/// Compresses and encrypts a piece. The object and its sum.
pub(crate) async fn seal(bytes: Vec<u8>, recipients: Vec<String>) -> Result<(Vec<u8>, blake3::Hash), EngineError> {
    in_thread("seal a piece of the log", move || {
        let failed = |error| EngineError::caused(Kind::Fatal, "seal a piece of the log", error);
        let sealed = encryptor(&recipients)?.wrap_output(Vec::new()).map_err(failed)?;
        let mut compressed = zstd::stream::write::Encoder::new(sealed, LEVEL).map_err(failed)?;
        compressed.write_all(&bytes).map_err(failed)?;
        let object = compressed.finish().and_then(age::stream::StreamWriter::finish).map_err(failed)?;
        let sum = blake3::hash(&object);
        Ok((object, sum))
    })
    .await
}

/// The last line of the header of an encrypted stream begins so.
const HEADER_END: &[u8] = b"\n--- ";

/// Opens what was sealed. It holds no more than a piece. Whoever wrote it may want to cost whoever reads it memory, or time.
///
/// # Errors
/// [`Kind::Invalid`]: it is no such object, or the key is not its.
pub(crate) async fn open(object: Vec<u8>, identity: age::x25519::Identity) -> Result<Vec<u8>, EngineError> {
    in_thread("open a piece of the log", move || {
        let invalid =
            |error: &dyn std::fmt::Display| EngineError::new(Kind::Invalid, format!("it is not opened: {error}"));
        let headed = &object[..object.len().min(MOST_HEADER)];
        if !headed.windows(HEADER_END.len()).any(|line| line == HEADER_END) {
            return Err(invalid(&format!("its header has more than {MOST_HEADER} bytes, or no end")));
        }
        let decryptor = age::Decryptor::new_buffered(object.as_slice()).map_err(|error| invalid(&error))?;
        let identity: &dyn age::Identity = &identity;
        let plain = decryptor.decrypt(std::iter::once(identity)).map_err(|error| invalid(&error))?;
        let mut stream = zstd::stream::read::Decoder::new(plain).map_err(|error| invalid(&error))?;
        stream.window_log_max(MOST_WINDOW).map_err(|error| invalid(&error))?;
        let mut bytes = Vec::new();
        stream.take(PIECE_LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(|error| invalid(&error))?;
        if bytes.len() > PIECE_LIMIT {
            return Err(invalid(&format!("it holds more than {PIECE_LIMIT} bytes")));
        }
        Ok(bytes)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As whoever has the recipients can write it.
    fn sealed_by_hand(recipients: &[String], plain: &[u8]) -> Vec<u8> {
        let mut sealed = encryptor(recipients).unwrap().wrap_output(Vec::new()).unwrap();
        sealed.write_all(plain).unwrap();
        sealed.finish().unwrap()
    }

    async fn refused(object: Vec<u8>, identity: &age::x25519::Identity) -> String {
        let error = open(object, identity.clone()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        error.chain()
    }

    #[tokio::test]
    async fn a_piece_comes_back_and_what_would_take_memory_or_time_is_refused() {
        let identity = age::x25519::Identity::generate();
        let own = vec![identity.to_public().to_string()];
        let piece = vec![7; PIECE_LIMIT];
        let (object, _) = seal(piece.clone(), own.clone()).await.unwrap();
        assert_eq!(open(object, identity.clone()).await.unwrap(), piece);

        let (object, _) = seal(vec![0; PIECE_LIMIT + 1], own.clone()).await.unwrap();
        assert!(refused(object, &identity).await.contains("more than 16777216 bytes"));
        let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        wide.window_log(27).unwrap();
        wide.write_all(&[1; 100]).unwrap();
        let said = refused(sealed_by_hand(&own, &wide.finish().unwrap()), &identity).await;
        assert!(said.contains("too much memory"), "{said}");
        // Each recipient is tried.
        let many: Vec<_> = own.iter().cloned().cycle().take(1000).collect();
        assert!(refused(sealed_by_hand(&many, b""), &identity).await.contains("its header has more"));
        for short in [&b""[..], b"age-encryption.org/v1\n", b"\n--- "] {
            refused(short.to_vec(), &identity).await;
        }
    }
}

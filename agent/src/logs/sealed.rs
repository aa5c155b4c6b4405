//! A piece of the log as an object: zstd, then age.

use std::io::{Read as _, Write as _};

use trove_strategy::{EngineError, Kind, PIECE_LIMIT};

use crate::backup::encryptor;

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

/// Opens what was sealed. It holds no more than a piece.
///
/// # Errors
/// [`Kind::Invalid`]: it is no such object, or the key is not its.
pub(crate) async fn open(object: Vec<u8>, identity: age::x25519::Identity) -> Result<Vec<u8>, EngineError> {
    in_thread("open a piece of the log", move || {
        let invalid =
            |error: &dyn std::fmt::Display| EngineError::new(Kind::Invalid, format!("it is not opened: {error}"));
        let decryptor = age::Decryptor::new_buffered(object.as_slice()).map_err(|error| invalid(&error))?;
        let identity: &dyn age::Identity = &identity;
        let plain = decryptor.decrypt(std::iter::once(identity)).map_err(|error| invalid(&error))?;
        let stream = zstd::stream::read::Decoder::new(plain).map_err(|error| invalid(&error))?;
        let mut bytes = Vec::new();
        stream.take(PIECE_LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(|error| invalid(&error))?;
        if bytes.len() > PIECE_LIMIT {
            return Err(invalid(&format!("it holds more than {PIECE_LIMIT} bytes")));
        }
        Ok(bytes)
    })
    .await
}

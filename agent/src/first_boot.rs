//! `trove-agent first-boot`: takes the enrolment data that whoever made this guest left for it, and writes the files
//! that `trove-agent run` reads. A unit runs it at every boot, before the agent.
//!
//! The data is one document (docs/images.md has it), found by [`source`]. A document is written once: at a later boot
//! the same one changes nothing, so that a used token does not come back.

#![allow(clippy::disallowed_methods, reason = "a directory of the agent alone, 0700")]

mod document;
mod source;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::durable::Durable;
use document::Document;
pub(crate) use source::Places;

/// SHA-256 of the document that was written last, in hexadecimal.
const WRITTEN: &str = "document.sha256";
const CONFIGURATION: &str = "agent.toml";

/// Writes the files into `into`. Returns what it did, as a sentence.
///
/// # Errors
/// There is no document, and none was written before or its place was given; the document is malformed; or it is for another guest than the
/// one that this is already. Then nothing is changed.
pub(crate) async fn run(places: &Places, into: &Path) -> Result<String> {
    let files = Durable::open(into)?;
    let found = match source::find(places).await {
        Ok(found) => found,
        // The drive may be detached after the first boot, and a container's driver writes the files itself.
        Err(error) if places.given.is_none() && files.path(CONFIGURATION).exists() => {
            return Ok(format!("the present files stay: {error:#}"));
        }
        Err(error) => return Err(error),
    };
    take(&found.text, &files).with_context(|| format!("the enrolment document from {}", found.from))
}

fn take(text: &str, files: &Durable) -> Result<String> {
    let digest = hex::encode(Sha256::digest(text.as_bytes()));
    if files.read(WRITTEN)?.is_some_and(|written| written == digest.as_bytes()) {
        return Ok("the document was taken before; nothing to do".to_owned());
    }
    let document = Document::parse(text)?;
    if let Some(present) = present(files)? {
        let (is, offered) = (present.instance_id, document.config.instance_id);
        ensure!(is == offered, "is for the instance {offered}, and this guest is the instance {is}");
        let (is, offered) = (present.generation, document.config.generation);
        ensure!(is <= offered, "is of generation {offered}, and this guest is of generation {is} already");
    }
    files.write("token", document.token.as_bytes())?;
    files.write("authority.pem", document.authority.as_bytes())?;
    // The agent starts from this one, so it comes when the others are there.
    files.write(CONFIGURATION, document.agent.as_bytes())?;
    files.write(WRITTEN, digest.as_bytes())?;
    Ok(format!("this guest is the instance {}, generation {}", document.config.instance_id, document.config.generation))
}

/// Whose guest this is by the configuration that is in force. Other options are not looked at: another agent wrote them,
/// perhaps.
#[derive(Deserialize)]
struct Present {
    instance_id: Uuid,
    generation: u64,
}

/// A damaged configuration counts as absent: the document replaces it. One that cannot be read does not.
fn present(files: &Durable) -> Result<Option<Present>> {
    let Some(bytes) = files.read(CONFIGURATION)? else { return Ok(None) };
    Ok(toml::from_str(&String::from_utf8_lossy(&bytes)).ok())
}

/// Where an image has the agent's files.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from("/etc/trove-agent")
}

#[cfg(test)]
mod tests;

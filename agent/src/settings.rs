//! The assignment, the fence and what the engine is to be: persisted, and kept by the agent alone.

use std::sync::Mutex;

use anyhow::{Context, Result};
use prost::Message;
use trove_proto::v1;
use trove_strategy::{EngineError, Kind, Settings, TlsMode};

use crate::durable::Durable;

const ASSIGNMENT: &str = "assignment";
const FENCE: &str = "fence";

/// An assignment that is in force.
#[derive(Clone, Default)]
pub struct Assigned {
    /// Its generation; 0 before there is one.
    pub generation: u64,
    /// What it says.
    pub specification: v1::Specification,
}

/// What must stay true, on disk and in memory.
pub struct Keeper {
    files: Durable,
    fence: Mutex<u64>,
    assigned: tokio::sync::watch::Sender<Assigned>,
}

impl Keeper {
    /// As it was left.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn open(files: Durable) -> Result<Self> {
        let fence = files.read_json(FENCE)?.unwrap_or_default();
        let assigned = match files.read(ASSIGNMENT)? {
            Some(bytes) => {
                let request = v1::AssignRequest::decode(bytes.as_slice()).context("parse the assignment")?;
                let specification = request.specification.context("parse the assignment")?;
                Assigned { generation: request.generation, specification }
            }
            None => Assigned::default(),
        };
        Ok(Self { files, fence: Mutex::new(fence), assigned: tokio::sync::watch::Sender::new(assigned) })
    }

    /// Greatest fence that was seen.
    pub fn fence(&self) -> u64 {
        *self.fence.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether a call under this fence may act; a greater one than seen is written down first.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn admit(&self, fence: u64) -> Result<bool> {
        let mut seen = self.fence.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if fence > *seen {
            self.files.write_json(FENCE, &fence)?;
            *seen = fence;
        }
        Ok(fence == *seen)
    }

    /// Takes up an assignment; an older one changes nothing. Whether it did.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn assign(&self, generation: u64, mut specification: v1::Specification) -> Result<bool> {
        let now = self.assigned.borrow().clone();
        if generation <= now.generation {
            return Ok(false);
        }
        if specification.certificate.is_none() {
            specification.certificate = now.specification.certificate;
        }
        let request = v1::AssignRequest { fence: self.fence(), generation, specification: Some(specification) };
        self.files.write(ASSIGNMENT, &request.encode_to_vec())?;
        let specification = request.specification.unwrap_or_default();
        self.assigned.send_replace(Assigned { generation, specification });
        Ok(true)
    }

    /// What is in force, and every change of it.
    pub fn assigned(&self) -> tokio::sync::watch::Receiver<Assigned> {
        self.assigned.subscribe()
    }
}

/// What a strategy needs of a specification, and of the room on its volume.
///
/// # Errors
/// A parameter's value is no JSON.
pub fn engine_settings(specification: &v1::Specification, read_only: bool) -> Result<Settings, EngineError> {
    let tls = match specification.tls_mode() {
        v1::TlsMode::Enforced => TlsMode::Enforced,
        v1::TlsMode::Basic | v1::TlsMode::Unspecified => TlsMode::Basic,
    };
    let mut parameters = std::collections::BTreeMap::new();
    for (name, value) in &specification.parameters {
        let wrong = |error| EngineError::caused(Kind::Invalid, format!("read the parameter {name:?}"), error);
        let value = serde_json::from_str(value).map_err(wrong)?;
        parameters.insert(name.clone(), value);
    }
    Ok(Settings { tls, parameters, read_only })
}

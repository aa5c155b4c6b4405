//! The assignment, the fence and what the engine is to be: persisted, and kept by the agent alone.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::{Context, Result};
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trove_proto::v1;
use trove_strategy::{EngineError, Kind, Settings, Site, TlsMode};

use crate::durable::Durable;
use crate::lanes::Lane;

const ASSIGNMENT: &str = "assignment";
const FENCE: &str = "fence";

/// The file of the fence.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Fence {
    /// The greatest that was seen, by lane.
    Lanes {
        /// A lane that is not here has seen none.
        lanes: BTreeMap<Lane, u64>,
    },
    /// As earlier agents wrote it, which knew no lanes.
    Whole {
        /// Greatest that was seen.
        seen: u64,
    },
    /// As still earlier ones did.
    Bare(u64),
}

/// An assignment that is in force.
#[derive(Clone, Default)]
pub struct Assigned {
    /// Its generation; 0 before there is one.
    pub generation: u64,
    /// What it says.
    pub specification: v1::Specification,
}

/// What must stay true, on disk and in memory.
pub struct AssignmentStore {
    files: Durable,
    /// The greatest that was seen, by lane. Works of lanes that do not exclude each other run under fences of their own, and
    /// the later one does not shut the earlier one out.
    fences: Mutex<BTreeMap<Lane, u64>>,
    assigned: tokio::sync::watch::Sender<Assigned>,
}

impl AssignmentStore {
    /// As it was left. Without an assignment, or with one that is damaged, the generation in force is 0, and the controller
    /// that hears of it sends the assignment again.
    ///
    /// A fence that is damaged falls back to the one that came with the assignment. A controller that was overtaken since
    /// may then be obeyed once more, until the present one has called: it would have to sleep through the takeover and
    /// wake in that very moment, and its jobs have keys, under which what is done is not done again. A fence that is too
    /// great by accident would be worse: nobody would be obeyed any more.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn open(files: Durable) -> Result<Self> {
        let mut fences = match files.read_json(FENCE)? {
            Some(Fence::Lanes { lanes }) => lanes,
            Some(Fence::Whole { seen } | Fence::Bare(seen)) => BTreeMap::from([(Lane::LifeCycle, seen)]),
            None => BTreeMap::new(),
        };
        let request = files.read_whole(ASSIGNMENT, |bytes| {
            let request = v1::AssignRequest::decode(bytes).context("parse the assignment")?;
            let specification = request.specification.context("look for its specification")?;
            Ok((request.fence, Assigned { generation: request.generation, specification }))
        })?;
        let (fence, assigned) = request.unwrap_or_default();
        let assigned = tokio::sync::watch::Sender::new(assigned);
        let assigning = fences.entry(Lane::LifeCycle).or_default();
        *assigning = fence.max(*assigning);
        Ok(Self { files, fences: Mutex::new(fences), assigned })
    }

    /// Greatest fence that was seen.
    pub fn fence(&self) -> u64 {
        newest(&self.fences(), Lane::LifeCycle)
    }

    fn fences(&self) -> std::sync::MutexGuard<'_, BTreeMap<Lane, u64>> {
        self.fences.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether a call in this lane may act under this fence: none of a lane that excludes it was called under a greater one.
    /// A greater one than seen is written down first. An assignment counts as a change of accounts.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn admit(&self, lane: Lane, fence: u64) -> Result<bool> {
        let mut seen = self.fences();
        if fence < newest(&seen, lane) {
            return Ok(false);
        }
        if seen.get(&lane).is_none_or(|seen| fence > *seen) {
            let mut lanes = seen.clone();
            lanes.insert(lane, fence);
            self.files.write_json(FENCE, &Fence::Lanes { lanes: lanes.clone() })?;
            *seen = lanes;
        }
        Ok(true)
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
        if specification.server_id == 0 {
            specification.server_id = now.specification.server_id;
        }
        let request = v1::AssignRequest { fence: self.fence(), generation, specification: Some(specification) };
        self.files.write(ASSIGNMENT, &request.encode_to_vec())?;
        let specification = request.specification.unwrap_or_default();
        self.assigned.send_replace(Assigned { generation, specification });
        Ok(true)
    }

    /// The site with what only the assignment in force says of it.
    pub fn complete(&self, site: &Site) -> Site {
        let mut site = site.clone();
        site.server_id = self.assigned.borrow().specification.server_id;
        site
    }

    /// What is in force, and every change of it.
    pub fn assigned(&self) -> tokio::sync::watch::Receiver<Assigned> {
        self.assigned.subscribe()
    }
}

/// The greatest fence that a call in this lane must not be older than.
fn newest(seen: &BTreeMap<Lane, u64>, lane: Lane) -> u64 {
    let excluding = seen.iter().filter(|(other, _)| lane.excludes(**other));
    excluding.map(|(_, fence)| *fence).max().unwrap_or_default()
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
    let mut settings = Settings::default();
    settings.tls = tls;
    settings.parameters = engine_parameters(&specification.parameters)?;
    settings.read_only = read_only;
    Ok(settings)
}

/// The values of parameters, each a JSON scalar as text.
///
/// # Errors
/// One of them is no JSON.
pub fn engine_parameters<'a>(
    texts: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<BTreeMap<String, Value>, EngineError> {
    let mut parameters = BTreeMap::new();
    for (name, value) in texts {
        let wrong = |error| EngineError::caused(Kind::Invalid, format!("read the parameter {name:?}"), error);
        let value = serde_json::from_str(value).map_err(wrong)?;
        parameters.insert(name.clone(), value);
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of an agent that was assigned generation 3 under fence 1234, and has seen fence 1240 since.
    fn kept() -> (tempfile::TempDir, Durable) {
        let scratch = tempfile::tempdir().unwrap();
        let files = Durable::open(scratch.path()).unwrap();
        let assignments = AssignmentStore::open(files.clone()).unwrap();
        assert!(assignments.admit(Lane::LifeCycle, 1234).unwrap());
        let specification = v1::Specification { volume_gib: 2, ..v1::Specification::default() };
        assert!(assignments.assign(3, specification).unwrap());
        assert!(assignments.admit(Lane::Accounts, 1240).unwrap());
        (scratch, files)
    }

    #[test]
    fn an_assignment_that_is_cut_off_at_any_length_is_taken_up_again() {
        let (_scratch, files) = kept();
        let whole = files.read(ASSIGNMENT).unwrap().unwrap();
        for length in 0..whole.len() {
            std::fs::write(files.path(ASSIGNMENT), &whole[..length]).unwrap();
            let assignments = AssignmentStore::open(files.clone()).unwrap();
            assert_eq!(assignments.assigned().borrow().generation, 0, "{length}");
            assert_eq!(assignments.fence(), 1240);
            assert!(assignments.assign(3, v1::Specification::default()).unwrap(), "what is sent again");
        }
        assert_eq!(AssignmentStore::open(files).unwrap().assigned().borrow().generation, 3);
    }

    #[test]
    fn a_fence_that_is_cut_off_at_any_length_falls_back_to_the_assignments() {
        let (_scratch, files) = kept();
        let whole = files.read(FENCE).unwrap().unwrap();
        for length in 0..whole.len() {
            std::fs::write(files.path(FENCE), &whole[..length]).unwrap();
            let assignments = AssignmentStore::open(files.clone()).unwrap();
            assert_eq!(assignments.fence(), 1234, "{length}");
            assert!(!assignments.admit(Lane::LifeCycle, 1233).unwrap());
            assert!(assignments.admit(Lane::Accounts, 1241).unwrap());
        }
        for earlier in ["1250", r#"{"seen":1250}"#] {
            std::fs::write(files.path(FENCE), earlier).unwrap();
            let assignments = AssignmentStore::open(files.clone()).unwrap();
            assert_eq!(assignments.fence(), 1250, "of an earlier agent");
            assert!(!assignments.admit(Lane::Backup, 1249).unwrap(), "it is of every lane");
        }
    }

    #[test]
    fn a_fence_shuts_out_what_its_lane_excludes_also_after_a_restart() {
        let (_scratch, files) = kept();
        let assignments = AssignmentStore::open(files.clone()).unwrap();
        assert!(assignments.admit(Lane::Backup, 1250).unwrap());
        assert!(assignments.admit(Lane::Accounts, 1260).unwrap());
        for assignments in [assignments, AssignmentStore::open(files).unwrap()] {
            assert_eq!(assignments.fence(), 1260);
            assert!(assignments.admit(Lane::Backup, 1250).unwrap(), "a later change of accounts runs beside it");
            assert!(!assignments.admit(Lane::Backup, 1249).unwrap());
            assert!(!assignments.admit(Lane::Accounts, 1259).unwrap());
            assert!(!assignments.admit(Lane::LifeCycle, 1259).unwrap());
            assert!(!assignments.admit(Lane::Accounts, 1233).unwrap(), "older than the assignment's");
        }
    }
}

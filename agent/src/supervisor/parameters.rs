//! Parameters that keep the engine from starting are taken back: it is started with those with which it last answered. That is
//! recorded, so that they are not tried again at each start; others that are assigned are.

use std::collections::BTreeMap;

use tracing::{info, warn};
use trove_strategy::{Applied, EngineError, Kind};

use super::Owner;
use super::parameter_record::{PARAMETER_RECORD, ParameterRecord, Values};
use crate::assignment::engine_parameters;

impl Owner {
    /// The parameters of the assignment, also where they are taken back.
    pub(super) fn assigned_parameters(&self) -> Result<Values, EngineError> {
        engine_parameters(&self.parts.assignments.assigned().borrow().specification.parameters)
    }

    /// Takes back the assigned parameters, with which the engine does not start. `false` when there are no earlier ones.
    pub(super) fn take_back(&mut self, refused: &EngineError) -> Result<bool, EngineError> {
        let (assigned, said) = (self.assigned_parameters()?, refused.chain());
        let taken = self.record(|record| record.take_back(&assigned, &said))?;
        if taken {
            let names = self.parameter_record.differing(&assigned);
            warn!(?names, said, "the engine does not start with its new parameters, which are taken back");
        }
        Ok(taken)
    }

    /// Has the assigned parameters tried again, since the engine does not start with the earlier ones either.
    pub(super) fn retry_parameters(&mut self) {
        match self.record(ParameterRecord::retry) {
            Ok(true) => {
                info!("the engine does not start with its earlier parameters either: the new ones are tried again")
            }
            Ok(false) => {}
            Err(error) => warn!(error = error.chain(), "the parameters cannot be recorded, and stay taken back"),
        }
    }

    /// Records the parameters of an engine that answers: those that it was started with, or, of one that was adopted and of
    /// which nothing is recorded, those that are assigned.
    pub(super) fn record_answered(&mut self) {
        let with = match self.started_with.take() {
            Some(with) => with,
            None if !self.parameter_record.has_answered() => match self.assigned_parameters() {
                Ok(assigned) => assigned,
                Err(_) => return,
            },
            None => return,
        };
        let recorded = self.record(|record| {
            record.started(&with);
            true
        });
        if let Err(error) = recorded {
            warn!(error = error.chain(), "the parameters with which the engine answers cannot be recorded");
        }
    }

    /// Records what became of the parameters that the running engine was told, and adds those that are taken back.
    pub(super) fn record_applied(
        &mut self,
        told: &Values,
        mut became: BTreeMap<String, Applied>,
    ) -> Result<BTreeMap<String, Applied>, EngineError> {
        self.parameter_record.refuse_unused(told, &mut became);
        self.record(|record| {
            record.applied(told, &became);
            true
        })?;
        self.parameter_record.refuse(&self.assigned_parameters()?, &mut became);
        Ok(became)
    }

    pub(super) fn taken_back_fault(&self) -> String {
        self.assigned_parameters().map(|assigned| self.parameter_record.words(&assigned)).unwrap_or_default()
    }

    /// Changes the record, and writes it where that changed something. Answers what `change` does.
    fn record(&mut self, change: impl FnOnce(&mut ParameterRecord) -> bool) -> Result<bool, EngineError> {
        let mut next = self.parameter_record.clone();
        let changed = change(&mut next);
        if next != self.parameter_record {
            let written = self.parts.files.write_json(PARAMETER_RECORD, &next);
            written.map_err(|error| EngineError::new(Kind::Transient, format!("{error:#}")))?;
            self.parameter_record = next;
        }
        Ok(changed)
    }
}

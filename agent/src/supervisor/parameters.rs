//! Parameters that keep the engine from starting are taken back: it is started with those with which it last answered. That is
//! written down, so that they are not tried again at each start; others that are assigned are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::{info, warn};
use trove_strategy::{Applied, EngineError, Kind};

use super::Owner;
use crate::assignment::engine_parameters;

pub(super) const KEPT: &str = "parameters";

type Values = BTreeMap<String, Value>;

/// What is remembered of parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Those with which the engine last answered; `None` before it did once.
    answered: Option<Values>,
    taken_back: Option<TakenBack>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct TakenBack {
    /// All that were assigned.
    assigned: Values,
    /// Why the engine did not start with them.
    said: String,
    /// Whether it has answered with those before. Until then they may not be to blame.
    answered_since: bool,
}

impl Kept {
    /// What is in force instead of what is assigned.
    pub(super) fn instead_of(&self, assigned: &Values) -> Option<&Values> {
        self.taken_back.as_ref().filter(|taken| taken.assigned == *assigned)?;
        self.answered.as_ref()
    }

    /// Takes them back, unless they are those before, or there are none before.
    fn take_back(&mut self, assigned: &Values, said: &str) -> bool {
        let may = self.answered.as_ref().is_some_and(|answered| answered != assigned);
        if !may || self.instead_of(assigned).is_some() {
            return false;
        }
        let taken = TakenBack { assigned: assigned.clone(), said: said.to_owned(), answered_since: false };
        self.taken_back = Some(taken);
        true
    }

    /// Those before did not help either.
    fn acquit(&mut self) -> bool {
        self.taken_back.take_if(|taken| !taken.answered_since).is_some()
    }

    /// The engine has answered after it was started with these.
    fn started(&mut self, with: &Values) {
        self.answered = Some(with.clone());
        if let Some(taken) = &mut self.taken_back {
            taken.answered_since = true;
        }
    }

    /// The running engine was told these, and they became that.
    fn applied(&mut self, told: &Values, became: &BTreeMap<String, Applied>) {
        let before = self.answered.take().unwrap_or_default();
        let is_live = |name: &String| matches!(became.get(name), Some(Applied::Live) | None);
        let kept = before.into_iter().filter(|(name, _)| !is_live(name));
        let live = told.iter().filter(|(name, _)| became.get(*name) == Some(&Applied::Live));
        self.answered = Some(kept.chain(live.map(|(name, value)| (name.clone(), value.clone()))).collect());
    }

    /// The names of what differs between what is assigned and what is in force.
    fn differing(&self, assigned: &Values) -> Vec<String> {
        let Some(instead) = self.instead_of(assigned) else { return Vec::new() };
        let names = assigned.keys().chain(instead.keys().filter(|name| !assigned.contains_key(*name)));
        names.filter(|name| assigned.get(*name) != instead.get(*name)).cloned().collect()
    }

    /// What was taken back is said to be refused.
    fn refuse(&self, assigned: &Values, became: &mut BTreeMap<String, Applied>) {
        let Some(taken) = &self.taken_back else { return };
        for name in self.differing(assigned) {
            became.insert(name, Applied::Refused(taken.said.clone()));
        }
    }

    /// For a person, while it is so.
    fn words(&self, assigned: &Values) -> String {
        let Some(taken) = self.taken_back.as_ref().filter(|taken| taken.answered_since) else { return String::new() };
        let value = |name: &String| match assigned.get(name) {
            Some(value) => format!("{name} = {value}"),
            None => format!("the default of {name}"),
        };
        let values: Vec<String> = self.differing(assigned).iter().map(value).collect();
        if values.is_empty() {
            return String::new();
        }
        format!("The engine did not start with {} and runs with what it had before: {}", values.join(", "), taken.said)
    }
}

impl Owner {
    /// What is assigned, whatever is in force.
    pub(super) fn assigned_parameters(&self) -> Result<Values, EngineError> {
        engine_parameters(&self.parts.assignments.assigned().borrow().specification.parameters)
    }

    /// Takes back what the engine does not start with; `false` when there is nothing to go back to.
    pub(super) fn take_back(&mut self, refused: &EngineError) -> Result<bool, EngineError> {
        let (assigned, said) = (self.assigned_parameters()?, refused.chain());
        let taken = self.keep(|kept| kept.take_back(&assigned, &said))?;
        if taken {
            let names = self.kept.differing(&assigned);
            warn!(?names, said, "the engine's new parameters are taken back");
        }
        Ok(taken)
    }

    /// The engine does not start with the parameters before either: the new ones are not to blame.
    pub(super) fn acquit(&mut self) {
        match self.keep(Kept::acquit) {
            Ok(true) => info!("the engine does not start with the parameters before either"),
            Ok(false) => {}
            Err(error) => warn!(error = error.chain(), "the parameters stay taken back"),
        }
    }

    /// The engine answers, after a start or for the first time that this agent asks it.
    pub(super) fn keep_answered(&mut self) {
        let with = match self.started_with.take() {
            Some(with) => with,
            None if self.kept.answered.is_none() => match self.assigned_parameters() {
                Ok(assigned) => assigned,
                Err(_) => return,
            },
            None => return,
        };
        let kept = self.keep(|kept| {
            kept.started(&with);
            true
        });
        if let Err(error) = kept {
            warn!(error = error.chain(), "the parameters with which the engine answers are not written down");
        }
    }

    /// What became of the parameters in the running engine, by what it was told.
    pub(super) fn keep_applied(
        &mut self,
        told: &Values,
        mut became: BTreeMap<String, Applied>,
    ) -> Result<BTreeMap<String, Applied>, EngineError> {
        self.keep(|kept| {
            kept.applied(told, &became);
            true
        })?;
        self.kept.refuse(&self.assigned_parameters()?, &mut became);
        Ok(became)
    }

    pub(super) fn taken_back_words(&self) -> String {
        self.assigned_parameters().map(|assigned| self.kept.words(&assigned)).unwrap_or_default()
    }

    /// Writes down what has changed, if something did.
    fn keep(&mut self, change: impl FnOnce(&mut Kept) -> bool) -> Result<bool, EngineError> {
        let mut next = self.kept.clone();
        let changed = change(&mut next);
        if next != self.kept {
            let written = self.parts.files.write_json(KEPT, &next);
            written.map_err(|error| EngineError::new(Kind::Transient, format!("{error:#}")))?;
            self.kept = next;
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, i64)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect()
    }

    #[test]
    fn nothing_is_taken_back_before_the_engine_has_answered_once() {
        let mut kept = Kept::default();
        assert!(!kept.take_back(&values(&[("a", 1)]), "no"));
        kept.started(&Values::new());
        assert!(!kept.take_back(&Values::new(), "no"), "there is nothing to take back");
        assert!(kept.take_back(&values(&[("a", 1)]), "no"));
        assert_eq!(kept.instead_of(&values(&[("a", 1)])), Some(&Values::new()));
        assert_eq!(kept.instead_of(&values(&[("a", 2)])), None, "others are tried");
    }

    #[test]
    fn what_differs_is_refused_in_the_engines_words() {
        let mut kept = Kept::default();
        kept.started(&values(&[("a", 1), ("b", 1), ("gone", 1)]));
        let assigned = values(&[("a", 1), ("b", 2), ("new", 3)]);
        assert!(kept.take_back(&assigned, "out of memory"));
        assert_eq!(kept.words(&assigned), "", "it has not answered yet");
        kept.started(&values(&[("a", 1), ("b", 1), ("gone", 1)]));
        let mut became = BTreeMap::from(["a", "b", "gone"].map(|name| (name.to_owned(), Applied::Live)));
        kept.refuse(&assigned, &mut became);
        let refused = Applied::Refused("out of memory".to_owned());
        assert_eq!(became["a"], Applied::Live);
        assert!(["b", "new", "gone"].iter().all(|name| became[*name] == refused), "{became:?}");
        let words = "The engine did not start with b = 2, new = 3, the default of gone and runs with what it had before: \
                     out of memory";
        assert_eq!(kept.words(&assigned), words);
        assert!(!kept.acquit(), "it has answered without them");
    }

    #[test]
    fn what_the_running_engine_took_is_what_it_can_go_back_to() {
        let mut kept = Kept::default();
        kept.started(&values(&[("cold", 1), ("warm", 1), ("dropped", 1), ("pending", 1)]));
        let became = [("cold", Applied::NeedsRestart), ("warm", Applied::Live), ("pending", Applied::NeedsRestart)];
        let became = became.map(|(name, became)| (name.to_owned(), became)).into();
        kept.applied(&values(&[("cold", 2), ("warm", 2)]), &became);
        assert_eq!(kept.answered, Some(values(&[("cold", 1), ("warm", 2), ("pending", 1)])));
    }

    #[test]
    fn parameters_that_are_not_to_blame_are_tried_again() {
        let mut kept = Kept::default();
        kept.started(&Values::new());
        let assigned = values(&[("a", 1)]);
        assert!(kept.take_back(&assigned, "the disk is full"));
        assert!(kept.acquit());
        assert_eq!(kept.instead_of(&assigned), None);
    }
}

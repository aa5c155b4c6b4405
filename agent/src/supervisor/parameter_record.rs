//! Which parameters the engine last answered with, and which of the assigned ones it did not start with. It is a file of the
//! agent's, so that an agent that is started anew knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use trove_strategy::Applied;

/// The file.
pub(super) const PARAMETER_RECORD: &str = "parameters";

pub(super) type Values = BTreeMap<String, Value>;

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ParameterRecord {
    /// The parameters with which the engine last answered; `None` before it did once.
    answered: Option<Values>,
    /// The assignment with which the engine did not start.
    taken_back: Option<TakenBack>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct TakenBack {
    /// All parameters of that assignment.
    assigned: Values,
    /// Why the engine did not start with them.
    said: String,
    /// Whether the engine has answered with the earlier ones. Until then the cause may be another.
    answered_since: bool,
}

impl ParameterRecord {
    /// Whether the engine has answered once.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.is_some()
    }

    /// The parameters that the engine is given instead of these assigned ones; `None` when it is given these.
    pub(super) fn instead_of(&self, assigned: &Values) -> Option<&Values> {
        self.taken_back.as_ref().filter(|taken| taken.assigned == *assigned)?;
        self.answered.as_ref()
    }

    /// Takes the assigned parameters back: the engine is to be started with those with which it last answered. `false` when that
    /// changes nothing: they are the same, they are taken back already, or the engine has never answered.
    pub(super) fn take_back(&mut self, assigned: &Values, said: &str) -> bool {
        let may = self.answered.as_ref().is_some_and(|answered| answered != assigned);
        if !may || self.instead_of(assigned).is_some() {
            return false;
        }
        let taken = TakenBack { assigned: assigned.clone(), said: said.to_owned(), answered_since: false };
        self.taken_back = Some(taken);
        true
    }

    /// The engine does not start with the earlier parameters either: the assigned ones are tried again. `false` when none are
    /// taken back, or the engine has answered without them.
    pub(super) fn retry(&mut self) -> bool {
        self.taken_back.take_if(|taken| !taken.answered_since).is_some()
    }

    /// The engine was started with these parameters and answers.
    pub(super) fn started(&mut self, with: &Values) {
        self.answered = Some(with.clone());
        if let Some(taken) = &mut self.taken_back {
            taken.answered_since = true;
        }
    }

    /// The running engine was told these parameters, and said what became of each.
    pub(super) fn applied(&mut self, told: &Values, became: &BTreeMap<String, Applied>) {
        let before = self.answered.take().unwrap_or_default();
        let is_live = |name: &String| matches!(became.get(name), Some(Applied::Live) | None);
        let kept = before.into_iter().filter(|(name, _)| !is_live(name));
        let live = told.iter().filter(|(name, _)| became.get(*name) == Some(&Applied::Live));
        self.answered = Some(kept.chain(live.map(|(name, value)| (name.clone(), value.clone()))).collect());
    }

    /// Reports as refused what the engine was started with and does not use: it would say after every start that it needs one.
    pub(super) fn refuse_unused(&self, told: &Values, became: &mut BTreeMap<String, Applied>) {
        let Some(answered) = &self.answered else { return };
        for (name, applied) in became.iter_mut().filter(|(_, applied)| **applied == Applied::NeedsRestart) {
            if told.get(name).is_some_and(|value| answered.get(name) == Some(value)) {
                *applied = Applied::Refused("the engine was started with this value and uses another".to_owned());
            }
        }
    }

    /// The names of the parameters that were taken back.
    pub(super) fn differing(&self, assigned: &Values) -> Vec<String> {
        let Some(instead) = self.instead_of(assigned) else { return Vec::new() };
        let names = assigned.keys().chain(instead.keys().filter(|name| !assigned.contains_key(*name)));
        names.filter(|name| assigned.get(*name) != instead.get(*name)).cloned().collect()
    }

    /// Reports what was taken back as refused.
    pub(super) fn refuse(&self, assigned: &Values, became: &mut BTreeMap<String, Applied>) {
        let Some(taken) = &self.taken_back else { return };
        for name in self.differing(assigned) {
            became.insert(name, Applied::Refused(taken.said.clone()));
        }
    }

    /// The sentence for the tenant while parameters are taken back; else empty.
    pub(super) fn words(&self, assigned: &Values) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, i64)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect()
    }

    #[test]
    fn nothing_is_taken_back_before_the_engine_has_answered_once() {
        let mut kept = ParameterRecord::default();
        assert!(!kept.take_back(&values(&[("a", 1)]), "no"));
        kept.started(&Values::new());
        assert!(!kept.take_back(&Values::new(), "no"), "there is nothing to take back");
        assert!(kept.take_back(&values(&[("a", 1)]), "no"));
        assert_eq!(kept.instead_of(&values(&[("a", 1)])), Some(&Values::new()));
        assert_eq!(kept.instead_of(&values(&[("a", 2)])), None, "others are tried");
    }

    #[test]
    fn what_differs_is_refused_in_the_engines_words() {
        let mut kept = ParameterRecord::default();
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
        assert!(!kept.retry(), "it has answered without them");
    }

    #[test]
    fn what_the_running_engine_took_is_what_it_can_go_back_to() {
        let mut kept = ParameterRecord::default();
        kept.started(&values(&[("cold", 1), ("warm", 1), ("dropped", 1), ("pending", 1)]));
        let became = [("cold", Applied::NeedsRestart), ("warm", Applied::Live), ("pending", Applied::NeedsRestart)];
        let became = became.map(|(name, became)| (name.to_owned(), became)).into();
        kept.applied(&values(&[("cold", 2), ("warm", 2)]), &became);
        assert_eq!(kept.answered, Some(values(&[("cold", 1), ("warm", 2), ("pending", 1)])));
    }

    #[test]
    fn a_value_that_the_engine_does_not_use_after_its_start_waits_for_no_other() {
        let mut kept = ParameterRecord::default();
        kept.started(&values(&[("adjusted", 1), ("changed", 1), ("dropped", 1)]));
        let mut became = ["adjusted", "changed", "dropped"].map(|name| (name.to_owned(), Applied::NeedsRestart)).into();
        kept.refuse_unused(&values(&[("adjusted", 1), ("changed", 2)]), &mut became);
        assert!(matches!(became["adjusted"], Applied::Refused(_)), "{became:?}");
        assert!(["changed", "dropped"].iter().all(|name| became[*name] == Applied::NeedsRestart), "{became:?}");
    }

    #[test]
    fn parameters_that_are_not_to_blame_are_tried_again() {
        let mut kept = ParameterRecord::default();
        kept.started(&Values::new());
        let assigned = values(&[("a", 1)]);
        assert!(kept.take_back(&assigned, "the disk is full"));
        assert!(kept.retry());
        assert_eq!(kept.instead_of(&assigned), None);
    }
}

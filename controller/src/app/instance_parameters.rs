//! What an engine really runs with, and what was asked for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trove_strategy::{Capability, Parameter, ParameterType};

use super::App;
use super::parameters::{MASK, is_secret};
use super::readiness::{InstanceContext, answer};
use crate::error::Result;
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::model::configurations::{ParameterResult, Values};

const CAPABILITY: Capability = Capability::Parameters;

/// A parameter that was asked for, or that an earlier group set, as it is wanted and as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedParameter {
    pub name: String,
    /// What the group says; `None`: the default is wanted.
    pub wanted: Option<Value>,
    /// What the engine runs with, as it writes it; `None` while it cannot be asked.
    pub in_force: Option<String>,
    /// Whether these differ; `None` where that cannot be known.
    pub differs: Option<bool>,
    /// What became of the value when the engine was given it.
    pub result: Option<ParameterResult>,
    /// The rules, where the version has the parameter.
    pub rules: Option<Parameter>,
}

impl App {
    /// What the engine runs with, by the names of the parameters that can be set, as it writes it.
    ///
    /// # Errors
    /// 404; 422 not ready, or the datastore has no parameters.
    pub async fn parameters_in_force(&self, caller: &Caller, id: InstanceId) -> Result<BTreeMap<String, String>> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        self.await_ready(&subject).await?;
        self.ask_parameters(&subject).await
    }

    /// Every parameter that the instance's group sets, or that waits to go back to its default, by name.
    ///
    /// # Errors
    /// 404; 422: the datastore has no parameters.
    pub async fn compare_parameters(&self, caller: &Caller, id: InstanceId) -> Result<Vec<ComparedParameter>> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        let in_force = match self.await_ready(&subject).await {
            Ok(()) => self.ask_parameters(&subject).await.ok(),
            Err(_) => None,
        };
        // After the questions, which waited for what became of it.
        let instance = self.get_instance(caller, id).await?;
        let wanted = self.store.wanted_parameters(id).await?;
        let rules = &subject.manifest.parameters;
        Ok(compare(&wanted, &instance.parameter_results, in_force.as_ref(), rules))
    }

    async fn ask_parameters(&self, subject: &InstanceContext) -> Result<BTreeMap<String, String>> {
        let id = subject.instance.id;
        let values = answer(id, self.agents.list_parameters(id).await)?;
        let shown = |name: &str, value: String| if is_secret(name) { MASK.to_owned() } else { value };
        Ok(values
            .into_iter()
            .map(|value| {
                let shown = shown(&value.name, value.value);
                (value.name, shown)
            })
            .collect())
    }
}

fn compare(
    wanted: &Values,
    results: &BTreeMap<String, ParameterResult>,
    in_force: Option<&BTreeMap<String, String>>,
    rules: &[Parameter],
) -> Vec<ComparedParameter> {
    let names: BTreeSet<&String> = wanted.keys().chain(results.keys()).collect();
    let compared = |name: &String| {
        let (value, secret) = (wanted.get(name), is_secret(name));
        let rules = rules.iter().find(|rules| rules.name == *name).cloned();
        let in_force = in_force.and_then(|values| values.get(name)).cloned();
        let differs = match (value, &in_force) {
            (Some(value), Some(real)) if !secret => Some(!is_same(value, real, rules.as_ref())),
            _ => None,
        };
        let value = value.map(|value| if secret { Value::from(MASK) } else { value.clone() });
        let result = results.get(name).cloned();
        ComparedParameter { name: name.clone(), wanted: value, in_force, differs, result, rules }
    };
    names.into_iter().map(compared).collect()
}

/// Whether an engine writes this value so.
fn is_same(wanted: &Value, real: &str, rules: Option<&Parameter>) -> bool {
    match wanted {
        Value::Bool(wanted) => {
            let on = ["on", "yes", "true", "1"].iter().any(|word| word.eq_ignore_ascii_case(real));
            on == *wanted
        }
        Value::Number(wanted) => {
            let exact = wanted.to_string() == real;
            exact || real.parse::<f64>().ok().zip(wanted.as_f64()).is_some_and(|(real, wanted)| real == wanted)
        }
        Value::String(wanted) => {
            let word = rules.is_some_and(|rules| rules.kind == ParameterType::String && !rules.allowed.is_empty());
            wanted == real || (word && wanted.eq_ignore_ascii_case(real))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::configurations::ParameterState;

    #[test]
    fn what_is_wanted_stands_beside_what_is() {
        let wanted: Values = serde_json::from_value(json!({
            "fast": true, "limit": 100, "cost": 0.5, "level": "low", "path": "a", "my_password": "x"
        }))
        .unwrap();
        let real = [("fast", "on"), ("limit", "100"), ("cost", "0.50"), ("level", "LOW"), ("path", "A"), ("old", "7")];
        let real: BTreeMap<_, _> = real.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let result = ParameterResult { state: ParameterState::NeedsRestart, reason: String::new() };
        let results = BTreeMap::from([("old".to_owned(), result.clone())]);
        let mut level = Parameter::new("level", ParameterType::String);
        level.allowed = vec!["low".to_owned()];
        let rules = [level, Parameter::new("path", ParameterType::String)];
        let all = compare(&wanted, &results, Some(&real), &rules);
        let of = |name: &str| all.iter().find(|one| one.name == name).unwrap();
        assert_eq!(all.len(), 7);
        for (name, differs) in [
            ("fast", Some(false)),
            ("limit", Some(false)),
            ("cost", Some(false)),
            ("level", Some(false)),
            ("path", Some(true)),
            ("my_password", None),
            ("old", None),
        ] {
            assert_eq!(of(name).differs, differs, "{name}");
        }
        assert_eq!((of("my_password").wanted.clone(), of("old").result.clone()), (Some(json!("***")), Some(result)));
        assert!(compare(&wanted, &results, None, &rules).iter().all(|one| one.in_force.is_none()));
    }
}

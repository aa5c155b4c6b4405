//! What can be set. The engine has no list with rules: a throwaway server is given nonsense for each name, and says in its
//! refusal what it would have taken.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Number;
use trove_strategy::{EngineError, Parameter, ParameterType, Parameters, Site};

use crate::Redis;
use crate::client::Session;
use crate::owned::is_owned;
use crate::throwaway::Throwaway;

/// What the server says to nonsense.
async fn refusal(session: &mut Session, name: &str, nonsense: &str) -> Option<String> {
    let mut command = redis::cmd("CONFIG");
    command.arg("SET").arg(name).arg(nonsense);
    session.ask::<()>("probe", &command).await.err().map(|error| error.chain())
}

/// `argument must be between A and B inclusive`.
fn range(said: &str) -> (Option<Number>, Option<Number>) {
    let numbers = said.split_once("must be between ").and_then(|(_, rest)| rest.split_once(" inclusive"));
    let numbers = numbers.and_then(|(numbers, _)| numbers.split_once(" and "));
    numbers.map_or((None, None), |(min, max)| (min.parse().ok(), max.parse().ok()))
}

/// The rules of one parameter, by what the server refuses.
async fn parameter(session: &mut Session, name: String, default: String) -> Parameter {
    let said = refusal(session, &name, "~junk~").await.unwrap_or_default();
    let mut rules = Parameter {
        name,
        kind: ParameterType::String,
        unit: None,
        min: None,
        max: None,
        allowed: Vec::new(),
        default: Some(default).filter(|default| !default.is_empty()),
        restart_required: said.contains("immutable"),
    };
    let default = rules.default.as_deref().unwrap_or_default();
    if rules.restart_required {
        // It refuses every value alike: the default tells the type, and the configuration is tried before it is kept.
        rules.kind = match default {
            "yes" | "no" => ParameterType::Boolean,
            text if text.parse::<i64>().is_ok() => ParameterType::Integer,
            _ => ParameterType::String,
        };
    } else if said.contains("must be 'yes' or 'no'") {
        rules.kind = ParameterType::Boolean;
    } else if said.contains("parsed into an integer") {
        rules.kind = ParameterType::Integer;
        let said = refusal(session, &rules.name, "-99999999999999").await.unwrap_or_default();
        (rules.min, rules.max) = range(&said);
    } else if said.contains("must be a memory value") {
        rules.kind = ParameterType::Integer;
        rules.unit = Some("B".to_owned());
        rules.min = Some(0.into());
        let said = refusal(session, &rules.name, "0").await.unwrap_or_default();
        if let (Some(min), max) = range(&said) {
            (rules.min, rules.max) = (Some(min), max);
        }
    } else if let Some((_, allowed)) = said.split_once("one of the following: ") {
        rules.allowed = allowed.split(", ").map(|value| value.trim().to_owned()).collect();
    }
    rules
}

#[async_trait]
impl Parameters for Redis {
    async fn describe(&self, site: &Site) -> Result<Vec<Parameter>, EngineError> {
        let mut server = Throwaway::start(self, site, &BTreeMap::new()).await?;
        let defaults = server.session.parameters("list parameters").await?;
        let mut described = Vec::new();
        for (name, default) in defaults.into_iter().filter(|(name, _)| !is_owned(name)) {
            described.push(parameter(&mut server.session, name, default).await);
        }
        server.end().await;
        Ok(described)
    }

    async fn values(&self, site: &Site) -> Result<Vec<(String, String)>, EngineError> {
        let all = self.held.session(site).await?.parameters("list parameters").await?;
        Ok(all.into_iter().filter(|(name, _)| !is_owned(name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_from_the_refusal() {
        let said = "probe: ERR CONFIG SET failed (possibly related to argument 'hz') - argument must be between 0 and \
                    2147483647 inclusive";
        assert_eq!(range(said), (Some(0.into()), Some(2_147_483_647.into())));
        let said = "argument must be between 0 and 9223372036854775807 inclusive";
        assert_eq!(range(said).1, Some(i64::MAX.into()));
        assert_eq!(range("argument must be a memory value"), (None, None));
    }
}

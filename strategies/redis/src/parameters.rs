//! What can be set. The engine has no list with rules: a throwaway server is given nonsense for each name, and says in its
//! refusal what it would have taken.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::{Number, Value};
use trove_strategy::{Applied, EngineError, Parameter, ParameterType, Parameters, Settings, Site};

use crate::Redis;
use crate::client::Session;
use crate::config::{self, Files};
use crate::engine::{set_each, text_of};
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
    let mut rules = Parameter::new(name, ParameterType::String);
    rules.default = Some(default).filter(|default| !default.is_empty());
    rules.restart_required = said.contains("immutable");
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
        if rules.name == "maxclients" {
            rules.max = Some(config::CLIENTS_MAX.into());
        }
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

    /// With a wrong line in its file the server would not start again: a throwaway one tries what is not written yet.
    async fn check(&self, site: &Site, values: &BTreeMap<String, Value>) -> Result<(), EngineError> {
        let chosen = config::chosen(values)?;
        config::check_clients(&chosen)?;
        let written = config::read(&text_of(site, &Files::new().user).await?);
        if chosen.iter().any(|(name, value)| written.get(name) != Some(value)) {
            Throwaway::start(self, site, &chosen).await?.end().await;
        }
        Ok(())
    }

    async fn apply(&self, site: &Site, settings: &Settings) -> Result<BTreeMap<String, Applied>, EngineError> {
        let attempt = "apply the parameters";
        let mut wanted = config::user(site, settings)?;
        // What nobody chooses any more goes back to the engine's own value, which the running server does not tell.
        let mut fresh = Throwaway::start(self, site, &BTreeMap::new()).await?;
        let defaults = fresh.session.parameters(attempt).await;
        fresh.end().await;
        for (name, default) in defaults?.into_iter().filter(|(name, _)| !is_owned(name)) {
            wanted.entry(name).or_insert(default);
        }
        let mut session = self.held.session(site).await?;
        let current = session.parameters(attempt).await?;
        wanted.retain(|name, value| current.get(name) != Some(value));
        let mut left = set_each(&mut session, wanted).await?;
        let of = |name: &String| (name.clone(), left.remove(&name.to_ascii_lowercase()).unwrap_or(Applied::Live));
        let mut became: BTreeMap<String, Applied> = settings.parameters.keys().map(of).collect();
        // Those that nobody chooses any more, and that the server keeps until its next start.
        became.extend(left.into_iter().filter(|(_, left)| *left == Applied::NeedsRestart));
        Ok(became)
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

//! What the strategy says of parameters is what the engine takes and has.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trove_strategy::{Applied, Datastore, EngineError, Kind, Parameter, ParameterType, Settings, StartMode};

use crate::{MONGODB, bench, plain};

fn settings(parameters: &[(&str, Value)]) -> Settings {
    let mut settings = Settings::default();
    settings.parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    settings
}

/// A value of the parameter that is not its default.
fn another(parameter: &Parameter) -> Value {
    let number =
        |number: &Option<serde_json::Number>| number.as_ref().and_then(serde_json::Number::as_f64).unwrap_or(0.0);
    match parameter.kind {
        ParameterType::Boolean => (parameter.default.as_deref() != Some("true")).into(),
        ParameterType::Integer => {
            let least = parameter.min.as_ref().and_then(serde_json::Number::as_i64).unwrap_or(0);
            let default = parameter.default.as_ref().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
            (if default > least { default - 1 } else { default + 1 }).into()
        }
        ParameterType::Float => ((number(&parameter.min) + number(&parameter.max)) / 2.0).into(),
        ParameterType::String => {
            parameter.allowed.iter().find(|text| Some(*text) != parameter.default.as_ref()).cloned().into()
        }
    }
}

#[tokio::test]
async fn every_parameter_is_taken_and_has_the_default_that_is_said() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let parameters = MONGODB.parameters().expect("announced");
    let all = parameters.describe(&bench.site).await.map_err(plain)?;
    ensure!(all.len() == 26, "{} are known to this version", all.len());
    let values = async || -> Result<BTreeMap<String, String>> {
        Ok(parameters.values(&bench.site).await.map_err(plain)?.into_iter().collect())
    };
    let before = values().await?;
    for parameter in &all {
        let is = &before[&parameter.name];
        ensure!(parameter.default.as_ref().is_none_or(|default| default == is), "{}: {is}", parameter.name);
    }
    ensure!(before["storage.wiredTiger.engineConfig.cacheSizeGB"] == "0.25", "{before:?}");

    // All at once: the live ones act, and the server starts with the others.
    let chosen: Vec<(&str, Value)> = all.iter().map(|known| (known.name.as_str(), another(known))).collect();
    // The cache would take more than the machine has, and ten connections are few.
    let chosen: Vec<(&str, Value)> = chosen
        .into_iter()
        .map(|(name, value)| match name {
            "storage.wiredTiger.engineConfig.cacheSizeGB" => (name, 0.3.into()),
            _ => (name, value),
        })
        .collect();
    let applied = bench.take_up(&settings(&chosen)).await.map_err(plain)?;
    for parameter in &all {
        let expected = if parameter.restart_required { Applied::NeedsRestart } else { Applied::Live };
        ensure!(applied[&parameter.name] == expected, "{}: {:?}", parameter.name, applied[&parameter.name]);
    }
    running.stop(&bench).await?;
    let mut running = bench.spawn_with(StartMode::Normal, &settings(&chosen))?;
    bench.await_answer(&mut running).await?;
    let now = values().await?;
    for (name, value) in &chosen {
        let wanted = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let same = now[*name] == wanted || now[*name].parse::<f64>().ok() == wanted.parse::<f64>().ok();
        ensure!(same, "{name} is {} and not {wanted}", now[*name]);
    }
    // What is not chosen any more is as if it never had been.
    bench.take_up(&Settings::default()).await.map_err(plain)?;
    let now = values().await?;
    for parameter in all.iter().filter(|parameter| !parameter.restart_required) {
        ensure!(now[&parameter.name] == before[&parameter.name], "{} is {}", parameter.name, now[&parameter.name]);
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn wrong_values_are_refused_before_they_are_written() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let parameters = MONGODB.parameters().expect("announced");
    MONGODB.engine().configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    let before = std::fs::read_to_string(bench.site.config.join("mongod.conf"))?;
    for (name, wrong) in [
        ("cursorTimeoutMillis", Value::from("soon")),
        ("maxIndexBuildMemoryUsageMegabytes", 1.into()),
        ("operationProfiling.mode", "often".into()),
        ("net.bindIp", "0.0.0.0".into()),
        ("security.authorization", "disabled".into()),
        ("enableLocalhostAuthBypass", true.into()),
        ("no.such", 1.into()),
    ] {
        let refused = parameters.check(&bench.site, &settings(&[(name, wrong)]).parameters).await;
        let said = refused.as_ref().err().map(EngineError::chain).unwrap_or_default();
        ensure!(said.contains(name) && refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name}: {said}");
        let configured = MONGODB.engine().configure(&bench.site, &settings(&[(name, "x".into())])).await;
        ensure!(configured.is_err(), "{name} was written");
    }
    ensure!(std::fs::read_to_string(bench.site.config.join("mongod.conf"))? == before);
    let found = parameters.check(&bench.site, &settings(&[("cursorTimeoutMillis", 5.into())]).parameters).await;
    found.map_err(plain).context("a good value is refused")
}

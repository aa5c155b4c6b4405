//! Parameters with which the engine does not start.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trove_strategy::{Applied, Parameter, Parameters};

use super::*;

/// Those whose names begin with `cold` need a start; `bad` keeps it from starting; the value `absurd` is refused beforehand.
#[async_trait]
impl Parameters for Sleeper {
    async fn describe(&self, _site: &Site) -> Result<Vec<Parameter>, EngineError> {
        Ok(Vec::new())
    }

    async fn values(&self, _site: &Site) -> Result<Vec<(String, String)>, EngineError> {
        Ok(Vec::new())
    }

    async fn check(&self, _site: &Site, values: &BTreeMap<String, Value>) -> Result<(), EngineError> {
        match values.iter().find(|(_, value)| **value == json!("absurd")) {
            Some((name, _)) => Err(EngineError::new(Kind::Invalid, format!("{name}: absurd is no number"))),
            None => Ok(()),
        }
    }

    async fn apply(&self, _site: &Site, settings: &Settings) -> Result<BTreeMap<String, Applied>, EngineError> {
        self.answer().await?;
        let started = self.started_with.lock().unwrap();
        let became = |(name, value): (&String, &Value)| {
            let waits = name.starts_with("cold") && started.get(name) != Some(value);
            (name.clone(), if waits { Applied::NeedsRestart } else { Applied::Live })
        };
        Ok(settings.parameters.iter().map(became).collect())
    }
}

impl Stage {
    /// What became of these, which are assigned as the next generation.
    async fn assign(&self, values: Value) -> BTreeMap<String, Applied> {
        let now = self.assignments.assigned().borrow().clone();
        let Value::Object(values) = values else { panic!("{values}") };
        let parameters = values.into_iter().map(|(name, value)| (name, value.to_string())).collect();
        let specification = v1::Specification { parameters, ..now.specification };
        assert!(self.assignments.assign(now.generation + 1, specification).unwrap());
        self.supervisor.apply().await.unwrap()
    }

    /// As a restart does.
    async fn restart(&self) -> Result<(), EngineError> {
        self.supervisor.stop_for_a_while().await?;
        self.supervisor.configure().await?;
        self.supervisor.start().await
    }

    fn detail(&self) -> String {
        self.supervisor.status().borrow().detail.clone()
    }
}

fn refused(became: &BTreeMap<String, Applied>, name: &str) -> String {
    match &became[name] {
        Applied::Refused(said) => said.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_the_engine_from_starting_is_taken_back_and_not_tried_again() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.restart().await.unwrap();
    let became = stage.assign(json!({"cold": 1, "warm": 1})).await;
    assert_eq!(
        became,
        [("cold", Applied::NeedsRestart), ("warm", Applied::Live)].map(|(n, a)| (n.to_owned(), a)).into()
    );
    stage.restart().await.unwrap();
    assert_eq!(stage.detail(), "");
    let became = stage.assign(json!({"cold": 1, "warm": 2, "cold_bad": 9})).await;
    assert_eq!(became["cold_bad"], Applied::NeedsRestart);
    let begun = stage.sleeper.starts();
    stage.restart().await.expect("it runs with what it had before");
    assert_eq!(stage.sleeper.starts() - begun, 2);
    let detail = stage.detail();
    assert!(detail.contains("cold_bad = 9") && detail.contains("9 is too much"), "{detail}");
    assert!(!detail.contains("warm"), "what it took while it ran has worked: {detail}");
    let became = stage.supervisor.apply().await.unwrap();
    assert_eq!((&became["cold"], &became["warm"]), (&Applied::Live, &Applied::Live));
    assert!(refused(&became, "cold_bad").contains("9 is too much"));

    let begun = stage.sleeper.starts();
    stage.restart().await.unwrap();
    assert_eq!(stage.sleeper.starts() - begun, 1, "it is not tried again");
    // Nor when the engine has ended by itself, and another agent knows of it.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stage.pid()), nix::sys::signal::Signal::SIGKILL).unwrap();
    stage.until(ServiceState::Crashed).await;
    stage.until(ServiceState::Healthy).await;
    assert_eq!(stage.sleeper.starts() - begun, 2);
    let stage = stage.again_with(DESIRED, "true".len()).await;
    stage.until(ServiceState::Healthy).await;
    assert!(stage.detail().contains("cold_bad = 9"), "{}", stage.detail());

    stage.assign(json!({"cold": 1, "warm": 2})).await;
    stage.restart().await.unwrap();
    assert_eq!(stage.detail(), "");
    let became = stage.supervisor.apply().await.unwrap();
    assert!(became.values().all(|became| *became == Applied::Live), "{became:?}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_beforehand_is_never_written() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.restart().await.unwrap();
    stage.assign(json!({"warm": 1})).await;
    let became = stage.assign(json!({"warm": 1, "cold": "absurd"})).await;
    assert_eq!((refused(&became, "cold").as_str(), &became["warm"]), ("cold: absurd is no number", &Applied::Live));
    stage.restart().await.unwrap();
    assert!(stage.detail().contains("cold = \"absurd\""), "{}", stage.detail());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_never_answered_has_nothing_to_go_back_to() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    assert!(stage.assign(json!({"cold_bad": 9})).await.is_empty(), "it does not run");
    let refused = stage.restart().await.unwrap_err();
    assert!(refused.chain().contains("9 is too much"), "{}", refused.chain());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_start_anyhow_is_not_blamed_on_its_parameters() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.restart().await.unwrap();
    stage.assign(json!({"cold": 1})).await;
    stage.is(Mood::Fatal);
    stage.restart().await.unwrap_err();
    stage.is(Mood::Answers);
    stage.restart().await.unwrap();
    let became = stage.supervisor.apply().await.unwrap();
    assert_eq!(became["cold"], Applied::Live);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_starts_says_that_it_takes_them_later() {
    let stage = stage(SLEEPS, Mood::Recovers).await;
    let supervisor = stage.supervisor.clone();
    let start = tokio::spawn(async move { supervisor.start().await });
    stage.until(ServiceState::Starting).await;
    let now = stage.assignments.assigned().borrow().clone();
    stage.assignments.assign(now.generation + 1, now.specification).unwrap();
    let later = stage.supervisor.apply().await.unwrap_err();
    assert_eq!(later.kind(), Kind::Transient);
    stage.is(Mood::Answers);
    start.await.unwrap().unwrap();
    stage.end().await;
}

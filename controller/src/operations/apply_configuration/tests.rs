use std::collections::BTreeMap;

use serde_json::json;
use trove_proto::v1;

use super::*;
use crate::agents::AgentError;
use crate::compute::Compute as _;
use crate::operations::{reboot_instance, restart_instance, stop_instance};
use crate::state::{Service, Task};
use crate::testing::operations::{Stage, killed_anywhere};

/// An instance with a group of these values.
async fn attached(values: serde_json::Value) -> (Stage, NewOperation) {
    let stage = Stage::created().await;
    stage.configure(values).await;
    let operation = new(stage.origin()).unwrap();
    (stage, operation)
}

async fn make() -> (Stage, NewOperation) {
    attached(json!({"warm": 5, "cold": "64MB"})).await
}

async fn results_of(stage: &Stage) -> BTreeMap<String, (ParameterState, String)> {
    let results = stage.row().await.parameter_results;
    results.into_iter().map(|(name, result)| (name, (result.state, result.reason))).collect()
}

fn named(results: &[(&str, ParameterState, &str)]) -> BTreeMap<String, (ParameterState, String)> {
    results.iter().map(|(name, state, reason)| ((*name).to_owned(), (*state, (*reason).to_owned()))).collect()
}

fn assigned(stage: &Stage) -> BTreeMap<String, String> {
    let assigned = stage.agents.assigned.lock().unwrap();
    assigned.last().and_then(|request| request.specification.clone()).unwrap_or_default().parameters
}

use ParameterState::{Live, NeedsRestart, Refused};

#[tokio::test]
async fn a_kill_between_any_two_steps_ends_with_the_values_and_a_result_for_each() {
    let check = async |stage: &Stage, what: &str| {
        assert_eq!(results_of(stage).await, named(&[("cold", NeedsRestart, ""), ("warm", Live, "")]), "{what}");
        let values = [("cold", "\"64MB\""), ("warm", "5")];
        assert_eq!(assigned(stage), values.map(|(name, value)| (name.to_owned(), value.to_owned())).into(), "{what}");
        let row = stage.row().await;
        assert!(row.task == Task::None && row.fault.is_none(), "{what}");
        stage.assert_settled().await;
    };
    killed_anywhere(make, check).await;
}

#[tokio::test]
async fn whatever_starts_the_engine_takes_up_what_waited_for_it() {
    for reboot in [false, true] {
        let (stage, operation) = make().await;
        stage.complete(operation).await.unwrap();
        let origin = stage.origin();
        let start = if reboot { reboot_instance::new(origin, false) } else { restart_instance::new(origin) };
        stage.complete(start).await.unwrap();
        assert_eq!(results_of(&stage).await, named(&[("cold", Live, ""), ("warm", Live, "")]));
        stage.configure(json!(null)).await;
        stage.complete(new(stage.origin()).unwrap()).await.unwrap();
        assert!(assigned(&stage).is_empty() && results_of(&stage).await.is_empty(), "it is detached");
    }
}

#[tokio::test]
async fn a_host_that_is_gone_is_not_waited_for() {
    for values in [json!({"warm": 5}), json!(null)] {
        let (stage, _) = make().await;
        stage.configure(values.clone()).await;
        stage.compute.delete_host(stage.instance, u64::MAX).await.unwrap();
        let step = if values.is_null() { "assign" } else { "check" };
        let end = stage.complete(new(stage.origin()).unwrap()).await.unwrap_err();
        assert_eq!(end, format!("{step}: the host is gone"));
    }
}

#[tokio::test]
async fn what_the_check_refuses_changes_nothing() {
    let (stage, operation) = make().await;
    *stage.agents.check_refusal.lock().unwrap() = Some("cold: outside the valid range".to_owned());
    assert_eq!(stage.complete(operation).await.unwrap_err(), "check: cold: outside the valid range");
    assert!(stage.agents.assigned.lock().unwrap().is_empty());
    let why = "check: cold: outside the valid range";
    assert_eq!(results_of(&stage).await, named(&[("cold", Refused, why), ("warm", Refused, why)]));
    let row = stage.row().await;
    assert!(row.task == Task::None && row.fault.is_none());
}

#[tokio::test]
async fn what_the_running_engine_refuses_is_named_and_the_others_stay() {
    let (stage, operation) = make().await;
    stage.agents.refused.lock().unwrap().insert("warm".to_owned(), "not today".to_owned());
    assert_eq!(stage.complete(operation).await.unwrap_err(), "assign: warm: not today");
    assert_eq!(results_of(&stage).await, named(&[("cold", NeedsRestart, ""), ("warm", Refused, "not today")]));
    stage.complete(restart_instance::new(stage.origin())).await.unwrap();
    assert_eq!(results_of(&stage).await["cold"], (Live, String::new()));
    let fault = stage.row().await.fault.unwrap().message;
    assert_eq!(fault, "The engine runs without values of its configuration group: warm: not today");
    stage.agents.refused.lock().unwrap().clear();
    stage.complete(new(stage.origin()).unwrap()).await.unwrap();
    assert!(stage.row().await.fault.is_none(), "it has them all");
}

#[tokio::test]
async fn of_several_changes_the_last_one_wins() {
    let (stage, first) = make().await;
    let id = stage.submit(first).await.unwrap();
    stage.configure(json!({"warm": 7})).await;
    let second = stage.submit(new(stage.origin()).unwrap()).await.unwrap();
    let running = stage.start(None);
    stage.end(id).await.unwrap();
    stage.end(second).await.unwrap();
    running.stop().await;
    let all = stage.agents.assigned.lock().unwrap().clone();
    let sevens = all.iter().filter(|request| request.specification.as_ref().unwrap().parameters["warm"] == "7");
    assert_eq!(sevens.count(), all.len(), "{all:?}");
    let generations: Vec<u64> = all.iter().map(|request| request.generation).collect();
    assert!(generations.windows(2).all(|pair| pair[0] == pair[1]), "there was nothing left to change");
}

#[tokio::test]
async fn an_engine_that_is_stopped_takes_them_at_its_next_start() {
    let (stage, operation) = make().await;
    stage.complete(stop_instance::new(stage.origin())).await.unwrap();
    stage.complete(operation).await.unwrap();
    assert_eq!(results_of(&stage).await, named(&[("cold", NeedsRestart, ""), ("warm", NeedsRestart, "")]));
    stage.complete(restart_instance::new(stage.origin())).await.unwrap();
    assert_eq!(results_of(&stage).await, named(&[("cold", Live, ""), ("warm", Live, "")]));
}

#[tokio::test]
async fn an_engine_that_recovers_is_waited_for() {
    let (stage, operation) = make().await;
    for call in ["check", "assign", "assign"] {
        let kind = v1::ErrorKind::Transient;
        stage.agents.fail_next(call, AgentError::Refused { kind, message: "it recovers".to_owned() });
    }
    stage.complete(operation).await.unwrap();
    assert_eq!(results_of(&stage).await["warm"], (Live, String::new()));
}

#[tokio::test]
async fn a_restart_does_not_fail_over_what_is_not_known() {
    let (stage, operation) = make().await;
    stage.complete(operation).await.unwrap();
    let kind = v1::ErrorKind::Fatal;
    stage.agents.fail_next("assign", AgentError::Refused { kind, message: "a bug".to_owned() });
    stage.complete(restart_instance::new(stage.origin())).await.unwrap();
    assert_eq!(results_of(&stage).await["cold"], (NeedsRestart, String::new()));
    assert_eq!(stage.row().await.service, Service::New, "nothing else was looked at");
}

//! Tests of the hub's links.

use std::time::Duration;

use trove_proto::v1;

use super::fake::{Brain, FakeAgent};
use super::{Controller, Key, SOON, until};
use crate::agents::Agents as _;
use crate::authority::{AgentName, CertificateRequest};
use crate::ids::InstanceId;
use crate::state::Service;
use crate::store::agents::{AgentRow, ReportSequence};

pub(super) async fn connect(controller: &Controller, instance: InstanceId, brain: &Brain) -> FakeAgent {
    let agent = connect_silently(controller, instance, brain).await;
    agent.hello();
    agent
}

async fn connect_silently(controller: &Controller, instance: InstanceId, brain: &Brain) -> FakeAgent {
    let key = Key::new();
    let request = CertificateRequest::parse(&key.csr_der).unwrap();
    let name = AgentName { instance, generation: 1 };
    let pem = controller.authorities.sign_agent(&request, name, Duration::from_secs(3600)).unwrap();
    let authority = controller.authorities.agents_pem();
    FakeAgent::connect_silently(controller.address, authority, key.with(&pem), brain.clone()).await
}

async fn acknowledgement(agent: &mut FakeAgent) -> u64 {
    let message = tokio::time::timeout(SOON, agent.down.recv()).await.unwrap().unwrap();
    match message.kind {
        Some(v1::watch_down::Kind::Acknowledgement(acknowledgement)) => acknowledgement.sequence,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_report_is_kept_and_acknowledged_and_a_loss_is_written() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let mut state = controller.hub.state(instance);
    assert!(!state.borrow().connected);
    let mut agent = connect(&controller, instance, &Brain::default()).await;
    state.wait_for(|state| state.connected).await.unwrap();
    assert_eq!(state.borrow().assignment_generation, 4, "as the Hello said");
    assert_eq!(controller.count("agent_link where lost_at is null").await, 1);
    agent.report(7, v1::ServiceState::Healthy);
    assert_eq!(acknowledgement(&mut agent).await, 7);
    assert_eq!(state.borrow().service, Service::Healthy);
    let row = controller.store.get_agent(instance).await.unwrap().unwrap();
    assert_eq!((row.service, row.volume_used_bytes), (Service::Healthy, 5));
    agent.connection.abort();
    state.wait_for(|state| !state.connected).await.unwrap();
    assert_eq!(state.borrow().service, Service::Healthy, "what it last said stays");
    until("the loss is written", || async { controller.count("agent_link where lost_at is not null").await == 1 })
        .await;
    controller.stop().await;
}

#[tokio::test]
async fn a_report_says_role_position_and_lag() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let mut agent = connect(&controller, instance, &Brain::default()).await;
    let state = controller.hub.state(instance);
    assert_eq!(state.borrow().role, v1::Role::Unspecified);
    let replica = v1::Report {
        sequence: 1,
        service: v1::ServiceState::Healthy.into(),
        role: v1::Role::Replica.into(),
        position: "0/3000060".to_owned(),
        lag_s: Some(1.5),
        ..v1::Report::default()
    };
    agent.say(v1::watch_up::Kind::Report(replica.clone()));
    acknowledgement(&mut agent).await;
    let heard = state.borrow().clone();
    assert_eq!((heard.role, heard.position.as_str(), heard.lag_s), (v1::Role::Replica, "0/3000060", Some(1.5)));
    let primary = v1::Report { sequence: 2, role: v1::Role::Primary.into(), lag_s: None, ..replica };
    agent.say(v1::watch_up::Kind::Report(primary));
    acknowledgement(&mut agent).await;
    let heard = state.borrow().clone();
    assert_eq!((heard.role, heard.lag_s), (v1::Role::Primary, None));
    controller.stop().await;
}

#[tokio::test]
async fn a_newer_connection_takes_the_place_of_the_older() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let first = connect(&controller, instance, &Brain::default()).await;
    let mut state = controller.hub.state(instance);
    state.wait_for(|state| state.connected).await.unwrap();
    let mut second = connect(&controller, instance, &Brain::default()).await;
    tokio::time::timeout(SOON, first.connection).await.expect("the older one is cut").unwrap();
    second.report(1, v1::ServiceState::Starting);
    assert_eq!(acknowledgement(&mut second).await, 1);
    assert!(state.borrow().connected);
    assert_eq!(controller.count("agent_link where lost_at is null").await, 1);
    controller.hub.forget(instance);
    tokio::time::timeout(SOON, second.connection).await.expect("a forgotten one is cut").unwrap();
    controller.stop().await;
}

#[tokio::test]
async fn a_hello_that_was_long_on_its_way_does_not_take_the_place_of_a_newer_connection() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let older = connect_silently(&controller, instance, &Brain::default()).await;
    // The controller has accepted the connection once it has called Watch.
    until("the older one is asked", || async { older.is_watched() }).await;
    let mut newer = connect(&controller, instance, &Brain::default()).await;
    newer.report(1, v1::ServiceState::Healthy);
    acknowledgement(&mut newer).await;
    older.hello();
    tokio::time::timeout(SOON, older.connection).await.expect("the older one is refused").unwrap();
    newer.report(2, v1::ServiceState::Healthy);
    assert_eq!(acknowledgement(&mut newer).await, 2);
    assert!(controller.hub.state(instance).borrow().connected);
    assert_eq!(controller.count("agent_link where lost_at is null").await, 1);
    controller.stop().await;
}

#[tokio::test]
async fn an_agent_of_an_interface_that_is_not_known_gets_no_link() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let agent = connect_silently(&controller, instance, &Brain::default()).await;
    let interface = trove_strategy::INTERFACE + 1;
    agent.say(v1::watch_up::Kind::Hello(v1::Hello { interface, ..v1::Hello::default() }));
    tokio::time::timeout(SOON, agent.connection).await.expect("it is refused").unwrap();
    assert!(!controller.hub.state(instance).borrow().connected);
    assert_eq!(controller.count("agent_link").await, 0);
    controller.stop().await;
}

#[tokio::test]
async fn of_two_words_of_one_start_the_newer_stays_whoever_writes_last() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let row = |service| AgentRow {
        service,
        detail: String::new(),
        engine_version: String::new(),
        volume_used_bytes: 1,
        assignment_generation: 1,
    };
    let word = |boot_id: &str, sequence| ReportSequence { boot_id: boot_id.to_owned(), sequence };
    let store = &controller.store;
    let service = async || store.get_agent(instance).await.unwrap().unwrap().service;
    assert!(store.put_agent(instance, &row(Service::Healthy), &word("a", 7)).await.unwrap());
    assert!(store.put_agent(instance, &row(Service::Crashed), &word("a", 8)).await.unwrap());
    assert!(!store.put_agent(instance, &row(Service::Healthy), &word("a", 7)).await.unwrap(), "by one that slept");
    assert_eq!(service().await, Service::Crashed);
    assert!(store.put_agent(instance, &row(Service::Starting), &word("b", 1)).await.unwrap(), "a new start");
    assert_eq!(service().await, Service::Starting);
    controller.stop().await;
}

#[tokio::test]
async fn what_was_said_before_a_link_was_lost_is_not_taken_for_the_next_ones_word() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let mut state = controller.hub.state(instance);
    let mut before = connect(&controller, instance, &Brain::default()).await;
    before.report(1, v1::ServiceState::Healthy);
    acknowledgement(&mut before).await;
    before.connection.abort();
    state.wait_for(|state| !state.connected).await.unwrap();
    let mut rebooted = connect(&controller, instance, &Brain::default()).await;
    let connected = state.wait_for(|state| state.connected).await.unwrap().clone();
    assert_eq!(connected.service, Service::Unknown, "its engine may not even run yet");
    rebooted.report(1, v1::ServiceState::Starting);
    acknowledgement(&mut rebooted).await;
    assert_eq!(state.borrow().service, Service::Starting);
    controller.stop().await;
}

#[tokio::test]
async fn a_service_that_was_reset_is_written_again_by_the_next_heartbeat() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let mut agent = connect(&controller, instance, &Brain::default()).await;
    agent.report(1, v1::ServiceState::Healthy);
    acknowledgement(&mut agent).await;
    let mut transaction = controller.store.begin().await.unwrap();
    controller.store.reset_service(&mut transaction, instance, Service::Unknown).await.unwrap();
    transaction.commit().await.unwrap();
    let service = async || controller.store.get_agent(instance).await.unwrap().unwrap().service;
    assert_eq!(service().await, Service::Unknown);
    agent.report(2, v1::ServiceState::Healthy);
    acknowledgement(&mut agent).await;
    assert_eq!(service().await, Service::Healthy);
    controller.stop().await;
}

#[tokio::test]
async fn heartbeats_write_nothing() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let mut agent = connect(&controller, instance, &Brain::default()).await;
    agent.report(1, v1::ServiceState::Healthy);
    acknowledgement(&mut agent).await;
    controller.sql("update agent set service_detail = 'untouched'").await;
    for sequence in 2..20 {
        agent.report(sequence, v1::ServiceState::Healthy);
        acknowledgement(&mut agent).await;
    }
    assert_eq!(controller.count("agent where service_detail = 'untouched'").await, 1);
    controller.stop().await;
}

#[tokio::test]
async fn nothing_is_written_of_an_instance_that_is_gone() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let mut agent = connect(&controller, instance, &Brain::default()).await;
    agent.report(1, v1::ServiceState::Healthy);
    acknowledgement(&mut agent).await;
    let mut transaction = controller.store.begin().await.unwrap();
    controller.store.delete_agent(&mut transaction, instance).await.unwrap();
    transaction.commit().await.unwrap();
    controller.sql("update instance set deleted = 1").await;
    agent.report(2, v1::ServiceState::Crashed);
    acknowledgement(&mut agent).await;
    controller.hub.forget(instance);
    tokio::time::timeout(SOON, agent.connection).await.unwrap().unwrap();
    assert_eq!(controller.count("agent").await + controller.count("agent_link").await, 0);
    controller.stop().await;
}

#[tokio::test]
async fn links_are_closed_at_shutdown_and_those_of_a_killed_life_at_start() {
    let controller = Controller::start().await;
    let instance = controller.instance(1).await;
    let _agent = connect(&controller, instance, &Brain::default()).await;
    controller.hub.state(instance).wait_for(|state| state.connected).await.unwrap();
    let (store, directory, address) = controller.stop().await;
    let open = "select count(*) from agent_link where lost_at is null";
    assert_eq!(store.number(open).await, 0);
    store.put_link(instance, "here").await.unwrap();
    store.put_link(instance, "there").await.unwrap();
    let controller = Controller::start_on(store, directory, address).await;
    until("the own link is closed, and no other", || async {
        controller.count("agent_link where controller_id = 'here' and lost_at is not null").await == 1
            && controller.count("agent_link where controller_id = 'there' and lost_at is null").await == 1
    })
    .await;
    controller.stop().await;
}

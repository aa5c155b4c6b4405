//! Tests of which certificates and tokens are accepted.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt as _;
use tonic::Code;

use super::fake::{Brain, FakeAgent, Identity, dial, enrol, renew};
use super::{Controller, Key, SOON, until};
use crate::authority::{AgentName, CertificateRequest, certificates};
use crate::ids::InstanceId;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Whether the controller closes an agent's connection because of its certificate or name, before it sends anything.
async fn is_refused(controller: &Controller, identity: Option<Identity>) -> bool {
    let pem = controller.authorities.agents_pem();
    let Ok(mut stream) = dial(controller.address, pem, identity, trove_proto::ALPN_AGENT).await else { return true };
    let mut byte = [0; 1];
    match tokio::time::timeout(SOON, stream.read(&mut byte)).await.expect("the controller decides in time") {
        Ok(bytes) => bytes == 0,
        Err(_) => true,
    }
}

fn signed(controller: &Controller, instance: InstanceId, generation: u64, lifetime: Duration) -> Identity {
    let key = Key::new();
    let request = CertificateRequest::parse(&key.csr_der).unwrap();
    let pem = controller.authorities.sign_agent(&request, AgentName { instance, generation }, lifetime).unwrap();
    key.with(&pem)
}

/// An expired certificate. Validity counts in whole seconds, so wait until the second is over.
async fn expired(controller: &Controller, instance: InstanceId) -> Identity {
    let identity = signed(controller, instance, 2, Duration::ZERO);
    let made = OffsetDateTime::now_utc().unix_timestamp();
    until("a second passes", || async { OffsetDateTime::now_utc().unix_timestamp() > made }).await;
    identity
}

#[tokio::test]
async fn a_token_buys_one_key_a_certificate() {
    let controller = Controller::start().await;
    let pem = controller.authorities.agents_pem().to_owned();
    let instance = controller.instance(2).await;
    let token = controller.store.issue_token(instance, 2, DAY).await.unwrap();
    let key = Key::new();
    let first = enrol(controller.address, &pem, token.expose_secret(), &key).await.unwrap();
    assert_eq!(first.authority_pem, pem);
    let certificate = certificates(&first.certificate_pem).unwrap().remove(0);
    assert_eq!(AgentName::read(&certificate), Some(AgentName { instance, generation: 2 }));
    enrol(controller.address, &pem, token.expose_secret(), &key).await.expect("the answer may have been lost");
    let other = enrol(controller.address, &pem, token.expose_secret(), &Key::new()).await.unwrap_err();
    assert_eq!(other.code(), Code::Unauthenticated);
    assert!(!is_refused(&controller, Some(key.with(&first.certificate_pem))).await);
    assert_eq!(controller.count(&format!("enrolment_token where hash = '{}'", token.expose_secret())).await, 0);
    controller.stop().await;
}

#[tokio::test]
async fn unknown_expired_and_outdated_tokens_are_refused() {
    let controller = Controller::start().await;
    let pem = controller.authorities.agents_pem().to_owned();
    let instance = controller.instance(2).await;
    let expired = controller.store.issue_token(instance, 2, Duration::ZERO).await.unwrap();
    let old = controller.store.issue_token(instance, 1, DAY).await.unwrap();
    let gone = controller.instance(1).await;
    let orphan = controller.store.issue_token(gone, 1, DAY).await.unwrap();
    let mut tx = controller.store.begin().await.unwrap();
    controller.store.mark_deleted(&mut tx, gone).await.unwrap();
    tx.commit().await.unwrap();
    for (token, code) in [
        ("nonsense", Code::Unauthenticated),
        ("", Code::Unauthenticated),
        (expired.expose_secret(), Code::Unauthenticated),
        (old.expose_secret(), Code::PermissionDenied),
        (orphan.expose_secret(), Code::PermissionDenied),
    ] {
        let status = enrol(controller.address, &pem, token, &Key::new()).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    let good = controller.store.issue_token(instance, 2, DAY).await.unwrap();
    let no_request = Key { csr_der: b"junk".to_vec(), ..Key::new() };
    let status = enrol(controller.address, &pem, good.expose_secret(), &no_request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    enrol(controller.address, &pem, good.expose_secret(), &Key::new()).await.expect("junk does not use a token up");
    controller.stop().await;
}

#[tokio::test]
async fn only_a_present_certificate_of_the_agents_authority_opens_the_channel() {
    let controller = Controller::start().await;
    let instance = controller.instance(2).await;
    assert!(!is_refused(&controller, Some(signed(&controller, instance, 2, DAY))).await);
    assert!(is_refused(&controller, None).await, "no certificate");
    assert!(is_refused(&controller, Some(signed(&controller, instance, 1, DAY))).await, "an older generation");
    assert!(is_refused(&controller, Some(expired(&controller, instance).await)).await, "expired");
    assert!(is_refused(&controller, Some(signed(&controller, InstanceId::random(), 2, DAY))).await, "unknown");
    assert!(is_refused(&controller, Some(foreign(instance))).await, "signed by another authority");
    let engine = controller.authorities.issue_engine(instance, &[]).unwrap();
    let key = KeyPair::from_pem(engine.key_pem.expose_secret()).unwrap();
    let engine = Key { pair: key, csr_der: Vec::new() }.with(&engine.certificate_pem);
    assert!(is_refused(&controller, Some(engine)).await, "an engine is no agent");
    controller.sql(&format!("update instance set deleted = 1 where id = '{instance}'")).await;
    assert!(is_refused(&controller, Some(signed(&controller, instance, 2, DAY))).await, "deleted");
    controller.stop().await;
}

/// A certificate with the right name, signed by another authority.
fn foreign(instance: InstanceId) -> Identity {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(ca, ca_key);
    let key = Key::new();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(format!("trove://instance/{instance}/2").try_into().unwrap())];
    let certificate = params.signed_by(&key.pair, &issuer).unwrap();
    key.with(&certificate.pem())
}

#[tokio::test]
async fn an_expired_certificate_of_the_present_generation_is_renewed() {
    let controller = Controller::start().await;
    let pem = controller.authorities.agents_pem().to_owned();
    let instance = controller.instance(2).await;
    let key = Key::new();
    let expired = expired(&controller, instance).await;
    let reply = renew(controller.address, &pem, Some(expired), &key).await.unwrap();
    assert!(!is_refused(&controller, Some(key.with(&reply.certificate_pem))).await);
    let older = renew(controller.address, &pem, Some(signed(&controller, instance, 1, DAY)), &key).await.unwrap_err();
    assert_eq!(older.code(), Code::PermissionDenied);
    let nobody = renew(controller.address, &pem, None, &key).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    assert!(renew(controller.address, &pem, Some(foreign(instance)), &key).await.is_err());
    controller.stop().await;
}

#[tokio::test]
async fn a_new_key_is_signed_over_the_channel() {
    let controller = Controller::start().await;
    let pem = controller.authorities.agents_pem().to_owned();
    let instance = controller.instance(2).await;
    let identity = signed(&controller, instance, 2, DAY);
    let mut agent = FakeAgent::connect(controller.address, &pem, identity, Brain::default()).await;
    let key = Key::new();
    let request = trove_proto::v1::CertificateRequest { csr_der: key.csr_der.clone() };
    agent.say(trove_proto::v1::watch_up::Kind::CertificateRequest(request));
    let answer = tokio::time::timeout(SOON, agent.down.recv()).await.unwrap().unwrap();
    let Some(trove_proto::v1::watch_down::Kind::Certificate(certificate)) = answer.kind else { panic!("{answer:?}") };
    assert!(!is_refused(&controller, Some(key.with(&certificate.certificate_pem))).await);
    controller.stop().await;
}

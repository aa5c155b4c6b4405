//! An engine that starts late or not at all, or does not answer.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_is_blocked_with_the_reason_and_can_be_restarted() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let first = stage.pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGSTOP).unwrap();
    stage.is(Mood::Hangs);
    assert_eq!(stage.until(ServiceState::Blocked).await, "probe: no answer within 2 s");
    stage.is(Mood::IsFull);
    let told = async || {
        let mut status = stage.supervisor.status();
        status.wait_for(|now| now.detail.contains("max number of clients reached")).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(10), told()).await.unwrap();
    stage.is(Mood::Hangs);
    let stopped = stage.supervisor.stop_for_a_while();
    tokio::time::timeout(Duration::from_secs(10), stopped).await.expect("the task hears while a probe hangs").unwrap();
    stage.is(Mood::Answers);
    stage.supervisor.start().await.unwrap();
    assert_ne!(stage.pid(), first);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_answer_ends_a_start_at_once() {
    let stage = stage(SLEEPS, Mood::Fatal).await;
    let begun = Instant::now();
    let error = stage.supervisor.start().await.unwrap_err();
    assert!(error.chain().contains("the account is locked") && error.kind() == Kind::Fatal, "{}", error.chain());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!std::path::Path::new(&format!("/proc/{}", stage.pid())).exists(), "it serves nobody");
    assert_eq!(stage.supervisor.status().borrow().service, ServiceState::Failed);
    stage.end().await;
}

/// Ends when it is started first, and stays when it is started again: its output tells the two apart.
const STARTS_AGAIN: &str = "test -s /proc/self/fd/1 && exec sleep 600; echo the address is in use; exit 1";

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_another_has_is_waited_for_with_the_reason() {
    for port in [None, Some(TLS_PORT)] {
        waits_for_its_address(port).await;
    }
}

async fn waits_for_its_address(port: Option<u16>) {
    let stage = stage(STARTS_AGAIN, Mood::Answers).await;
    let at = std::net::SocketAddr::new(stage.site.address, port.unwrap_or(stage.site.port));
    let taken = std::net::TcpListener::bind(at).unwrap();
    let supervisor = stage.supervisor.clone();
    let start = tokio::spawn(async move { supervisor.start().await });
    let mut status = stage.supervisor.status();
    let reason = format!("another process has the engine's address {at}");
    let told = status.wait_for(|now| now.detail.contains(&reason));
    let told = tokio::time::timeout(Duration::from_secs(10), told).await.expect("it says so").unwrap().service;
    assert_eq!(told, ServiceState::Starting);
    // Longer than the start itself may take; whoever asked hears of that, and it goes on.
    let error = start.await.unwrap().unwrap_err();
    assert!(error.chain().contains("another process") && error.kind() == Kind::Transient, "{}", error.chain());
    stage.until(ServiceState::Starting).await;
    drop(taken);
    assert_eq!(stage.until(ServiceState::Healthy).await, "");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_address_was_taken_in_the_moment_of_its_start_is_started_again() {
    let fails_once = "test -s /proc/self/fd/1 && exec sleep 600; echo bind: Address already in use; exit 1";
    let stage = stage(fails_once, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    assert_eq!(stage.until(ServiceState::Healthy).await, "");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_recovers_is_asked_seldom_and_can_be_stopped_meanwhile() {
    let stage = stage(SLEEPS, Mood::Recovers).await;
    let supervisor = stage.supervisor.clone();
    let start = tokio::spawn(async move { supervisor.start().await });
    stage.until(ServiceState::Starting).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = stage.sleeper.asked.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let asked = stage.sleeper.asked.load(Ordering::SeqCst) - before;
    assert!((2..=6).contains(&asked), "{asked} in 4 s");
    let said = stage.supervisor.status().borrow().detail.clone();
    assert_eq!(said, "the engine does not answer yet: probe: the engine is starting up");
    let stopped = stage.supervisor.stop_for_a_while();
    tokio::time::timeout(Duration::from_secs(5), stopped).await.expect("a start does not make it deaf").unwrap();
    assert_eq!(start.await.unwrap().unwrap_err().kind(), Kind::Transient);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_server_that_could_not_be_secured_is_not_taken_for_the_one_that_serves() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.sleeper.open.store(2, Ordering::SeqCst);
    assert_eq!(stage.supervisor.initialise().await.unwrap_err().chain(), "secure: no answer");
    let private: Mark = stage.files.read_json(MARK).unwrap().unwrap();
    assert!(!private.runs().unwrap());
    stage.supervisor.initialise().await.unwrap();
    stage.supervisor.start().await.unwrap();
    assert_eq!(stage.sleeper.starts(), 3, "twice privately, and then to serve");
    stage.end().await;
}

//! The volume is full.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_makes_it_read_only_and_an_over_full_one_stops_it() {
    let stage = stage(SLEEPS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    let use_mib = |mib: u64| stage.used.send_replace(Some(mib * MIB));
    use_mib(1030);
    let full = async || {
        let mut status = stage.supervisor.status();
        let status = status.wait_for(|now| now.detail.contains("is full")).await.unwrap();
        assert_eq!(status.service, ServiceState::Healthy);
    };
    tokio::time::timeout(Duration::from_secs(10), full()).await.unwrap();
    assert_eq!(stage.sleeper.read_only.lock().unwrap().last(), Some(&true));
    use_mib(1200);
    assert!(stage.until(ServiceState::Shutdown).await.contains("is stopped until"));
    let refused = stage.supervisor.start().await.unwrap_err();
    assert!(refused.chain().contains("is stopped until"), "{}", refused.chain());
    use_mib(1020);
    assert!(stage.until(ServiceState::Healthy).await.contains("is full"));
    use_mib(900);
    let well = async || stage.supervisor.status().wait_for(|now| now.detail.is_empty()).await.map(drop).unwrap();
    tokio::time::timeout(Duration::from_secs(10), well()).await.unwrap();
    assert_eq!(stage.sleeper.read_only.lock().unwrap().last(), Some(&false));
    stage.end().await;
}

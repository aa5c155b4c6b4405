//! An engine that shuts the agent out, again and again.

use std::time::SystemTime;

use super::super::repair::REPAIRED;
use super::cut_off::STAYS;
use super::*;

impl Stage {
    /// Another agent in place of this one, which ends without its engine.
    async fn another(self, mood: Mood) -> Self {
        let Self { supervisor, jobs, scratch, .. } = self;
        drop((supervisor, jobs));
        stage_in(scratch, STAYS, mood).await
    }

    fn repairs(&self) -> u32 {
        self.sleeper.repairs.load(Ordering::SeqCst)
    }

    async fn until_refused(&self) {
        assert_eq!(self.until(ServiceState::Blocked).await, "probe: the account may not log in");
        let asked = self.sleeper.asked.load(Ordering::SeqCst);
        while self.sleeper.asked.load(Ordering::SeqCst) < asked + 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shuts_the_agent_out_is_repaired_once_in_ten_minutes_whichever_agent_there_is() {
    let stage = stage(STAYS, Mood::Answers).await;
    stage.supervisor.start().await.unwrap();
    stage.is(Mood::ShutsOut);
    let mut status = stage.supervisor.status();
    let told = status.wait_for(|now| now.service == ServiceState::Starting && now.detail.contains("may not log in"));
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("the repair is named").unwrap();
    stage.until(ServiceState::Healthy).await;
    assert_eq!(stage.repairs(), 1);
    stage.is(Mood::ShutsOut);
    stage.until_refused().await;
    assert_eq!(stage.repairs(), 1);

    let stage = stage.another(Mood::ShutsOut).await;
    stage.until_refused().await;
    assert_eq!(stage.repairs(), 0, "another agent does not begin to count anew");
    let before = |seconds| SystemTime::now() - Duration::from_secs(seconds);
    stage.files.write_json(REPAIRED, &before(300)).unwrap();
    let mut stage = stage.another(Mood::ShutsOut).await;
    stage.until_refused().await;
    assert_eq!(stage.repairs(), 0);
    // A clock that was wrong then does not forbid it.
    for at in [before(600), SystemTime::now() + Duration::from_secs(3600)] {
        stage.files.write_json(REPAIRED, &at).unwrap();
        stage = stage.another(Mood::ShutsOut).await;
        stage.until(ServiceState::Healthy).await;
        assert_eq!(stage.repairs(), 1);
    }
    stage.end().await;
}

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::time::timeout;
use v1::start::Work;

use super::*;
use crate::durable::Durable;

const SOON: Duration = Duration::from_secs(10);
const A_MOMENT: Duration = Duration::from_millis(200);

/// Work that continues when the test allows it. A restart stands for a backup, which does not exist yet.
struct TestWork {
    go_on: Semaphore,
    running: AtomicUsize,
}

#[async_trait]
impl Worker for TestWork {
    async fn work(&self, job: &Job, work: Work) -> Result<Outcome, v1::Error> {
        self.running.fetch_add(1, Ordering::SeqCst);
        job.progress("copies", 5, Some(10), "bytes");
        let permit = async { Ok(self.go_on.acquire().await.unwrap()) };
        let ended = job.unless_cancelled(permit).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        match ended {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(error(v1::ErrorKind::Cancelled, "cancelled")),
        }
        Ok(match work {
            Work::ChangeAccounts(_) => Outcome::AccountsChanged(v1::AccountsChanged { changes: 3 }),
            _ => Outcome::Restarted(v1::Restarted { engine_version: "15.4".to_owned() }),
        })
    }

    fn lane(&self, work: &Work) -> Lane {
        if matches!(work, Work::Restart(_)) { Lane::Backup } else { Lane::of(work) }
    }
}

struct Stage {
    work: Arc<TestWork>,
    jobs: Jobs,
    scratch: tempfile::TempDir,
}

fn jobs(work: &Arc<TestWork>, scratch: &tempfile::TempDir) -> Jobs {
    let assignments = Arc::new(AssignmentStore::open(Durable::open(scratch.path()).unwrap()).unwrap());
    Jobs::new(work.clone(), assignments, Journal::open(&scratch.path().join("jobs")).unwrap())
}

fn stage() -> Stage {
    let scratch = tempfile::tempdir().unwrap();
    let work = Arc::new(TestWork { go_on: Semaphore::new(0), running: AtomicUsize::new(0) });
    Stage { jobs: jobs(&work, &scratch), work, scratch }
}

fn backup() -> Work {
    Work::Restart(v1::Restart {})
}

fn accounts() -> Work {
    Work::ChangeAccounts(v1::ChangeAccounts::default())
}

fn life_cycle() -> Work {
    Work::Stop(v1::Stop {})
}

impl Stage {
    fn start(&self, operation: &str, fence: u64, work: Work) -> Attached {
        let key = v1::JobKey { operation: operation.to_owned(), step: "s".to_owned(), ..v1::JobKey::default() };
        self.jobs.start(v1::Start { key: Some(key), fence, deadline_s: 60, work: Some(work) })
    }

    async fn run(&self, number: usize) {
        let reached = async {
            while self.work.running.load(Ordering::SeqCst) != number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, reached).await.unwrap();
    }
}

async fn end(job: &mut Attached) -> v1::Result {
    let ended = timeout(SOON, job.state.wait_for(|state| state.ended.is_some())).await.expect("it ends");
    ended.unwrap().ended.clone().unwrap()
}

async fn says(job: &mut Attached, text: &str) {
    let said = job.state.wait_for(|state| state.progress.stage == text);
    timeout(SOON, said).await.expect("its progress says so").unwrap();
}

fn error_of(result: &v1::Result) -> Option<v1::ErrorKind> {
    result.error.as_ref().map(v1::Error::kind)
}

#[tokio::test]
async fn accounts_run_beside_a_backup_whichever_fence_is_newer() {
    let stage = stage();
    let mut backup = stage.start("backup", 5, backup());
    let mut accounts = stage.start("accounts", 7, accounts());
    stage.run(2).await;
    assert!(!backup.cancel.is_cancelled());
    let again = stage.start("backup", 5, self::backup());
    assert!(again.state.borrow().ended.is_none(), "it is not shut out by the fence of another lane");
    stage.work.go_on.add_permits(2);
    let changed = Some(Outcome::AccountsChanged(v1::AccountsChanged { changes: 3 }));
    assert_eq!(end(&mut accounts).await, v1::Result { error: None, outcome: changed });
    assert_eq!(error_of(&end(&mut backup).await), None);
}

#[tokio::test]
async fn of_one_lane_they_run_in_the_order_in_which_they_came() {
    let stage = stage();
    let _first = stage.start("one", 5, accounts());
    stage.run(1).await;
    let (mut second, mut third) = (stage.start("two", 5, accounts()), stage.start("three", 5, accounts()));
    says(&mut second, "waits for s of operation one").await;
    stage.work.go_on.add_permits(1);
    says(&mut third, "waits for s of operation two").await;
    says(&mut second, "copies").await;
    stage.work.go_on.add_permits(1);
    end(&mut second).await;
    says(&mut third, "copies").await;
    let progress = third.state.borrow().progress.clone();
    assert_eq!((progress.done, progress.total, progress.unit.as_str()), (Some(5), Some(10), "bytes"));
    stage.work.go_on.add_permits(1);
    assert_eq!(error_of(&end(&mut third).await), None);
}

#[tokio::test]
async fn a_newer_fence_cancels_only_what_its_work_excludes() {
    let stage = stage();
    let (mut backup, mut one) = (stage.start("backup", 5, backup()), stage.start("one", 5, accounts()));
    stage.run(2).await;
    let mut two = stage.start("two", 6, accounts());
    assert_eq!(error_of(&end(&mut one).await), Some(v1::ErrorKind::Cancelled));
    says(&mut two, "copies").await;
    assert!(backup.state.borrow().ended.is_none());
    let mut stop = stage.start("stop", 7, life_cycle());
    assert_eq!(error_of(&end(&mut backup).await), Some(v1::ErrorKind::Cancelled));
    assert_eq!(error_of(&end(&mut two).await), Some(v1::ErrorKind::Cancelled));
    says(&mut stop, "copies").await;
    let mut fenced = stage.start("late", 6, accounts());
    assert_eq!(error_of(&end(&mut fenced).await), Some(v1::ErrorKind::Fenced));
    stage.work.go_on.add_permits(1);
    assert_eq!(error_of(&end(&mut stop).await), None);
}

#[tokio::test]
async fn a_job_that_waits_can_be_cancelled() {
    let stage = stage();
    let _first = stage.start("one", 5, life_cycle());
    stage.run(1).await;
    let mut second = stage.start("two", 5, accounts());
    says(&mut second, "waits for s of operation one").await;
    second.cancel.cancel();
    assert_eq!(error_of(&end(&mut second).await), Some(v1::ErrorKind::Cancelled));
    tokio::time::sleep(A_MOMENT).await;
    assert_eq!(stage.work.running.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_outcome_is_the_same_when_it_is_asked_for_again_also_of_the_next_agent() {
    let mut stage = stage();
    stage.work.go_on.add_permits(1);
    let mut first = stage.start("one", 5, backup());
    let result = end(&mut first).await;
    assert!(matches!(&result.outcome, Some(Outcome::Restarted(restarted)) if restarted.engine_version == "15.4"));
    assert_eq!(end(&mut stage.start("one", 5, backup())).await, result);
    stage.jobs = jobs(&stage.work, &stage.scratch);
    assert_eq!(end(&mut stage.start("one", 5, backup())).await, result);
}

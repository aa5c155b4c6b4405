use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use trove_proto::backup::MANIFEST_NAME;
use v1::start::Work;
use v1::{run_reply, run_request};

use super::*;
use crate::durable::Durable;
use crate::service::jobs::tell;

const SOON: Duration = Duration::from_secs(10);
const A_MOMENT: Duration = Duration::from_millis(200);

/// Work that continues when the test allows it. A restart stands for a backup that asks for nothing.
struct TestWork {
    go_on: Semaphore,
    running: AtomicUsize,
}

#[async_trait]
impl Worker for TestWork {
    async fn work(&self, job: &Job, work: Work) -> Result<Outcome, v1::Error> {
        if let Work::Backup(backup) = work {
            // Two questions, one after the other.
            for name in ["00000000", MANIFEST_NAME] {
                let need = v1::ObjectNeed { name: name.to_owned(), ..v1::ObjectNeed::default() };
                let grants = job.grants("run", vec![need]).await?;
                assert_eq!(grants[0].url, format!("/{name}"));
            }
            return Ok(Outcome::BackedUp(v1::BackedUp { run: backup.backup, ..v1::BackedUp::default() }));
        }
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

/// A caller that is attached to a job, as a controller is.
struct Caller {
    said: mpsc::Sender<Result<v1::RunRequest, Status>>,
    heard: mpsc::Receiver<Result<v1::RunReply, Status>>,
}

impl Caller {
    fn attach(attached: Attached) -> Self {
        let ((said, inbox), (replies, heard)) = (mpsc::channel(4), mpsc::channel(4));
        tokio::spawn(tell(attached, ReceiverStream::new(inbox), replies));
        Self { said, heard }
    }

    async fn hear(&mut self) -> run_reply::Kind {
        let reply = timeout(SOON, self.heard.recv()).await.expect("it is told something");
        reply.expect("the stream goes on").unwrap().kind.unwrap()
    }

    async fn question(&mut self) -> v1::NeedGrants {
        match self.hear().await {
            run_reply::Kind::NeedGrants(question) => question,
            other => panic!("{other:?}"),
        }
    }

    async fn result(&mut self) -> v1::Result {
        match self.hear().await {
            run_reply::Kind::Result(result) => result,
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, grants: v1::Grants) {
        self.said.send(Ok(v1::RunRequest { kind: Some(run_request::Kind::Grants(grants)) })).await.unwrap();
    }
}

/// Grants what was asked for, under this number.
fn grant(number: u64, question: &v1::NeedGrants) -> v1::Grants {
    let grant =
        |need: &v1::ObjectNeed| v1::ObjectGrant { url: format!("/{}", need.name), ..v1::ObjectGrant::default() };
    v1::Grants { number, objects: question.objects.iter().map(grant).collect(), refusal: None }
}

fn asking() -> Work {
    Work::Backup(v1::Backup { backup: "b".to_owned(), ..v1::Backup::default() })
}

#[tokio::test]
async fn a_question_is_asked_of_the_next_caller_after_a_stream_that_broke_and_answered_once() {
    let stage = stage();
    let mut first = Caller::attach(stage.start("backup", 5, asking()));
    let question = first.question().await;
    assert_eq!((question.number, question.run.as_str(), question.objects.len()), (1, "run", 1));
    drop(first);
    let mut second = Caller::attach(stage.start("backup", 5, asking()));
    assert_eq!(second.question().await, question, "it is asked again");
    // Another controller that has lost its lease and does not know it: asked as well.
    let mut third = Caller::attach(stage.start("backup", 5, asking()));
    assert_eq!(third.question().await, question);
    third.answer(grant(1, &question)).await;
    let next = second.question().await;
    assert_eq!((next.number, next.objects[0].name.as_str()), (2, MANIFEST_NAME));
    // An answer to what was answered changes nothing, whoever gives it.
    second.answer(grant(1, &question)).await;
    second.answer(grant(7, &next)).await;
    assert!(timeout(A_MOMENT, second.heard.recv()).await.is_err(), "the question is still open");
    second.answer(grant(2, &next)).await;
    let backed_up = Some(Outcome::BackedUp(v1::BackedUp { run: "b".to_owned(), ..v1::BackedUp::default() }));
    assert_eq!(second.result().await, v1::Result { error: None, outcome: backed_up });
}

#[tokio::test]
async fn a_refusal_is_passed_on_and_too_few_grants_are_none() {
    let stage = stage();
    let mut caller = Caller::attach(stage.start("refused", 5, asking()));
    let question = caller.question().await;
    let refusal = error(v1::ErrorKind::Invalid, "they are another's");
    caller.answer(v1::Grants { number: 1, objects: Vec::new(), refusal: Some(refusal.clone()) }).await;
    assert_eq!(caller.result().await.error, Some(refusal));
    let mut caller = Caller::attach(stage.start("forgotten", 5, asking()));
    assert_eq!(caller.question().await, question, "each job counts for itself");
    caller.answer(v1::Grants { number: 1, objects: Vec::new(), refusal: None }).await;
    assert_eq!(error_of(&caller.result().await), Some(v1::ErrorKind::Transient));
}

#[tokio::test]
async fn an_operation_that_is_over_ends_its_jobs_and_no_other() {
    let stage = stage();
    let mut asks = stage.start("over", 5, asking());
    timeout(SOON, asks.state.wait_for(|state| state.question.is_some())).await.unwrap().unwrap();
    let mut waits = stage.start("over too", 5, asking());
    says(&mut waits, "waits for s of operation over").await;
    let mut other = stage.start("other", 5, accounts());
    stage.run(1).await;
    stage.jobs.cancel("over too");
    assert_eq!(error_of(&end(&mut waits).await), Some(v1::ErrorKind::Cancelled));
    assert!(asks.state.borrow().ended.is_none());
    stage.jobs.cancel("over");
    stage.jobs.cancel("unknown");
    assert_eq!(error_of(&end(&mut asks).await), Some(v1::ErrorKind::Cancelled));
    stage.work.go_on.add_permits(1);
    assert_eq!(error_of(&end(&mut other).await), None);
}

#[tokio::test]
async fn a_job_that_asks_ends_when_it_is_cancelled_or_late() {
    let stage = stage();
    let mut job = stage.start("cancelled", 5, asking());
    timeout(SOON, job.state.wait_for(|state| state.question.is_some())).await.unwrap().unwrap();
    job.cancel.cancel();
    assert_eq!(error_of(&end(&mut job).await), Some(v1::ErrorKind::Cancelled));
    assert_eq!(job.state.borrow().question, None, "nobody is asked any more");
    let key = v1::JobKey { operation: "late".to_owned(), ..v1::JobKey::default() };
    let start = v1::Start { key: Some(key), fence: 5, deadline_s: 1, work: Some(asking()) };
    let mut job = stage.jobs.start(start);
    assert_eq!(error_of(&end(&mut job).await), Some(v1::ErrorKind::Transient));
    assert_eq!(job.state.borrow().question, None);
}

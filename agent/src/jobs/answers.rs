//! The question of a job for objects of a backup, and its answer. Whoever is attached to the job is asked: every stream
//! of replies sends the open question once, so that one that comes after a stream that broke sends it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use trove_proto::v1;

use super::{Job, JobState, error};

/// How long nobody may answer. A job that waited for longer would keep what it holds in the engine (a slot, a lock), though its
/// operation may be over; where it is not, the job is called again.
const UNANSWERED: Duration = Duration::from_secs(300);

/// The way of answers into a job. Cheap to clone.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    /// Number of the last question.
    number: u64,
    /// Who waits for its answer; nobody where it was answered or given up.
    waits: Option<oneshot::Sender<v1::Grants>>,
}

impl Answers {
    /// Gives an answer to the job. One that nobody waits for is dropped: it is of an earlier question, or came twice.
    pub fn give(&self, grants: v1::Grants) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if grants.number == open.number
            && let Some(waits) = open.waits.take()
        {
            // Whoever waited may have gone.
            let _ = waits.send(grants);
        }
    }

    fn ask(&self) -> (u64, oneshot::Receiver<v1::Grants>) {
        let (waits, answer) = oneshot::channel();
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.number += 1;
        open.waits = Some(waits);
        (open.number, answer)
    }
}

/// Takes the question back when its answer came, or when nobody waits for it any more.
struct Asking<'a>(&'a tokio::sync::watch::Sender<JobState>);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.question = None);
    }
}

impl Job {
    /// Asks whoever is attached to the job for access to objects of this run, and waits for the answer until the job is
    /// cancelled, its deadline is over, or nobody has answered for 300 s. One question is open at a time: a second one
    /// waits for the answer to the first.
    ///
    /// # Errors
    /// The refusal as it came; a cancellation; no answer in time, or one that is not to the question.
    pub async fn grants(&self, run: &str, needs: Vec<v1::ObjectNeed>) -> Result<Vec<v1::ObjectGrant>, v1::Error> {
        let _alone = self.one_question.lock().await;
        let wanted = needs.len();
        let (number, answer) = self.answers.ask();
        let question = v1::NeedGrants { number, run: run.to_owned(), objects: needs };
        let _asking = Asking(&self.state);
        self.state.send_modify(|state| state.question = Some(question));
        let answer = tokio::select! {
            biased;
            () = self.cancel.cancelled() => None,
            answer = answer => answer.ok(),
            () = tokio::time::sleep(UNANSWERED) => {
                let text = format!("no controller gave access to objects for {} s", UNANSWERED.as_secs());
                return Err(error(v1::ErrorKind::Transient, text));
            }
        };
        let Some(grants) = answer else {
            return Err(error(v1::ErrorKind::Cancelled, "cancelled while it asked for access to objects"));
        };
        if let Some(refusal) = grants.refusal {
            return Err(refusal);
        }
        if grants.objects.len() != wanted {
            let text = format!("the controller answered for {} objects, of {wanted} asked for", grants.objects.len());
            return Err(error(v1::ErrorKind::Transient, text));
        }
        Ok(grants.objects)
    }
}

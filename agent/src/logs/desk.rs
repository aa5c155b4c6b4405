//! Questions to whichever controller is there. Each has a call open ([`v1::logs_server::Logs`]); the newest one is asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;
use trove_proto::v1;
use trove_proto::v1::log_answer::Kind as Answer;
use trove_proto::v1::log_question::Kind as Question;
use trove_strategy::{EngineError, Kind};

use crate::status::engine_error;

/// How long an answer may take before another controller is asked.
const ANSWER: Duration = Duration::from_secs(20);
/// How long nobody may answer.
const UNANSWERED: Duration = Duration::from_secs(60);

pub(super) type Line = mpsc::Sender<Result<v1::LogQuestion, Status>>;

/// Where questions are asked.
#[derive(Default)]
pub struct Desk {
    /// The calls that are open, the newest last, each with a number.
    lines: watch::Sender<Vec<(u64, Line)>>,
    open: Mutex<Open>,
    /// One question at a time.
    alone: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Open {
    calls: u64,
    /// Number of the last question.
    number: u64,
    waits: Option<oneshot::Sender<Answer>>,
}

/// A call, for as long as it is open.
pub struct Call {
    desk: Arc<Desk>,
    number: u64,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.desk.lines.send_modify(|lines| lines.retain(|(number, _)| *number != self.number));
    }
}

impl Call {
    /// Gives an answer. One to an earlier question is dropped.
    pub fn answer(&self, answer: v1::LogAnswer) {
        let mut open = self.desk.locked();
        if answer.number == open.number
            && let (Some(kind), Some(waits)) = (answer.kind, open.waits.take())
        {
            // Whoever waited may have gone.
            let _ = waits.send(kind);
        }
    }
}

impl Desk {
    fn locked(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call, over which questions go.
    pub fn take(self: &Arc<Self>, line: mpsc::Sender<Result<v1::LogQuestion, Status>>) -> Call {
        let number = {
            let mut open = self.locked();
            open.calls += 1;
            open.calls
        };
        self.lines.send_modify(|lines| lines.push((number, line)));
        Call { desk: self.clone(), number }
    }

    /// The answer of the first controller that gives one.
    async fn ask(&self, kind: Question) -> Result<Answer, EngineError> {
        let _alone = self.alone.lock().await;
        let asked = async {
            loop {
                if let Some(answer) = self.ask_newest(&kind).await {
                    return answer;
                }
            }
        };
        let answer = tokio::time::timeout(UNANSWERED, asked).await.map_err(|_| {
            let text = format!("no controller answered for {} s", UNANSWERED.as_secs());
            EngineError::new(Kind::Transient, text)
        })?;
        match answer {
            Answer::Refusal(error) => Err(engine_error(&error)),
            answer => Ok(answer),
        }
    }

    /// `None`: the call broke, or there was no answer in time. That call is asked last the next time.
    async fn ask_newest(&self, kind: &Question) -> Option<Answer> {
        let mut lines = self.lines.subscribe();
        // Cannot fail: this has the sender.
        let newest = lines.wait_for(|lines| !lines.is_empty()).await.ok().and_then(|lines| lines.last().cloned());
        let (call, line) = newest?;
        let (waits, answer) = oneshot::channel();
        let number = {
            let mut open = self.locked();
            open.number += 1;
            open.waits = Some(waits);
            open.number
        };
        let sent = line.send(Ok(v1::LogQuestion { number, kind: Some(kind.clone()) })).await;
        let ended = lines.wait_for(|lines| lines.iter().all(|(number, _)| *number != call));
        let answered = async {
            sent.ok()?;
            tokio::time::timeout(ANSWER, answer).await.ok()?.ok()
        };
        let answer = tokio::select! {
            biased;
            answer = answered => answer,
            _ = ended => None,
        };
        if answer.is_none() {
            self.lines.send_modify(|lines| {
                if let Some(at) = lines.iter().position(|(number, _)| *number == call) {
                    let last = lines.remove(at);
                    lines.insert(0, last);
                }
            });
            // A controller that ends, or one that is alone and silent, is not asked in a loop without a pause.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        answer
    }

    /// Asks a question that a container answers.
    ///
    /// # Errors
    /// The refusal as it came; [`Kind::Transient`]: nobody answers.
    pub async fn container(&self, kind: Question) -> Result<v1::LogContainer, EngineError> {
        match self.ask(kind).await? {
            Answer::Container(container) => Ok(container),
            _ => Err(EngineError::new(Kind::Fatal, "the controller answered another question than was asked")),
        }
    }

    /// Asks for access to objects.
    ///
    /// # Errors
    /// As it came, or that nobody answers.
    pub async fn grants(&self, grant: v1::LogGrant) -> Result<Vec<v1::ObjectGrant>, v1::Error> {
        let error = |error: EngineError| crate::status::wire_error(&error);
        match self.ask(Question::Grant(grant)).await.map_err(error)? {
            Answer::Grants(v1::Grants { refusal: Some(refusal), .. }) => Err(refusal),
            Answer::Grants(grants) => Ok(grants.objects),
            _ => Err(error(EngineError::new(Kind::Fatal, "the controller answered another question than was asked"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Question {
        Question::State(v1::LogState {})
    }

    fn answer(number: u64, until: &str) -> v1::LogAnswer {
        let container = v1::LogContainer { until: until.to_owned(), ..v1::LogContainer::default() };
        v1::LogAnswer { number, kind: Some(Answer::Container(container)) }
    }

    /// A call that is open, and the questions that come over it.
    fn call(desk: &Arc<Desk>) -> (Call, mpsc::Receiver<Result<v1::LogQuestion, Status>>) {
        let (line, questions) = mpsc::channel(1);
        (desk.take(line), questions)
    }

    async fn number(questions: &mut mpsc::Receiver<Result<v1::LogQuestion, Status>>) -> u64 {
        questions.recv().await.unwrap().unwrap().number
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_call_is_asked_and_another_when_it_breaks_or_is_silent() {
        let desk = Arc::<Desk>::default();
        let ask = |desk: &Arc<Desk>| {
            let desk = desk.clone();
            tokio::spawn(async move { desk.container(state()).await.map(|container| container.until) })
        };
        let waiting = ask(&desk);
        let (older, mut of_older) = call(&desk);
        let first = number(&mut of_older).await;
        older.answer(answer(first + 1, "of another question"));
        older.answer(answer(first, "one"));
        assert_eq!(waiting.await.unwrap().unwrap(), "one");

        let (newer, mut of_newer) = call(&desk);
        let waiting = ask(&desk);
        let asked = number(&mut of_newer).await;
        drop(newer);
        let again = number(&mut of_older).await;
        assert_ne!(asked, again);
        older.answer(answer(asked, "too late"));
        older.answer(answer(again, "two"));
        assert_eq!(waiting.await.unwrap().unwrap(), "two");

        let (silent, mut of_silent) = call(&desk);
        let waiting = ask(&desk);
        number(&mut of_silent).await;
        let again = number(&mut of_older).await;
        older.answer(answer(again, "three"));
        assert_eq!(waiting.await.unwrap().unwrap(), "three");

        drop((silent, older));
        let nobody = ask(&desk).await.unwrap().unwrap_err();
        assert_eq!(nobody.kind(), Kind::Transient);
        assert!(nobody.chain().contains("no controller answered for 60 s"), "{}", nobody.chain());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told_as_it_came() {
        let desk = Arc::<Desk>::default();
        let (call, mut questions) = call(&desk);
        let asked = tokio::spawn({
            let desk = desk.clone();
            async move { desk.container(state()).await }
        });
        let number = number(&mut questions).await;
        let error = v1::Error { kind: v1::ErrorKind::Invalid.into(), message: "not to be shipped".to_owned() };
        call.answer(v1::LogAnswer { number, kind: Some(Answer::Refusal(error)) });
        let refused = asked.await.unwrap().unwrap_err();
        assert_eq!((refused.kind(), refused.chain().as_str()), (Kind::Invalid, "not to be shipped"));
    }
}

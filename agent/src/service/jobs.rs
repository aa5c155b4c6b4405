//! The Jobs service: starts jobs and streams their progress. Every change and all long work are jobs.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trove_proto::v1;
use trove_proto::v1::jobs_server::Jobs;
use trove_proto::v1::{run_reply, run_request};

use super::Connection;
use crate::jobs::Attached;

#[tonic::async_trait]
impl Jobs for Connection {
    type RunStream = Pin<Box<dyn Stream<Item = Result<v1::RunReply, Status>> + Send>>;

    async fn run(&self, request: Request<Streaming<v1::RunRequest>>) -> Result<Response<Self::RunStream>, Status> {
        self.called.notify_one();
        let mut inbox = request.into_inner();
        let first = inbox.next().await.transpose()?.and_then(|message| message.kind);
        let start = match first {
            Some(run_request::Kind::Start(start)) => start,
            Some(run_request::Kind::Cancel(v1::Cancel { operation })) if !operation.is_empty() => {
                self.services.jobs.cancel(&operation);
                return Ok(Response::new(Box::pin(futures::stream::empty())));
            }
            _ => return Err(Status::invalid_argument("run a job: the first message is neither a start nor a cancel")),
        };
        let attached = self.services.jobs.start(start);
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(tell(attached, inbox, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Sends each stage, each question and the result to the caller, and its answers to the job. The job goes on if the
/// caller disconnects; a question that it has not answered is sent to the next one.
pub(crate) async fn tell(
    attached: Attached,
    mut inbox: impl Stream<Item = Result<v1::RunRequest, Status>> + Unpin,
    sender: mpsc::Sender<Result<v1::RunReply, Status>>,
) {
    let Attached { mut state, answers, cancel } = attached;
    let mut told = v1::Progress::default();
    // Number of the question that was sent last; they begin with 1.
    let mut asked = 0;
    let mut listening = true;
    loop {
        let now = state.borrow_and_update().clone();
        if now.progress != told {
            let reply = v1::RunReply { kind: Some(run_reply::Kind::Progress(now.progress.clone())) };
            if sender.send(Ok(reply)).await.is_err() {
                return;
            }
            told = now.progress;
        }
        if let Some(question) = now.question.filter(|question| question.number > asked) {
            asked = question.number;
            let reply = v1::RunReply { kind: Some(run_reply::Kind::NeedGrants(question)) };
            if sender.send(Ok(reply)).await.is_err() {
                return;
            }
        }
        if let Some(result) = now.ended {
            let reply = v1::RunReply { kind: Some(run_reply::Kind::Result(result)) };
            // If the caller has disconnected: it calls again and gets the recorded outcome.
            let _ = sender.send(Ok(reply)).await;
            return;
        }
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() { return },
            message = inbox.next(), if listening => match message {
                Some(Ok(v1::RunRequest { kind: Some(run_request::Kind::Cancel(_)) })) => cancel.cancel(),
                Some(Ok(v1::RunRequest { kind: Some(run_request::Kind::Grants(grants)) })) => answers.give(grants),
                Some(Ok(_)) => {}
                // The caller may close its sending half and still receive.
                Some(Err(_)) | None => listening = false,
            },
            () = sender.closed() => return,
        }
    }
}

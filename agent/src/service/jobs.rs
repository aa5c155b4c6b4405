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
        let Some(run_request::Kind::Start(start)) = first else {
            return Err(Status::invalid_argument("run a job: the first message is not a start"));
        };
        let attached = self.services.jobs.start(start);
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(tell(attached, inbox, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Sends each stage and the result to the caller. The job goes on if the caller disconnects.
async fn tell(
    attached: Attached,
    mut inbox: Streaming<v1::RunRequest>,
    sender: mpsc::Sender<Result<v1::RunReply, Status>>,
) {
    let Attached { mut state, cancel } = attached;
    let mut told = v1::Progress::default();
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
                Some(Ok(_)) => {}
                // The caller may close its sending half and still receive.
                Some(Err(_)) | None => listening = false,
            },
            () = sender.closed() => return,
        }
    }
}

//! The call over which an agent asks what it needs to ship its engine's log of writes.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use trove_proto::v1;

use super::AnswerLogs;
use super::channel::Channel;
use crate::authority::AgentName;
use crate::store::Store;

/// A pause after each answer: many answers are a transaction of the store, which others need, too. An honest agent asks twice for each
/// 16 MiB of its engine's log.
const PAUSE: Duration = Duration::from_millis(10);

/// Answers the agent for as long as its connection lasts.
pub(super) async fn answer(channel: Channel, name: AgentName, store: &Store, desk: &dyn AnswerLogs) -> Infallible {
    let (answers, queue) = mpsc::channel(1);
    match channel.logs().ship(ReceiverStream::new(queue)).await {
        Ok(questions) => {
            let mut questions = questions.into_inner();
            while let Ok(Some(question)) = questions.message().await {
                let answer = one(name, store, desk, question).await;
                if answers.send(answer).await.is_err() {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        // An agent from before it could.
        Err(status) if status.code() == Code::Unimplemented => {}
        Err(status) => tracing::warn!(instance_id = %name.instance, "the agent refuses Ship: {}", status.message()),
    }
    // The connection ends by itself, and with it this.
    std::future::pending().await
}

async fn one(name: AgentName, store: &Store, desk: &dyn AnswerLogs, question: v1::LogQuestion) -> v1::LogAnswer {
    let number = question.number;
    let refusal = |kind: v1::ErrorKind, message: &str| v1::LogAnswer {
        number,
        kind: Some(v1::log_answer::Kind::Refusal(v1::Error { kind: kind.into(), message: message.to_owned() })),
    };
    match store.is_current_agent(name.instance, name.generation).await {
        Ok(true) => desk.answer(name.instance, question).await,
        Ok(false) => refusal(v1::ErrorKind::Fatal, "the instance has a newer host, or is gone"),
        Err(_) => refusal(v1::ErrorKind::Transient, "the store cannot be asked"),
    }
}

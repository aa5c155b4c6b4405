//! Test support that several modules use: stores with data, fake agents and drivers, and the checks that every
//! operation must pass.

pub(crate) mod app;
pub(crate) mod no_engine;
pub(crate) mod operations;
pub(crate) mod store;

/// For agents that ship no log.
pub(crate) struct NoLogs;

#[async_trait::async_trait]
impl crate::agents::AnswerLogs for NoLogs {
    async fn answer(
        &self,
        _: crate::ids::InstanceId,
        question: trove_proto::v1::LogQuestion,
    ) -> trove_proto::v1::LogAnswer {
        trove_proto::v1::LogAnswer { number: question.number, kind: None }
    }
}

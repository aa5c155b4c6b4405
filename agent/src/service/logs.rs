//! The Logs service: a controller's call, over which the log of writes asks its questions ([`crate::logs`]).

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trove_proto::v1;
use trove_proto::v1::logs_server::Logs;

use super::Connection;

#[tonic::async_trait]
impl Logs for Connection {
    type ShipStream = Pin<Box<dyn Stream<Item = Result<v1::LogQuestion, Status>> + Send>>;

    async fn ship(&self, request: Request<Streaming<v1::LogAnswer>>) -> Result<Response<Self::ShipStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let mut answers = request.into_inner();
        let call = self.services.log_desk.take(sender);
        tokio::spawn(async move {
            while let Some(Ok(answer)) = answers.next().await {
                call.answer(answer);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

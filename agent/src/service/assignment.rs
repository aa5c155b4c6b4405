//! What must stay true in the guest.

use tonic::{Request, Response, Status};
use trove_proto::v1;
use trove_proto::v1::assignment_server::Assignment;

use super::Connection;
use crate::lanes::Lane;
use crate::status::wire_error;

#[tonic::async_trait]
impl Assignment for Connection {
    async fn assign(&self, request: Request<v1::AssignRequest>) -> Result<Response<v1::AssignReply>, Status> {
        self.called.notify_one();
        let request = request.into_inner();
        let keeper = &self.services.keeper;
        let broken = |error: anyhow::Error| Status::unavailable(format!("{error:#}"));
        let reply = |error| {
            let generation = keeper.assigned().borrow().generation;
            Ok(Response::new(v1::AssignReply { generation, error }))
        };
        if !keeper.admit(Lane::LifeCycle, request.fence).map_err(broken)? {
            let message = format!("fence {} is older than {}", request.fence, keeper.fence());
            return reply(Some(v1::Error { kind: v1::ErrorKind::Fenced.into(), message }));
        }
        let Some(specification) = request.specification else {
            return Err(Status::invalid_argument("assign: the specification is missing"));
        };
        if keeper.assign(request.generation, specification).map_err(broken)? {
            let applied = self.services.driver.apply().await;
            return reply(applied.err().as_ref().map(wire_error));
        }
        reply(None)
    }
}

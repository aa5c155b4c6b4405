//! Checks before the guest is resized.

use tonic::{Request, Response, Status};
use trove_proto::v1;
use trove_proto::v1::sizes_server::Sizes;
use trove_strategy::{Kind, Size};

use super::{Connection, answered};

#[tonic::async_trait]
impl Sizes for Connection {
    async fn check_size(&self, request: Request<v1::CheckSizeRequest>) -> Result<Response<v1::CheckSizeReply>, Status> {
        self.called.notify_one();
        let v1::CheckSizeRequest { memory_mib, vcpus } = request.into_inner();
        let services = &self.services;
        let size = Size { memory_mib, vcpus, ..services.site.size };
        let question = async {
            match services.datastore.engine().fits(&services.site, size).await {
                Ok(()) => Ok(String::new()),
                Err(refused) if refused.kind() == Kind::Invalid => Ok(refused.chain()),
                Err(error) => Err(error),
            }
        };
        let refusal = answered(question).await?;
        Ok(Response::new(v1::CheckSizeReply { refusal }))
    }
}

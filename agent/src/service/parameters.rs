//! Read calls about parameters: the values in force in the engine.

use tonic::{Request, Response, Status};
use trove_proto::v1;
use trove_proto::v1::parameters_server::Parameters;

use super::{Connection, answered};
use crate::status::not_announced;

#[tonic::async_trait]
impl Parameters for Connection {
    async fn list_parameters(
        &self,
        _request: Request<v1::ListParametersRequest>,
    ) -> Result<Response<v1::ListParametersReply>, Status> {
        self.called.notify_one();
        let parameters = self.services.datastore.parameters().ok_or_else(|| not_announced("parameters"))?;
        let values = answered(parameters.values(&self.services.site)).await?;
        let wire = |(name, value)| v1::ParameterValue { name, value };
        Ok(Response::new(v1::ListParametersReply { parameters: values.into_iter().map(wire).collect() }))
    }
}

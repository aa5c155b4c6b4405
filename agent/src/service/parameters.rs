//! Read calls about parameters: the values in force in the engine.

use std::time::Duration;

use tonic::{Request, Response, Status};
use trove_proto::v1;
use trove_proto::v1::parameters_server::Parameters;
use trove_strategy::Kind;

use super::{Connection, answered, answered_within};
use crate::assignment::engine_parameters;
use crate::status::{not_announced, question_error};

/// A server program is started for it.
const CHECK: Duration = Duration::from_secs(10);

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

    async fn check_parameters(
        &self,
        request: Request<v1::CheckParametersRequest>,
    ) -> Result<Response<v1::CheckParametersReply>, Status> {
        self.called.notify_one();
        let chosen = request.into_inner().parameters;
        let values = engine_parameters(&chosen).map_err(|error| question_error(&error))?;
        let parameters = self.services.datastore.parameters().ok_or_else(|| not_announced("parameters"))?;
        let question = async {
            match parameters.check(&self.services.site, &values).await {
                Ok(()) => Ok(String::new()),
                Err(refused) if refused.kind() == Kind::Invalid => Ok(refused.chain()),
                Err(error) => Err(error),
            }
        };
        let refusal = answered_within(CHECK, question).await?;
        Ok(Response::new(v1::CheckParametersReply { refusal }))
    }
}

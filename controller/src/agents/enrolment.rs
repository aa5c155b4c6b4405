//! The Enrolment service, by which an agent gets a certificate with its token or its old certificate. It is the only
//! service of the agents' port in which the controller is the gRPC server.

use std::net::SocketAddr;
use std::sync::Arc;

use secrecy::SecretString;
use tonic::{Request, Response, Status};
use trove_proto::v1;

use crate::agents::hub::Hub;
use crate::authority::{AgentName, CertificateRequest};
use crate::error::{Error, chain};
use crate::store::agents::Redeemed;

/// The service on one connection.
pub(crate) struct Enrolment {
    hub: Arc<Hub>,
    /// The agent named by the client's certificate, if it has one.
    bearer: Option<AgentName>,
    peer: SocketAddr,
}

impl Enrolment {
    pub(crate) fn new(hub: Arc<Hub>, bearer: Option<AgentName>, peer: SocketAddr) -> Self {
        Self { hub, bearer, peer }
    }

    fn certificate(&self, request: &CertificateRequest, name: AgentName) -> Result<Response<v1::EnrolReply>, Status> {
        let certificate_pem = self.hub.sign(request, name).map_err(|error| self.failed(&error))?;
        let authority_pem = self.hub.authorities.agents_pem().to_owned();
        Ok(Response::new(v1::EnrolReply { certificate_pem, authority_pem }))
    }

    fn failed(&self, error: &Error) -> Status {
        if let Error::BadRequest(message) = error {
            return Status::invalid_argument(message);
        }
        tracing::error!(peer = %self.peer, "the enrolment of an agent failed: {}", chain(error));
        Status::unavailable("the controller could not do it now")
    }
}

#[async_trait::async_trait]
impl v1::enrolment_server::Enrolment for Enrolment {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let v1::EnrolRequest { token, csr_der } = request.into_inner();
        let request = CertificateRequest::parse(&csr_der).map_err(|error| self.failed(&error))?;
        let token = SecretString::from(token);
        let redeemed = self.hub.store.redeem_token(&token, &request.key_hash()).await;
        let (instance, refusal) = match redeemed.map_err(|error| self.failed(&error))? {
            Redeemed::Granted { instance, generation } => {
                tracing::info!(instance_id = %instance, peer = %self.peer, "agent of instance {instance} enrolled");
                return self.certificate(&request, AgentName { instance, generation });
            }
            Redeemed::Unknown => (None, Status::unauthenticated("the token is not known")),
            Redeemed::Expired { instance } => (Some(instance), Status::unauthenticated("the token has expired")),
            Redeemed::Used { instance } => (Some(instance), Status::unauthenticated("the token was used already")),
            Redeemed::Outdated { instance } => {
                (Some(instance), Status::permission_denied("the instance is gone or has a newer host"))
            }
        };
        let whose = instance.map_or_else(|| "an unknown instance".to_owned(), |id| format!("instance {id}"));
        tracing::warn!(peer = %self.peer, "enrolment of an agent of {whose} refused: {}", refusal.message());
        Err(refusal)
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let Some(name) = self.bearer else {
            return Err(Status::unauthenticated("a renewal needs the certificate that is to be renewed"));
        };
        let request = CertificateRequest::parse(&request.into_inner().csr_der).map_err(|error| self.failed(&error))?;
        let current = self.hub.store.is_current_agent(name.instance, name.generation).await;
        if !current.map_err(|error| self.failed(&error))? {
            let AgentName { instance, generation } = name;
            let peer = self.peer;
            tracing::warn!(
                instance_id = %instance, %peer,
                "renewal for the agent of instance {instance} refused: generation {generation} of its host is over"
            );
            return Err(Status::permission_denied("the instance is gone or has a newer host"));
        }
        self.certificate(&request, name)
    }
}

//! The Assignment service: stores what the controller assigns to the agent.

use tonic::{Request, Response, Status};
use trove_proto::v1;
use trove_proto::v1::assignment_server::Assignment;
use trove_strategy::{Applied, failpoint};

use super::Connection;
use crate::lanes::Lane;
use crate::status::wire_error;

#[tonic::async_trait]
impl Assignment for Connection {
    async fn assign(&self, request: Request<v1::AssignRequest>) -> Result<Response<v1::AssignReply>, Status> {
        self.called.notify_one();
        let request = request.into_inner();
        let assignments = &self.services.assignments;
        let broken = |error: anyhow::Error| Status::unavailable(format!("{error:#}"));
        let reply = |error, parameters| {
            let generation = assignments.assigned().borrow().generation;
            Ok(Response::new(v1::AssignReply { generation, error, parameters }))
        };
        // An assignment is ordered with changes of accounts and with the life cycle, but not with backups.
        if !assignments.admit(Lane::Accounts, request.fence).map_err(broken)? {
            let message = format!("fence {} is older than {}", request.fence, assignments.fence());
            return reply(Some(v1::Error { kind: v1::ErrorKind::Fenced.into(), message }), Vec::new());
        }
        let pass = |name| failpoint::pass(name).map_err(|injected| Status::unavailable(injected.to_string()));
        pass("agent.assign.before_store")?;
        let Some(specification) = request.specification else {
            return Err(Status::invalid_argument("assign: the specification is missing"));
        };
        let is_new = assignments.assign(request.generation, specification).map_err(broken)?;
        pass("agent.assign.after_store")?;
        // If it is in force already, the first answer may have been lost.
        if is_new || request.generation == assignments.assigned().borrow().generation {
            let applied = self.services.supervisor.apply().await;
            pass("agent.assign.before_reply")?;
            return match applied {
                Ok(applied) => reply(None, applied.into_iter().map(wire_applied).collect()),
                Err(error) => reply(Some(wire_error(&error)), Vec::new()),
            };
        }
        reply(None, Vec::new())
    }
}

fn wire_applied((name, applied): (String, Applied)) -> v1::AppliedParameter {
    let (state, reason) = match applied {
        Applied::Live => (v1::AppliedState::Live, String::new()),
        Applied::Refused(reason) => (v1::AppliedState::Refused, reason),
        _ => (v1::AppliedState::NeedsRestart, String::new()),
    };
    v1::AppliedParameter { name, state: state.into(), reason }
}

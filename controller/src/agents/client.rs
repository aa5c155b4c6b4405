//! Calls to agents, with deadlines. Only this file and the agent's `status.rs` know gRPC status codes.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use trove_proto::v1;
use trove_proto::v1::run_reply::Kind as Reply;
use trove_proto::v1::run_request::Kind as Ask;

use crate::agents::channel::Channel;
use crate::agents::hub::{Hub, Link};
use crate::agents::{AgentError, AgentState, Agents, GrantObjects, JobOutcome, OnProgress};
use crate::ids::{InstanceId, OperationId};

const QUESTION_LIMIT: Duration = Duration::from_secs(5);
const ASSIGN_LIMIT: Duration = Duration::from_secs(10);
const CHECK_LIMIT: Duration = Duration::from_secs(10);
/// The agent ends a job at its deadline. Wait this much longer for its result, which says more than "did not answer".
const VERDICT_GRACE: Duration = Duration::from_secs(3);
/// Pause before attaching to a job again on the same connection.
const ATTACH_PAUSE: Duration = Duration::from_millis(500);
/// How long an agent that is away is to be told that an operation was cancelled. A job of a backup or a restore to which
/// nobody is attached has ended by itself then.
const CANCEL_LIMIT: Duration = Duration::from_secs(300);

#[async_trait]
impl Agents for Hub {
    fn state(&self, instance: InstanceId) -> watch::Receiver<AgentState> {
        self.watch_state(instance)
    }

    async fn run(
        &self,
        instance: InstanceId,
        start: v1::Start,
        progress: OnProgress<'_>,
        objects: &dyn GrantObjects,
    ) -> Result<JobOutcome, AgentError> {
        let limit_s = u64::from(start.deadline_s);
        let deadline = Instant::now() + Duration::from_secs(limit_s) + VERDICT_GRACE;
        let mut attached = false;
        let ended = timeout_at(deadline, async {
            loop {
                let link = self.await_link(instance, None).await?;
                match attach(&link.channel, &start, progress, objects, &mut attached).await {
                    Ended::Result(result) => return result,
                    Ended::Broken(reason) => {
                        tracing::debug!(instance_id = %instance, "a job of instance {instance} is to be attached to again: {reason}");
                    }
                }
                // Wait until the hub notices that the connection is down; if only this call failed, until the pause is
                // over.
                let mut links = self.watch_link(instance);
                let same = |now: &Option<Link>| now.as_ref().is_some_and(|now| now.number == link.number);
                let _ = timeout(ATTACH_PAUSE, links.wait_for(|now| !same(now))).await;
            }
        });
        match ended.await {
            Ok(result) => result,
            Err(_) if attached => Err(AgentError::Late(instance, limit_s)),
            Err(_) => Err(AgentError::Unreachable(instance)),
        }
    }

    fn cancel(&self, instance: InstanceId, operation: OperationId) {
        let told = tell_cancelled(self.watch_link(instance), operation);
        tokio::spawn(async move {
            if timeout(CANCEL_LIMIT, told).await.is_err() {
                tracing::debug!(instance_id = %instance, "the agent of instance {instance} was not told that operation {operation} is cancelled");
            }
        });
    }

    async fn assign(&self, instance: InstanceId, request: v1::AssignRequest) -> Result<v1::AssignReply, AgentError> {
        let ask = |channel: Channel| {
            let request = request.clone();
            async move { channel.assignment().assign(request).await }
        };
        let mut reply = self.ask(instance, ASSIGN_LIMIT, ask).await?;
        match reply.error.take() {
            None => Ok(reply),
            Some(error) => Err(refused(error)),
        }
    }

    async fn list_databases(&self, instance: InstanceId) -> Result<Vec<v1::Database>, AgentError> {
        let ask =
            |channel: Channel| async move { channel.databases().list_databases(v1::ListDatabasesRequest {}).await };
        Ok(self.ask(instance, QUESTION_LIMIT, ask).await?.databases)
    }

    async fn list_users(&self, instance: InstanceId) -> Result<Vec<v1::User>, AgentError> {
        let ask = |channel: Channel| async move { channel.users().list_users(v1::ListUsersRequest {}).await };
        Ok(self.ask(instance, QUESTION_LIMIT, ask).await?.users)
    }

    async fn get_user(&self, instance: InstanceId, account: v1::Account) -> Result<Option<v1::User>, AgentError> {
        let request = v1::GetUserRequest { account: Some(account) };
        let ask = |channel: Channel| {
            let request = request.clone();
            async move { channel.users().get_user(request).await }
        };
        match self.ask(instance, QUESTION_LIMIT, ask).await {
            Ok(reply) => Ok(reply.user),
            Err(AgentError::Refused { kind: v1::ErrorKind::Gone, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn check_size(
        &self,
        instance: InstanceId,
        memory_mib: u64,
        vcpus: u32,
    ) -> Result<Option<String>, AgentError> {
        let request = v1::CheckSizeRequest { memory_mib, vcpus };
        let ask = |channel: Channel| async move { channel.sizes().check_size(request).await };
        let refusal = self.ask(instance, QUESTION_LIMIT, ask).await?.refusal;
        Ok(Some(refusal).filter(|refusal| !refusal.is_empty()))
    }

    async fn check_parameters(
        &self,
        instance: InstanceId,
        parameters: BTreeMap<String, String>,
    ) -> Result<Option<String>, AgentError> {
        let ask = |channel: Channel| {
            let request = v1::CheckParametersRequest { parameters: parameters.clone() };
            async move { channel.parameters().check_parameters(request).await }
        };
        let refusal = self.ask(instance, CHECK_LIMIT, ask).await?.refusal;
        Ok(Some(refusal).filter(|refusal| !refusal.is_empty()))
    }

    async fn list_parameters(&self, instance: InstanceId) -> Result<Vec<v1::ParameterValue>, AgentError> {
        let ask =
            |channel: Channel| async move { channel.parameters().list_parameters(v1::ListParametersRequest {}).await };
        Ok(self.ask(instance, QUESTION_LIMIT, ask).await?.parameters)
    }

    async fn ping(&self, instance: InstanceId) -> Result<(), AgentError> {
        let ask = |channel: Channel| async move { channel.diagnostics().ping(v1::PingRequest {}).await };
        self.ask(instance, QUESTION_LIMIT, ask).await.map(|_| ())
    }

    async fn diagnose(&self, instance: InstanceId) -> Result<v1::GetDiagnosticsReply, AgentError> {
        let ask =
            |channel: Channel| async move { channel.diagnostics().get_diagnostics(v1::GetDiagnosticsRequest {}).await };
        self.ask(instance, QUESTION_LIMIT, ask).await
    }

    fn forget(&self, instance: InstanceId) {
        self.forget_agent(instance);
    }
}

impl Hub {
    /// Waits for a connection, since an agent reconnects soon after a restart of either side. `broken` is the number of
    /// a connection that has failed and must not be returned.
    async fn await_link(&self, instance: InstanceId, broken: Option<u64>) -> Result<Link, AgentError> {
        let mut links = self.watch_link(instance);
        let of_use = |link: &Option<Link>| link.as_ref().is_some_and(|link| Some(link.number) != broken);
        // `forget` drops the sender. Then waiting ends.
        let link = links.wait_for(of_use).await.map_err(|_| AgentError::Unreachable(instance))?;
        (*link).clone().ok_or(AgentError::Unreachable(instance))
    }

    /// Makes an idempotent call, and repeats it on the next connection if the connection breaks. `limit` includes the
    /// wait for a connection.
    async fn ask<T, F>(
        &self,
        instance: InstanceId,
        limit: Duration,
        call: impl Fn(Channel) -> F + Send,
    ) -> Result<T, AgentError>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let deadline = Instant::now() + limit;
        let mut broken = None;
        loop {
            let link = match timeout_at(deadline, self.await_link(instance, broken)).await {
                Ok(link) => link?,
                Err(_) => return Err(AgentError::Unreachable(instance)),
            };
            match timeout_at(deadline, call(link.channel)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => match error(instance, limit, &status) {
                    AgentError::Unreachable(_) => broken = Some(link.number),
                    other => return Err(other),
                },
                Err(_) => return Err(AgentError::Late(instance, limit.as_secs())),
            }
        }
    }
}

/// Tells an agent over one connection after the other, until one has taken it, that the jobs of an operation are to end.
async fn tell_cancelled(mut links: watch::Receiver<Option<Link>>, operation: OperationId) {
    let mut broken = None;
    loop {
        let of_use = |link: &Option<Link>| link.as_ref().is_some_and(|link| Some(link.number) != broken);
        // The agent was forgotten, and its host is gone.
        let Ok(link) = links.wait_for(of_use).await.map(|link| (*link).clone()) else { return };
        let Some(link) = link else { continue };
        let cancel = v1::RunRequest { kind: Some(Ask::Cancel(v1::Cancel { operation: operation.to_string() })) };
        let answer = link.channel.jobs().run(Request::new(tokio_stream::iter([cancel]))).await;
        match answer {
            Ok(_) => return,
            Err(status) => match broken_or_refused(&status) {
                // An agent that does not know it yet.
                Ended::Result(_) => return,
                Ended::Broken(_) => broken = Some(link.number),
            },
        }
    }
}

/// How one call of `Run` ended.
enum Ended {
    /// With the job's result, or with an error that a repeated call would get again.
    Result(Result<JobOutcome, AgentError>),
    /// Without a result. The job may still run; call again with the same key.
    Broken(String),
}

async fn attach(
    channel: &Channel,
    start: &v1::Start,
    progress: OnProgress<'_>,
    objects: &dyn GrantObjects,
    attached: &mut bool,
) -> Ended {
    // Keep the sender until the result: the end of the request stream would tell the agent that no cancel follows.
    let (requests, queue) = mpsc::channel(1);
    if requests.send(v1::RunRequest { kind: Some(Ask::Start(start.clone())) }).await.is_err() {
        return Ended::Broken("the call ended before it began".to_owned());
    }
    let mut replies = match channel.jobs().run(Request::new(ReceiverStream::new(queue))).await {
        Ok(response) => response.into_inner(),
        Err(status) => return broken_or_refused(&status),
    };
    *attached = true;
    loop {
        match replies.message().await {
            Ok(Some(v1::RunReply { kind: Some(Reply::Progress(step)) })) => {
                progress(step);
            }
            Ok(Some(v1::RunReply { kind: Some(Reply::Result(result)) })) => {
                return match result.error {
                    None => Ended::Result(Ok(result.outcome)),
                    Some(error) if error.kind() == v1::ErrorKind::Interrupted => Ended::Broken(error.message),
                    Some(error) => Ended::Result(Err(refused(error))),
                };
            }
            Ok(Some(v1::RunReply { kind: Some(Reply::NeedGrants(need)) })) => {
                let answer = match objects.grant(&need.run, &need.objects).await {
                    Ok(objects) => v1::Grants { number: need.number, objects, refusal: None },
                    Err(refusal) => v1::Grants { number: need.number, objects: Vec::new(), refusal: Some(refusal) },
                };
                if requests.send(v1::RunRequest { kind: Some(Ask::Grants(answer)) }).await.is_err() {
                    return Ended::Broken("the call ended while objects were granted".to_owned());
                }
            }
            // A message kind that only newer agents know.
            Ok(Some(v1::RunReply { kind: None })) => {}
            Ok(None) => return Ended::Broken("the agent ended the call without a result".to_owned()),
            Err(status) => return broken_or_refused(&status),
        }
    }
}

fn broken_or_refused(status: &Status) -> Ended {
    match kind(status) {
        Some(kind) if kind != v1::ErrorKind::Transient => {
            Ended::Result(Err(AgentError::Refused { kind, message: status.message().to_owned() }))
        }
        _ => Ended::Broken(crate::error::chain(status)),
    }
}

fn refused(error: v1::Error) -> AgentError {
    let kind = match error.kind() {
        v1::ErrorKind::Unspecified => v1::ErrorKind::Fatal,
        kind => kind,
    };
    AgentError::Refused { kind, message: error.message }
}

fn error(instance: InstanceId, limit: Duration, status: &Status) -> AgentError {
    match kind(status) {
        Some(kind) => AgentError::Refused { kind, message: status.message().to_owned() },
        None if status.code() == Code::DeadlineExceeded => AgentError::Late(instance, limit.as_secs()),
        None => AgentError::Unreachable(instance),
    }
}

/// The error kind that an agent expressed by a status. `None` if the status was made on this side, because the
/// connection broke or the time was over.
fn kind(status: &Status) -> Option<v1::ErrorKind> {
    // A status from the agent has no source. One that tonic made from a transport error has.
    if std::error::Error::source(status).is_some() {
        return None;
    }
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::AlreadyExists => {
            Some(v1::ErrorKind::Invalid)
        }
        Code::NotFound => Some(v1::ErrorKind::Gone),
        Code::FailedPrecondition | Code::Unavailable => Some(v1::ErrorKind::Transient),
        Code::Aborted | Code::ResourceExhausted => Some(v1::ErrorKind::Busy),
        Code::PermissionDenied | Code::Unauthenticated | Code::Internal | Code::DataLoss => Some(v1::ErrorKind::Fatal),
        Code::Ok | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded => None,
    }
}

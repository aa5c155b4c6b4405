//! Changes as Server-Sent Events: ours, beyond Trove.
//!
//! ```text
//! id: 4711                     the number of the last change; comes back as Last-Event-ID
//! event: operation             or: instance, deleted, end
//! data: {"instance_id": …}
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use utoipa::IntoResponses;
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::{Content, RefOr};

use super::ApiState;
use super::http::answer;
use super::http::auth::{Administrator, Authorized};
use super::instances::view::{Viewer, detail};
use super::operations::OperationView;
use crate::app::events::{Event, Watcher};
use crate::error::{Error, Result, chain};
use crate::ids::ProjectId;

/// Comments keep what lies between from closing a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Streams of one project at one controller.
const STREAMS: u32 = 50;

/// How many streams there are.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<ProjectId, u32>>>);

/// One of them, until it is dropped.
struct Subscription {
    streams: Streams,
    project: ProjectId,
}

impl Streams {
    fn take(&self, project: &ProjectId) -> Result<Subscription> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(project.clone()).or_default();
        if *count >= STREAMS {
            let message = format!("The project has {STREAMS} event streams open already.");
            return Err(Error::Unavailable { message, retry_after_s: 30 });
        }
        *count += 1;
        Ok(Subscription { streams: self.clone(), project: project.clone() })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut counts = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.project) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.project);
            }
        }
    }
}

struct Stream {
    watcher: Watcher,
    authorized: Arc<Authorized>,
    shutdown: CancellationToken,
    base: String,
    project: ProjectId,
    admin: bool,
    waiting: VecDeque<Sent>,
    ended: bool,
    _subscription: Subscription,
}

/// Stream what changes in the project
///
/// Server-Sent Events: `instance`, `operation`, `deleted`, and `end` as the last one. Send the last `id` as
/// `Last-Event-ID` to be told of what has changed since.
#[utoipa::path(get, path = "/events", tag = "operations", operation_id = "watch",
    params(("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was read.")))]
pub(super) async fn watch(
    State(state): State<ApiState>,
    authorized: Authorized,
    headers: HeaderMap,
) -> Result<EventStream> {
    authorized.may("instance:index")?;
    let project = authorized.caller.project.clone();
    open(&state, authorized, &headers, Some(project))
}

/// Stream what changes in all projects
#[utoipa::path(get, path = "/mgmt/events", tag = "management", operation_id = "watch_all",
    params(("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was read.")))]
pub(super) async fn watch_all(
    State(state): State<ApiState>,
    Administrator(authorized): Administrator,
    headers: HeaderMap,
) -> Result<EventStream> {
    open(&state, authorized, &headers, None)
}

/// Events until the token expires or the service stops.
pub(super) struct EventStream(Response);

impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        self.0
    }
}

impl IntoResponses for EventStream {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let content = Content::new(Some(<String as utoipa::PartialSchema>::schema()));
        let answer = ResponseBuilder::new().description("Events, for as long as the client reads.");
        answer::one(StatusCode::OK, answer.content("text/event-stream", content))
    }
}

fn open(
    state: &ApiState,
    authorized: Authorized,
    headers: &HeaderMap,
    watched: Option<ProjectId>,
) -> Result<EventStream> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let wrong = |_| Error::BadRequest("The header Last-Event-ID is not an id of an event of this stream.".to_owned());
    let since = text("last-event-id").filter(|id| !id.is_empty()).map(|id| id.parse()).transpose().map_err(wrong)?;
    let caller = authorized.caller.clone();
    let stream = Stream {
        _subscription: state.streams.take(&caller.project)?,
        watcher: state.app.watch(watched, since),
        authorized: Arc::new(authorized),
        shutdown: state.shutdown.clone(),
        base: state.app.config.public_url(),
        admin: caller.is_admin(),
        project: caller.project,
        waiting: VecDeque::new(),
        ended: false,
    };
    let events = stream::unfold(stream, |mut stream| async move {
        let next = stream.next().await?;
        Some((Ok::<_, Infallible>(next), stream))
    });
    Ok(EventStream(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()))
}

impl Stream {
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(next) = self.waiting.pop_front() {
                return Some(next);
            }
            if self.ended {
                return None;
            }
            let (shutdown, authorized) = (self.shutdown.clone(), self.authorized.clone());
            // A token may expire or be revoked while nothing changes; then nothing more is told.
            let looked = tokio::select! {
                biased;
                () = shutdown.cancelled() => Err("The service stops.".to_owned()),
                refused = authorized.refused() => Err(refused.to_string()),
                looked = self.look() => looked,
            };
            if let Err(reason) = looked {
                self.ended = true;
                self.waiting.push_back(sent("end", &json!({"reason": reason})));
            }
        }
    }

    /// Waits for what is new; why there will be no more otherwise.
    async fn look(&mut self) -> std::result::Result<(), String> {
        let events = self.watcher.next().await.map_err(|error| {
            tracing::error!("an event stream ends: {}", chain(&error));
            "The service cannot look what there is.".to_owned()
        })?;
        let cursor = self.watcher.cursor().to_string();
        for event in events {
            let (name, data) = self.view(event);
            self.waiting.push_back(sent(name, &data).id(&cursor));
        }
        Ok(())
    }

    fn view(&self, event: Event) -> (&'static str, Value) {
        match event {
            Event::Instance(instance) => {
                let viewer = Viewer { base: &self.base, project: &self.project, admin: self.admin };
                ("instance", json!({"instance": detail(&viewer, &instance)}))
            }
            Event::Deleted(id) => ("deleted", json!({"instance_id": id})),
            Event::Operation(changed) => {
                let operation = OperationView::of(&changed.operation, self.admin);
                ("operation", json!({"instance_id": changed.operation.targets().next(), "operation": operation}))
            }
        }
    }
}

fn sent(name: &str, data: &Value) -> Sent {
    // JSON of ours has no line break outside of its strings, where they are escaped.
    Sent::default().event(name).data(data.to_string())
}

//! Answers agents that ship their engines' logs of writes: where the log goes on, which objects they may write, what is recorded.
//!
//! What an agent says is true of its own instance alone. The store knows no more of a log than that each piece begins where the
//! one before it has ended; where that is not so there is a gap, and a chain of containers begins.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use trove_proto::backup::SEGMENT_LIMIT;
use trove_proto::v1;
use trove_proto::v1::log_answer::Kind as Answer;
use trove_proto::v1::log_question::Kind as Question;
use trove_strategy::PIECE_LIMIT;

use crate::agents::{AnswerLogs, GrantObjects as _};
use crate::config::Config;
use crate::error::{Error, chain};
use crate::ids::{ContainerId, InstanceId, ProjectId};
use crate::model::logs::{LogContainer, LogPiece};
use crate::objects::Objects;
use crate::store::Store;
use crate::store::sql::Connection;

/// A container takes pieces for so long.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// And so many.
const MOST_PIECES: u64 = 10_000;
/// So many of them are begun within a day: each is a row, and its pieces are.
const MOST_CONTAINERS: u64 = 256;
/// Longest place of a log, bytes.
const MOST_PLACE: usize = 128;

/// Answers the agents of all instances.
pub struct LogDesk {
    store: Store,
    objects: Objects,
    config: Arc<Config>,
}

/// Why a question gets no answer.
enum Refusal {
    /// What is said to the agent.
    Said(v1::ErrorKind, String),
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Answered<T> = std::result::Result<T, Refusal>;

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::Said(v1::ErrorKind::Invalid, message.into())
}

#[async_trait]
impl AnswerLogs for LogDesk {
    async fn answer(&self, instance: InstanceId, question: v1::LogQuestion) -> v1::LogAnswer {
        let answered = match question.kind {
            Some(Question::State(_)) => self.state(instance).await.map(Answer::Container),
            Some(Question::Begin(begin)) => self.begin(instance, begin).await.map(Answer::Container),
            Some(Question::Grant(grant)) => self.grant(instance, grant).await.map(Answer::Grants),
            Some(Question::Stored(stored)) => self.stored(instance, stored).await.map(Answer::Container),
            Some(Question::Covered(covered)) => self.covered(instance, covered).await.map(Answer::Container),
            // A question that only newer agents know.
            None => Err(invalid("this controller does not know the question")),
        };
        let kind = answered.unwrap_or_else(|refusal| {
            let (kind, message) = match refusal {
                Refusal::Said(kind, message) => (kind, message),
                Refusal::Failed(error) => {
                    tracing::error!(instance_id = %instance, "the log of instance {instance}: {}", chain(&error));
                    (v1::ErrorKind::Transient, "the controller could not look it up".to_owned())
                }
            };
            Answer::Refusal(v1::Error { kind: kind.into(), message })
        });
        v1::LogAnswer { number: question.number, kind: Some(kind) }
    }
}

impl LogDesk {
    pub fn new(store: Store, objects: Objects, config: Arc<Config>) -> Self {
        Self { store, objects, config }
    }

    fn shown(&self, container: &LogContainer) -> v1::LogContainer {
        v1::LogContainer {
            container: container.id.to_string(),
            recipients: Objects::recipients(&self.config, &container.recipient),
            until: container.ends.clone(),
        }
    }

    async fn state(&self, instance: InstanceId) -> Answered<v1::LogContainer> {
        let mut tx = self.store.begin().await?;
        let last = self.store.last_log_container(&mut tx, instance).await?;
        let until = last.map(|last| last.ends).unwrap_or_default();
        Ok(v1::LogContainer { until, ..v1::LogContainer::default() })
    }

    /// The log goes on at a place: in the container that ends there, if it takes more; else in a new one, of the same chain
    /// where there is no gap.
    async fn begin(&self, instance: InstanceId, begin: v1::LogBegin) -> Answered<v1::LogContainer> {
        let from = place(begin.from)?;
        let mut tx = self.store.begin().await?;
        self.shipping(&mut tx, instance).await?;
        let last = self.store.last_log_container(&mut tx, instance).await?.filter(|last| last.ends == from);
        let container = match last {
            Some(last) if !self.is_full(&last) => last,
            last => self.new_container(&mut tx, instance, &from, last.as_ref()).await?,
        };
        self.commit(tx).await?;
        Ok(self.shown(&container))
    }

    /// The project of an instance whose log is shipped, and for how long it is kept.
    async fn shipping(&self, conn: &mut Connection, instance: InstanceId) -> Answered<(ProjectId, Duration)> {
        let shipping = self.store.log_shipping_of(conn, instance).await?;
        shipping.ok_or_else(|| invalid("the log of this instance is not to be shipped"))
    }

    fn is_full(&self, container: &LogContainer) -> bool {
        container.pieces >= MOST_PIECES || self.store.now() - container.created > DAY
    }

    /// A new container, which goes on where another one ends, or begins a chain.
    async fn new_container(
        &self,
        conn: &mut Connection,
        instance: InstanceId,
        from: &str,
        before: Option<&LogContainer>,
    ) -> Answered<LogContainer> {
        let (project, keep) = self.shipping(conn, instance).await?;
        let (number, begun) = self.store.count_log_containers(conn, instance, self.store.now() - DAY).await?;
        if begun >= MOST_CONTAINERS {
            let text = format!("{begun} containers of this log were begun within a day, and no more are");
            return Err(Refusal::Said(v1::ErrorKind::Transient, text));
        }
        let (id, key) = (ContainerId::random(), Objects::new_key());
        let container = LogContainer {
            id,
            instance,
            project,
            number: number + 1,
            chain: before.map_or(id, |before| before.chain),
            recipient: key.recipient,
            identity: self.store.seal.seal(LogContainer::SEALED, &key.identity)?,
            begins: from.to_owned(),
            ends: from.to_owned(),
            covered: before.and_then(|before| before.covered),
            keep,
            pieces: 0,
            recorded: self.store.now(),
            created: self.store.now(),
        };
        self.store.insert_log_container(conn, &container).await?;
        if before.is_none() {
            tracing::info!(instance_id = %instance, "a log of instance {instance} begins at {from}");
        }
        Ok(container)
    }

    /// The container that an agent speaks of, which is the newest of its instance.
    async fn present(&self, conn: &mut Connection, instance: InstanceId, named: &str) -> Answered<LogContainer> {
        self.shipping(conn, instance).await?;
        let last = self.store.last_log_container(conn, instance).await?;
        last.filter(|last| last.id.to_string() == named).ok_or_else(|| {
            // Another host of the instance has gone on: the agent begins anew, and finds out.
            Refusal::Said(v1::ErrorKind::Transient, "the log goes on in another container".to_owned())
        })
    }

    async fn grant(&self, instance: InstanceId, grant: v1::LogGrant) -> Answered<v1::Grants> {
        let mut tx = self.store.begin().await?;
        let container = self.present(&mut tx, instance, &grant.container).await?;
        // Nothing was written.
        drop(tx);
        let granted = self.objects.appender(container.id.objects(), instance).grant(&grant.run, &grant.objects).await;
        Ok(match granted {
            Ok(objects) => v1::Grants { number: 0, objects, refusal: None },
            Err(refusal) => v1::Grants { number: 0, objects: Vec::new(), refusal: Some(refusal) },
        })
    }

    async fn stored(&self, instance: InstanceId, stored: v1::LogStored) -> Answered<v1::LogContainer> {
        let (named, piece) = piece(stored)?;
        let mut tx = self.store.begin().await?;
        let last = self.present(&mut tx, instance, &named).await?;
        if self.store.has_log_piece(&mut tx, last.id, &piece.run, piece.object).await? {
            // The answer was lost.
            return Ok(self.shown(&last));
        }
        if piece.begins != last.ends {
            let text = format!("the piece begins at {}, and the log ends at {}", piece.begins, last.ends);
            return Err(Refusal::Said(v1::ErrorKind::Transient, text));
        }
        self.store.insert_log_piece(&mut tx, &last, &piece).await?;
        let mut last = LogContainer { ends: piece.ends.clone(), pieces: last.pieces + 1, ..last };
        if self.is_full(&last) {
            last = self.new_container(&mut tx, instance, &piece.ends, Some(&last)).await?;
        }
        self.commit(tx).await?;
        Ok(self.shown(&last))
    }

    async fn covered(&self, instance: InstanceId, covered: v1::LogCovered) -> Answered<v1::LogContainer> {
        let nanos = i128::from(covered.time_us) * 1000;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_| invalid("it is no time"))?;
        // A guest's clock may be ahead, and set back later: then what is written until that time is not stored yet.
        let time = time.min(self.store.now());
        let mut tx = self.store.begin().await?;
        let last = self.present(&mut tx, instance, &covered.container).await?;
        self.store.cover_log(&mut tx, &last, time).await?;
        self.commit(tx).await?;
        Ok(self.shown(&last))
    }

    async fn commit(&self, tx: crate::store::sql::Transaction) -> Answered<()> {
        Ok(tx.commit().await.map_err(|error| Error::internal("write what was shipped of a log", error))?)
    }
}

/// A place of a log, as an agent may say it.
fn place(text: String) -> Answered<String> {
    let is_one = !text.is_empty() && text.len() <= MOST_PLACE && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_one { Ok(text) } else { Err(invalid("it is no place of a log")) }
}

fn piece(stored: v1::LogStored) -> Answered<(String, LogPiece)> {
    let sum: [u8; 32] = stored.sum.try_into().map_err(|_| invalid("a BLAKE3 sum has 32 bytes"))?;
    let is_run = stored.run.len() == 32 && stored.run.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_run || stored.bytes == 0 || stored.bytes > SEGMENT_LIMIT || stored.data_bytes > PIECE_LIMIT as u64 {
        return Err(invalid("it is no object of a piece"));
    }
    let piece = LogPiece {
        run: stored.run,
        object: stored.object,
        begins: place(stored.from)?,
        ends: place(stored.until)?,
        bytes: stored.bytes,
        sum: hex::encode(sum),
        data_bytes: stored.data_bytes,
    };
    if piece.begins == piece.ends {
        return Err(invalid("a piece ends where it begins"));
    }
    Ok((stored.container, piece))
}

#[cfg(test)]
mod tests;

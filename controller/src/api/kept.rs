//! Answers about instances, kept as they were written for as long as nothing else is in the store: who looks again and again,
//! as dashboards and waiting clients do, costs the store one question that is the cheapest there is. Who asks once costs no
//! more than without: where the answer's own rows do not tell what the store held, it is kept from the second time on.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use super::answer::{Answers, shown};
use super::auth::Authorized;
use crate::app::{App, Snapshot};
use crate::error::{Error, Result};

/// How long an answer is good although nothing was written: datastores are believed for as long (`store/believed.rs`), and an
/// agent falls silent without a word in the store.
const GOOD: Duration = Duration::from_secs(2);
/// What is kept at most, bytes.
const MOST: usize = 4 << 20;
/// What an entry occupies beside its texts, bytes.
const ENTRY: usize = 256;

/// What an answer depends on beside the store. The project is in the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    admin: bool,
    asked: String,
}

impl Question {
    /// The question of a caller who has been authorised to ask it.
    pub(super) fn of(authorized: &Authorized) -> Self {
        // A copy: what came lies in the buffer that the connection was read into.
        let asked = authorized.asked.as_ref().map_or_else(String::new, ToString::to_string);
        Self { admin: authorized.caller.is_admin(), asked }
    }
}

/// Answers by their questions, all of one snapshot.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    snapshot: Option<Snapshot>,
    /// `None` where the question was asked and its answer not kept.
    bodies: HashMap<Question, Option<(Instant, Bytes)>>,
    bytes: usize,
}

impl Pages {
    fn get(&self, question: &Question, snapshot: &Snapshot) -> Option<Bytes> {
        let (since, body) = self.bodies.get(question)?.as_ref()?;
        (self.snapshot.as_ref() == Some(snapshot) && since.elapsed() < GOOD).then(|| body.clone())
    }

    /// Whether it was asked before; it has been from now on.
    fn is_asked_again(&mut self, question: &Question) -> bool {
        let again = self.bodies.contains_key(question);
        if !again {
            self.insert(question.clone(), None);
        }
        again
    }

    fn put(&mut self, question: Question, snapshot: Snapshot, since: Instant, body: Bytes) {
        if self.snapshot.as_ref() != Some(&snapshot) {
            self.clear();
            self.snapshot = Some(snapshot);
        }
        self.insert(question, Some((since, body)));
    }

    fn insert(&mut self, question: Question, body: Option<(Instant, Bytes)>) {
        let own = ENTRY + question.asked.len();
        let size = |body: &Option<(Instant, Bytes)>| own + body.as_ref().map_or(0, |(_, body)| body.len());
        let new = size(&body);
        if self.bytes + new > MOST {
            self.clear();
        }
        self.bytes += new;
        self.bytes -= self.bodies.insert(question, body).as_ref().map_or(0, size);
    }

    fn clear(&mut self) {
        self.bodies.clear();
        self.bytes = 0;
    }
}

impl Kept {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was answered to this question on what is still in the store, or what `read` answers now; beside it, what the
    /// store held then, where that can be told.
    ///
    /// # Errors
    /// The store's, and those of `read`, which are not kept.
    pub(super) async fn answer<T: Serialize>(
        &self,
        app: &App,
        question: Question,
        read: impl Future<Output = Result<(T, Option<Snapshot>)>>,
    ) -> Result<Written<T>> {
        let since = Instant::now();
        let again = self.pages().is_asked_again(&question);
        // Taken before the read: what is committed between the two makes the answer useless, and not wrong.
        let snapshot = if again { app.snapshot().await? } else { None };
        let found = snapshot.as_ref().and_then(|snapshot| self.pages().get(&question, snapshot));
        if let Some(body) = found {
            return Ok(Written(body, PhantomData));
        }
        let (answer, told) = read.await?;
        let body = serde_json::to_vec(&answer).map_err(|error| Error::internal("write an answer", error))?;
        let body = Bytes::from(body.into_boxed_slice());
        if let Some(snapshot) = snapshot.or(told) {
            self.pages().put(question, snapshot, since, body.clone());
        }
        Ok(Written(body, PhantomData))
    }
}

/// 200 with a JSON body of this type that has been written already.
pub(super) struct Written<T>(Bytes, PhantomData<fn() -> T>);

impl<T> IntoResponse for Written<T> {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.0).into_response()
    }
}

impl<T: ToSchema> IntoResponses for Written<T> {
    fn responses() -> Answers {
        shown::<T>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(n: usize) -> Question {
        Question { admin: false, asked: n.to_string() }
    }

    #[test]
    fn an_answer_is_good_for_its_question_on_its_snapshot_for_a_moment() {
        let snapshot = |n: u8| Snapshot::from(n.to_string());
        let (mut pages, now) = (Pages::default(), Instant::now());
        assert!(!pages.is_asked_again(&question(1)) && pages.is_asked_again(&question(1)));
        assert_eq!(pages.get(&question(1), &snapshot(1)), None, "it was asked, and not kept");
        pages.put(question(1), snapshot(1), now, Bytes::from_static(b"one"));
        assert_eq!(pages.get(&question(1), &snapshot(1)).as_deref(), Some(b"one".as_slice()));
        assert_eq!(pages.get(&question(1), &snapshot(2)), None);
        assert_eq!(pages.get(&Question { admin: true, ..question(1) }, &snapshot(1)), None);
        pages.put(question(2), snapshot(2), now, Bytes::from_static(b"two"));
        assert_eq!(pages.get(&question(1), &snapshot(2)), None, "what is of an older snapshot went");
        if let Some(old) = now.checked_sub(GOOD) {
            pages.put(question(3), snapshot(2), old, Bytes::from_static(b"three"));
            assert_eq!(pages.get(&question(3), &snapshot(2)), None, "too old");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_counted_right() {
        let mut pages = Pages::default();
        for n in 0..10_000 {
            pages.is_asked_again(&question(n % 3_000));
            pages.put(question(n % 3_000), Snapshot::from("s".to_owned()), Instant::now(), vec![0; n].into());
            let counted = pages
                .bodies
                .iter()
                .map(|(question, body)| ENTRY + question.asked.len() + body.as_ref().map_or(0, |(_, body)| body.len()));
            assert!(pages.bytes <= MOST && (n % 500 > 0 || pages.bytes == counted.sum::<usize>()), "{n}");
        }
    }
}

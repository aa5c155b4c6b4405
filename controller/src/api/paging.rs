//! Pages: `limit` and `marker` of the query, and the link to the next one.

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use serde_json::{Value, json};

use super::body::Query;
use super::links;
use crate::app::{Page, PageRequest};
use crate::error::{Error, Result};

/// Items of a page at most, and where nothing is said.
const PAGE: u32 = 20;

/// The query of a list.
pub(super) struct Paging {
    path: String,
    query: Vec<(String, String)>,
    limit: Option<u32>,
    marker: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Query(query) = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await?;
        let original = OriginalUri::from_request_parts(parts, state).await;
        let path = original.map(|uri| uri.path().to_owned()).unwrap_or_default();
        let said = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        let limit = match said("limit") {
            None => None,
            Some(text) => {
                let wrong = |_| {
                    Error::BadRequest(format!(
                        "limit is {}: it must be a whole number from 0.",
                        crate::app::names::shown(&text)
                    ))
                };
                Some(text.parse::<u64>().map_err(wrong)?.try_into().unwrap_or(u32::MAX))
            }
        };
        // A name may be sent as it is, or encoded once more: both mean the same.
        let marker = said("marker").filter(|marker| !marker.is_empty());
        Ok(Self { path, limit, marker, query })
    }
}

impl Paging {
    /// What the use case is asked.
    pub(super) fn request(&self) -> PageRequest {
        let limit = self.limit.filter(|limit| *limit > 0).unwrap_or(PAGE).min(PAGE);
        PageRequest { limit, marker: self.marker.clone() }
    }

    /// An offset and a limit that is not capped, for the management list.
    pub(super) fn offset(&self) -> Result<(u64, u32)> {
        let wrong = |_| Error::BadRequest("marker: the marker of this list is a whole number.".to_owned());
        let offset = self.marker.as_deref().map(str::parse).transpose().map_err(wrong)?.unwrap_or(0);
        Ok((offset, self.limit.filter(|limit| *limit > 0).unwrap_or(PAGE)))
    }

    /// A parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The answer: the items, and where another page follows a link under both names that clients look for.
    pub(super) fn answer(&self, base: &str, collection: &str, items: Vec<Value>, next: Option<&str>) -> Value {
        let mut body = json!({collection: items});
        if let Some(marker) = next {
            let link = links::next(base, &self.path, &self.query, marker);
            body[format!("{collection}_links")] = link.clone();
            body["links"] = link;
        }
        body
    }

    /// The answer for a page.
    pub(super) fn page<T>(&self, base: &str, collection: &str, page: Page<T>, view: impl Fn(T) -> Value) -> Value {
        let next = page.next.clone();
        self.answer(base, collection, page.items.into_iter().map(view).collect(), next.as_deref())
    }
}

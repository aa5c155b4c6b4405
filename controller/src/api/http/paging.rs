//! Pages: `limit` and `marker` of the query, and the link to the next one.

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::body::Query;
use super::links::{self, Link};
use crate::app::PageRequest;
use crate::error::{Error, Result};

/// Items of a page at most, and where nothing is said.
const PAGE: u32 = 20;

/// The query of a list.
pub(in crate::api) struct Paging {
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
        let marker = said("marker").filter(|marker| !marker.is_empty());
        Ok(Self { path, limit, marker, query })
    }
}

impl Paging {
    /// What the use case is asked.
    pub(in crate::api) fn request(&self) -> PageRequest {
        let limit = self.limit.filter(|limit| *limit > 0).unwrap_or(PAGE).min(PAGE);
        PageRequest { limit, marker: self.marker.clone() }
    }

    /// An offset and a limit that is not capped, for the management list.
    pub(in crate::api) fn offset(&self) -> Result<(u64, u32)> {
        let wrong = |_| Error::BadRequest("marker: the marker of this list is a whole number.".to_owned());
        let offset = self.marker.as_deref().map(str::parse).transpose().map_err(wrong)?.unwrap_or(0);
        Ok((offset, self.limit.filter(|limit| *limit > 0).unwrap_or(PAGE)))
    }

    /// What is left of a list of one page after the marker, for clients that ask for another page after a full one and take
    /// the last item's id for the marker.
    pub(in crate::api) fn rest<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> String) -> Vec<T> {
        if let Some(marker) = &self.marker {
            let before = items.iter().position(|item| id(item) == *marker).map_or(items.len(), |at| at + 1);
            items.drain(..before);
        }
        items
    }

    /// The link to the page that begins after `marker`; `None` after the last one.
    pub(in crate::api) fn next(&self, base: &str, marker: Option<&str>) -> Option<Vec<Link>> {
        marker.map(|marker| links::next(base, &self.path, &self.query, marker))
    }
}

impl IntoParams for Paging {
    fn into_params(_parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name: &str, schema: ObjectBuilder, text: &str| {
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
            parameter.schema(Some(schema)).description(Some(text)).build()
        };
        let limit = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        let marker = ObjectBuilder::new().schema_type(Type::String);
        vec![
            parameter("limit", limit, "Items of the page; 20 where nothing or 0 is said."),
            parameter("marker", marker, "Where the page begins: from the link to it."),
        ]
    }
}

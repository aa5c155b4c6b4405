//! Links, in the scheme and at the address of the public URL, and times as clients read them.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use utoipa::ToSchema;

use crate::ids::ProjectId;

const TIME: &[BorrowedFormatItem<'static>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");

/// All but the unreserved characters of RFC 3986, which mean the same however often a client quotes them.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A time as Trove writes it: UTC, no fraction, no `Z`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(value_type = String, pattern = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$", example = "2026-01-01T00:00:00")]
pub(in crate::api) struct Time(String);

impl From<OffsetDateTime> for Time {
    fn from(time: OffsetDateTime) -> Self {
        // Formatting into a String fails only for years that are no years.
        Self(time.to_offset(time::UtcOffset::UTC).format(TIME).unwrap_or_default())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A link.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::api) struct Link {
    /// `self`, `bookmark` or `next`.
    rel: &'static str,
    href: String,
}

/// The two links of a resource, which is this one of a collection.
pub(in crate::api) fn links(base: &str, project: &ProjectId, collection: &str, id: &str) -> Vec<Link> {
    // Pages have many of these.
    let itself = [base, "/v1.0/", &project.0, "/", collection, "/", id].concat();
    let bookmark = [base, "/", collection, "/", id].concat();
    vec![Link { rel: "self", href: itself }, Link { rel: "bookmark", href: bookmark }]
}

/// The link of a version of the API.
pub(in crate::api) fn to_itself(href: String) -> Vec<Link> {
    vec![Link { rel: "self", href }]
}

/// The link to the next page: the same query with another marker.
pub(in crate::api) fn next(base: &str, path: &str, query: &[(String, String)], marker: &str) -> Vec<Link> {
    let encode = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    let kept = query.iter().filter(|(name, _)| name != "marker");
    let mut parts: Vec<String> = kept.map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    parts.push(format!("marker={}", encode(marker)));
    vec![Link { rel: "next", href: format!("{base}{path}?{}", parts.join("&")) }]
}

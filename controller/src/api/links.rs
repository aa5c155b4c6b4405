//! Links, in the scheme and at the address of the public URL, and times as clients read them.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::ids::ProjectId;

const TIME: &[BorrowedFormatItem<'static>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");

/// A time as Trove writes it: UTC, no fraction, no `Z`.
pub(super) fn time(time: OffsetDateTime) -> String {
    // Formatting into a String fails only for years that are no years.
    time.to_offset(time::UtcOffset::UTC).format(TIME).unwrap_or_default()
}

/// The two links of a resource.
pub(super) fn links(base: &str, project: &ProjectId, path: &str) -> Value {
    let own = format!("{base}/v1.0/{project}/{path}");
    json!([{"rel": "self", "href": own}, {"rel": "bookmark", "href": format!("{base}/{path}")}])
}

/// The link to the next page: the same query with another marker.
pub(super) fn next(base: &str, path: &str, query: &[(String, String)], marker: &str) -> Value {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let kept = query.iter().filter(|(name, _)| name != "marker");
    let mut parts: Vec<String> = kept.map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    parts.push(format!("marker={}", encode(marker)));
    json!([{"rel": "next", "href": format!("{base}{path}?{}", parts.join("&"))}])
}

//! What every handler stands on: bodies, fields, faults, links, pages, who asks and how often.

pub(super) mod answer;
pub(super) mod auth;
pub(super) mod body;
pub(super) mod cors;
pub(super) mod fault;
pub(super) mod fields;
pub(super) mod form;
pub(super) mod links;
pub(super) mod paging;
pub(super) mod rates;
pub(super) mod request;
pub mod tls;
pub(super) mod unbuilt;
pub(super) mod unique;

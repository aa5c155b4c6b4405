//! What a row says, column by column.

use std::net::IpAddr;
use std::str::FromStr;

use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::model::{Access, Locality};
use crate::store::from_micros;
use crate::store::sql::{Column, Row};

pub(super) fn failed(verb: &'static str, id: InstanceId) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| Error::internal(format!("{verb} instance {id}"), error)
}

pub(in crate::store) fn column<T: Column>(row: &Row, name: &'static str) -> Result<T> {
    row.try_get(name).map_err(|error| Error::internal(format!("read the column {name}"), error))
}

pub(super) fn damaged(name: &'static str, value: &str) -> Error {
    Error::Internal { attempt: format!("read the column {name}: {value:?} is not a value of it"), source: None }
}

pub(in crate::store) fn unsigned(row: &Row, name: &'static str) -> Result<u64> {
    let value: i64 = column(row, name)?;
    u64::try_from(value).map_err(|_| damaged(name, &value.to_string()))
}

pub(in crate::store) fn narrow<T: TryFrom<i64>>(row: &Row, name: &'static str) -> Result<T> {
    let value: i64 = column(row, name)?;
    T::try_from(value).map_err(|_| damaged(name, &value.to_string()))
}

pub(in crate::store) fn time(row: &Row, name: &'static str) -> Result<OffsetDateTime> {
    column(row, name).map(from_micros)
}

pub(super) fn text<'r>(row: &'r Row, name: &'static str) -> Result<&'r str> {
    maybe_text(row, name)?.ok_or_else(|| damaged(name, "null"))
}

pub(in crate::store) fn maybe_text<'r>(row: &'r Row, name: &'static str) -> Result<Option<&'r str>> {
    row.try_text(name).map_err(|error| Error::internal(format!("read the column {name}"), error))
}

pub(in crate::store) fn parsed<T: FromStr>(row: &Row, name: &'static str) -> Result<T> {
    let text = text(row, name)?;
    text.parse().map_err(|_| damaged(name, text))
}

pub(in crate::store) fn maybe_parsed<T: FromStr>(row: &Row, name: &'static str) -> Result<Option<T>> {
    let text = maybe_text(row, name)?;
    text.map(|text| text.parse().map_err(|_| damaged(name, text))).transpose()
}

pub(in crate::store) fn tagged<T>(row: &Row, name: &'static str, from_tag: fn(&str) -> Option<T>) -> Result<T> {
    let tag = text(row, name)?;
    from_tag(tag).ok_or_else(|| damaged(name, tag))
}

pub(in crate::store) fn json<T: serde::de::DeserializeOwned>(row: &Row, name: &'static str) -> Result<T> {
    let text = text(row, name)?;
    serde_json::from_str(text).map_err(|error| Error::internal(format!("read the column {name}"), error))
}

pub(super) fn address(row: &Row) -> Result<Option<IpAddr>> {
    maybe_parsed(row, "address")
}

pub(super) fn access(row: &Row) -> Result<Option<Access>> {
    let access = maybe_text(row, "access")?.map(serde_json::from_str).transpose();
    access.map_err(|error| Error::internal("read the column access", error))
}

/// Sizes are bounded far below this by the checks of an order.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn locality(row: &Row) -> Result<Option<Locality>> {
    let tag = maybe_text(row, "locality")?;
    tag.map(|tag| Locality::from_tag(tag).ok_or_else(|| damaged("locality", tag))).transpose()
}

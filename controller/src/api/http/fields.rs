//! What a field of a body may hold. Each type says by itself, also in the description of the API, what it takes; what it
//! refuses is one sentence after the field's path.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::ids::canonical;

/// Why a value does not fit: "must be …".
type Reason = &'static str;

/// A name: at least one letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 255, pattern = "[A-Za-z0-9]")]
pub(in crate::api) struct Name(pub(in crate::api) String);

impl TryFrom<String> for Name {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        if text.is_empty() || text.chars().count() > 255 {
            return Err("must have 1 to 255 characters");
        }
        if !text.chars().any(|c| c.is_ascii_alphanumeric()) {
            return Err("must contain a letter or a digit");
        }
        if text.contains('\0') {
            return Err("must not contain NUL");
        }
        Ok(Self(text))
    }
}

/// A password. It is never shown again.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = Password, min_length = 1)]
pub(in crate::api) struct Password(pub(in crate::api) SecretString);

impl TryFrom<String> for Password {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        if text.is_empty() { Err("must not be empty") } else { Ok(Self(SecretString::from(text))) }
    }
}

/// Where an account may come from: a host name or an address, with `%` for any.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 255, example = "10.0.%")]
pub(in crate::api) struct Host(pub(in crate::api) String);

impl TryFrom<String> for Host {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        let inner = text.strip_prefix('%').unwrap_or(&text);
        let inner = inner.strip_suffix('%').unwrap_or(inner);
        let fits = !text.is_empty() && inner.chars().all(|c| c.is_alphanumeric() || "_(-).".contains(c));
        if fits && text.len() <= 255 { Ok(Self(text)) } else { Err("must be a host name or address, with % for any") }
    }
}

/// An IPv4 address.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = Ipv4)]
pub(in crate::api) struct Address(pub(in crate::api) String);

impl TryFrom<String> for Address {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        if text.parse::<Ipv4Addr>().is_ok() { Ok(Self(text)) } else { Err("must be an IPv4 address") }
    }
}

/// An IPv4 network `a.b.c.d/n`; without `/n` a single address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, example = "10.0.0.0/8")]
pub(in crate::api) struct Network(String);

impl TryFrom<String> for Network {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        // Written in the only way: other programs read `/08` otherwise.
        let is_network = text.parse::<Ipv4Net>().is_ok_and(|network| network.to_string() == text);
        let fits = is_network || text.parse::<Ipv4Addr>().is_ok_and(|address| address.to_string() == text);
        if fits { Ok(Self(text)) } else { Err("must be an IPv4 network such as 10.0.0.0/8") }
    }
}

/// Networks, each once.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(try_from = "Vec<Network>")]
pub(in crate::api) struct Networks(Vec<Network>);

impl TryFrom<Vec<Network>> for Networks {
    type Error = Reason;

    fn try_from(networks: Vec<Network>) -> Result<Self, Reason> {
        let once: HashSet<&Network> = networks.iter().collect();
        if once.len() == networks.len() { Ok(Self(networks)) } else { Err("has a network twice") }
    }
}

impl From<Networks> for Vec<String> {
    fn from(networks: Networks) -> Self {
        networks.0.into_iter().map(|network| network.0).collect()
    }
}

/// The id that stands for an engine that is installed.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(try_from = "Reference")]
#[schema(value_type = Uuid)]
pub(in crate::api) struct Image(pub(in crate::api) Uuid);

impl TryFrom<Reference> for Image {
    type Error = Reason;

    fn try_from(reference: Reference) -> Result<Self, Reason> {
        canonical(&reference.0).map(Self).map_err(|_| "must be an id")
    }
}

/// The id of a thing: as a string or a number, as the last part of a URL, or as the `id` of an object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub(in crate::api) struct Reference(pub(in crate::api) String);

impl TryFrom<Value> for Reference {
    type Error = Reason;

    fn try_from(value: Value) -> Result<Self, Reason> {
        let text = match value {
            Value::Number(number) if number.is_u64() => number.to_string(),
            // openstacksdk sends a flavor as an object at times.
            Value::Object(mut object) => match object.remove("id") {
                Some(id) if !id.is_null() => return Self::try_from(id),
                _ => return Err("needs an id"),
            },
            Value::String(text) => Name::try_from(text)?.0,
            Value::Null => return Err("is required"),
            _ => return Err("must be an id, or a URL that ends in one"),
        };
        last_of_url(&text).map(|id| Self(id.to_owned())).ok_or("must be an id, or a URL that ends in one")
    }
}

/// The last part of a URL or of an absolute path; a text that is neither is the id itself. `None` where it is not plain
/// which part is meant: another reader would take `/1/../2` or `/1%2f2` for something else.
fn last_of_url(text: &str) -> Option<&str> {
    let is_step = |part: &str| matches!(part, "." | "..");
    if !text.contains('/') {
        return (!is_step(text)).then_some(text);
    }
    let absolute = text.strip_prefix("https:/").or_else(|| text.strip_prefix("http:/")).unwrap_or(text);
    let path = absolute.split(['?', '#']).next()?.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let is_plain = !path.contains(['%', '\\']) && !path.split('/').any(is_step);
    path.rsplit('/').next().filter(|id| is_plain && !id.is_empty())
}

impl ToSchema for Reference {}

impl PartialSchema for Reference {
    fn schema() -> RefOr<Schema> {
        let id = || ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        let object = ObjectBuilder::new()
            .schema_type(Type::Object)
            .required("id")
            .property("id", OneOfBuilder::new().item(Name::schema()).item(id()));
        let all = OneOfBuilder::new().item(Name::schema()).item(id()).item(object);
        let description =
            "The id of a thing: as a string or a number, as the last part of a URL, or as the id of an object.";
        all.description(Some(description)).into()
    }
}

/// A size from 1: a whole number, or a string of digits.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(in crate::api) struct Size(pub(in crate::api) u64);

impl TryFrom<Value> for Size {
    type Error = Reason;

    fn try_from(value: Value) -> Result<Self, Reason> {
        let number = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) if text.len() <= 40 && text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Value::Null => return Err("is required"),
            _ => None,
        };
        number.filter(|number| *number > 0).map(Self).ok_or("must be a whole number from 1")
    }
}

impl ToSchema for Size {}

impl PartialSchema for Size {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
        let digits = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,40}$"));
        OneOfBuilder::new()
            .item(number)
            .item(digits)
            .description(Some("A size in GiB, as a number or in digits."))
            .into()
    }
}

/// The size that a volume is to have: within an object as in an order, or as openstacksdk sends it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(in crate::api) struct NewSize(pub(in crate::api) u64);

impl TryFrom<Value> for NewSize {
    type Error = Reason;

    fn try_from(value: Value) -> Result<Self, Reason> {
        let size = match value {
            Value::Object(mut object) => object.remove("size").ok_or("needs a size")?,
            value => value,
        };
        Size::try_from(size).map(|size| Self(size.0))
    }
}

impl ToSchema for NewSize {}

impl PartialSchema for NewSize {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new().schema_type(Type::Object).property("size", Size::schema()).required("size");
        OneOfBuilder::new().item(object).item(Size::schema()).into()
    }
}

/// A limit: a whole number, or a string of one; -1 is none. Null leaves it as it is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(in crate::api) struct Limit(pub(in crate::api) Option<i64>);

impl TryFrom<Value> for Limit {
    type Error = Reason;

    fn try_from(value: Value) -> Result<Self, Reason> {
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            Value::Null => return Ok(Self(None)),
            _ => None,
        };
        number.map(|number| Self(Some(number))).ok_or("must be a whole number")
    }
}

impl ToSchema for Limit {}

impl PartialSchema for Limit {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
        let number = ObjectBuilder::new().schema_type(Type::Integer).format(Some(format)).minimum(Some(-1));
        let digits = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[+-]?[0-9]+$"));
        let null = ObjectBuilder::new().schema_type(Type::Null);
        let description = "A limit, as a number or in digits; -1 is none. Null leaves it as it is.";
        OneOfBuilder::new().item(number).item(digits).item(null).description(Some(description)).into()
    }
}

/// `true` or `1`, `false` or `0`, in whatever case.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, pattern = "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|0|1)$")]
pub(in crate::api) struct Flag(pub(in crate::api) bool);

impl TryFrom<String> for Flag {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Self(true)),
            "false" | "0" => Ok(Self(false)),
            _ => Err("must be true or false"),
        }
    }
}

/// 0 or 1.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(in crate::api) struct Bit(pub(in crate::api) bool);

impl TryFrom<Value> for Bit {
    type Error = Reason;

    fn try_from(value: Value) -> Result<Self, Reason> {
        match value.as_u64() {
            Some(flag @ (0 | 1)) => Ok(Self(flag == 1)),
            _ => Err("must be 0 or 1"),
        }
    }
}

impl ToSchema for Bit {}

impl PartialSchema for Bit {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([0, 1])).into()
    }
}

/// How many replicas an order is for.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(try_from = "Value")]
#[schema(value_type = u64, minimum = 1, maximum = 3)]
pub(in crate::api) struct Count(pub(in crate::api) u64);

impl TryFrom<Value> for Count {
    type Error = Reason;

    fn try_from(value: Value) -> Result<Self, Reason> {
        let count = value.as_u64().filter(|count| (1..=3).contains(count));
        count.map(Self).ok_or("must be a whole number from 1 to 3")
    }
}

/// What only images have, of which there are none here: empty wherever it is given.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "Value")]
pub(in crate::api) struct NoImage;

impl TryFrom<Value> for NoImage {
    type Error = Reason;

    fn try_from(value: Value) -> Result<Self, Reason> {
        let empty = |value: &Value| value.as_str().is_some_and(str::is_empty);
        let fits = value.is_null() || empty(&value) || value.as_array().is_some_and(|items| items.iter().all(empty));
        let refusal = "cannot be given: the compute driver of this service has no images; image stands for an engine \
                       that is installed";
        if fits { Ok(Self) } else { Err(refusal) }
    }
}

impl ToSchema for NoImage {}

impl PartialSchema for NoImage {
    fn schema() -> RefOr<Schema> {
        let nothing = || ObjectBuilder::new().schema_type(Type::String).max_length(Some(0));
        let null = ObjectBuilder::new().schema_type(Type::Null);
        let all = OneOfBuilder::new().item(nothing()).item(ArrayBuilder::new().items(nothing())).item(null);
        all.description(Some("Empty wherever it is given: there are no images here.")).into()
    }
}

/// An object in which nothing is looked for.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
pub(in crate::api) struct Nothing {}

/// Whether a name is there at all, also with null: for `#[serde(default, deserialize_with = "…")]`.
pub(in crate::api) fn there<'de, D, T>(part: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(part).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_limits_hosts_and_networks() {
        for (value, fits) in [
            (json!(1), true),
            (json!("12"), true),
            (json!(0), false),
            (json!(1.5), false),
            (json!("-1"), false),
            (json!(""), false),
            (json!(null), false),
            (json!(true), false),
        ] {
            assert_eq!(Size::try_from(value.clone()).is_ok(), fits, "{value}");
        }
        for (value, fits) in [(json!(-1), true), (json!("-1"), true), (json!(1.5), false), (json!("much"), false)] {
            assert_eq!(Limit::try_from(value.clone()).is_ok(), fits, "{value}");
        }
        for (value, fits) in [("%", true), ("10.0.%", true), ("%.example.org", true), ("a b", false), ("", false)] {
            assert_eq!(Host::try_from(value.to_owned()).is_ok(), fits, "{value}");
        }
        let networks = |list: &[&str]| {
            let list: Result<Vec<_>, _> = list.iter().map(|text| Network::try_from((*text).to_owned())).collect();
            list.and_then(Networks::try_from).is_ok()
        };
        assert!(networks(&["10.0.0.0/8", "1.2.3.4"]));
        assert!(!networks(&["10.0.0.0/33"]) && !networks(&["10.0.0.0/08"]));
        assert!(!networks(&["10.0.0.0/8", "10.0.0.0/8"]));
    }

    #[test]
    fn references_are_ids_in_whatever_form() {
        for (value, id) in [
            (json!("http://h/v1.0/p/flavors/7?x=1"), Some("7")),
            (json!("https://h:8779/v1.0/p/flavors/7/"), Some("7")),
            (json!("/v1.0/p/flavors/7"), Some("7")),
            (json!("my.flavor"), Some("my.flavor")),
            (json!("1?2"), Some("1?2")),
            (json!("1/../2"), None),
            (json!("1/2"), None),
            (json!("http://h/1/../2"), None),
            (json!("http://h/1/./2"), None),
            (json!("http://h/1/%2e%2e/2"), None),
            (json!("http://h/1\\2"), None),
            (json!("http://h/1//"), None),
            (json!("/../2"), None),
            (json!(".."), None),
            (json!("file:/1"), None),
            (json!(3), Some("3")),
            (json!({"id": 6}), Some("6")),
            (json!({"id": "6"}), Some("6")),
            (json!({}), None),
            (json!(""), None),
            (json!(-1), None),
            (json!([]), None),
        ] {
            let read = Reference::try_from(value.clone()).ok().map(|reference| reference.0);
            assert_eq!(read.as_deref(), id, "{value}");
        }
    }
}

//! Reads a body into the type of a handler. A refusal is a sentence that names the field by its path:
//! `instance['volume']['size']`. The data model is serde's over JSON, but an object is never read from a list, what is
//! missing or unknown is said as every other fault, and lists are bounded.

use std::cell::Cell;
use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::app::names::shown;
use crate::error::Error;

/// The body as a `T`.
///
/// # Errors
/// 400: names the field.
pub(in crate::api) fn read<T: DeserializeOwned>(body: Value) -> crate::error::Result<T> {
    let part = Part { value: body, items: &Cell::new(0) };
    serde_path_to_error::deserialize(part).map_err(|wrong| Error::BadRequest(sentence(&wrong)))
}

/// Items of one list at most: each is work for an engine, and one request is not to keep it from others.
pub(in crate::api) const LIST: usize = 100;
/// Items of all lists of a body at most: an order for many accounts with access to many databases has lists in lists.
const ITEMS: usize = 1000;

fn sentence(wrong: &serde_path_to_error::Error<Wrong>) -> String {
    let Wrong { missing, reason } = wrong.inner();
    let missing = missing.map(|name| Segment::Map { key: name.to_owned() });
    let mut path = String::new();
    for segment in wrong.path().iter().chain(&missing) {
        match segment {
            Segment::Seq { index } => path.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                let key = shown(key);
                let key = key.trim_matches('"');
                path.push_str(&if path.is_empty() { key.to_owned() } else { format!("['{key}']") });
            }
            Segment::Unknown => {}
        }
    }
    let path = if path.is_empty() { "the body" } else { &path };
    format!("Validation error: {path} {reason}.")
}

/// What is wrong with a part of the body.
#[derive(Debug)]
struct Wrong {
    /// The field of the part that is meant, where it is not there.
    missing: Option<&'static str>,
    reason: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self { missing: None, reason: reason.to_string() }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        // Null is not given.
        if unexpected == Unexpected::Unit {
            unfit(&Value::Null, "")
        } else {
            Self::custom(format!("must be {expected}"))
        }
    }

    fn missing_field(name: &'static str) -> Self {
        Self { missing: Some(name), reason: "is required".to_owned() }
    }

    fn unknown_field(_name: &str, _known: &'static [&'static str]) -> Self {
        Self::custom("is not known here")
    }
}

fn unfit(value: &Value, expected: &str) -> Wrong {
    if value.is_null() {
        return de::Error::custom("is required");
    }
    de::Error::custom(format!("must be {expected}"))
}

/// A value of the body.
struct Part<'a> {
    value: Value,
    /// Of all lists of the body that were read.
    items: &'a Cell<usize>,
}

impl Part<'_> {
    fn count(&self, list: &[Value]) -> Result<(), Wrong> {
        self.items.set(self.items.get() + list.len());
        if list.len() > LIST {
            return Err(de::Error::custom(format!("has {} items, and at most {LIST} are taken", list.len())));
        }
        if self.items.get() > ITEMS {
            return Err(de::Error::custom(format!(
                "is one list too many: all lists together have at most {ITEMS} items"
            )));
        }
        Ok(())
    }
}

impl IntoDeserializer<'_, Wrong> for Part<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Part<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if let Value::Array(list) = &self.value {
            self.count(list)?;
        }
        let part = |value| Part { value, items: self.items };
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => number.deserialize_any(visitor).map_err(de::Error::custom),
            Value::String(text) => visitor.visit_string(text),
            Value::Array(list) => visitor.visit_seq(SeqDeserializer::new(list.into_iter().map(part))),
            Value::Object(parts) => {
                visitor.visit_map(MapDeserializer::new(parts.into_iter().map(|(name, value)| (name, part(value)))))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.value.is_boolean() { self.deserialize_any(visitor) } else { Err(unfit(&self.value, "true or false")) }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.value.is_string() { self.deserialize_any(visitor) } else { Err(unfit(&self.value, "a string")) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.value.is_array() { self.deserialize_any(visitor) } else { Err(unfit(&self.value, "a list")) }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.value.is_object() { self.deserialize_any(visitor) } else { Err(unfit(&self.value, "an object")) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf unit unit_struct tuple tuple_struct
        enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::api::http::fields::{Name, Size};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        instance: Order,
        list: Option<Vec<Order>>,
    }

    #[derive(Debug, Deserialize)]
    struct Order {
        name: Name,
        size: Option<Size>,
        flag: Option<bool>,
    }

    #[test]
    fn each_refusal_names_its_field() {
        let good = json!({"name": "n"});
        for (body, sentence) in [
            (json!([]), "the body must be an object."),
            (json!(null), "the body is required."),
            (json!({}), "instance is required."),
            (json!({"instance": null}), "instance is required."),
            (json!({"instance": ["n", 1, true]}), "instance must be an object."),
            (json!({"instance": {}}), "instance['name'] is required."),
            (json!({"instance": {"name": null}}), "instance['name'] is required."),
            (json!({"instance": {"name": 5}}), "instance['name'] must be a string."),
            (json!({"instance": {"name": "n", "size": 0}}), "instance['size'] must be a whole number from 1."),
            (json!({"instance": {"name": "n", "flag": 1}}), "instance['flag'] must be true or false."),
            (json!({"instance": good, "list": {}}), "list must be a list."),
            (json!({"instance": good, "list": [good, {"name": ""}]}), "list[1]['name'] must have 1 to 255 characters."),
            (json!({"instance": good, "colour": 1}), "colour is not known here."),
            (
                json!({"instance": {"name": "n", "a\nb": {"c": vec![1; 101]}}}),
                "instance['a\\nb']['c'] has 101 items, and at most 100 are taken.",
            ),
        ] {
            let error = read::<Body>(body.clone()).unwrap_err().to_string();
            assert_eq!(error, format!("Validation error: {sentence}"), "{body}");
        }
    }

    #[test]
    fn what_is_null_is_not_given_and_what_is_not_asked_for_is_skipped() {
        let body = json!({"instance": {"name": "n", "size": null, "colour": {"deep": [1]}}, "list": null});
        let body: Body = read(body).unwrap();
        assert_eq!(body.instance.name.0, "n");
        assert!(body.instance.size.is_none() && body.instance.flag.is_none() && body.list.is_none());
    }

    #[test]
    fn lists_are_bounded_alone_and_together() {
        let order = |n: usize| json!({"name": n.to_string()});
        let list: Vec<Value> = (0..LIST).map(order).collect();
        read::<Body>(json!({"instance": order(1), "list": list})).unwrap();
        let long: Vec<Value> = (0..=LIST).map(order).collect();
        let error = read::<Body>(json!({"instance": order(1), "list": long})).unwrap_err().to_string();
        assert_eq!(error, "Validation error: list has 101 items, and at most 100 are taken.");
        let error =
            read::<Body>(json!({"instance": {"name": "n", "ignored": {"deep": long}}})).unwrap_err().to_string();
        assert!(error.contains("instance['ignored']['deep'] has 101 items"), "{error}");
        let lists: Vec<Value> = (0..11).map(|_| json!({"name": "n", "more": list})).collect();
        let error = read::<Body>(json!({"instance": order(1), "list": lists})).unwrap_err().to_string();
        assert!(error.contains("list[9]['more']") && error.contains("1000"), "{error}");
    }
}

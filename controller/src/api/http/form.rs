//! Reads a body into the type of a handler. A refusal is a sentence that names the field by its path:
//! `instance['volume']['size']`. The data model is serde's over JSON, but an object is never read from a list, and what is
//! missing or unknown is said as every other fault.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use crate::app::names::shown;
use crate::error::Error;

/// The body as a `T`.
///
/// # Errors
/// 400: names the field.
pub(in crate::api) fn read<T: DeserializeOwned>(body: Value) -> crate::error::Result<T> {
    check_lists(&body, &mut 0).map_err(|wrong| Error::BadRequest(wrong.sentence()))?;
    T::deserialize(Part(body)).map_err(|wrong| Error::BadRequest(wrong.sentence()))
}

/// Items of one list at most.
pub(in crate::api) const LIST: usize = 100;
/// Items of all lists of a body at most: an order for many accounts with access to many databases has lists in lists.
const ITEMS: usize = 1000;

/// Each item of a list is work for an engine, and one request is not to keep it from others.
fn check_lists(value: &Value, items: &mut usize) -> Result<(), Wrong> {
    match value {
        Value::Array(list) => {
            *items += list.len();
            if list.len() > LIST {
                return Err(de::Error::custom(format!("has {} items, and at most {LIST} are taken", list.len())));
            }
            if *items > ITEMS {
                return Err(de::Error::custom(format!(
                    "is one list too many: all lists together have at most {ITEMS} items"
                )));
            }
            let mut all = list.iter().enumerate();
            all.try_for_each(|(n, item)| check_lists(item, items).map_err(|wrong| wrong.within(At::Item(n))))
        }
        Value::Object(parts) => parts.iter().try_for_each(|(name, part)| {
            check_lists(part, items).map_err(|wrong| wrong.within(At::Name(name.clone())))
        }),
        _ => Ok(()),
    }
}

/// What is wrong, and where: the path from the inside out.
#[derive(Debug)]
struct Wrong {
    path: Vec<At>,
    reason: String,
}

#[derive(Debug)]
enum At {
    Name(String),
    Item(usize),
}

impl Wrong {
    fn within(mut self, at: At) -> Self {
        self.path.push(at);
        self
    }

    fn sentence(&self) -> String {
        let mut path = String::new();
        for at in self.path.iter().rev() {
            match at {
                At::Name(name) if path.is_empty() => path.push_str(name),
                At::Name(name) => path.push_str(&format!("['{name}']")),
                At::Item(n) => path.push_str(&format!("[{n}]")),
            }
        }
        let path = if path.is_empty() { "the body" } else { &path };
        format!("Validation error: {path} {}.", self.reason)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self { path: Vec::new(), reason: reason.to_string() }
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
        Self::custom("is required").within(At::Name(name.to_owned()))
    }

    fn unknown_field(name: &str, _known: &'static [&'static str]) -> Self {
        Self::custom("is not known here").within(At::Name(shown(name).trim_matches('"').to_owned()))
    }
}

fn unfit(value: &Value, expected: &str) -> Wrong {
    if value.is_null() {
        return de::Error::custom("is required");
    }
    de::Error::custom(format!("must be {expected}"))
}

/// A value of the body.
struct Part(Value);

impl<'de> Deserializer<'de> for Part {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => number.deserialize_any(visitor).map_err(de::Error::custom),
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(Items { rest: items.into_iter(), next: 0 }),
            Value::Object(parts) => visitor.visit_map(Parts { rest: parts.into_iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.0.is_boolean() { self.deserialize_any(visitor) } else { Err(unfit(&self.0, "true or false")) }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.0.is_string() { self.deserialize_any(visitor) } else { Err(unfit(&self.0, "a string")) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.0.is_array() { self.deserialize_any(visitor) } else { Err(unfit(&self.0, "a list")) }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.0.is_object() { self.deserialize_any(visitor) } else { Err(unfit(&self.0, "an object")) }
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

struct Items {
    rest: std::vec::IntoIter<Value>,
    next: usize,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        let Some(value) = self.rest.next() else { return Ok(None) };
        let at = At::Item(self.next);
        self.next += 1;
        seed.deserialize(Part(value)).map(Some).map_err(|wrong| wrong.within(at))
    }
}

struct Parts {
    rest: serde_json::map::IntoIter,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Parts {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let Some((name, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((name.clone(), value));
        seed.deserialize(Part(Value::String(name))).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let Some((name, value)) = self.value.take() else {
            return Err(de::Error::custom("has a value without a name"));
        };
        seed.deserialize(Part(value)).map_err(|wrong| wrong.within(At::Name(name)))
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

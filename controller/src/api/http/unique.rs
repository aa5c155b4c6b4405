//! JSON in which no object has a name twice. Readers differ in which of the two counts: what a proxy or a filter in front of
//! the service has looked at might not be what is carried out.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::app::names::shown;

pub(in crate::api) struct Unique(pub(in crate::api) Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut parts: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = parts.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!("the name {} stands twice in one object", shown(&name))));
            }
            let Unique(value) = parts.next_value()?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        serde_json::from_str::<Unique>(text).map(|unique| unique.0).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_what_serde_json_reads() {
        for text in [
            "null",
            "[]",
            "{}",
            r#"{"a": [true, -1, 18446744073709551615, 1.5, 1e3, "\u00e9\n", null, {"a": {"a": 1}}], "b": ""}"#,
        ] {
            assert_eq!(read(text).unwrap(), serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
        for text in ["", "{", "[1,]", "{} {}", "nul", &"[".repeat(100_000)] {
            assert!(read(text).is_err());
        }
    }

    #[test]
    fn refuses_a_name_that_stands_twice_and_says_which() {
        for text in [r#"{"name": "a", "name": "a"}"#, r#"{"i": [{"name": 1, "b": 2, "\u006eame": null}]}"#] {
            let error = read(text).unwrap_err();
            assert!(error.contains(r#""name" stands twice"#), "{error}");
        }
    }
}

//! The form of a body, checked field by field. Each refusal names the field by its path: `instance['volume']['size']`.

use std::net::Ipv4Addr;

use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A value of a body, with its path.
#[derive(Clone)]
pub(super) struct Field<'a> {
    path: String,
    value: Option<&'a Value>,
}

impl<'a> Field<'a> {
    /// The named part of a whole body.
    pub(super) fn of(body: &'a Value, name: &str) -> Self {
        Self { path: name.to_owned(), value: body.get(name) }
    }

    /// A part of an object; absent parts and nulls are both "not given" to [`Field::given`].
    pub(super) fn part(&self, name: &str) -> Self {
        Self { path: format!("{}['{name}']", self.path), value: self.value.and_then(|value| value.get(name)) }
    }

    fn refuse<T>(&self, reason: &str) -> Result<T> {
        Err(Error::BadRequest(format!("Validation error: {} {reason}.", self.path)))
    }

    /// Whether there is a value that is not null.
    pub(super) fn given(&self) -> bool {
        self.value.is_some_and(|value| !value.is_null())
    }

    /// Whether the name is there, with whatever value.
    pub(super) fn there(&self) -> bool {
        self.value.is_some()
    }

    /// The value, when it is given: `read` reads it.
    pub(super) fn optional<T>(&self, read: impl FnOnce(&Self) -> Result<T>) -> Result<Option<T>> {
        if self.given() { read(self).map(Some) } else { Ok(None) }
    }

    /// An object.
    pub(super) fn object(&self) -> Result<&'a Map<String, Value>> {
        match self.value {
            Some(Value::Object(object)) => Ok(object),
            None => self.refuse("is required"),
            Some(_) => self.refuse("must be an object"),
        }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Result<Vec<Self>> {
        match self.value {
            Some(Value::Array(items)) => {
                let item = |(n, value)| Self { path: format!("{}[{n}]", self.path), value: Some(value) };
                Ok(items.iter().enumerate().map(item).collect())
            }
            None => self.refuse("is required"),
            Some(_) => self.refuse("must be a list"),
        }
    }

    /// Any string.
    pub(super) fn text(&self) -> Result<String> {
        match self.value {
            Some(Value::String(text)) => Ok(text.clone()),
            None | Some(Value::Null) => self.refuse("is required"),
            Some(_) => self.refuse("must be a string"),
        }
    }

    /// A string of 1 to 255 characters with at least one letter or digit.
    pub(super) fn name(&self) -> Result<String> {
        let text = self.text()?;
        if text.is_empty() || text.chars().count() > 255 {
            return self.refuse("must have 1 to 255 characters");
        }
        if !text.chars().any(|c| c.is_ascii_alphanumeric()) {
            return self.refuse("must contain a letter or a digit");
        }
        if text.contains('\0') {
            return self.refuse("must not contain NUL");
        }
        Ok(text)
    }

    /// A password: a string that is not empty.
    pub(super) fn password(&self) -> Result<SecretString> {
        let text = self.text()?;
        if text.is_empty() { self.refuse("must not be empty") } else { Ok(SecretString::from(text)) }
    }

    /// The id of a reference, which may be an id (a string or a number) or a URL.
    pub(super) fn reference(&self) -> Result<String> {
        let text = match self.value {
            Some(Value::Number(number)) if number.is_u64() => number.to_string(),
            // openstacksdk sends a flavor as an object at times.
            Some(Value::Object(_)) if self.part("id").given() => return self.part("id").reference(),
            _ => self.name()?,
        };
        let path = text.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        Ok(path.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// A size from 1: a whole number, or a string of digits.
    pub(super) fn size(&self) -> Result<u64> {
        let number = match self.value {
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) if text.len() <= 40 && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().ok()
            }
            None | Some(Value::Null) => return self.refuse("is required"),
            Some(_) => None,
        };
        match number {
            Some(number @ 1..) => Ok(number),
            _ => self.refuse("must be a whole number from 1"),
        }
    }

    /// A whole number in a range.
    pub(super) fn number(&self, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
        match self.value.and_then(Value::as_u64) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => self.refuse(&format!("must be a whole number from {} to {}", range.start(), range.end())),
        }
    }

    /// A whole number that may be negative, or a string of one.
    pub(super) fn limit(&self) -> Result<i64> {
        let number = match self.value {
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(number) => Ok(number),
            None => self.refuse("must be a whole number"),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool> {
        match self.value {
            Some(Value::Bool(value)) => Ok(*value),
            _ => self.refuse("must be true or false"),
        }
    }

    /// A host pattern of an account.
    pub(super) fn host(&self) -> Result<String> {
        let text = self.text()?;
        let inner = text.strip_prefix('%').unwrap_or(&text);
        let inner = inner.strip_suffix('%').unwrap_or(inner);
        let fits = !text.is_empty() && inner.chars().all(|c| c.is_alphanumeric() || "_(-).".contains(c));
        if fits && text.len() <= 255 { Ok(text) } else { self.refuse("must be a host name or address, with % for any") }
    }

    /// A list of networks `a.b.c.d/n` without repetition.
    pub(super) fn networks(&self) -> Result<Vec<String>> {
        let mut networks = Vec::new();
        for item in self.items()? {
            let text = item.text()?;
            let (address, bits) = text.split_once('/').unwrap_or((&text, "32"));
            let fits = address.parse::<Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 32);
            if !fits {
                return item.refuse("must be an IPv4 network such as 10.0.0.0/8");
            }
            if networks.contains(&text) {
                return item.refuse("is there twice");
            }
            networks.push(text);
        }
        Ok(networks)
    }

    /// An IPv4 address.
    pub(super) fn address(&self) -> Result<String> {
        let text = self.text()?;
        if text.parse::<Ipv4Addr>().is_ok() { Ok(text) } else { self.refuse("must be an IPv4 address") }
    }

    /// Refuses every name but these.
    pub(super) fn only(&self, names: &[&str]) -> Result<()> {
        match self.object()?.keys().find(|name| !names.contains(&name.as_str())) {
            Some(name) => self.part(&crate::app::names::shown(name)).refuse("is not known here"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_refusal_names_its_field() {
        let body =
            json!({"a": {"size": true, "n": "!!", "l": [{"x": 5}], "r": "http://h/v1.0/p/flavors/7?x=1", "i": 3}});
        let a = Field::of(&body, "a");
        assert_eq!(
            a.part("size").size().unwrap_err().to_string(),
            "Validation error: a['size'] must be a whole number from 1."
        );
        assert!(a.part("n").name().unwrap_err().to_string().contains("a['n']"));
        let items = a.part("l").items().unwrap();
        assert!(items[0].part("x").text().unwrap_err().to_string().contains("a['l'][0]['x'] must be a string"));
        assert_eq!(a.part("r").reference().unwrap(), "7");
        assert_eq!(a.part("i").reference().unwrap(), "3");
        assert!(a.part("none").text().unwrap_err().to_string().contains("is required"));
        assert!(
            a.only(&["size", "n", "l", "r"]).unwrap_err().to_string().contains("a['\"i\"']")
                || a.only(&["size", "n", "l", "r"]).is_err()
        );
    }

    #[test]
    fn sizes_hosts_and_networks() {
        let read = |value: Value| Field { path: "f".into(), value: Some(Box::leak(Box::new(value))) };
        for (value, fits) in [
            (json!(1), true),
            (json!("12"), true),
            (json!(0), false),
            (json!(1.5), false),
            (json!("-1"), false),
            (json!(""), false),
            (json!(null), false),
        ] {
            assert_eq!(read(value.clone()).size().is_ok(), fits, "{value}");
        }
        for (value, fits) in [("%", true), ("10.0.%", true), ("%.example.org", true), ("a b", false), ("", false)] {
            assert_eq!(read(json!(value)).host().is_ok(), fits, "{value}");
        }
        assert!(read(json!(["10.0.0.0/8", "1.2.3.4"])).networks().is_ok());
        assert!(read(json!(["10.0.0.0/33"])).networks().is_err());
        assert!(read(json!(["10.0.0.0/8", "10.0.0.0/8"])).networks().is_err());
    }
}

//! What parameters may be set to, by the rules of the manifest. A value that is accepted is kept as the engine has it: under
//! the engine's own name, a number in the engine's own unit, a word of a list in the engine's own spelling.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};
use trove_strategy::{Parameter, ParameterType};

use super::names::shown;
use super::units::Unit;
use crate::error::{Error, Result};
use crate::model::configurations::Values;

/// Longest text, bytes.
const LONGEST: usize = 4096;

/// What stands for a value that is not shown.
pub const MASK: &str = "***";

/// Whether the values of a parameter are shown to nobody.
pub fn is_secret(name: &str) -> bool {
    name.to_ascii_lowercase().contains("password")
}

/// The values as they are kept, of a version with these parameters.
///
/// # Errors
/// 422: names the parameter, the value and what is allowed.
pub(super) fn check(parameters: &[Parameter], version: &str, given: Map<String, Value>) -> Result<Values> {
    if parameters.is_empty() {
        return Err(Error::Unprocessable(format!(
            "No parameters can be set in the datastore version {}.",
            shown(version)
        )));
    }
    let mut values = Values::new();
    for (name, value) in given {
        let parameter = find(parameters, version, &name)?;
        let value = check_value(parameter, value)?;
        if values.insert(parameter.name.clone(), value).is_some() {
            return Err(Error::Unprocessable(format!("The parameter {} is given twice.", parameter.name)));
        }
    }
    Ok(values)
}

/// The parameter of this name, in whatever case.
///
/// # Errors
/// 422.
pub(super) fn find<'a>(parameters: &'a [Parameter], version: &str, name: &str) -> Result<&'a Parameter> {
    parameters.iter().find(|parameter| parameter.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        Error::Unprocessable(format!(
            "The parameter {} cannot be set in the datastore version {}: only those of its list of parameters can.",
            shown(name),
            shown(version)
        ))
    })
}

/// One value as it is kept.
fn check_value(parameter: &Parameter, value: Value) -> Result<Value> {
    let told = if is_secret(&parameter.name) { MASK.to_owned() } else { told(&value) };
    accept(parameter, value).ok_or_else(|| {
        let (name, allowed) = (&parameter.name, allowed(parameter));
        Error::Unprocessable(format!("The value {told} of the parameter {name} is not allowed: it must be {allowed}."))
    })
}

fn accept(parameter: &Parameter, value: Value) -> Option<Value> {
    match (parameter.kind, value) {
        (ParameterType::Boolean, value @ Value::Bool(_)) => Some(value),
        (ParameterType::Integer, Value::Number(number)) => {
            whole(&number).filter(|_| in_range(parameter, &number)).map(|_| Value::Number(number))
        }
        (ParameterType::Float, Value::Number(number)) => in_range(parameter, &number).then_some(Value::Number(number)),
        (kind @ (ParameterType::Integer | ParameterType::Float), Value::String(text)) => {
            let unit = parameter.unit.as_deref().and_then(Unit::parse)?;
            let number = if kind == ParameterType::Integer { unit.whole(&text) } else { unit.float(&text) };
            number.filter(|number| in_range(parameter, number)).map(Value::Number)
        }
        (ParameterType::String, Value::String(text)) => {
            if parameter.allowed.is_empty() {
                let fits = text.len() <= LONGEST && !text.contains(char::is_control);
                return fits.then_some(Value::String(text));
            }
            // The engine's own spelling first: there may be words that differ in case alone.
            let exact = parameter.allowed.iter().find(|word| **word == text);
            let word = exact.or_else(|| parameter.allowed.iter().find(|word| word.eq_ignore_ascii_case(&text)));
            word.cloned().map(Value::String)
        }
        _ => None,
    }
}

/// What may be set, as the end of a sentence: `it must be …`.
fn allowed(parameter: &Parameter) -> String {
    let range = match (&parameter.min, &parameter.max) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" from {min}"),
        (None, Some(max)) => format!(" up to {max}"),
        (None, None) => String::new(),
    };
    let unit = parameter.unit.as_deref().unwrap_or_default();
    let unit = match Unit::parse(unit) {
        Some(known) => format!(", in units of {unit}, or a text with a unit such as {:?}", known.example()),
        None if unit.is_empty() => String::new(),
        None => format!(", in units of {unit}"),
    };
    match parameter.kind {
        ParameterType::Boolean => "true or false".to_owned(),
        ParameterType::Integer => format!("a whole number{range}{unit}"),
        ParameterType::Float => format!("a number{range}{unit}"),
        ParameterType::String if parameter.allowed.is_empty() => {
            format!("a string of at most {LONGEST} bytes without control characters")
        }
        ParameterType::String => {
            let words: Vec<String> = parameter.allowed.iter().map(|word| format!("{word:?}")).collect();
            format!("one of {}", words.join(", "))
        }
    }
}

/// A value inside a sentence: not more of it than a reader needs.
fn told(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text),
        Value::Array(_) => "[…]".to_owned(),
        Value::Object(_) => "{…}".to_owned(),
        scalar => scalar.to_string(),
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// Compares what has 64 bits without loss.
pub(super) fn compare(one: &Number, other: &Number) -> Option<Ordering> {
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

fn in_range(parameter: &Parameter, number: &Number) -> bool {
    let above = |min| compare(number, min).is_some_and(Ordering::is_ge);
    let below = |max| compare(number, max).is_some_and(Ordering::is_le);
    parameter.min.as_ref().is_none_or(above) && parameter.max.as_ref().is_none_or(below)
}

/// The values as they are shown: those whose parameter names a password are not.
pub fn masked(values: &Values) -> Values {
    let masked = |(name, value): (&String, &Value)| {
        let value = if is_secret(name) { Value::from(MASK) } else { value.clone() };
        (name.clone(), value)
    };
    values.iter().map(masked).collect()
}

/// Puts back what a client sends as it was shown to it.
pub(super) fn unmask(given: &mut Map<String, Value>, before: &Values) {
    for (name, value) in given.iter_mut().filter(|(name, value)| is_secret(name) && **value == MASK) {
        let kept = before.iter().find(|(kept, _)| kept.eq_ignore_ascii_case(name));
        if let Some((_, kept)) = kept {
            *value = kept.clone();
        }
    }
}

#[cfg(test)]
mod tests;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn number(min: i64, max: i64, unit: Option<&str>) -> Parameter {
    let mut parameter = Parameter::new("limit", ParameterType::Integer);
    (parameter.min, parameter.max) = (Some(min.into()), Some(max.into()));
    parameter.unit = unit.map(str::to_owned);
    parameter
}

fn parameters() -> Vec<Parameter> {
    let mut buffers = number(16, 1 << 30, Some("8kB"));
    buffers.name = "shared_buffers".to_owned();
    let mut largest = Parameter::new("largest", ParameterType::Integer);
    (largest.min, largest.max) = (Some(0.into()), Some(u64::MAX.into()));
    let mut cost = Parameter::new("cost", ParameterType::Float);
    (cost.min, cost.max) = (Some(0.into()), Number::from_f64(1.5));
    let mut delay = Parameter::new("delay", ParameterType::Float);
    delay.unit = Some("ms".to_owned());
    let mut level = Parameter::new("Level", ParameterType::String);
    level.allowed = ["low", "high", "High"].map(str::to_owned).to_vec();
    let plain =
        [("fast", ParameterType::Boolean), ("path", ParameterType::String), ("password", ParameterType::String)];
    let plain = plain.map(|(name, kind)| Parameter::new(name, kind));
    [number(1, 100, None), buffers, largest, cost, delay, level].into_iter().chain(plain).collect()
}

fn one(name: &str, value: &Value) -> Result<Value> {
    let given = Map::from_iter([(name.to_owned(), value.clone())]);
    check(&parameters(), "15", given).map(|values| values.into_values().next().unwrap())
}

#[test]
fn what_is_accepted_is_kept_as_the_engine_has_it() {
    for (name, value, kept) in [
        ("limit", json!(1), json!(1)),
        ("LIMIT", json!(100), json!(100)),
        ("shared_buffers", json!(16), json!(16)),
        ("shared_buffers", json!("64MB"), json!(8192)),
        ("largest", json!(u64::MAX), json!(u64::MAX)),
        ("cost", json!(1.5), json!(1.5)),
        ("cost", json!(1), json!(1)),
        ("delay", json!("2s"), json!(2000)),
        ("delay", json!("1500us"), json!(1.5)),
        ("level", json!("LOW"), json!("low")),
        ("level", json!("high"), json!("high")),
        ("level", json!("High"), json!("High")),
        ("fast", json!(false), json!(false)),
        ("path", json!(""), json!("")),
        ("path", json!("'; drop table x; --\\é"), json!("'; drop table x; --\\é")),
    ] {
        assert_eq!(one(name, &value).unwrap(), kept, "{name} {value}");
    }
    let given = Map::from_iter([("LEVEL".to_owned(), json!("low"))]);
    assert_eq!(check(&parameters(), "15", given).unwrap().keys().collect::<Vec<_>>(), ["Level"]);
}

#[test]
fn what_is_refused_names_parameter_value_and_what_is_allowed() {
    for (name, value, sentence) in [
        (
            "limit",
            json!(0),
            "The value 0 of the parameter limit is not allowed: it must be a whole number from 1 to 100.",
        ),
        ("limit", json!(101), "from 1 to 100"),
        ("limit", json!(1.0), "The value 1.0 of"),
        ("limit", json!("7"), "The value \"7\" of"),
        ("limit", json!("1MB"), "a whole number from 1 to 100."),
        ("limit", json!(true), "The value true of"),
        ("limit", json!(null), "The value null of"),
        ("limit", json!([1]), "The value […] of"),
        ("limit", json!({"a": 1}), "The value {…} of"),
        ("limit", json!(1e300), "from 1 to 100"),
        ("shared_buffers", json!("64"), "in units of 8kB, or a text with a unit such as \"64MB\"."),
        ("shared_buffers", json!("1kB"), "in units of 8kB"),
        ("shared_buffers", json!("8kB"), "from 16 to"),
        ("largest", json!(-1), "from 0 to 18446744073709551615"),
        ("cost", json!(1.6), "a number from 0 to 1.5."),
        ("cost", json!("1"), "a number"),
        ("level", json!("medium"), "it must be one of \"low\", \"high\", \"High\"."),
        ("level", json!(1), "one of"),
        ("fast", json!(1), "it must be true or false."),
        ("fast", json!("on"), "The value \"on\" of"),
        ("path", json!(1), "a string"),
        ("path", json!("a\nb"), "without control characters"),
        ("path", json!("\0"), "without control characters"),
        ("path", json!("x".repeat(4097)), "at most 4096 bytes"),
        ("colour", json!("red"), "The parameter \"colour\" cannot be set in the datastore version \"15\""),
        ("", json!(1), "The parameter \"\" cannot be set"),
    ] {
        let refused = one(name, &value).unwrap_err();
        assert!(matches!(refused, Error::Unprocessable(_)), "{name} {value}");
        assert!(refused.to_string().contains(sentence), "{name} {value}: {refused}");
    }
    let twice = json!({"limit": 1, "Limit": 2}).as_object().unwrap().clone();
    assert!(check(&parameters(), "15", twice).unwrap_err().to_string().contains("limit is given twice"));
    let none = check(&[], "15", Map::new()).unwrap_err().to_string();
    assert_eq!(none, "No parameters can be set in the datastore version \"15\".");
}

#[test]
fn a_password_is_shown_to_nobody_and_may_be_sent_back_as_it_is_shown() {
    let refused = one("password", &json!("open\nsesame")).unwrap_err().to_string();
    assert!(refused.contains("The value *** of the parameter password") && !refused.contains("sesame"), "{refused}");
    let kept = Values::from([("password".to_owned(), json!("sesame")), ("limit".to_owned(), json!(1))]);
    assert_eq!(masked(&kept), Values::from([("password".to_owned(), json!("***")), ("limit".to_owned(), json!(1))]));
    let mut sent = json!({"PassWord": "***", "limit": "***"}).as_object().unwrap().clone();
    unmask(&mut sent, &kept);
    assert_eq!(Value::from(sent), json!({"PassWord": "sesame", "limit": "***"}));
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-200..200_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[0-9]{1,4} ?(kB|MB|GB|ms|s|min|M)".prop_map(Value::from),
        "(?i)low|high".prop_map(Value::from),
        Just(Value::Null),
        Just(json!([1])),
    ]
}

proptest! {
    #[test]
    fn what_is_accepted_is_read_back_the_same_and_what_is_refused_is_422(
        index in 0..9_usize, upper in any::<bool>(), value in any_value(),
    ) {
        let parameter = parameters().swap_remove(index);
        let name = if upper { parameter.name.to_uppercase() } else { parameter.name.clone() };
        match one(&name, &value) {
            Ok(kept) => {
                prop_assert_eq!(one(&parameter.name, &kept).unwrap(), kept.clone());
                let written = serde_json::to_string(&kept).unwrap();
                let read: Value = serde_json::from_str(&written).unwrap();
                // The last digit of a float may be another one when it is read.
                let close = |one: f64, other: f64| (one - other).abs() <= other.abs() * 1e-15;
                let is_close = read.as_f64().zip(kept.as_f64()).is_some_and(|(read, kept)| close(read, kept));
                prop_assert!(read == kept || (kept.is_f64() && is_close), "{} {}", read, kept);
                let of_kind = match parameter.kind {
                    ParameterType::Boolean => kept.is_boolean(),
                    ParameterType::Integer => kept.is_i64() || kept.is_u64(),
                    ParameterType::Float => kept.is_number(),
                    ParameterType::String => kept.is_string(),
                };
                prop_assert!(of_kind, "{}", kept);
            }
            Err(Error::Unprocessable(said)) => {
                prop_assert!(said.contains(&parameter.name) && said.len() < 1000, "{}", said);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

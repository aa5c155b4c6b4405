use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;
use crate::api::router::described;

const VERBS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

fn all(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter().filter(|(verb, _)| VERBS.contains(&verb.as_str()));
        operations.map(move |(verb, operation)| (format!("{verb} {path}"), operation))
    });
    operations.collect()
}

#[test]
fn the_document_is_the_one_that_was_reviewed() {
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let (_, document) = described();
    let Document(text) = Document::of(&document);
    if std::env::var_os("TROVE_KEEP_OPENAPI").is_some() {
        std::fs::write(&kept, &text).unwrap();
    }
    let reviewed = std::fs::read_to_string(&kept).unwrap_or_default();
    assert!(text == reviewed, "docs/openapi.json is not what the handlers say: `make openapi` renews it, for review");
}

#[test]
fn every_operation_says_what_it_is() {
    let (_, document) = described();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let tags: BTreeSet<&str> = TAGS.iter().map(|(name, _)| *name).collect();
    let mut ids = BTreeSet::new();
    for (name, operation) in all(&document) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}: its operationId is another's");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name} has no summary");
        let tagged = operation["tags"].as_array().unwrap();
        assert!(tagged.len() == 1 && tags.contains(tagged[0].as_str().unwrap()), "{name}: {tagged:?}");
        let ours = name.contains("/v1.0/{project}");
        assert_eq!(operation.get("security").is_some(), ours, "{name}");
        let named =
            operation["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "path");
        let named: BTreeSet<&str> = named.filter_map(|parameter| parameter["name"].as_str()).collect();
        let parts = name.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        assert_eq!(named, parts.filter(|part| *part != "project").collect(), "{name}");
        let answers = operation["responses"].as_object().unwrap();
        assert!(answers.keys().any(|status| status.starts_with('2')), "{name}");
        for (status, answer) in answers {
            let named = answer.get("$ref").and_then(Value::as_str).map(|name| name.trim_start_matches('#'));
            let answer = named.map_or(answer, |name| document.pointer(name).unwrap());
            assert!(answer["headers"].get("x-openstack-request-id").is_some(), "{name} {status}");
            let fault = status.parse::<u16>().unwrap() >= 400 && status != "406";
            assert_eq!(
                fault,
                answer.pointer("/content/application~1json/schema/properties").is_some(),
                "{name} {status}"
            );
        }
    }
    assert!(ids.len() > 50, "{}", ids.len());
}

#[test]
fn whatever_is_referred_to_is_there() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(parts) => {
                found.extend(parts.get("$ref").and_then(Value::as_str));
                parts.values().for_each(|part| references(part, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let (_, document) = described();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(found.contains(format!("#/components/schemas/{name}").as_str()), "nothing refers to {name}");
    }
    assert!(!document.to_string().contains(SCHEMAS), "schemas of responses have not become components");
}

//! The description of the API, OpenAPI 3.1: what the handlers' types say, and what holds for all of them.

use std::collections::BTreeSet;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, RefOr, Required};

use super::http::{fault, form};

/// Under this name a response carries the schemas that it needs, until they have become components.
pub(super) const SCHEMAS: &str = "x-schemas";

const TOKEN: &str = "token";

const DESCRIPTION: &str = "\
Trove's API, version 1.0, and what this service adds to it. The identity (Keystone v3) has a description of its own. \
Calls of Trove's that are not built yet answer 501 and are not described here.";

const TAGS: [(&str, &str); 10] = [
    ("service", "What this is. No token is needed."),
    ("instances", "Database servers."),
    ("operations", "What the service does with an instance, and what changes."),
    ("databases", "Databases of an instance."),
    ("users", "Accounts of an instance, what they may enter, and root."),
    ("configurations", "Configuration groups: values of parameters under a name, which instances are given."),
    ("backups", "Backups of instances, of which new ones are made."),
    ("datastores", "What can be ordered: datastores, their versions and parameters, flavors."),
    ("quotas", "What a project may have, and how often it may ask."),
    ("management", "For administrators."),
];

/// What the routes are added to.
pub(super) fn begin() -> OpenApi {
    let token = ApiKey::Header(ApiKeyValue::with_description("X-Auth-Token", "From `POST /identity/v3/auth/tokens`."));
    let tags = TAGS.map(|(name, description)| TagBuilder::new().name(name).description(Some(description)).build());
    let components = ComponentsBuilder::new().security_scheme(TOKEN, SecurityScheme::ApiKey(token));
    OpenApiBuilder::new()
        .info(InfoBuilder::new().title("trove-rs").version("1.0").description(Some(DESCRIPTION)))
        .components(Some(components.responses_from_iter(fault::described()).build()))
        .tags(Some(tags))
        .build()
}

/// The document, with what the layers around all handlers do.
pub(super) fn finish(mut api: OpenApi) -> Value {
    for (path, item) in &mut api.paths.paths {
        let ours = path.starts_with("/v1.0/{project}");
        if ours {
            item.parameters = Some(vec![project().into()]);
        }
        for operation in operations(item) {
            if ours {
                authorized(operation);
            }
            operation.responses.responses.values_mut().for_each(identified);
        }
    }
    if let Some(components) = &mut api.components {
        components.responses.values_mut().for_each(identified);
    }
    // The document is made of strings and numbers.
    let mut document = serde_json::to_value(api).unwrap_or_default();
    let mut schemas = Map::new();
    collect(&mut document, &mut schemas);
    if let Some(components) = document["components"]["schemas"].as_object_mut() {
        components.append(&mut schemas);
    }
    bound_lists(&mut document);
    document
}

/// Says of each list that a body may have how long it is at most, as `form.rs` refuses longer ones.
fn bound_lists(document: &mut Value) {
    let mut open = Vec::new();
    for item in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            if let Some(body) = operation.get_mut("requestBody") {
                bound(body, &mut open);
            }
        }
    }
    let mut done = BTreeSet::new();
    while let Some(name) = open.pop() {
        if done.insert(name.clone())
            && let Some(schema) = document.pointer_mut(&name)
        {
            bound(schema, &mut open);
        }
    }
}

/// Bounds the lists in a schema, and adds the schemas that it refers to.
fn bound(schema: &mut Value, open: &mut Vec<String>) {
    match schema {
        Value::Object(parts) => {
            if let Some(name) = parts.get("$ref").and_then(Value::as_str) {
                open.push(name.trim_start_matches('#').to_owned());
            }
            let is_list =
                |kind: &Value| kind == "array" || kind.as_array().is_some_and(|kinds| kinds.contains(&json!("array")));
            if parts.get("type").is_some_and(is_list) {
                parts.entry("maxItems").or_insert(json!(form::LIST));
            }
            parts.values_mut().for_each(|part| bound(part, open));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| bound(item, open)),
        _ => {}
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let all = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
    all.into_iter().flatten()
}

fn project() -> Parameter {
    ParameterBuilder::new()
        .name("project")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some("The id of the token's own project."))
        .build()
}

/// What `Authorized` and the extractors of bodies and paths refuse.
fn authorized(operation: &mut Operation) {
    operation.security = Some(vec![SecurityRequirement::new::<_, [_; 0], String>(TOKEN, [])]);
    let media: &[u16] = if operation.request_body.is_some() { &[415] } else { &[] };
    for status in [400, 401, 403, 413].iter().chain(media) {
        operation.responses.responses.insert(status.to_string(), fault::reference(*status));
    }
}

/// What `request::identify` adds to every answer.
fn identified(response: &mut RefOr<Response>) {
    if let RefOr::T(response) = response {
        let id = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^req-"));
        let header = HeaderBuilder::new().schema(Some(id)).description(Some("The same id stands in the log."));
        response.headers.insert("x-openstack-request-id".to_owned(), header.build().into());
    }
}

/// Takes out the schemas that responses carry.
fn collect(value: &mut Value, schemas: &mut Map<String, Value>) {
    if let Some(Value::Object(mut carried)) = value.as_object_mut().and_then(|object| object.remove(SCHEMAS)) {
        schemas.append(&mut carried);
    }
    match value {
        Value::Object(parts) => parts.values_mut().for_each(|part| collect(part, schemas)),
        Value::Array(items) => items.iter_mut().for_each(|item| collect(item, schemas)),
        _ => {}
    }
}

/// The document, as it is served and as it is kept in `docs/openapi.json`.
#[derive(Clone)]
pub(super) struct Document(String);

impl Document {
    pub(super) fn of(value: &Value) -> Self {
        Self(format!("{value:#}\n"))
    }
}

impl IntoResponse for Document {
    fn into_response(self) -> axum::response::Response {
        ([(CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

#[cfg(test)]
mod tests;

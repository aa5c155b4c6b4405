//! What handlers answer with. Each type says its status, its headers and its body both to HTTP and to the description of
//! the API, so that the one cannot differ from the other.

use std::collections::BTreeMap;

use axum::Json as AxumJson;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{Content, KnownFormat, Ref, RefOr, SchemaFormat};
use utoipa::{IntoResponses, ToSchema};

use super::body::Json;
use crate::api::openapi::SCHEMAS;
use crate::ids::OperationId;

const OPERATION_ID: &str = "x-trove-operation-id";

pub(in crate::api) type Answers = BTreeMap<String, RefOr<Described>>;

pub(in crate::api) fn one(status: StatusCode, response: ResponseBuilder) -> Answers {
    Answers::from([(status.as_str().to_owned(), response.build().into())])
}

/// The description of a JSON body. The schemas that it names travel with it until the document is put together.
pub(in crate::api) fn json_body<T: ToSchema>(description: &str) -> ResponseBuilder {
    let mut schemas: Vec<(String, RefOr<Schema>)> = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    // A schema of ours is made of strings and numbers.
    let schemas = schemas.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or_default()));
    let carried = Extensions::builder().add(SCHEMAS, Value::from_iter(schemas)).build();
    let content = Content::new(Some(Ref::from_schema_name(T::name())));
    ResponseBuilder::new().description(description).content("application/json", content).extensions(Some(carried))
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        AxumJson(self.0).into_response()
    }
}

/// 200 with a body.
impl<T: ToSchema> IntoResponses for Json<T> {
    fn responses() -> Answers {
        shown::<T>()
    }
}

/// The description of 200 with a body of this type.
pub(in crate::api) fn shown<T: ToSchema>() -> Answers {
    one(StatusCode::OK, json_body::<T>("As it is."))
}

/// 202 without a body: clients crash on `null`. Names the operation that was enqueued, where there is one.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct Accepted(pub(in crate::api) Option<OperationId>);

impl From<crate::app::instances::Accepted> for Accepted {
    fn from(accepted: crate::app::instances::Accepted) -> Self {
        Self(Some(accepted.operation))
    }
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let response = (StatusCode::ACCEPTED, [(CONTENT_TYPE, "application/json")]).into_response();
        match self.0 {
            Some(operation) => WithOperation(response, operation).into_response(),
            None => response,
        }
    }
}

impl IntoResponses for Accepted {
    fn responses() -> Answers {
        one(StatusCode::ACCEPTED, named(ResponseBuilder::new().description("Accepted; there is no body.")))
    }
}

/// 202 with a body: begun.
pub(in crate::api) struct Begun<T>(pub(in crate::api) T);

impl<T: Serialize> IntoResponse for Begun<T> {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, AxumJson(self.0)).into_response()
    }
}

impl<T: ToSchema> IntoResponses for Begun<T> {
    fn responses() -> Answers {
        one(StatusCode::ACCEPTED, json_body::<T>("Begun."))
    }
}

/// 200 without a body: done.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct Empty;

impl IntoResponse for Empty {
    fn into_response(self) -> Response {
        (StatusCode::OK, [(CONTENT_TYPE, "application/json")]).into_response()
    }
}

impl IntoResponses for Empty {
    fn responses() -> Answers {
        one(StatusCode::OK, ResponseBuilder::new().description("Done; there is no body."))
    }
}

/// 204.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct NoContent;

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl IntoResponses for NoContent {
    fn responses() -> Answers {
        one(StatusCode::NO_CONTENT, ResponseBuilder::new().description("Done; there is no body."))
    }
}

/// An answer that names the operation that does, or did, what was asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct WithOperation<A>(pub(in crate::api) A, pub(in crate::api) OperationId);

impl<A: IntoResponse> IntoResponse for WithOperation<A> {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        if let Ok(value) = HeaderValue::from_str(&self.1.to_string()) {
            response.headers_mut().insert(OPERATION_ID, value);
        }
        response
    }
}

impl<A: IntoResponses> IntoResponses for WithOperation<A> {
    fn responses() -> Answers {
        let with = |answer| match answer {
            RefOr::T(response) => RefOr::T(named(ResponseBuilder::from(response)).build()),
            reference => reference,
        };
        A::responses().into_iter().map(|(status, answer)| (status, with(answer))).collect()
    }
}

fn named(response: ResponseBuilder) -> ResponseBuilder {
    let format = SchemaFormat::KnownFormat(KnownFormat::Uuid);
    let id = ObjectBuilder::new().schema_type(Type::String).format(Some(format));
    let text = "The operation that was enqueued, see the operations of the instance.";
    response.header(OPERATION_ID, HeaderBuilder::new().schema(Some(id)).description(Some(text)).build())
}

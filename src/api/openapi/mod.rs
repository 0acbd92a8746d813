//! `GET /api/v1/openapi.json`: the API as OpenAPI 3.1.

pub mod document;

use axum::Json;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::error::{Kind, Problem};
use super::operation::{AnswerKind, BARE, Operation, Tag};
use super::params::Params;

pub const OPENAPI: Operation = Operation {
    id: "openapi",
    path: "/api/v1/openapi.json",
    tag: Tag::Description,
    summary: "This document",
    about: "OpenAPI 3.1.",
    answer: AnswerKind::Json("OpenApi"),
    problems: &[Kind::BadParameter],
    ..BARE
};

/// Answers with the document.
pub fn show(uri: &Uri, document: &Value) -> Result<Response, Problem> {
    Params::read(uri, &OPENAPI)?;
    Ok(Json(document).into_response())
}

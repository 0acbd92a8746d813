//! `GET /api/v1/problems` and `/api/v1/problems/{slug}`: what the `type` of an error means.

use axum::Json;
use axum::http::Uri;
use serde_json::{Value, json};

use super::Problem;
use super::error::{Kind, shown};
use super::operation::{AnswerKind, BARE, Operation, Param, Tag};
use super::params::Params;
use super::series::SeriesPath;

pub const PROBLEMS: Operation = Operation {
    id: "problems",
    path: "/api/v1/problems",
    tag: Tag::Description,
    summary: "Every kind of problem",
    about: "What the `type` of an error may be.",
    answer: AnswerKind::Json("Problems"),
    problems: &[Kind::BadParameter],
    ..BARE
};

pub const PROBLEM: Operation = Operation {
    id: "problem",
    path: "/api/v1/problems/{slug}",
    tag: Tag::Description,
    summary: "One kind of problem",
    about: "What the `type` of an error means, and what to do about it.",
    params: &[Param::path("slug", "bad-parameter", "The last part of the `type`.")],
    answer: AnswerKind::Json("ProblemKind"),
    problems: &[Kind::BadParameter, Kind::UnknownProblem],
    ..BARE
};

/// Every kind of problem.
pub async fn list(uri: Uri) -> Result<Json<Value>, Problem> {
    Params::read(&uri, &PROBLEMS)?;
    let kinds: Vec<Value> = Kind::ALL.iter().copied().map(describe).collect();
    Ok(Json(json!({"data": kinds})))
}

/// One kind of problem.
pub async fn show(uri: Uri, SeriesPath(slug): SeriesPath) -> Result<Json<Value>, Problem> {
    Params::read(&uri, &PROBLEM)?;
    let kind = Kind::ALL.iter().copied().find(|kind| kind.about().slug == slug);
    let unknown = || Problem::new(Kind::UnknownProblem, format!("there is no problem {}", shown(&slug)));
    kind.map(|kind| Json(describe(kind))).ok_or_else(unknown)
}

fn describe(kind: Kind) -> Value {
    let about = kind.about();
    json!({
        "type": kind.uri(),
        "title": about.title,
        "status": about.status.as_u16(),
        "meaning": about.meaning,
    })
}

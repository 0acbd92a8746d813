//! `GET /api/v1/problems` and `/api/v1/problems/{slug}`: what the `type` of an error means.

use axum::Json;
use axum::http::Uri;
use serde_json::{Value, json};

use super::error::{Kind, shown};
use super::params::Params;
use super::series::SeriesPath;
use super::{Problem, operations};

/// Every kind of problem.
pub async fn list(uri: Uri) -> Result<Json<Value>, Problem> {
    Params::read(&uri, &operations::PROBLEMS)?;
    let kinds: Vec<Value> = Kind::ALL.iter().copied().map(describe).collect();
    Ok(Json(json!({"data": kinds})))
}

/// One kind of problem.
pub async fn show(uri: Uri, SeriesPath(slug): SeriesPath) -> Result<Json<Value>, Problem> {
    Params::read(&uri, &operations::PROBLEM)?;
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

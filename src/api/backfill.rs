//! `POST /api/v1/backfill`: a backfill from a configured server; `GET` and `DELETE /api/v1/backfill/{id}` follow and end it.
//!
//! What is asked for is judged here; what is configured and what is at work only the server knows ([`Backfills`]).

use std::error::Error as _;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use serde_json::{Map, Value};
use tidewatch_dataflows::sample::AT_MS_MIN;
use tokio::sync::OwnedSemaphorePermit;

use super::error::{Kind, shown};
use super::operation::{AnswerKind, BARE, Operation, Param, RequestBody, Tag, Verb};
use super::params::{Params, time_ms};
use super::series::SeriesPath;
use super::server::{BackfillOrder, BackfillRefusal, ServerName};
use super::{Api, Problem};
use crate::store::selector::Selectors;

const ID: Param = Param::path("id", "19a2b3c4d5e", "The `id` that its beginning was answered with.");
pub const BEGIN_BACKFILL: Operation = Operation {
    id: "beginBackfill",
    verb: Verb::Post,
    path: "/api/v1/backfill",
    tag: Tag::Samples,
    summary: "Begin a backfill",
    about: "Computes a span of the past from a configured Prometheus server, beside what is live; one at a time.",
    body: Some(RequestBody::Json("BackfillOrder")),
    answer: AnswerKind::Begun("Backfill"),
    problems: &[
        Kind::BadParameter,
        Kind::BadBody,
        Kind::CrossSite,
        Kind::BackfillRunning,
        Kind::TooLarge,
        Kind::UnsupportedMediaType,
        Kind::Internal,
        Kind::Unavailable,
    ],
    ..BARE
};

pub const BACKFILL_SHOWN: Operation = Operation {
    id: "backfill",
    path: "/api/v1/backfill/{id}",
    tag: Tag::Samples,
    summary: "How far a backfill is",
    about: "The last 16 since the server's start are known.",
    params: &[ID],
    answer: AnswerKind::Json("Backfill"),
    problems: &[Kind::BadParameter, Kind::UnknownBackfill],
    ..BARE
};

pub const END_BACKFILL: Operation = Operation {
    id: "endBackfill",
    verb: Verb::Delete,
    summary: "End a backfill",
    about: "What it has written stays.",
    problems: &[Kind::BadParameter, Kind::CrossSite, Kind::UnknownBackfill],
    ..BACKFILL_SHOWN
};

/// Most bytes of an order.
pub const BODY_BYTES_MAX: usize = 65_536;
/// How long an order may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Most selectors of an order.
pub const SELECTORS_MAX: usize = 64;
/// The longest time between `start` and `end`.
pub const RANGE_MS_MAX: i64 = 400 * 86_400_000;

/// Begins a backfill: 202 with its id, 409 while one is at work.
pub async fn begin(
    State(api): State<Api>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &BEGIN_BACKFILL)?;
    let bytes = read_body(&headers, body).await.inspect_err(|problem| match problem.kind() {
        Kind::TooLarge => api.metrics.limit("backfill.body_bytes"),
        Kind::Unavailable => api.metrics.limit("backfill.body_seconds"),
        _ => {}
    })?;
    let backfills = api.backfills.clone();
    // Parsing regexes and reading files with secrets may block.
    let work = move |turn: OwnedSemaphorePermit| {
        let _turn = turn;
        let order = read(&bytes, backfills.now_ms())?;
        backfills.begin(order).map_err(Problem::from)
    };
    let Ok(turn) = api.backfill_start.clone().try_acquire_owned() else {
        api.metrics.limit("backfill.beginning");
        return Err(Problem::unavailable("another backfill is beginning; try again".to_owned()));
    };
    let begun = api.threads.run(move || work(turn)).await;
    let begun = begun.map_err(|error| Problem::internal(format!("beginning a backfill failed: {error}")))?;
    let begun = begun.inspect_err(|problem| {
        if problem.kind() == Kind::BackfillRunning {
            api.metrics.limit("backfill.running");
        }
    })?;
    // As seen from this path, so that a proxy may serve it under another.
    let place = format!("backfill/{}", begun["id"].as_str().unwrap_or_default());
    let mut response = (StatusCode::ACCEPTED, Json(begun)).into_response();
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

/// The bytes of an order, which are declared as JSON: what a form in a web page can send is not.
async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let declared = headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let media_type = declared.split(';').next().unwrap_or("").trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let detail = format!("Content-Type must be application/json; got {}", shown(declared));
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    match tokio::time::timeout(BODY_TIME_MAX, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.source().is_some_and(|source| source.is::<LengthLimitError>()) => {
            Err(Problem::new(Kind::TooLarge, format!("the body must be at most {BODY_BYTES_MAX} bytes")))
        }
        Ok(Err(error)) => Err(Problem::new(Kind::BadBody, format!("the body broke off: {error}"))),
        Err(_) => {
            Err(Problem::unavailable(format!("the body did not arrive within {} s", BODY_TIME_MAX.as_secs())))
        }
    }
}

/// How far a backfill is.
pub async fn show(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(id): SeriesPath,
) -> Result<Json<Value>, Problem> {
    Params::read(&uri, &BACKFILL_SHOWN)?;
    api.backfills.show(&id).map(Json).ok_or_else(|| unknown(&id))
}

/// Ends a backfill that is at work; what it has written stays.
pub async fn cancel(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(id): SeriesPath,
) -> Result<Json<Value>, Problem> {
    Params::read(&uri, &END_BACKFILL)?;
    api.backfills.cancel(&id).map(Json).ok_or_else(|| unknown(&id))
}

fn unknown(id: &str) -> Problem {
    let id = shown(id);
    let detail = format!("there is no backfill {id}; the last 16 since the server's start are known");
    Problem::new(Kind::UnknownBackfill, detail)
}

impl From<BackfillRefusal> for Problem {
    fn from(refusal: BackfillRefusal) -> Problem {
        match refusal {
            BackfillRefusal::Source(bound, got) => {
                Problem::bad_request(format!("source must be {bound}; got {got}"))
            }
            BackfillRefusal::Running(id) => Problem::new(
                Kind::BackfillRunning,
                format!(
                    "backfill {id} is running, and there is one at a time; its progress is at /api/v1/backfill/{id}"
                ),
            ),
            BackfillRefusal::Later(why) => Problem::unavailable(why),
        }
    }
}

/// Judges an order.
fn read(bytes: &[u8], now_ms: i64) -> Result<BackfillOrder, Problem> {
    const FIELDS: &str = "source, match, start and end";
    let body: Value = serde_json::from_slice(bytes)
        .map_err(|error| Problem::new(Kind::BadBody, format!("the body must be a JSON object: {error}")))?;
    let Value::Object(fields) = body else {
        let detail = format!("the body must be a JSON object; got {}", shown(&body.to_string()));
        return Err(Problem::new(Kind::BadBody, detail));
    };
    let known = ["source", "match", "start", "end"];
    if let Some(other) = fields.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(Problem::parameter("a field", &format!("one of {FIELDS}"), other));
    }
    let (start_ms, end_ms) = (time(&fields, "start")?, time(&fields, "end")?);
    let got = |name: &str| fields[name].to_string();
    if start_ms < AT_MS_MIN {
        return Err(Problem::parameter("start", "in the year 2000 or later", &got("start")));
    }
    if end_ms <= start_ms {
        return Err(Problem::parameter("end", &format!("after start ({})", got("start")), &got("end")));
    }
    if end_ms > now_ms {
        return Err(Problem::parameter("end", "not in the future", &got("end")));
    }
    if end_ms - start_ms > RANGE_MS_MAX {
        let bound = format!("at most {} days after start ({})", RANGE_MS_MAX / 86_400_000, got("start"));
        return Err(Problem::parameter("end", &bound, &got("end")));
    }
    Ok(BackfillOrder { source: source(&fields)?, matching: matching(&fields)?, start_ms, end_ms })
}

fn time(fields: &Map<String, Value>, name: &str) -> Result<i64, Problem> {
    match fields.get(name) {
        Some(Value::String(text)) => time_ms(name, text),
        Some(Value::Number(number)) => time_ms(name, &number.to_string()),
        other => {
            let got = other.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            Err(Problem::parameter(name, "RFC 3339 or Unix seconds", &got))
        }
    }
}

fn source(fields: &Map<String, Value>) -> Result<Option<ServerName>, Problem> {
    let bound = "the URL of an entry of sources.prometheus, or its place counted from 0";
    match fields.get("source") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(url)) => Ok(Some(ServerName::Url(url.clone()))),
        Some(other) => match other.as_u64() {
            Some(place) => Ok(Some(ServerName::Place(place))),
            None => Err(Problem::parameter("source", bound, &other.to_string())),
        },
    }
}

fn matching(fields: &Map<String, Value>) -> Result<Option<Vec<String>>, Problem> {
    let given = match fields.get("match") {
        None | Some(Value::Null) => return Ok(None),
        Some(given) => given,
    };
    let texts = given.as_array().and_then(|all| {
        all.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
    });
    let texts = texts.filter(|all| (1..=SELECTORS_MAX).contains(&all.len())).ok_or_else(|| {
        let bound = format!("a list of 1 to {SELECTORS_MAX} selectors such as [\"{{job=\\\"node\\\"}}\"]");
        Problem::parameter("match", &bound, &given.to_string())
    })?;
    for text in &texts {
        Selectors::parse(std::slice::from_ref(text))
            .map_err(|error| Problem::bad_request(format!("match: {error}")))?;
    }
    Ok(Some(texts))
}

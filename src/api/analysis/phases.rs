//! `GET /api/v1/profiles/{series}/phases`: what is usual at each minute of the hour and each quarter of the day, without the level.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Value, json};
use tidewatch_dataflows::kernels::phases::{DAY_PHASES, HOUR_PHASES, phase_profile};

use super::{ANALYSIS, MINUTE_MS, QUARTER_MS, Subject, answer};
use crate::api::operation::{AnswerKind, Operation};
use crate::api::params::SERIES;
use crate::api::series::SeriesPath;
use crate::api::{Api, Problem};

pub const PHASES: Operation = Operation {
    id: "phases",
    path: "/api/v1/profiles/{series}/phases",
    summary: "What is usual at each phase of the hour and the day",
    about: "By minute of the hour and by quarter of an hour of the UTC day: how far its values are from the mean of their hour or \
            day, as the mean over up to four of them. Of every series, whether it has a season or not.",
    params: &[SERIES],
    answer: AnswerKind::Json("Phases"),
    ..ANALYSIS
};

/// Answers with the phase profiles of a series.
pub async fn show(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(series): SeriesPath,
) -> Result<Response, Problem> {
    answer((api, uri, series), &PHASES, |_| Ok(()), |(), subject| Ok(phases(subject))).await
}

fn phases(subject: &Subject) -> Value {
    let steps = &subject.steps;
    let hour = cycle(&steps.minutes, steps.minutes_end_ms, MINUTE_MS, HOUR_PHASES);
    let day = cycle(&steps.quarters, steps.quarters_end_ms, QUARTER_MS, DAY_PHASES);
    json!({"hour": hour, "day": day})
}

/// The phases of a cycle, from the step on with which one begins.
fn cycle(steps: &[f64], end_ms: i64, step_ms: i64, phases: usize) -> Value {
    // The number of the newest step, of those that begin at whole steps since 1970.
    let newest = end_ms.div_euclid(step_ms) - 1;
    let profile = phase_profile(steps, newest, phases);
    json!({
        "step_seconds": step_ms / 1_000,
        "deviations": profile.deviations,
        "cycles": profile.cycles,
    })
}

//! `GET /api/v1/samples/{series}`: the samples of a series, as they are or resampled.
//!
//! The newest are in the raw ring of the worker that owns the series. What is older is asked of the servers that are
//! configured under `sources.prometheus`, the first that has samples of the series in the range; nothing of it is kept. The
//! answer says which part came from where, and what nobody could tell.
//!
//! A resampled point stands for the samples in `(at - resample, at]`, as a window does, so that its `max` over an hour is the
//! row of the window of an hour that ends there. A range is inclusive at both ends; the points are those that end at
//! multiples of `resample` since 1970 and whose samples touch it. Samples outside the range are not in them.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Value, json};
use tidewatch_dataflows::kernels::moments::Moments;
use tidewatch_dataflows::settings::duration;

use super::error::Kind;
use super::operation::{AnswerKind, BARE, Operation, Param, Tag};
use super::params::{END, Params, SERIES, START, duration_schema, window_ms};
use super::questions::DEADLINE;
use super::series::{SeriesPath, find, known_as};
use super::server::{OlderError, RingSamples};
use super::{Api, Problem};
use crate::store::budget::Budget;
use crate::store::record::Rfc3339;
use crate::store::{PAGE_ROWS_MAX, Range, Store};

const RESAMPLE: Param = Param::query(
    "resample",
    "15m",
    "One point for the samples of the range in each (at - resample, at], from 1s to 30d; the samples themselves if absent. \
     The first and the last point may lack samples outside the range, and the last may be after `end`.",
    duration_schema,
);

const AGGREGATE: Param = Param::query(
    "aggregate",
    "max",
    "How the samples of a point become one number.",
    || json!({"type": "string", "enum": Aggregate::ALL.map(|(name, _)| name), "default": "mean"}),
);
pub const SAMPLES: Operation = Operation {
    id: "samples",
    path: "/api/v1/samples/{series}",
    tag: Tag::Samples,
    summary: "Samples of one series",
    about: "The newest from memory, older ones from the configured Prometheus servers; `parts` says which are from where, \
            `missing` what nobody could tell. The last hour if `start` is absent. At most 10,000 points are shown and 1,000,000 \
            samples read; beyond that it is 422.",
    params: &[SERIES, START, END, RESAMPLE, AGGREGATE],
    answer: AnswerKind::Json("SeriesSamples"),
    problems: &[
        Kind::BadParameter,
        Kind::UnknownSeries,
        Kind::AmbiguousSeries,
        Kind::TooMuch,
        Kind::Internal,
        Kind::ServerFailed,
        Kind::Unavailable,
        Kind::Deadline,
    ],
    ..BARE
};

/// The range if `start` is absent.
const RANGE_MS: i64 = 3_600_000;

/// How the samples of a point become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    Mean,
    Min,
    Max,
    Sum,
    Count,
    Last,
}

impl Aggregate {
    /// Every one, by its name.
    pub const ALL: [(&'static str, Aggregate); 6] = [
        ("mean", Aggregate::Mean),
        ("min", Aggregate::Min),
        ("max", Aggregate::Max),
        ("sum", Aggregate::Sum),
        ("count", Aggregate::Count),
        ("last", Aggregate::Last),
    ];

    fn as_str(self) -> &'static str {
        Aggregate::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }

    /// Of at least one sample.
    fn of(self, samples: &[(i64, f64)]) -> f64 {
        let values = || samples.iter().map(|(_, value)| *value);
        let n = samples.len() as f64;
        match self {
            // As of a window: right where values are large and close, cancel, or come to more than a number can be.
            Aggregate::Mean => moments(samples).avg(),
            Aggregate::Min => values().fold(f64::INFINITY, f64::min),
            Aggregate::Max => values().fold(f64::NEG_INFINITY, f64::max),
            Aggregate::Sum => moments(samples).sum(),
            Aggregate::Count => n,
            Aggregate::Last => samples[samples.len() - 1].1,
        }
    }
}

/// The moments of samples, which are finite.
fn moments(samples: &[(i64, f64)]) -> Moments {
    let mut all = Moments::EMPTY;
    samples.iter().for_each(|(at_ms, value)| all.push(*at_ms, *value));
    all
}

/// Answers with the samples of a series in a range.
pub async fn show(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(series): SeriesPath,
) -> Result<Response, Problem> {
    let asked = api.clone();
    api.ask(move |store, budget| samples(&asked, store, budget, &uri, &series).map(Json)).await
}

fn samples(api: &Api, store: &dyn Store, budget: &Budget, uri: &Uri, series: &str) -> Result<Value, Problem> {
    let params = Params::read(uri, &SAMPLES)?;
    let resample = resample(&params)?;
    let given = params.range()?.unwrap_or(Range::ALL);
    let series = find(api, store, budget, series)?;
    let row = known_as(store, &*api.server, series)?;
    let ring = api.raw.ring_samples(series).map_err(Problem::unavailable)?;
    let end_ms = if given.end_ms == i64::MAX { api.backfills.now_ms() } else { given.end_ms };
    let start_ms = if given.start_ms == i64::MIN { end_ms.saturating_sub(RANGE_MS) } else { given.start_ms };
    if start_ms > end_ms {
        return Err(Problem::bad_request(format!(
            "start must be at most now if end is absent; got {start_ms} ms"
        )));
    }
    if let Some((step_ms, _)) = resample
        && (end_ms - start_ms) / step_ms >= PAGE_ROWS_MAX as i64
    {
        let points = (end_ms - start_ms) / step_ms + 1;
        return Err(Problem::too_much(format!(
            "at most {PAGE_ROWS_MAX} points are shown; {points} of {} would be: ask for a shorter range or a longer resample",
            duration(step_ms)
        )));
    }
    let labels = row.pairs();
    let found = SampleRange::gather(api, &labels, ring, (start_ms, end_ms), budget)?;
    let points = match resample {
        Some((step_ms, aggregate)) => resampled(&found.samples, step_ms, aggregate),
        None => found.samples,
    };
    if points.len() > PAGE_ROWS_MAX {
        return Err(Problem::too_much(format!(
            "at most {PAGE_ROWS_MAX} {} are shown; the range has {}: ask for a shorter one{}",
            if resample.is_some() { "points" } else { "samples" },
            points.len(),
            if resample.is_some() { " or a longer resample" } else { ", or for resample" }
        )));
    }
    let time = |ms: i64| Rfc3339::from_ms(ms).map(|time| time.to_string());
    let point = |(at_ms, value): &(i64, f64)| json!({"at": time(*at_ms), "at_ms": at_ms, "value": value});
    let labels: Value = serde_json::from_str(&row.labels).unwrap_or_default();
    Ok(json!({
        "series": series.to_string(),
        "name": row.name,
        "labels": labels,
        "start": time(start_ms),
        "start_ms": start_ms,
        "end": time(end_ms),
        "end_ms": end_ms,
        "resample": resample.map(|(step_ms, _)| duration(step_ms)),
        "aggregate": resample.map(|(_, aggregate)| aggregate.as_str()),
        "source": found.source,
        "parts": found.parts,
        "missing": found.missing,
        "data": points.iter().map(point).collect::<Vec<_>>(),
    }))
}

/// `resample` and `aggregate`: the length of a point in milliseconds, and how its samples become one number.
fn resample(params: &Params) -> Result<Option<(i64, Aggregate)>, Problem> {
    let aggregate = params.choice("aggregate", &Aggregate::ALL)?.map_or(Aggregate::Mean, |(_, found)| found);
    let Some(text) = params.one("resample") else {
        return match params.one("aggregate") {
            None => Ok(None),
            Some(_) => Err(Problem::bad_request("aggregate has no place without resample".to_owned())),
        };
    };
    let bound = "a duration from 1s to 30d, such as 15m";
    let step_ms = window_ms(text).ok_or_else(|| Problem::parameter("resample", bound, text))?;
    Ok(Some((step_ms, aggregate)))
}

/// The samples of a range, and where they are from.
struct SampleRange {
    samples: Vec<(i64, f64)>,
    source: &'static str,
    parts: Vec<Value>,
    missing: Value,
}

impl SampleRange {
    fn gather(
        api: &Api,
        labels: &[(String, String)],
        ring: Option<RingSamples>,
        (start_ms, end_ms): (i64, i64),
        budget: &Budget,
    ) -> Result<SampleRange, Problem> {
        let deadline = budget.deadline().unwrap_or_else(|| Instant::now() + DEADLINE);
        let mut ring = ring.unwrap_or(RingSamples { after_ms: i64::MAX, samples: Vec::new() });
        ring.samples.retain(|(at_ms, _)| (start_ms..=end_ms).contains(at_ms));
        let mut found =
            SampleRange { samples: Vec::new(), source: "none", parts: Vec::new(), missing: Value::Null };
        if ring.after_ms >= start_ms {
            let to_ms = end_ms.min(ring.after_ms);
            match api.raw.older(labels, start_ms - 1, to_ms, deadline) {
                Ok(mut older) => {
                    older
                        .samples
                        .retain(|(at_ms, value)| (start_ms..=to_ms).contains(at_ms) && value.is_finite());
                    if !older.samples.is_empty() {
                        found.part("prometheus", Some(&older.server), older.samples);
                    }
                }
                // Samples that came from elsewhere: what is held is all there is.
                Err(OlderError::NoServer) => {
                    // The ring may reach back further than it is known to be whole.
                    let first = ring.samples.first().map_or(to_ms, |(at_ms, _)| at_ms - 1);
                    found.missing = json!({"start_ms": start_ms, "end_ms": first.min(to_ms), "why": OlderError::NoServer.to_string()});
                }
                Err(error) => return Err(problem(error, budget)),
            }
            // Of what both have the server's are shown: it has all of them.
            let shown_to = found.samples.last().map_or(i64::MIN, |_| to_ms);
            ring.samples.retain(|(at_ms, _)| *at_ms > shown_to);
        }
        if !ring.samples.is_empty() {
            found.part("ring", None, ring.samples);
        }
        Ok(found)
    }

    fn part(&mut self, source: &'static str, server: Option<&str>, samples: Vec<(i64, f64)>) {
        self.source = if self.source == "none" { source } else { "prometheus+ring" };
        let (first, last) = (samples.first().map(|s| s.0), samples.last().map(|s| s.0));
        self.parts.push(json!({
            "source": source, "server": server, "samples": samples.len(), "first_at_ms": first, "last_at_ms": last,
        }));
        self.samples.extend(samples);
    }
}

fn problem(error: OlderError, budget: &Budget) -> Problem {
    match error {
        OlderError::Late => budget.late().into(),
        OlderError::TooMany => Problem::too_much(format!("{error}; ask for a shorter one")),
        OlderError::NoServer | OlderError::Failed(..) => Problem::bad_gateway(error.to_string()),
    }
}

/// One point for the samples in each `(at - step, at]`; none where there is none.
fn resampled(samples: &[(i64, f64)], step_ms: i64, aggregate: Aggregate) -> Vec<(i64, f64)> {
    let end = |at_ms: i64| (at_ms - 1).div_euclid(step_ms) * step_ms + step_ms;
    let same = |a: &(i64, f64), b: &(i64, f64)| end(a.0) == end(b.0);
    samples.chunk_by(same).map(|some| (end(some[0].0), aggregate.of(some))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_stands_for_the_samples_up_to_its_end() {
        let samples = [(1, 4.0), (10, 2.0), (11, 7.0), (35, 1.0), (40, 3.0)];
        let of = |aggregate| resampled(&samples, 10, aggregate);
        assert_eq!(of(Aggregate::Mean), [(10, 3.0), (20, 7.0), (40, 2.0)]);
        assert_eq!(of(Aggregate::Min), [(10, 2.0), (20, 7.0), (40, 1.0)]);
        assert_eq!(of(Aggregate::Max), [(10, 4.0), (20, 7.0), (40, 3.0)]);
        assert_eq!(of(Aggregate::Sum), [(10, 6.0), (20, 7.0), (40, 4.0)]);
        assert_eq!(of(Aggregate::Count), [(10, 2.0), (20, 1.0), (40, 2.0)]);
        assert_eq!(of(Aggregate::Last), [(10, 2.0), (20, 7.0), (40, 3.0)]);
        assert_eq!(resampled(&[(-5, 1.0), (0, 3.0)], 10, Aggregate::Mean), [(0, 2.0)]);
        assert!(resampled(&[], 10, Aggregate::Mean).is_empty());
        let extremes = [(1, 1e308), (2, 1e308), (3, -1e308), (11, 1e16), (12, 1.0), (13, -1e16), (14, 1.0)];
        assert_eq!(resampled(&extremes, 10, Aggregate::Mean), [(10, 1e308 / 3.0), (20, 0.5)]);
        assert_eq!(resampled(&extremes, 10, Aggregate::Sum), [(10, 1e308), (20, 2.0)]);
    }
}

//! What is computed of one series when it is asked for: autocorrelations of more lags, other unit root tests, decompositions,
//! and what is usual at each phase of the hour and the day.
//!
//! The workers hand over the steps that the profile of the series looks back on, and the thread that answers computes. So
//! a question costs the workers a copy of some thousand numbers, whatever is asked.

pub mod acf;
pub mod adf;
pub mod decomposition;
pub mod phases;
#[cfg(test)]
pub mod tests;

use axum::Json;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Map, Value, json};
use tidewatch_dataflows::rows::inspect::StepsView;

use super::error::Kind;
use super::operation::{AnswerKind, BARE, Operation};
use super::params::Params;
use super::series::{find, known_as};
use super::{Api, Problem};
use crate::store::Store;
use crate::store::budget::Budget;
use crate::store::record::Rfc3339;
use crate::store::row::SeriesRow;

/// What every operation here may be answered with beside its answer.
const PROBLEMS: &[Kind] = &[
    Kind::BadParameter,
    Kind::UnknownSeries,
    Kind::AmbiguousSeries,
    Kind::Internal,
    Kind::Unavailable,
    Kind::Deadline,
];

const ANALYSIS: Operation = Operation { answer: AnswerKind::Nothing, problems: PROBLEMS, ..BARE };

/// A step of a profile.
const MINUTE_MS: i64 = 60_000;
/// A step of a season that is longer than minutes can show.
const QUARTER_MS: i64 = 15 * MINUTE_MS;

/// Answers an operation: what is asked for is read and judged first, then computed of the series that the path names.
async fn answer<A: 'static>(
    (api, uri, series): (Api, Uri, String),
    operation: &'static Operation,
    read: fn(&Params) -> Result<A, Problem>,
    compute: fn(A, &Subject) -> Result<Value, Problem>,
) -> Result<Response, Problem> {
    let asked = api.clone();
    api.ask(move |store, budget| {
        let wanted = read(&Params::read(&uri, operation)?)?;
        let subject = Subject::read(&asked, store, budget, &series)?;
        Ok(Json(subject.answer(compute(wanted, &subject)?)))
    })
    .await
}

/// A series and its steps.
struct Subject {
    row: SeriesRow,
    steps: StepsView,
}

impl Subject {
    /// The series that a path names, with the steps that the workers hold of it: none of one that is not live.
    fn read(api: &Api, store: &dyn Store, budget: &Budget, series: &str) -> Result<Subject, Problem> {
        let series = find(api, store, budget, series)?;
        let row = known_as(store, &*api.server, series)?;
        let steps = api.raw.steps(series).map_err(Problem::unavailable)?.unwrap_or_default();
        Ok(Subject { row, steps })
    }

    /// The steps of one minute that have a value.
    fn present(&self) -> Vec<f64> {
        self.steps.minutes.iter().copied().filter(|value| !value.is_nan()).collect()
    }

    /// An answer that begins with whose it is, and of which steps.
    fn answer(&self, more: Value) -> Value {
        let (held, present) = (self.steps.minutes.len(), self.present().len());
        let at_ms = (held > 0).then_some(self.steps.minutes_end_ms);
        let labels: Value = serde_json::from_str(&self.row.labels).unwrap_or_default();
        let mut answer = Map::new();
        let mut put = |name: &str, value: Value| answer.insert(name.to_owned(), value);
        put("series", json!(self.row.series.to_string()));
        put("name", json!(self.row.name));
        put("labels", labels);
        put("at", json!(at_ms.and_then(Rfc3339::from_ms).map(|at| at.to_string())));
        put("at_ms", json!(at_ms));
        put("transform", json!(if self.steps.is_rate { "rate" } else { "raw" }));
        put("steps", json!(present));
        put("gap_ratio", json!(if held == 0 { 0.0 } else { 1.0 - present as f64 / held as f64 }));
        if let Value::Object(more) = more {
            answer.extend(more);
        }
        Value::Object(answer)
    }
}

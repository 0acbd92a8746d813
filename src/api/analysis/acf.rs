//! `GET /api/v1/profiles/{series}/acf`: the autocorrelation of the last day, up to any lag.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Value, json};
use tidewatch_dataflows::kernels::lag_sums::LagSums;
use tidewatch_dataflows::kernels::{acf, ljung_box};

use super::{ANALYSIS, Subject, answer};
use crate::api::operation::{AnswerKind, Operation, Param};
use crate::api::params::{Params, SERIES};
use crate::api::series::SeriesPath;
use crate::api::{Api, Problem};

/// Most lags: one less than the steps of a day.
const LAGS_MAX: usize = 1_439;

const LAGS: Param = Param::query(
    "lags",
    "120",
    "Up to which lag, in minutes; at most one less than there are steps with a value. As many as in a profile if absent: \
     10 log10 of the steps.",
    || json!({"type": "integer", "minimum": 1, "maximum": LAGS_MAX}),
);

pub const ACF: Operation = Operation {
    id: "acf",
    path: "/api/v1/profiles/{series}/acf",
    summary: "The autocorrelation of a series",
    about: "By lag, over the last 24 hours in steps of one minute, with its 95 % band (Bartlett) and the Ljung-Box test of the \
            lags up to each. Steps without a value are left out.",
    params: &[SERIES, LAGS],
    answer: AnswerKind::Json("Autocorrelation"),
    ..ANALYSIS
};

/// Answers with the autocorrelation of a series.
pub async fn show(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(series): SeriesPath,
) -> Result<Response, Problem> {
    answer((api, uri, series), &ACF, lags, autocorrelation).await
}

fn lags(params: &Params) -> Result<Option<usize>, Problem> {
    params.count("lags", 1..=LAGS_MAX)
}

fn autocorrelation(asked: Option<usize>, subject: &Subject) -> Result<Value, Problem> {
    let values = subject.present();
    let n = values.len();
    let lags = asked.unwrap_or_else(|| acf::default_lags(n)).min(n.saturating_sub(1));
    let mut sums = LagSums::default();
    sums.compute(&values, lags);
    let mut by_lag = vec![f64::NAN; lags + 1];
    acf::autocorrelation(&sums, &mut by_lag);
    let mut band = vec![f64::NAN; lags + 1];
    acf::bartlett_half_widths(&by_lag, n, &mut band);
    let mut statistics = vec![f64::NAN; lags];
    ljung_box::statistics(&by_lag, n, &mut statistics);
    let p_values: Vec<f64> = (1..).zip(&statistics).map(|(lag, q)| ljung_box::p_value(*q, lag)).collect();
    Ok(json!({
        "lags": lags,
        "acf": by_lag,
        "band": band,
        "ljung_box_statistic": statistics,
        "ljung_box_p_value": p_values,
    }))
}

//! `GET /api/v1/profiles/{series}/adf`: the augmented Dickey-Fuller test of the last day, with any deterministic terms.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Value, json};
use tidewatch_dataflows::kernels::adf::{Regression, Status, Workspace, test};
use tidewatch_dataflows::kernels::lag_sums::LagSums;
use tidewatch_dataflows::rows::verdicts::SIGNIFICANCE;

use super::{ANALYSIS, Subject, answer};
use crate::api::operation::{AnswerKind, Operation, Param};
use crate::api::params::{Params, SERIES};
use crate::api::series::SeriesPath;
use crate::api::{Api, Problem};

/// The deterministic terms, by their names in statsmodels.
const REGRESSIONS: [(&str, Regression); 3] =
    [("c", Regression::Constant), ("ct", Regression::Trend), ("n", Regression::None)];

const REGRESSION: Param = Param::query(
    "regression",
    "ct",
    "The deterministic terms: `c` a constant, `ct` a constant and a trend, `n` none.",
    || json!({"type": "string", "enum": REGRESSIONS.map(|(name, _)| name), "default": "c"}),
);

pub const ADF: Operation = Operation {
    id: "adf",
    path: "/api/v1/profiles/{series}/adf",
    summary: "The unit root test of a series",
    about: "The augmented Dickey-Fuller test over the last 24 hours in steps of one minute; the lags are chosen by AIC, the p-value \
            is MacKinnon's. Steps without a value are left out.",
    params: &[SERIES, REGRESSION],
    answer: AnswerKind::Json("UnitRootTest"),
    ..ANALYSIS
};

/// Answers with the test of a series.
pub async fn show(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(series): SeriesPath,
) -> Result<Response, Problem> {
    answer((api, uri, series), &ADF, regression, unit_root).await
}

fn regression(params: &Params) -> Result<(&'static str, Regression), Problem> {
    Ok(params.choice("regression", &REGRESSIONS)?.unwrap_or(REGRESSIONS[0]))
}

fn unit_root((name, regression): (&'static str, Regression), subject: &Subject) -> Result<Value, Problem> {
    let mut sums = LagSums::default();
    sums.compute(&subject.present(), 0);
    let found = test(&sums, regression, &mut Workspace::default());
    let stationary = (found.status == Status::Ok).then_some(found.p_value < SIGNIFICANCE);
    let [critical_1, critical_5, critical_10] = found.critical_values;
    Ok(json!({
        "regression": name,
        "statistic": found.statistic,
        "p_value": found.p_value,
        "used_lag": found.used_lag,
        "nobs": found.nobs,
        "critical_1": critical_1,
        "critical_5": critical_5,
        "critical_10": critical_10,
        "status": found.status.name(),
        "stationary": stationary,
    }))
}

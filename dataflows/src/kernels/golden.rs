//! What statsmodels 0.15.0 says of series of 203 to 2,880 values, and of windows that have no result: for tests.
//!
//! `tests/golden/stationarity.json` was written with numpy 2.4.6 and scipy 1.17.1. Real series are sunspots, El Niño, CO2 and
//! GDP of statsmodels' own data sets (public domain); the others are seeded. `adfuller` and `acf` saw each series shifted by its
//! rounded mean and scaled by `2^-scale_exp`: of raw values near 4e10 they are wrong. Without a constant a shift would matter, so
//! `n` saw the series itself. Tests take what a regression in 80 bits (`qr80`) gives as seriously. Expected statuses of
//! degenerate windows are our own policy: statsmodels raises an error, or prints rounding.

use serde_json::Value;

use super::mackinnon::Regression;

/// Of one regression.
pub(crate) struct GoldenAdf {
    pub(crate) regression: Regression,
    pub(crate) statistic: f64,
    pub(crate) p_value: f64,
    pub(crate) used_lag: usize,
    pub(crate) nobs: usize,
    pub(crate) ic_best: f64,
    pub(crate) critical_values: Vec<f64>,
    /// In 80 bits.
    pub(crate) qr80: f64,
    /// By how much the second best AIC is above the best.
    pub(crate) aic_gap: f64,
}

/// Of a part of a series.
pub(crate) struct GoldenWindow {
    pub(crate) window: Vec<f64>,
    pub(crate) status: String,
    pub(crate) statistic: f64,
    pub(crate) p_value: f64,
    pub(crate) used_lag: usize,
    pub(crate) nobs: usize,
    pub(crate) acf: Vec<f64>,
}

/// A series without its gaps.
pub(crate) struct GoldenSeries {
    pub(crate) name: String,
    pub(crate) x: Vec<f64>,
    pub(crate) scale_exp: i32,
    pub(crate) adf: Vec<GoldenAdf>,
    pub(crate) acf: Vec<f64>,
    pub(crate) lower: Vec<f64>,
    pub(crate) upper: Vec<f64>,
    /// Ljung-Box statistics and p-values from lag 1 on.
    pub(crate) q: Vec<f64>,
    pub(crate) p: Vec<f64>,
    pub(crate) sliding: Vec<GoldenWindow>,
}

pub(crate) fn file() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/stationarity.json")).unwrap()
}

/// The numbers of a list; none where there is `null`.
pub(crate) fn numbers(of: &Value) -> Vec<f64> {
    of.as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

pub(crate) fn number(of: &Value) -> f64 {
    of.as_f64().unwrap_or(f64::NAN)
}

fn count(of: &Value) -> usize {
    of.as_u64().unwrap_or(0) as usize
}

/// The tests by the names that statsmodels has for regressions.
fn adf(of: &Value) -> Vec<GoldenAdf> {
    Regression::ALL
        .iter()
        .map(|regression| {
            let of = &of[regression.name()];
            GoldenAdf {
                regression: *regression,
                statistic: number(&of["statistic"]),
                p_value: number(&of["p_value"]),
                used_lag: count(&of["used_lag"]),
                nobs: count(&of["nobs"]),
                ic_best: number(&of["ic_best"]),
                critical_values: numbers(&of["critical_values"]),
                qr80: number(&of["qr80"]["statistic"]),
                aic_gap: number(&of["qr80"]["aic_gap"]),
            }
        })
        .collect()
}

fn window(x: &[f64], of: &Value) -> GoldenWindow {
    GoldenWindow {
        window: x[count(&of["from"])..][..count(&of["n"])].to_vec(),
        status: of["status"].as_str().unwrap().to_owned(),
        statistic: number(&of["statistic"]),
        p_value: number(&of["p_value"]),
        used_lag: count(&of["used_lag"]),
        nobs: count(&of["nobs"]),
        acf: of["acf"].as_array().map(|_| numbers(&of["acf"])).unwrap_or_default(),
    }
}

pub(crate) fn series() -> Vec<GoldenSeries> {
    let of = |of: &Value| {
        let x = numbers(&of["x"]);
        GoldenSeries {
            name: of["name"].as_str().unwrap().to_owned(),
            scale_exp: of["scale_exp"].as_i64().unwrap() as i32,
            adf: adf(&of["adf"]),
            acf: numbers(&of["acf"]),
            lower: numbers(&of["lower"]),
            upper: numbers(&of["upper"]),
            q: numbers(&of["q"]),
            p: numbers(&of["p"]),
            sliding: of["sliding"].as_array().unwrap().iter().map(|of| window(&x, of)).collect(),
            x,
        }
    };
    let all: Vec<GoldenSeries> = file()["series"].as_array().unwrap().iter().map(of).collect();
    assert_eq!((all.len(), all.iter().map(|s| s.sliding.len()).sum::<usize>()), (16, 40));
    all
}

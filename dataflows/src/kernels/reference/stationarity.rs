//! The slow twins of [`acf`](crate::kernels::acf), [`ljung_box`](crate::kernels::ljung_box) and [`adf`](crate::kernels::adf): sums over
//! pairs of values, and regressions on columns that are made orthogonal one by one.

use crate::kernels::mackinnon::{self, Regression};

/// Autocovariances of the lags 0 to `lags`: the definition, in two passes.
pub fn autocovariance(window: &[f64], lags: usize) -> Vec<f64> {
    let u = centred(window);
    let n = u.len();
    (0..=lags)
        .map(|lag| {
            let products = (lag..n).map(|s| u[s] * u[s - lag]);
            if lag < n { products.sum::<f64>() / n as f64 } else { f64::NAN }
        })
        .collect()
}

/// Autocorrelations of the lags 0 to `lags`.
pub fn autocorrelation(window: &[f64], lags: usize) -> Vec<f64> {
    let products = autocovariance(window, lags);
    products.iter().map(|product| product / products[0]).collect()
}

/// The values without the first one, then without their mean: the order keeps digits where they are far from 0.
fn centred(window: &[f64]) -> Vec<f64> {
    let shifted: Vec<f64> = window.iter().map(|x| x - window[0]).collect();
    let mean = shifted.iter().sum::<f64>() / shifted.len() as f64;
    shifted.iter().map(|x| x - mean).collect()
}

/// The Ljung-Box statistic of the lags 1 to `lags`.
pub fn ljung_box(window: &[f64], lags: usize) -> f64 {
    let (n, r) = (window.len() as f64, autocorrelation(window, lags));
    n * (n + 2.0) * (1..=lags).map(|lag| r[lag].powi(2) / (n - lag as f64)).sum::<f64>()
}

/// The chi-squared survival function as the complement of the series of the lower incomplete gamma function, or by the
/// continued fraction of the upper one (Abramowitz and Stegun 6.5.29, 6.5.31).
pub fn chi_squared_survival(statistic: f64, freedom: usize) -> f64 {
    let (a, x) = (freedom as f64 / 2.0, statistic / 2.0);
    let front = libm::exp(a * libm::log(x) - x - libm::lgamma(a));
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for i in 1..100_000 {
            term *= x / (a + f64::from(i));
            sum += term;
        }
        return 1.0 - front * sum;
    }
    let fraction =
        (1..10_000).rev().map(f64::from).fold(0.0, |below, i| i * (i - a) / (x + 2.0 * i + 1.0 - a - below));
    front / (x + 1.0 - a - fraction)
}

/// The result of an ADF test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowAdf {
    /// The t ratio of the level.
    pub statistic: f64,
    /// MacKinnon's p-value.
    pub p_value: f64,
    /// The lag with the least AIC.
    pub used_lag: usize,
    /// The rows of its regression.
    pub nobs: usize,
    /// The least AIC.
    pub ic_best: f64,
    /// By how much the next lag's AIC is above it: near 0, rounding decides.
    pub aic_gap: f64,
    /// The least part of a column's squares, or of the target's, that the columns before it left.
    pub conditioning: f64,
    /// Residual by total squares about the mean, the lesser of those of the most lags and of the best; 0 where there is nothing to explain.
    pub residual_ratio: f64,
}

/// The test on a window that varies and is finite; nothing if it is too short.
pub fn adf(window: &[f64], regression: Regression) -> Option<SlowAdf> {
    let (n, terms) = (window.len(), regression.terms());
    let lags = (n / 2).checked_sub(terms + 1)?.min((12.0 * (n as f64 / 100.0).powf(0.25)).ceil() as usize);
    let rows = n - 1 - lags;
    let (mut columns, level, lagged, target) = design(window, lags, regression);
    columns.push(level);
    columns.extend(lagged);
    let steps = &project(&columns, &target)[terms..];
    // Without any difference every model is as good.
    let silent = target.iter().all(|y| *y == 0.0);
    let of_most_lags = if silent { 1.0 } else { part(steps.last()?.residual, &target) };
    let aic = |step: &Step| {
        let n = rows as f64;
        n * ((std::f64::consts::TAU).ln() + (step.residual / n).ln() + 1.0) + 2.0 * step.rank as f64
    };
    let criteria: Vec<f64> = steps.iter().map(aic).collect();
    let least = |among: &[f64]| among.iter().copied().fold(f64::INFINITY, f64::min);
    let ic_best = least(&criteria);
    let used_lag = criteria.iter().position(|aic| *aic == ic_best)?;
    let others = [&criteria[..used_lag], &criteria[used_lag + 1..]].concat();

    let (mut columns, level, lagged, target) = design(window, used_lag, regression);
    columns.extend(lagged);
    columns.push(level);
    let again = project(&columns, &target);
    let last = again.last()?;
    let freedom = target.len() as f64 - last.rank as f64;
    let statistic = last.along / (last.residual / freedom).sqrt();
    let parts = steps.iter().chain(&again[terms..]).map(|step| step.left);
    Some(SlowAdf {
        statistic,
        p_value: mackinnon::p_value(statistic, regression),
        used_lag,
        nobs: target.len(),
        ic_best,
        aic_gap: least(&others) - ic_best,
        conditioning: parts.fold(last.residual / target.iter().map(|y| y * y).sum::<f64>(), f64::min),
        residual_ratio: of_most_lags.min(part(last.residual, &target)),
    })
}

/// The part of a target's squares about its mean that is left; 0 where there are none.
fn part(residual: f64, target: &[f64]) -> f64 {
    let total: f64 = centred(target).iter().map(|y| y * y).sum();
    if total > 0.0 { residual / total } else { 0.0 }
}

type Column = Vec<f64>;

/// Deterministic terms, level, lagged differences and target of the regression on `lags` lags.
fn design(x: &[f64], lags: usize, regression: Regression) -> (Vec<Column>, Column, Vec<Column>, Column) {
    let rows = lags + 1..x.len();
    let middle = (lags + x.len()) as f64 / 2.0;
    let trend = rows.clone().map(|t| t as f64 - middle).collect();
    let constant = vec![1.0; rows.len()];
    let terms = match regression {
        Regression::None => Vec::new(),
        Regression::Constant => vec![constant],
        Regression::Trend => vec![constant, trend],
    };
    // A shift of the level changes nothing where there is a constant, and a line nothing where there is a trend; both would take
    // digits. The slope is an f32, so that its products are exact.
    let slope = f64::from(((x[x.len() - 1] - x[0]) / (x.len() - 1) as f64) as f32);
    let u = match regression {
        Regression::None => x.to_vec(),
        Regression::Constant => centred(x),
        Regression::Trend => {
            x.iter().enumerate().map(|(t, value)| (value - x[0]) - slope * t as f64).collect()
        }
    };
    let lagged = |lag: usize| rows.clone().map(|t| x[t - lag] - x[t - lag - 1]).collect();
    let level = rows.clone().map(|t| u[t - 1]).collect();
    (terms, level, (1..=lags).map(lagged).collect(), lagged(0))
}

/// What one more column explains of the target.
struct Step {
    /// The residual squares behind it.
    residual: f64,
    /// How many columns are independent so far.
    rank: usize,
    /// The target along the column, made orthogonal to those before it.
    along: f64,
    /// The part of the column's squares that those before it left.
    left: f64,
}

/// Gram-Schmidt orthogonalisation, each projection made twice.
fn project(columns: &[Column], target: &[f64]) -> Vec<Step> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let subtract = |from: &mut [f64], along: &[f64]| {
        let factor = dot(along, from);
        from.iter_mut().zip(along).for_each(|(x, q)| *x -= factor * q);
        factor
    };
    let (mut basis, mut residual, mut steps): (Vec<Column>, _, _) = (Vec::new(), target.to_vec(), Vec::new());
    for column in columns {
        let mut rest = column.clone();
        for q in basis.iter().chain(&basis) {
            subtract(&mut rest, q);
        }
        let (length, before) = (dot(&rest, &rest).sqrt(), dot(column, column).sqrt());
        let (mut along, mut left) = (0.0, 0.0);
        if length > 50.0 * f64::EPSILON * before {
            rest.iter_mut().for_each(|x| *x /= length);
            along = subtract(&mut residual, &rest);
            basis.iter().for_each(|q| _ = subtract(&mut residual, q));
            basis.push(rest);
            left = (length / before).powi(2);
        }
        steps.push(Step { residual: dot(&residual, &residual), rank: basis.len(), along, left });
    }
    steps
}

//! The augmented Dickey-Fuller test: whether a window has a unit root, against its being stationary.
//!
//! # Formula
//! The differences `d_t` are regressed on the level `x_{t-1}`, on `q` lags `d_{t-1} .. d_{t-q}` and on deterministic terms. The
//! statistic is the t ratio of the level (Dickey and Fuller 1979; Said and Dickey 1984; Hamilton 1994, chapter 17). As statsmodels
//! 0.15 `adfuller(autolag="AIC")`:
//! - `q` is that of 0 to `p` with the least `AIC = N (ln 2 pi + ln(SSR / N) + 1) + 2 k` over the rows `t > p`; of equals the least;
//! - the regression on `q` lags is then made over all its rows `t > q`;
//! - the p-value and the critical values are MacKinnon's ([`mackinnon`](super::mackinnon)).
//!
//! `gram` does that with the products of the columns, which follow from [`LagSums`]. `qr` does it with the columns themselves,
//! where rounding of the products could be seen. So nothing is lost by an offset. statsmodels itself drops the constant of
//! a raw gauge near 4e10; ours is what it says of the shifted and scaled window.
//!
//! # Precision
//! By products a statistic is off by less than `5e-14 / conditioning` of itself or of 1, and `qr` takes over below a conditioning
//! of 1e-7. There it is off by less than `1e-15 / sqrt(conditioning)`.
//!
//! # Cost
//! With the sums given `p^3 / 3` operations: 3 µs at `p` = 24. By `qr` it is `4 n p^2`: 0.4 ms for 1,440 values.

mod estimate;
mod gram;
mod qr;
#[cfg(test)]
mod tests;

use self::estimate::Estimate;
use super::lag_sums::{LagSums, Shape, lag_limit};
use super::mackinnon;
pub use super::mackinnon::Regression;

/// Whether a test says anything of a window, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Ok,
    /// All values are equal.
    Constant,
    /// There are too few values for a regression without lags.
    TooShort,
    /// A value is not finite.
    NonFinite,
    /// The regression leaves nothing but rounding: the t ratio would be noise.
    PerfectFit,
    /// The level is a combination of the other columns.
    DegenerateLevel,
}

impl Status {
    /// As rows and answers name it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Constant => "constant",
            Status::TooShort => "too_short",
            Status::NonFinite => "non_finite",
            Status::PerfectFit => "perfect_fit",
            Status::DegenerateLevel => "degenerate_level",
        }
    }
}

/// How a test was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Not at all.
    None,
    /// From the products of the columns.
    Gram,
    /// From the columns.
    Qr,
}

/// The result of a test. Where the status is not [`Status::Ok`], its numbers are NaN and its counts 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adf {
    /// Whether there is a result.
    pub status: Status,
    /// The t ratio of the level.
    pub statistic: f64,
    /// The probability of such a statistic under a unit root.
    pub p_value: f64,
    /// How many lags the regression has.
    pub used_lag: usize,
    /// How many rows the regression has.
    pub nobs: usize,
    /// The statistic has to be below these for a p-value of 1 %, 5 % and 10 %.
    pub critical_values: [f64; 3],
    /// The least AIC.
    pub ic_best: f64,
    /// How it was computed, whatever the status.
    pub path: Path,
    /// The smallest part of a column's squares that its regression on others left, from 1 (orthogonal) to 0 (collinear).
    pub conditioning: f64,
}

impl Adf {
    const fn without(status: Status, path: Path, conditioning: f64) -> Adf {
        Adf {
            status,
            statistic: f64::NAN,
            p_value: f64::NAN,
            used_lag: 0,
            nobs: 0,
            critical_values: [f64::NAN; 3],
            ic_best: f64::NAN,
            path,
            conditioning,
        }
    }
}

/// The memory of a test. It grows with the longest window and is not given back.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    gram: gram::Workspace,
    qr: qr::Workspace,
}

/// Below this conditioning the columns themselves are taken.
const GRAM_CONDITIONING_MIN: f64 = 1e-7;
/// Below this part of the squares residuals are rounding.
const PERFECT_FIT: f64 = 1e-22;
/// Below this part of its squares a level is a combination of other columns.
const DEGENERATE_LEVEL: f64 = 1e-24;

/// How many lags a test of `n` values tries: `min(n / 2 - terms - 1, ceil(12 (n / 100)^(1/4)))`; none if `n` is too short.
pub fn max_lag(n: usize, regression: Regression) -> Option<usize> {
    (n / 2).checked_sub(regression.terms() + 1).map(|most| most.min(lag_limit(n)))
}

/// Tests the window that the sums are of.
///
/// # Edges
/// Each has its [`Status`]: a window that is too short, constant or not finite, an exact fit, a level without a t ratio.
pub fn test(sums: &LagSums, regression: Regression, workspace: &mut Workspace) -> Adf {
    test_by_products(sums, regression, workspace).unwrap_or_else(|| {
        let lags = max_lag(sums.len(), regression).expect("else nothing was tested");
        let estimate = qr::estimate(sums, lags, regression, &mut workspace.qr);
        result(&estimate, Path::Qr, sums, regression)
    })
}

/// The same where the products say enough; nothing where it takes the columns themselves. Sums that were kept are enough for it.
pub fn test_by_products(sums: &LagSums, regression: Regression, workspace: &mut Workspace) -> Option<Adf> {
    let Some(lags) = max_lag(sums.len(), regression) else {
        return Some(Adf::without(Status::TooShort, Path::None, f64::NAN));
    };
    Some(match sums.shape() {
        Shape::NonFinite => Adf::without(Status::NonFinite, Path::None, f64::NAN),
        Shape::Constant => Adf::without(Status::Constant, Path::None, f64::NAN),
        Shape::Varying => {
            let estimate = gram::estimate(sums, lags, regression, &mut workspace.gram);
            if estimate.conditioning < GRAM_CONDITIONING_MIN {
                return None;
            }
            result(&estimate, Path::Gram, sums, regression)
        }
    })
}

fn result(estimate: &Estimate, path: Path, sums: &LagSums, regression: Regression) -> Adf {
    let statistic = estimate.statistic;
    if estimate.residual_ratio < PERFECT_FIT || !statistic.is_finite() {
        return Adf::without(Status::PerfectFit, path, estimate.conditioning);
    }
    if estimate.level_ratio < DEGENERATE_LEVEL {
        return Adf::without(Status::DegenerateLevel, path, estimate.conditioning);
    }
    let nobs = sums.len() - 1 - estimate.lag;
    Adf {
        status: Status::Ok,
        statistic,
        p_value: mackinnon::p_value(statistic, regression),
        used_lag: estimate.lag,
        nobs,
        critical_values: mackinnon::critical_values(nobs, regression),
        ic_best: estimate.ic_best,
        path,
        conditioning: estimate.conditioning,
    }
}

//! What both paths of the ADF test give, and how both choose the lag.

use crate::kernels::lag_sums::LagSums;

/// The logarithm of 2 pi.
const LN_TAU: f64 = 1.837_877_066_409_345_3;

/// What a regression gave, by either path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Estimate {
    pub(super) lag: usize,
    pub(super) statistic: f64,
    pub(super) ic_best: f64,
    /// The least of the relative pivots, of the residual parts of the squares, and of what centring left of them.
    pub(super) conditioning: f64,
    /// Residual by total squares, the lesser of those of the most lags and of the best: where the former are rounding, so is the
    /// choice of the lag.
    pub(super) residual_ratio: f64,
    /// What the other columns left of the level's squares.
    pub(super) level_ratio: f64,
}

/// The lag with the least AIC, of those offered in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Best {
    pub(super) lag: usize,
    aic: f64,
}

impl Best {
    pub(super) const NONE: Best = Best { lag: 0, aic: f64::INFINITY };

    /// `columns` is how many the regression has in truth: its rank.
    pub(super) fn offer(&mut self, lag: usize, rows: usize, squares: f64, columns: usize) {
        let n = rows as f64;
        let constant = 1.0 + LN_TAU;
        let fit = if squares > 0.0 { n * (libm::log(squares / n) + constant) } else { f64::NEG_INFINITY };
        let aic = fit + 2.0 * columns as f64;
        if aic < self.aic {
            *self = Best { lag, aic };
        }
    }

    /// The AIC in the unit of the window: residuals were multiplied by a power of two.
    pub(super) fn unscaled(&self, sums: &LagSums, rows: usize) -> f64 {
        self.aic - 2.0 * rows as f64 * (f64::from(sums.exponent()) * std::f64::consts::LN_2)
    }
}

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
///
/// Models are compared by `squares exp(2 columns / rows)`, which rises as their AIC does and takes no logarithm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Best {
    pub(super) lag: usize,
    rows: f64,
    squares: f64,
    columns: usize,
    weighted: f64,
    /// What a column more has to be worth, and what so many columns have.
    weight: f64,
    weights: (usize, f64),
}

impl Best {
    /// Of regressions of so many rows.
    pub(super) fn of(rows: usize) -> Best {
        let rows = rows as f64;
        let weight = libm::exp(2.0 / rows);
        Best { lag: 0, rows, squares: 0.0, columns: 0, weighted: f64::INFINITY, weight, weights: (0, 1.0) }
    }

    /// `columns` is how many the regression has in truth: its rank, which is not below that of one offered before.
    pub(super) fn offer(&mut self, lag: usize, squares: f64, columns: usize) {
        let squares = squares.max(0.0);
        while self.weights.0 < columns {
            self.weights = (self.weights.0 + 1, self.weights.1 * self.weight);
        }
        let weighted = squares * self.weights.1;
        if weighted < self.weighted {
            *self = Best { lag, squares, columns, weighted, ..*self };
        }
    }

    /// The AIC in the unit of the window: residuals were multiplied by a power of two.
    pub(super) fn unscaled(&self, sums: &LagSums) -> f64 {
        let fit = if self.squares > 0.0 {
            self.rows * (libm::log(self.squares / self.rows) + (1.0 + LN_TAU))
        } else {
            f64::NEG_INFINITY
        };
        let aic = fit + 2.0 * self.columns as f64;
        aic - 2.0 * self.rows * (f64::from(sums.exponent()) * std::f64::consts::LN_2)
    }
}

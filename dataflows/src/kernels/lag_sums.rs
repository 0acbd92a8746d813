//! The sums of a window that the ADF test and the autocorrelation are both computed from: lagged products of differences.
//!
//! # Formula
//! The line of a window of `n` values `x_t` goes through its first and its last: `x_0 + m t`. Its slope `m` is rounded to
//! 24 bits, so `m t` is exact up to 2^29 values. With `d_s = x_s - x_{s-1}` the sums are about that line:
//! ```text
//!  e_s = d_s - m                        differences, s = 1..n-1
//!  v_s = (x_s - x_0) - m s - offset     levels of mean 0, s = 0..n-1
//!  R_k = sum e_s e_{s-k}                lagged products
//! ```
//! An offset of the values cancels in `d_s` before anything is multiplied, exactly wherever neighbours are within a factor
//! of 2 (Sterbenz 1974). Products of differences with levels, and of levels with levels, follow from `R_k` and the values
//! at both ends, by identities that [`acf`](super::acf) and [`adf`](super::adf) state.
//!
//! `R_k` is summed apart over the first `edge` differences, the last `edge`, and the `core` between them. The rows of a
//! regression on lags are the core with some of both ends, so nothing is ever subtracted. The core is summed in blocks
//! of 64 differences. The sums of two adjacent runs add, so panes can be kept: a pane about another slope `b` has
//! `sum (e_s + D)(e_{s-k} + D) = R_k + D (sum e_s + sum e_{s-k}) + B D^2` with `D = b - m`, and its plain sums telescope.
//!
//! Sums of a window that moves are kept as whole numbers by [`grid`](super::grid), which gives the same sums here.
//!
//! # Precision
//! Values are multiplied by a power of two where their range is beyond 2^±300, so every finite window has its sums.
//!
//! # Cost
//! `n` multiplications and additions for each lag, in lanes of 16 lags: 9 µs for 1,440 values and 31 lags on SSE2. Three
//! floats a value are kept, and a fourth for more than 40 lags.

use super::grid::{GRID_LAGS, GridSums};
use super::lanes;

/// How many lags are summed in one pass over the differences.
const LANES: usize = 16;
/// After so many differences the lanes are added to the totals, so that rounding does not grow with the window.
const BLOCK: usize = 64;
/// Autocovariances of more lags are summed one by one: each that follows from the one before has its rounding as well.
const LAGS_MAX: usize = 40;

/// What kind of window the sums are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// At least two values differ, and all are finite: the only shape that has sums.
    Varying,
    /// All values are equal, or there is none.
    Constant,
    /// One of the values is not finite.
    NonFinite,
}

/// Sums of levels over the rows `t` of a regression: of `v_{t-1}`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LevelSums {
    /// Of the levels.
    pub(super) sum: f64,
    /// Of their squares.
    pub(super) squares: f64,
    /// Of their products with `t`, centred on its mean.
    pub(super) moment: f64,
}

/// The sums of one window, and its levels and differences. It keeps its memory from window to window.
#[derive(Clone, Debug)]
pub struct LagSums {
    shape: Shape,
    /// The power of two that the values were multiplied by, as its exponent.
    exponent: i32,
    count: usize,
    first: f64,
    slope: f64,
    offset: f64,
    edge: usize,
    /// Of a window that was given by its values.
    values: Vec<f64>,
    /// `v_s`; of a window that was given by its sums the oldest and the newest.
    levels: Vec<f64>,
    /// Newest first. Zeros follow, so that a lag may reach before the window. Of a window that was given by its sums those of
    /// both ends.
    differences: Vec<f64>,
    /// How many differences there are before the zeros.
    differences_count: usize,
    core: Vec<f64>,
    whole: Vec<f64>,
    /// The values without their mean, if autocovariances of more than `LAGS_MAX` lags were asked for.
    centred: Vec<f64>,
    rows: LevelSums,
    /// What rounding leaves of the mean of the levels, the sum of their squares, and that of their products with the centred time.
    mean_level: f64,
    squares: f64,
    moment: f64,
}

impl Default for LagSums {
    fn default() -> LagSums {
        LagSums {
            shape: Shape::Constant,
            exponent: 0,
            count: 0,
            first: 0.0,
            slope: 0.0,
            offset: 0.0,
            edge: 0,
            values: Vec::new(),
            levels: Vec::new(),
            differences: Vec::new(),
            differences_count: 0,
            core: Vec::new(),
            whole: Vec::new(),
            centred: Vec::new(),
            rows: LevelSums::default(),
            mean_level: 0.0,
            squares: 0.0,
            moment: 0.0,
        }
    }
}

impl LagSums {
    /// Computes the sums of a window, for autocorrelations of up to `lags` lags and for the ADF test.
    ///
    /// Any input is taken: [`shape`](LagSums::shape) says whether it has sums. More than `n - 1` lags are none.
    pub fn compute(&mut self, window: &[f64], lags: usize) {
        let n = window.len();
        self.edge = edge_of(n);
        let products = self.edge.max(lags.min(LAGS_MAX).min(n.saturating_sub(1)).saturating_sub(1)) + 1;
        self.values.clear();
        self.values.extend_from_slice(window);
        self.shape = self.scale();
        (self.count, self.first) = (n, self.values.first().copied().unwrap_or(f64::NAN));
        if self.shape == Shape::Varying {
            self.subtract_line(products);
            self.sum_products(products);
            self.sum_levels();
            self.centred.clear();
            if lags > LAGS_MAX {
                self.centre();
            }
        }
    }

    /// The same of a window whose sums were kept, and of whose numbers there are the oldest and the newest: [`GRID_ENDS`] of each,
    /// or all. They are for up to [`GRID_LAGS`] lags.
    ///
    /// [`GRID_ENDS`]: super::grid::GRID_ENDS
    pub fn compute_from(&mut self, sums: &GridSums, oldest: &[i64], newest: &[i64]) {
        let n = sums.count();
        self.values.clear();
        self.centred.clear();
        self.edge = edge_of(n);
        (self.count, self.exponent) = (n, -sums.grid().exponent());
        self.first = oldest.first().map_or(f64::NAN, |number| *number as f64);
        self.shape = if sums.is_constant() { Shape::Constant } else { Shape::Varying };
        if self.shape == Shape::Constant {
            return;
        }
        let line = sums.line(oldest[0], newest[newest.len() - 1]);
        (self.slope, self.offset) = (line.slope as f64, line.offset as f64);
        let all = n <= oldest.len();
        let older = if all { &[] } else { oldest };
        let newer_from = n - newest.len();
        self.levels.clear();
        let level = |(s, number): (usize, &i64)| line.level(s, *number) as f64;
        self.levels.extend(older.iter().enumerate().map(level));
        self.levels.extend(newest.iter().enumerate().map(|(i, number)| level((newer_from + i, number))));
        self.differences.clear();
        for numbers in [newest, older] {
            self.differences.extend(numbers.windows(2).rev().map(|pair| line.difference(pair) as f64));
        }
        self.differences_count = self.differences.len();
        self.differences.resize(self.differences_count + GRID_LAGS.next_multiple_of(LANES), 0.0);
        sums.lagged_products(&line, (oldest, newest), self.edge, &mut self.whole, &mut self.core);
        let levels = sums.levels(&line, &[], &[]);
        let rows = sums.levels(&line, &oldest[..self.edge], &newest[newest.len() - 1..]);
        self.rows = LevelSums { sum: rows.sum, squares: rows.squares, moment: rows.moment };
        (self.mean_level, self.squares, self.moment) = (levels.sum / n as f64, levels.squares, levels.moment);
    }

    /// Whether there are sums.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How many values the window has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the window has no value.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Multiplies the values by a power of two, if their range asks for it.
    fn scale(&mut self) -> Shape {
        let (mut min, mut max, mut finite) = (f64::INFINITY, f64::NEG_INFINITY, true);
        for value in &self.values {
            finite &= value.is_finite();
            min = if *value < min { *value } else { min };
            max = if *value > max { *value } else { max };
        }
        self.exponent = 0;
        if !finite {
            return Shape::NonFinite;
        }
        if min >= max {
            return Shape::Constant;
        }
        let exponent = ((max - min).to_bits() >> 52) as i32 - 1_023;
        if exponent.abs() > 300 {
            // An infinite range has the exponent 1,024.
            self.exponent = -exponent.clamp(-1_022, 1_022);
            let factor = power_of_two(self.exponent);
            self.values.iter_mut().for_each(|value| *value *= factor);
        }
        Shape::Varying
    }

    fn subtract_line(&mut self, products: usize) {
        let x = &self.values;
        let (n, first, last) = (x.len(), x[0], x[x.len() - 1]);
        let slope = in_24_bits((last - first) / (n - 1) as f64);
        self.levels.clear();
        self.levels.extend(x.iter().enumerate().map(|(i, x)| (x - first) - slope * i as f64));
        let offset = lanes::sum(&self.levels) / n as f64;
        self.levels.iter_mut().for_each(|level| *level -= offset);
        self.differences.clear();
        self.differences.extend(x.windows(2).rev().map(|pair| (pair[1] - pair[0]) - slope));
        self.differences_count = n - 1;
        self.differences.resize(n - 1 + products.next_multiple_of(LANES), 0.0);
        (self.slope, self.offset) = (slope, offset);
    }

    fn sum_products(&mut self, products: usize) {
        let (last, edge) = (self.values.len() - 1, self.edge);
        for sums in [&mut self.core, &mut self.whole] {
            sums.clear();
            sums.resize(products, 0.0);
        }
        for lag in (0..products).step_by(LANES) {
            let of = |from, to| lagged_products(&self.differences, from, to, lag);
            let (newest, core, oldest) = (of(0, edge), of(edge, last - edge), of(last - edge, last));
            for lane in 0..LANES.min(products - lag) {
                self.core[lag + lane] = core[lane];
                self.whole[lag + lane] = (oldest[lane] + core[lane]) + newest[lane];
            }
        }
    }

    fn sum_levels(&mut self) {
        let n = self.values.len();
        let rows = &self.levels[self.edge..n - 1];
        self.rows = LevelSums {
            sum: lanes::sum(rows),
            squares: lanes::dot(rows, rows),
            moment: lanes::weighted_sum(rows, -((rows.len() - 1) as f64) / 2.0),
        };
        self.mean_level = lanes::sum(&self.levels) / n as f64;
        self.squares = lanes::dot(&self.levels, &self.levels);
        self.moment = lanes::weighted_sum(&self.levels, -((n - 1) as f64) / 2.0);
    }

    fn centre(&mut self) {
        let middle = (self.values.len() - 1) as f64 / 2.0;
        let (slope, rest) = (self.slope, self.mean_level());
        let levels = self.levels.iter().enumerate();
        self.centred.extend(levels.map(|(s, level)| (level - rest) + slope * (s as f64 - middle)));
    }

    /// What rounding leaves of the mean of the levels, which is 0.
    pub(super) fn mean_level(&self) -> f64 {
        self.mean_level
    }

    /// The sum of the squares of the levels.
    pub(super) fn squares(&self) -> f64 {
        self.squares
    }

    /// The sum of the products of the levels with the time about its middle.
    pub(super) fn moment(&self) -> f64 {
        self.moment
    }

    /// The values without their mean, in scaled units; empty unless there is an autocovariance of many lags to be had.
    pub(super) fn centred(&self) -> &[f64] {
        &self.centred
    }

    /// Rows `t > edge` of a regression have their sums.
    pub(super) fn edge(&self) -> usize {
        self.edge
    }

    /// Level sums of the rows `t > edge`.
    pub(super) fn rows(&self) -> LevelSums {
        self.rows
    }

    /// The slope `m` of the window's line, in scaled units.
    pub(super) fn slope(&self) -> f64 {
        self.slope
    }

    /// The window's line at time 0 with the mean of the levels: what a level lacks to be the value.
    pub(super) fn intercept(&self) -> f64 {
        self.first + self.offset
    }

    /// The exponent of the power of two that the values were multiplied by.
    pub(super) fn exponent(&self) -> i32 {
        self.exponent
    }

    /// A value, a difference or a mean, in the unit of the window again.
    pub(super) fn unscaled(&self, value: f64) -> f64 {
        value * power_of_two(-self.exponent)
    }

    /// The oldest value, in scaled units; NaN of no values.
    pub(super) fn first(&self) -> f64 {
        self.first
    }

    /// The values, in scaled units; nothing of a window that was given by its sums.
    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    /// `v_s`, of which `s` is near one of both ends.
    pub(super) fn level(&self, s: usize) -> f64 {
        if 2 * s < self.count { self.levels[s] } else { self.levels[s + self.levels.len() - self.count] }
    }

    /// The oldest of the `v_s`, and behind them the newest: of some windows all.
    pub(super) fn levels(&self) -> &[f64] {
        &self.levels
    }

    /// `e_s` from `s` on back in time, then zeros; `s` is at least 1, and near one of both ends.
    pub(super) fn differences_before(&self, s: usize) -> &[f64] {
        let from = if 2 * s < self.count { self.differences_count - s } else { self.count - 1 - s };
        &self.differences[from..]
    }

    /// `R_k` over the differences between both edges.
    pub(super) fn core(&self) -> &[f64] {
        &self.core
    }

    /// `R_k` over all differences.
    pub(super) fn whole(&self) -> &[f64] {
        &self.whole
    }
}

/// Sums of `differences[i] differences[i + k]` over `from <= i < to` for the lags `k` from `lag` on.
fn lagged_products(differences: &[f64], from: usize, to: usize, lag: usize) -> [f64; LANES] {
    let mut totals = [0.0; LANES];
    for block in (from..to).step_by(BLOCK) {
        let end = to.min(block + BLOCK);
        let lagged = differences[block + lag..end + lag + LANES - 1].array_windows::<LANES>();
        let mut sums = [0.0; LANES];
        for (now, lagged) in differences[block..end].iter().zip(lagged) {
            for lane in 0..LANES {
                sums[lane] += now * lagged[lane];
            }
        }
        for lane in 0..LANES {
            totals[lane] += sums[lane];
        }
    }
    totals
}

/// How many differences at each end are summed apart.
fn edge_of(n: usize) -> usize {
    lag_limit(n).min((n / 2).saturating_sub(1))
}

/// The most lags that an ADF test of `n` values tries where there are enough rows: `ceil(12 (n / 100)^(1/4))`, in whole
/// numbers, so that it is the same on every machine (Schwert 1989; as statsmodels 0.15).
pub(super) fn lag_limit(n: usize) -> usize {
    let enough = |lags: usize| (lags as u128).pow(4) * 100 >= 12_u128.pow(4) * n as u128;
    let mut lags = (12.0 * (n as f64 / 100.0).sqrt().sqrt()) as usize;
    while lags > 0 && enough(lags - 1) {
        lags -= 1;
    }
    while !enough(lags) {
        lags += 1;
    }
    lags
}

/// Of an exponent from -1,022 to 1,023.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1_023 + exponent) as u64) << 52)
}

/// The nearest number with 24 bits; its product with a whole number up to 2^29 is exact.
fn in_24_bits(value: f64) -> f64 {
    const LOW: u64 = (1 << 29) - 1;
    f64::from_bits((value.to_bits() + (1 << 28)) & !LOW)
}

//! The ADF regressions from the products of their columns: sums over the rows that follow from [`LagSums`] without a look
//! at the rows themselves.
//!
//! # Formula
//! Rows are `t = A..Z` with `A = q + 1` and `Z = n - 1`, `N = Z - A + 1` of them; `c_t = t - (A + Z) / 2`. With the levels `v` and the
//! differences `e` about the window's line, the products of lags are `R_k` of the core and of what each of them has at both ends:
//! `G_ij = sum_t e_{t-i} e_{t-j}`. All others telescope:
//! ```text
//!  S_j = sum e_{t-j}         = v_{Z-j} - v_{A-1-j}
//!  L_j = sum v_{t-1} e_{t-j} = (v_{Z-j}^2 - v_{A-1-j}^2 + G_jj) / 2 + sum_{0<i<j} G_ij    (j > 0; for 0, - G_00 / 2)
//!  T_j = sum c_t e_{t-j}     = c_Z v_{Z-j} - c_A v_{A-1-j} - sum_{t=A}^{Z-1} v_{t-j}
//! ```
//! Constant and trend are orthogonal, so they are taken out first: a product of columns `a` and `b` loses
//! `S_a S_b / N` and `T_a T_b / sum c_t^2`. With a constant alone the level gets the line's slope back, without one everything does.
//! One elimination (of Gauss, which for a symmetric matrix is Cholesky's) then leaves the residual squares of every nested model.

use super::estimate::{Best, Estimate};
use crate::kernels::lag_sums::{LagSums, LevelSums};
use crate::kernels::lanes::add_scaled;
use crate::kernels::mackinnon::Regression;

/// A column of which the elimination left less than this is a combination of the columns before it.
const PIVOT_MIN: f64 = 1e-14;

/// The memory of the products.
#[derive(Clone, Debug, Default)]
pub(super) struct Workspace {
    base: Rows,
    rows: Rows,
    ends: Ends,
    matrix: Matrix,
}

/// The regression on the best of 0 to `lags` lags; `lags` is at most the edge of the sums.
pub(super) fn estimate(
    sums: &LagSums,
    lags: usize,
    regression: Regression,
    workspace: &mut Workspace,
) -> Estimate {
    let Workspace { base, rows, ends, matrix } = workspace;
    matrix.conditioning = 1.0;
    base.of_edge(sums);
    // The scan: every model over the same rows, with the level first.
    let scanned = if lags == base.lags {
        &*base
    } else {
        rows.extend(base, sums, lags);
        &*rows
    };
    ends.compute(scanned, sums);
    matrix.fill(scanned, ends, sums, regression, 0);
    let count = sums.len() - 1 - lags;
    matrix.eliminate(lags + 1);
    let mut best = Best::of(count);
    for (lag, Left { rank, residual }) in matrix.left.iter().enumerate() {
        best.offer(lag, *residual, regression.terms() + rank);
    }
    matrix.note_residual();
    let ic_best = best.unscaled(sums);
    // The regression on the best lag over all its rows, with the level last.
    let lag = best.lag;
    let count = rows.extend(base, sums, lag);
    ends.compute(rows, sums);
    matrix.fill(rows, ends, sums, regression, lag);
    matrix.eliminate(lag + 1);
    let (level, with_target) = (matrix.cell(lag, lag), matrix.cell(lag, lag + 1));
    let level_ratio = level / matrix.squares[lag];
    // Without a level there is no t ratio, whether it is empty or a combination.
    matrix.note(level_ratio);
    matrix.note_residual();
    let freedom = count as f64 - (regression.terms() + matrix.rank()) as f64;
    Estimate {
        lag,
        statistic: with_target / level.sqrt() / (matrix.residual() / freedom).sqrt(),
        ic_best,
        conditioning: matrix.conditioning,
        residual_ratio: matrix.residual() / matrix.total,
        level_ratio,
    }
}

/// `G_ij` for `i <= j` over the rows `t > lags`, and the sums of the levels over them.
#[derive(Clone, Debug, Default)]
struct Rows {
    lags: usize,
    /// Row by row, `lags + 1` a row; below the diagonal is nothing of use.
    products: Vec<f64>,
    /// Of one row, over the newest differences, by lag.
    newest: Vec<f64>,
    levels: LevelSums,
}

impl Rows {
    /// Those that all sums are of: `t > edge`.
    fn of_edge(&mut self, sums: &LagSums) {
        let (edge, n) = (sums.edge(), sums.len());
        let width = edge + 1;
        self.lags = edge;
        self.levels = sums.rows();
        self.products.clear();
        self.products.resize(width * width, 0.0);
        // The core, and what a shift of the rows by one brings in at the old end.
        self.products[..width].copy_from_slice(&sums.core()[..width]);
        let oldest = if edge > 0 { sums.differences_before(edge) } else { &[] };
        for i in 0..edge {
            let (above, below) = self.products.split_at_mut((i + 1) * width);
            let (above, below) = (&above[i * width + i..][..edge - i], &mut below[i + 1..][..edge - i]);
            for ((to, from), e) in below.iter_mut().zip(above).zip(&oldest[i..edge]) {
                *to = from + oldest[i] * e;
            }
        }
        // What is newer than the core: one difference less for each row.
        let newest = sums.differences_before(n - 1);
        self.newest.clear();
        self.newest.resize(width, 0.0);
        for i in (0..edge).rev() {
            add_scaled(&mut self.newest, newest[i], &newest[i..]);
            add_scaled(&mut self.products[i * width + i..][..width - i], 1.0, &self.newest);
        }
    }

    /// Those of fewer lags: the same with the rows from `lags + 1` to `base.lags`. Gives their number.
    fn extend(&mut self, base: &Rows, sums: &LagSums, lags: usize) -> usize {
        let (n, width) = (sums.len(), lags + 1);
        self.lags = lags;
        self.products.clear();
        for i in 0..width {
            self.products.extend_from_slice(&base.products[i * (base.lags + 1)..][..width]);
        }
        self.levels = base.levels;
        // The mean of `t` moves by half a row for each.
        self.levels.moment += (base.lags - lags) as f64 / 2.0 * self.levels.sum;
        let middle = (lags + n) as f64 / 2.0;
        for t in width..=base.lags {
            let row = &sums.differences_before(t)[..width];
            for i in 0..width {
                add_scaled(&mut self.products[i * width + i..][..width - i], row[i], &row[i..]);
            }
            let level = sums.level(t - 1);
            self.levels.sum += level;
            self.levels.squares += level * level;
            self.levels.moment += (t as f64 - middle) * level;
        }
        n - width
    }
}

/// `S_j`, `L_j` and `T_j`.
#[derive(Clone, Debug, Default)]
struct Ends {
    sums: Vec<f64>,
    with_level: Vec<f64>,
    with_time: Vec<f64>,
}

impl Ends {
    fn compute(&mut self, rows: &Rows, sums: &LagSums) {
        let (n, lags, width) = (sums.len(), rows.lags, rows.lags + 1);
        let (v, g) = (sums.levels(), &rows.products);
        let last_time = (n - width - 1) as f64 / 2.0;
        let Ends { sums, with_level, with_time } = self;
        for list in [&mut *sums, with_level, with_time] {
            list.clear();
        }
        // Of the levels from row `A` to `Z - 1`, `j` rows back.
        let mut before = rows.levels.sum - v[lags];
        for j in 0..=lags {
            let (newest, oldest) = (v[v.len() - 1 - j], v[lags - j]);
            if j > 0 {
                // One row further back, the window of levels takes one more in and loses one.
                before += v[lags + 1 - j] - newest;
            }
            let squares = (newest - oldest) * (newest + oldest);
            let own = g[j * width + j];
            sums.push(newest - oldest);
            with_level.push(if j == 0 { (squares - own) / 2.0 } else { (squares + own) / 2.0 });
            with_time.push(last_time * newest + last_time * oldest - before);
        }
        for i in 1..lags {
            add_scaled(&mut with_level[i + 1..], 1.0, &g[i * width + i + 1..][..lags - i]);
        }
    }
}

/// Cells that are eliminated together.
const CELLS: usize = 8;

/// The products of all columns, without the deterministic terms; the last column is the target `d_t`.
#[derive(Clone, Debug, Default)]
struct Matrix {
    width: usize,
    /// From one row of cells to the next. What is behind the last column is nothing of use.
    stride: usize,
    /// Row by row; below the diagonal is nothing of use.
    cells: Vec<f64>,
    /// The squares of each column before anything was taken out of it.
    squares: Vec<f64>,
    /// Those of the target without the deterministic terms.
    total: f64,
    /// By column: the inverse of its pivot, 0 if it is not taken out of others.
    inverses: Vec<f64>,
    /// By column: what is taken out of the row at hand.
    factors: Vec<f64>,
    /// By column: what is left once it was eliminated.
    left: Vec<Left>,
    /// The least part of a column's squares that the deterministic terms and the columns before it left.
    conditioning: f64,
}

/// What is left of the target once some columns were eliminated.
#[derive(Clone, Copy, Debug)]
struct Left {
    /// How many were.
    rank: usize,
    /// The squares of the target that they leave.
    residual: f64,
}

/// The factors that make a product of two columns one of what the deterministic terms leave of them:
/// `G_ij + sums S_j + times T_j + constant`.
struct Factors {
    sums: f64,
    times: f64,
    constant: f64,
}

/// What a regression does with the constant and the trend of its columns.
struct Terms {
    regression: Regression,
    slope: f64,
    /// `N` and the sum of the squares of `c_t`.
    count: f64,
    times: f64,
    levels: LevelSums,
    /// What the levels lack of the values, at the mean of `t`.
    lacking: f64,
}

impl Terms {
    /// Of a lag.
    fn of_lag(&self, sum: f64, with_time: f64) -> Factors {
        match self.regression {
            Regression::None => Factors {
                sums: self.slope,
                times: 0.0,
                constant: self.slope * sum + self.count * (self.slope * self.slope),
            },
            Regression::Constant => Factors { sums: -sum / self.count, times: 0.0, constant: 0.0 },
            Regression::Trend => {
                Factors { sums: -sum / self.count, times: -with_time / self.times, constant: 0.0 }
            }
        }
    }

    /// Of the level.
    fn of_level(&self) -> Factors {
        let LevelSums { sum, moment, .. } = self.levels;
        match self.regression {
            Regression::None => Factors {
                sums: self.lacking,
                times: self.slope,
                constant: self.slope * (sum + self.lacking * self.count),
            },
            Regression::Constant => Factors { sums: -sum / self.count, times: self.slope, constant: 0.0 },
            Regression::Trend => {
                Factors { sums: -sum / self.count, times: -moment / self.times, constant: 0.0 }
            }
        }
    }

    /// The squares of the level, without the terms and before anything was taken out.
    fn level_squares(&self) -> (f64, f64) {
        let LevelSums { sum, squares, moment } = self.levels;
        let with_line = squares + self.slope * self.slope * self.times;
        let centred = -sum * sum / self.count;
        match self.regression {
            Regression::None => {
                let (lacking, own) = (self.lacking, with_line + self.count * self.lacking * self.lacking);
                (own + 2.0 * (self.slope * moment + lacking * sum), own)
            }
            Regression::Constant => (with_line + centred + 2.0 * self.slope * moment, with_line),
            Regression::Trend => (squares + centred - moment * moment / self.times, squares),
        }
    }
}

impl Matrix {
    /// The products of the level, the lags 1 to `rows.lags` and the target, with the level at place `level`: 0, or behind the lags.
    fn fill(&mut self, rows: &Rows, ends: &Ends, sums: &LagSums, regression: Regression, level: usize) {
        let (lags, n) = (rows.lags, sums.len());
        let (target, width) = (lags + 1, lags + 2);
        let count = (n - 1 - lags) as f64;
        let terms = Terms {
            regression,
            slope: sums.slope(),
            count,
            times: count * (count * count - 1.0) / 12.0,
            levels: rows.levels,
            lacking: sums.intercept() + sums.slope() * ((lags + n) as f64 / 2.0 - 1.0),
        };
        let stride = width + CELLS - 1;
        (self.width, self.stride) = (width, stride);
        self.cells.clear();
        self.cells.resize(width * stride, 0.0);
        self.squares.clear();
        self.squares.resize(width, 0.0);
        // The lag behind each place: the target is the lag 0.
        let place = |lag: usize| if level == 0 { lag } else { lag - 1 };
        for lag in (1..=lags).chain([0]) {
            let Factors { sums: by_sum, times: by_time, constant } =
                terms.of_lag(ends.sums[lag], ends.with_time[lag]);
            let own = |product: f64, sum: f64, time: f64| product + by_sum * sum + by_time * time + constant;
            let at = if lag == 0 { target } else { place(lag) };
            let products = &rows.products[lag * target..][..target];
            if lag > 0 {
                let row = &mut self.cells[at * stride + at..][..target - lag];
                let columns = products[lag..].iter().zip(&ends.sums[lag..]).zip(&ends.with_time[lag..]);
                if regression == Regression::Constant {
                    for (to, ((product, sum), _)) in row.iter_mut().zip(columns) {
                        *to = product + by_sum * sum;
                    }
                } else {
                    for (to, ((product, sum), time)) in row.iter_mut().zip(columns) {
                        *to = own(*product, *sum, *time);
                    }
                }
            }
            // With the target, whose products are in the first row.
            self.cells[at * stride + target] = own(rows.products[lag], ends.sums[0], ends.with_time[0]);
            let slope = if regression == Regression::None { terms.slope } else { 0.0 };
            self.squares[at] = products[lag] + count * (slope * slope);
        }
        self.left.clear();
        self.total = self.cell(target, target);
        self.fill_level(&terms, ends, lags, level);
    }

    fn fill_level(&mut self, terms: &Terms, ends: &Ends, lags: usize, level: usize) {
        let (target, stride) = (lags + 1, self.stride);
        let factors = terms.of_level();
        for lag in 0..=lags {
            let product = ends.with_level[lag]
                + factors.sums * ends.sums[lag]
                + factors.times * ends.with_time[lag]
                + factors.constant;
            let (row, column) = match (lag, level) {
                (0, _) => (level, target),
                (_, 0) => (0, lag),
                _ => (lag - 1, level),
            };
            self.cells[row * stride + column] = product;
        }
        (self.cells[level * stride + level], self.squares[level]) = terms.level_squares();
    }

    /// Takes note of what was left of a cell; 0 where it is no number.
    fn note(&mut self, part: f64) {
        self.conditioning = if part >= 0.0 { self.conditioning.min(part) } else { 0.0 };
    }

    fn note_residual(&mut self) {
        self.note(self.residual() / self.squares[self.width - 1]);
    }

    fn cell(&self, row: usize, column: usize) -> f64 {
        self.cells[row * self.stride + column]
    }

    /// The squares of the target that the eliminated columns leave.
    fn residual(&self) -> f64 {
        self.left.last().map_or(self.total, |left| left.residual)
    }

    /// How many columns were eliminated.
    fn rank(&self) -> usize {
        self.left.last().map_or(0, |left| left.rank)
    }

    /// Takes the first `count` columns out of all behind them, but those that are empty or combinations of others before them; the
    /// target is the one behind them.
    fn eliminate(&mut self, count: usize) {
        let (stride, mut rank) = (self.stride, 0);
        self.inverses.clear();
        for row in 0..count {
            self.reduce(row);
            let pivot = self.cell(row, row);
            let relative = pivot / self.squares[row];
            let (is_empty, is_combination) = (self.squares[row] <= 0.0, relative <= PIVOT_MIN);
            if !is_empty {
                self.note(if is_combination { 0.0 } else { relative });
            }
            let is_taken = !is_empty && !is_combination;
            self.inverses.push(if is_taken { 1.0 / pivot } else { 0.0 });
            rank += usize::from(is_taken);
            self.left.push(Left { rank, residual: 0.0 });
        }
        let mut residual = self.total;
        for (column, left) in self.left.iter_mut().enumerate() {
            let cell = self.cells[column * stride + count];
            residual += -(cell * self.inverses[column]) * cell;
            left.residual = residual;
        }
    }

    /// Takes all columns before a row out of it, in their order.
    fn reduce(&mut self, row: usize) {
        let stride = self.stride;
        let (above, current) = self.cells.split_at_mut(row * stride);
        self.factors.clear();
        let rows = above.chunks_exact(stride).zip(&self.inverses);
        self.factors.extend(rows.map(|(above, inverse)| -(above[row] * inverse)));
        for from in (row..self.width).step_by(CELLS) {
            let cells: &mut [f64; CELLS] =
                current[from..].first_chunk_mut().expect("there is room behind the last column");
            let mut sums = *cells;
            for (above, factor) in above.chunks_exact(stride).zip(&self.factors) {
                let above: &[f64; CELLS] = above[from..].first_chunk().expect("all rows are equally long");
                for i in 0..CELLS {
                    sums[i] += factor * above[i];
                }
            }
            *cells = sums;
        }
    }
}

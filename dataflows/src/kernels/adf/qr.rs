//! The ADF regressions from their columns, by Householder reflections (Golub and Van Loan 2013, algorithm 5.2.1): for windows
//! whose columns are so nearly collinear, or fit so nearly, that rounding of the products could be seen.
//!
//! The residual squares of each nested model are sums of the squares behind its columns, so they do not cancel either.

use super::estimate::{Best, Estimate};
use crate::kernels::lag_sums::LagSums;
use crate::kernels::lanes::{add_scaled, dot, sum};
use crate::kernels::mackinnon::Regression;

/// A column of which the reflections left less than this part of its length is a combination of the columns before it.
const COLUMN_MIN: f64 = 50.0 * f64::EPSILON;

/// The memory of the columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Workspace {
    /// One behind the other, the target last.
    columns: Vec<f64>,
    reflection: Vec<f64>,
    places: Vec<Place>,
    /// The squares of the target from each row on.
    squares: Vec<f64>,
}

/// What became of a column.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// How many columns up to this one are independent.
    rank: usize,
    /// The cell on the diagonal; 0 if the column depends on those before it.
    diagonal: f64,
    /// What part of its squares was left.
    relative: f64,
}

/// The regression on the best of 0 to `lags` lags.
pub(super) fn estimate(
    sums: &LagSums,
    lags: usize,
    regression: Regression,
    workspace: &mut Workspace,
) -> Estimate {
    let terms = regression.terms();
    let rows = workspace.fill(sums, lags, regression, Level::First);
    let (total, squares) = workspace.target_squares(rows);
    workspace.reflect(rows);
    // Without any difference every model is as good, and the one without lags is taken.
    let of_most_lags = if squares == 0.0 { 1.0 } else { ratio(workspace.least_squares(), total) };
    let mut best = Best::of(rows);
    for (lag, place) in workspace.places[terms..].iter().enumerate() {
        best.offer(lag, workspace.squares[place.rank], place.rank);
    }
    let least = |places: &[Place]| places[terms..].iter().map(|place| place.relative).fold(1.0, f64::min);
    let conditioning = least(&workspace.places);
    let ic_best = best.unscaled(sums);

    let rows = workspace.fill(sums, best.lag, regression, Level::Last);
    let (total, squares) = workspace.target_squares(rows);
    workspace.reflect(rows);
    let level = workspace.places[terms + best.lag];
    let residual = workspace.squares[level.rank];
    let z = if level.diagonal == 0.0 {
        0.0
    } else {
        level.diagonal.signum() * workspace.columns[(terms + best.lag + 1) * rows + level.rank - 1]
    };
    Estimate {
        lag: best.lag,
        statistic: z / (residual / (rows as f64 - level.rank as f64)).sqrt(),
        ic_best,
        conditioning: conditioning.min(least(&workspace.places)).min(ratio(residual, squares)),
        residual_ratio: of_most_lags.min(ratio(residual, total)),
        level_ratio: level.relative,
    }
}

/// What part of squares is left; nothing of nothing.
fn ratio(left: f64, all: f64) -> f64 {
    if all > 0.0 { left / all } else { 0.0 }
}

/// Where the level stands: before or behind the lags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    First,
    Last,
}

impl Workspace {
    /// The columns over the rows `t > lags`: deterministic terms, level and lags, target. Gives the number of rows.
    fn fill(&mut self, sums: &LagSums, lags: usize, regression: Regression, level: Level) -> usize {
        let x = sums.values();
        let (n, rows) = (x.len(), x.len() - 1 - lags);
        let columns = &mut self.columns;
        columns.clear();
        if regression != Regression::None {
            columns.resize(rows, 1.0);
        }
        if regression == Regression::Trend {
            let middle = (rows - 1) as f64 / 2.0;
            columns.extend((0..rows).map(|t| t as f64 - middle));
        }
        // With a constant a shift changes nothing but the digits that are left for differences.
        let (first, rest) = if regression == Regression::None {
            (0.0, 0.0)
        } else {
            let first = x[lags];
            (first, x[lags..n - 1].iter().map(|x| x - first).sum::<f64>() / rows as f64)
        };
        let levels = x[lags..n - 1].iter().map(|x| (x - first) - rest);
        let difference = |lag: usize| x[lags - lag..n - lag].windows(2).map(|pair| pair[1] - pair[0]);
        if level == Level::First {
            columns.extend(levels.clone());
        }
        (1..=lags).for_each(|lag| columns.extend(difference(lag)));
        if level == Level::Last {
            columns.extend(levels);
        }
        columns.extend(difference(0));
        rows
    }

    /// The squares of the target, about its mean and as they are, before it is reflected.
    fn target_squares(&self, rows: usize) -> (f64, f64) {
        let target = &self.columns[self.columns.len() - rows..];
        let mean = sum(target) / rows as f64;
        (target.iter().map(|y| (y - mean) * (y - mean)).sum(), dot(target, target))
    }

    /// What all columns together leave of the target's squares.
    fn least_squares(&self) -> f64 {
        self.places.last().map_or(0.0, |place| self.squares[place.rank])
    }

    /// Makes the columns triangular, the target with them.
    fn reflect(&mut self, rows: usize) {
        let Workspace { columns, reflection, places, squares } = self;
        let count = columns.len() / rows - 1;
        places.clear();
        // Lengths before any reflection: those are orthogonal, and change them by rounding alone.
        places.extend(columns.chunks_exact(rows).take(count).map(|column| Place {
            rank: 0,
            diagonal: 0.0,
            relative: dot(column, column),
        }));
        let mut rank = 0;
        for (i, place) in places.iter_mut().enumerate() {
            let (done, later) = columns.split_at_mut((i + 1) * rows);
            let column = &mut done[i * rows + rank.min(rows)..];
            let (left, before) = (dot(column, column), place.relative);
            *place = Place { rank, diagonal: 0.0, relative: 0.0 };
            if left > 0.0 && left > COLUMN_MIN * COLUMN_MIN * before {
                // Away from the first cell, so that nothing cancels.
                let diagonal = -left.sqrt().copysign(column[0]);
                reflection.clear();
                reflection.extend_from_slice(column);
                reflection[0] -= diagonal;
                let factor = -1.0 / (diagonal * reflection[0]);
                for other in later.chunks_exact_mut(rows) {
                    let other = &mut other[rank..];
                    let along = factor * dot(reflection, other);
                    add_scaled(other, -along, reflection);
                }
                rank += 1;
                *place = Place { rank, diagonal, relative: left / before };
            }
        }
        let target = &columns[count * rows..];
        squares.clear();
        squares.resize(rows + 1, 0.0);
        for row in (0..rows).rev() {
            squares[row] = squares[row + 1] + target[row] * target[row];
        }
    }
}

//! Classical seasonal decomposition of a slice into trend, season and residual, and how strong trend and season are.
//! Not here: which period to use (`spectrum`).
//!
//! # Formula
//! For a period of `m` steps the trend is the mean over `m` steps around each, with half weights at both ends where `m` is even.
//! The first and last `m/2` steps have none, or that of a line fitted to the `m` trend values next to them. The season of a phase
//! is the mean of `x - trend` (`x / trend`) over all cycles, less (over) the mean of all phases. What remains is the residual.
//! This is `seasonal_decompose` of statsmodels 0.15.0 with `two_sided`, and `extrapolate_trend` of 0 or "period".
//!
//! `strength = max(0, 1 - var(residual) / var(component + residual))` with ddof 1 over the steps where all are defined (Hyndman and
//! Athanasopoulos, Forecasting 4.3). A multiplicative decomposition is a sum of logarithms, and of these the variances are.
//!
//! # Precision
//! All is computed of differences from the first value, so an offset costs nothing. The moving sum is a pair of f64 and does not
//! drift. Results are within 1e-13 standard deviations of those of statsmodels.
//!
//! # Cost
//! `O(n)`: about 8 ns a step with the strengths, 20 ns in a multiplicative model, which takes logarithms.

use super::moments::{power_of_two, two_sum};

/// Values of this magnitude or more are not decomposed: their sums would be infinite.
const MAGNITUDE_MAX: f64 = power_of_two(960);

/// How trend, season and residual make up a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeasonalModel {
    /// Their sum.
    Additive,
    /// Their product.
    Multiplicative,
}

/// What the trend is where less than half a period of steps is on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extrapolation {
    /// NaN.
    None,
    /// On a least squares line through the trend values of the nearest period.
    Period,
}

/// Why a slice has no decomposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecompositionError {
    /// The period is 0, or there are fewer than two of it.
    TooShort,
    /// A value is not finite, or its magnitude is 2^960 or more.
    OutOfRange,
    /// The model is multiplicative and a value is 0 or below.
    NotPositive,
}

/// A slice taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Decomposition {
    /// How the components are joined.
    pub model: SeasonalModel,
    /// The first value, which `trend` is relative to.
    pub anchor: f64,
    /// By step, less the anchor; NaN where there is none.
    pub trend: Vec<f64>,
    /// By phase: that of a step is the remainder of its index by the period.
    pub seasonal: Vec<f64>,
    /// By step; NaN where there is no trend. Not finite where a multiplicative trend was extrapolated to 0 or below.
    pub residual: Vec<f64>,
}

/// How much of the variance that a component and the residual have together is the component's: 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strengths {
    /// Of the trend.
    pub trend: f64,
    /// Of the season; from 0.64 on a series counts as seasonal.
    pub seasonal: f64,
}

/// Takes a slice apart. A constant has a season and a residual of 0 (of 1 in a multiplicative model).
pub fn decompose(
    values: &[f64],
    period: usize,
    model: SeasonalModel,
    extrapolation: Extrapolation,
) -> Result<Decomposition, DecompositionError> {
    if period == 0 || values.len() < period.saturating_mul(2) {
        return Err(DecompositionError::TooShort);
    }
    // NaN is not below anything.
    if !values.iter().all(|value| value.abs() < MAGNITUDE_MAX) {
        return Err(DecompositionError::OutOfRange);
    }
    if model == SeasonalModel::Multiplicative && values.iter().any(|value| *value <= 0.0) {
        return Err(DecompositionError::NotPositive);
    }
    let anchor = values[0];
    let offsets: Vec<f64> = values.iter().map(|value| value - anchor).collect();
    let mut trend = moving_average(&offsets, period);
    if extrapolation == Extrapolation::Period {
        extrapolate(&mut trend, period);
    }
    // The values without their trend, which become the residual once the season is known.
    let mut residual: Vec<f64> = match model {
        SeasonalModel::Additive => offsets.iter().zip(&trend).map(|(x, trend)| x - trend).collect(),
        SeasonalModel::Multiplicative => {
            values.iter().zip(&trend).map(|(x, trend)| x / (anchor + trend)).collect()
        }
    };
    let seasonal = seasonal_index(&residual, period, model);
    for cycle in residual.chunks_mut(period) {
        for (value, season) in cycle.iter_mut().zip(&seasonal) {
            *value = match model {
                SeasonalModel::Additive => *value - season,
                SeasonalModel::Multiplicative => *value / season,
            };
        }
    }
    Ok(Decomposition { model, anchor, trend, seasonal, residual })
}

/// The centred mean over a period for each step; NaN where less than half a period is on one side.
fn moving_average(offsets: &[f64], period: usize) -> Vec<f64> {
    let half = period / 2;
    let mut trend = vec![f64::NAN; offsets.len()];
    let mut sum = (0.0, 0.0);
    let mut add = |value: f64| {
        let (hi, lost) = two_sum(sum.0, value);
        sum = (hi, sum.1 + lost);
        sum.0 + sum.1
    };
    for value in &offsets[..period - 1] {
        add(*value);
    }
    for first in 0..offsets.len() - 2 * half {
        if first > 0 {
            add(-offsets[first - 1]);
        }
        let total = add(offsets[first + period - 1]);
        // Of an even period half of the step behind it belongs to the mean, and half of its first does not.
        let ends =
            if period.is_multiple_of(2) { 0.5 * (offsets[first + period] - offsets[first]) } else { 0.0 };
        trend[first + half] = (total + ends) / period as f64;
    }
    trend
}

/// Continues the trend at both ends on lines, as statsmodels does: each is fitted to the nearest `period` trend values, of which
/// the line at the end leaves out the last. Through a single value it is level.
fn extrapolate(trend: &mut [f64], period: usize) {
    let half = period / 2;
    if half == 0 {
        return;
    }
    let (front, back) = (half, trend.len() - half - 1);
    let at_front = Line::of(trend, front, (front + period).min(back));
    let at_back = Line::of(trend, back.saturating_sub(period).max(front), back);
    for (i, value) in trend.iter_mut().enumerate().take(front) {
        *value = at_front.at(i);
    }
    for (i, value) in trend.iter_mut().enumerate().skip(back + 1) {
        *value = at_back.at(i);
    }
}

/// A least squares line.
struct Line {
    slope: f64,
    mean_at: f64,
    mean: f64,
}

impl Line {
    fn of(values: &[f64], from: usize, to: usize) -> Line {
        let (points, n) = (&values[from..to], (to - from) as f64);
        let mean_at = from as f64 + (n - 1.0) / 2.0;
        let first = points.first().copied().unwrap_or(0.0);
        let mean = first + points.iter().map(|value| value - first).sum::<f64>() / n.max(1.0);
        let (mut product, mut square) = (0.0, 0.0);
        for (i, value) in points.iter().enumerate() {
            let distance = (from + i) as f64 - mean_at;
            product += distance * (value - mean);
            square += distance * distance;
        }
        Line { slope: if square > 0.0 { product / square } else { 0.0 }, mean_at, mean }
    }

    fn at(&self, i: usize) -> f64 {
        self.slope * (i as f64 - self.mean_at) + self.mean
    }
}

/// The mean of each phase without that of all phases.
fn seasonal_index(detrended: &[f64], period: usize, model: SeasonalModel) -> Vec<f64> {
    let mut index = vec![0.0; period];
    let mut counts = vec![0_u32; period];
    for cycle in detrended.chunks(period) {
        for ((value, sum), count) in cycle.iter().zip(&mut index).zip(&mut counts) {
            if !value.is_nan() {
                *sum += value;
                *count += 1;
            }
        }
    }
    index.iter_mut().zip(&counts).for_each(|(sum, count)| *sum /= f64::from(*count));
    let mean = index.iter().sum::<f64>() / period as f64;
    for value in &mut index {
        *value = match model {
            SeasonalModel::Additive => *value - mean,
            SeasonalModel::Multiplicative => *value / mean,
        };
    }
    index
}

impl Decomposition {
    /// The trend at a step; NaN where there is none, and beyond the slice.
    pub fn trend_at(&self, step: usize) -> f64 {
        self.anchor + self.trend.get(step).copied().unwrap_or(f64::NAN)
    }

    /// How strong trend and season are; 0 where nothing varies, and with fewer than two steps to judge by.
    pub fn strengths(&self) -> Strengths {
        let seasons = self.seasonal.iter().cycle();
        let components: Vec<[f64; 3]> = match self.model {
            SeasonalModel::Additive => {
                let parts = self.residual.iter().zip(&self.trend).zip(seasons);
                parts.map(|((rest, trend), season)| [*rest, rest + season, rest + trend]).collect()
            }
            SeasonalModel::Multiplicative => {
                let logs: Vec<f64> = self.seasonal.iter().map(|season| libm::log(*season)).collect();
                let parts = self.residual.iter().zip(&self.trend).zip(logs.iter().cycle());
                let log = |((rest, trend), season): ((&f64, &f64), &f64)| {
                    let rest = libm::log(*rest);
                    [rest, rest + season, rest + libm::log(self.anchor + trend)]
                };
                parts.map(log).collect()
            }
        };
        strengths_of(&components)
    }
}

/// How strong trend and season are of a series whose parts add up, by step.
pub fn strengths(residual: &[f64], trend: &[f64], seasonal: &[f64]) -> Strengths {
    let parts = residual.iter().zip(trend).zip(seasonal);
    let joined = parts.map(|((rest, trend), season)| [*rest, rest + season, rest + trend]);
    strengths_of(&joined.collect::<Vec<_>>())
}

/// The same of residuals, and of these joined with the season, and with the trend.
fn strengths_of(joined: &[[f64; 3]]) -> Strengths {
    let [rest, with_season, with_trend] = variances(joined);
    let strength = |both: f64| if both > 0.0 { (1.0 - rest / both).max(0.0) } else { 0.0 };
    Strengths { trend: strength(with_trend), seasonal: strength(with_season) }
}

/// Sums of squares about the means, which are as good as variances in a ratio. Rows that are not finite do not count.
fn variances(rows: &[[f64; 3]]) -> [f64; 3] {
    let defined = || rows.iter().filter(|row| row.iter().all(|value| value.is_finite()));
    // Relative to the first, so that what does not vary has a variance of 0.
    let Some(first) = defined().next() else { return [0.0; 3] };
    let (mut n, mut means, mut squares) = (0.0_f64, [0.0; 3], [0.0; 3]);
    for row in defined() {
        n += 1.0;
        (0..3).for_each(|i| means[i] += row[i] - first[i]);
    }
    means.iter_mut().for_each(|mean| *mean /= n);
    for row in defined() {
        for i in 0..3 {
            let deviation = row[i] - first[i] - means[i];
            squares[i] += deviation * deviation;
        }
    }
    squares
}

#[cfg(test)]
mod tests;

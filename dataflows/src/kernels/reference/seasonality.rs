//! Slow twins of the kernels of steps, order statistics and seasonality.

use std::f64::consts::TAU;

use super::moments;
use crate::kernels::decompose::{Decomposition, Extrapolation, SeasonalModel, Strengths};
use crate::kernels::order::OrderStatistics;
use crate::kernels::phases::{CYCLES_MAX, PhaseProfile};

/// The mean of a step, summed exactly and rounded once.
pub fn step_mean(values: &[f64]) -> f64 {
    moments(values).avg
}

/// The rate of a step from the sample before it on, with the increases summed exactly.
pub fn step_rate(before: (i64, f64), samples: &[(i64, f64)]) -> f64 {
    let values: Vec<f64> = [before].iter().chain(samples).map(|sample| sample.1).collect();
    let last = samples.last().map_or(before.0, |sample| sample.0);
    moments(&values).increase * 1_000.0 / (last - before.0) as f64
}

/// The quantile of the finite values, sorted.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    if low == high { low } else { low * (1.0 - at.fract()) + high * at.fract() }
}

/// Median and median absolute deviation of the finite values, by sorting twice.
pub fn order_statistics(values: &[f64]) -> OrderStatistics {
    let present: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let median = quantile(&present, 0.5);
    let deviations: Vec<f64> = present.iter().map(|value| (value - median).abs().min(f64::MAX)).collect();
    OrderStatistics { median, mad: quantile(&deviations, 0.5), count: present.len() as u32 }
}

/// A discrete Fourier transform, term by term.
pub fn transform(re: &[f64], im: &[f64]) -> Vec<(f64, f64)> {
    let length = re.len();
    let term = |k: usize, j: usize| {
        let (sin, cos) = libm::sincos(-TAU * ((k * j) % length) as f64 / length as f64);
        (re[j] * cos - im[j] * sin, re[j] * sin + im[j] * cos)
    };
    let sum =
        |k| (0..length).map(|j| term(k, j)).fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    (0..length).map(sum).collect()
}

/// The centred mean at each step, each summed by itself, less the first value.
fn moving_average(values: &[f64], period: usize) -> Vec<f64> {
    let half = period / 2;
    let mean = |step: usize| {
        if step < half || step + half >= values.len() {
            return f64::NAN;
        }
        let centre = values[step];
        let weight = |i: usize| match period.is_multiple_of(2) && (i == 0 || i == period) {
            true => 0.5,
            false => 1.0,
        };
        let sum: f64 = (0..=2 * half).map(|i| weight(i) * (values[step + i - half] - centre)).sum();
        (centre - values[0]) + sum / period as f64
    };
    (0..values.len()).map(mean).collect()
}

/// What a least squares line through these points is at `x`; level through a single one.
fn line_at(points: &[(f64, f64)], x: f64) -> f64 {
    let n = points.len() as f64;
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / n;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / n;
    let product: f64 = points.iter().map(|point| (point.0 - mean_x) * (point.1 - mean_y)).sum();
    let square: f64 = points.iter().map(|point| (point.0 - mean_x).powi(2)).sum();
    mean_y + if square > 0.0 { product / square * (x - mean_x) } else { 0.0 }
}

/// The classical decomposition of values that have one, step by step.
pub fn decompose(
    values: &[f64],
    period: usize,
    model: SeasonalModel,
    extrapolation: Extrapolation,
) -> Decomposition {
    let (n, half, anchor) = (values.len(), period / 2, values[0]);
    let inner = moving_average(values, period);
    let points: Vec<(f64, f64)> = (half..n - half - 1).map(|i| (i as f64, inner[i])).collect();
    let extrapolated = |i: usize| match (i < half, i >= n - half) {
        (true, _) => line_at(&points[..points.len().min(period)], i as f64),
        (_, true) => line_at(&points[points.len().saturating_sub(period)..], i as f64),
        _ => inner[i],
    };
    let trend: Vec<f64> = match extrapolation {
        Extrapolation::None => inner.clone(),
        Extrapolation::Period => (0..n).map(extrapolated).collect(),
    };
    let additive = model == SeasonalModel::Additive;
    let detrended: Vec<f64> = (0..n)
        .map(|i| if additive { (values[i] - anchor) - trend[i] } else { values[i] / (anchor + trend[i]) })
        .collect();
    let phase_mean = |phase: usize| {
        let of_phase: Vec<f64> =
            detrended.iter().copied().skip(phase).step_by(period).filter(|value| !value.is_nan()).collect();
        of_phase.iter().sum::<f64>() / of_phase.len() as f64
    };
    let means: Vec<f64> = (0..period).map(phase_mean).collect();
    let mean = means.iter().sum::<f64>() / period as f64;
    let seasonal: Vec<f64> =
        means.iter().map(|of_phase| if additive { of_phase - mean } else { of_phase / mean }).collect();
    let residual = (0..n)
        .map(|i| {
            let season = seasonal[i % period];
            if additive {
                (values[i] - anchor) - trend[i] - season
            } else {
                values[i] / season / (anchor + trend[i])
            }
        })
        .collect();
    Decomposition { model, anchor, trend, seasonal, residual }
}

/// The strengths of a decomposition, each variance by itself.
pub fn strengths(parts: &Decomposition) -> Strengths {
    let additive = parts.model == SeasonalModel::Additive;
    let join = |a: f64, b: f64| if additive { a + b } else { libm::log(a * b) };
    let defined = |i: &usize| parts.trend[*i].is_finite() && join(parts.residual[*i], 1.0).is_finite();
    let steps: Vec<usize> = (0..parts.trend.len()).filter(defined).collect();
    let variance = |component: &dyn Fn(usize) -> f64| {
        let values: Vec<f64> = steps.iter().map(|i| join(parts.residual[*i], component(*i))).collect();
        moments(&values).std.powi(2)
    };
    let rest = variance(&|_| if additive { 0.0 } else { 1.0 });
    let strength = |both: f64| if both > 0.0 { (1.0 - rest / both).max(0.0) } else { 0.0 };
    Strengths {
        trend: strength(variance(&|i| parts.trend[i] + if additive { 0.0 } else { parts.anchor })),
        seasonal: strength(variance(&|i| parts.seasonal[i % parts.seasonal.len()])),
    }
}

/// The phase profile: each step's cycle by itself.
pub fn phase_profile(steps: &[f64], newest: i64, phases: usize) -> PhaseProfile {
    let number = |i: usize| newest - (steps.len() - 1 - i) as i64;
    let cycle_of = |i: usize| (steps.len() - 1 - i) / phases;
    let cycle = |c: usize| -> Vec<f64> {
        (0..steps.len()).filter(|i| cycle_of(*i) == c && steps[*i].is_finite()).map(|i| steps[i]).collect()
    };
    let cycles: Vec<Vec<f64>> = (0..CYCLES_MAX).map(cycle).collect();
    let mut profile = PhaseProfile { deviations: vec![f64::NAN; phases], cycles: vec![0; phases] };
    for phase in 0..phases {
        let of_phase = |i: &usize| {
            let cycle = cycles.get(cycle_of(*i)).map_or(0, Vec::len);
            number(*i).rem_euclid(phases as i64) as usize == phase
                && steps[*i].is_finite()
                && 4 * cycle >= 3 * phases
        };
        let deviations: Vec<f64> = (0..steps.len())
            .filter(of_phase)
            .map(|i| {
                let cycle = &cycles[cycle_of(i)];
                let others: f64 = cycle.iter().map(|other| steps[i] - other).sum();
                others / cycle.len() as f64
            })
            .collect();
        profile.cycles[phase] = deviations.len() as u8;
        profile.deviations[phase] = deviations.iter().sum::<f64>() / deviations.len() as f64;
    }
    profile
}

/// The autocorrelation of a lag.
pub fn autocorrelation(values: &[f64], lag: usize) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let product =
        |lag: usize| -> f64 { values.iter().zip(&values[lag..]).map(|(a, b)| (a - mean) * (b - mean)).sum() };
    product(lag) / product(0)
}

/// The values less the least squares line through them.
pub fn detrended(values: &[f64]) -> Vec<f64> {
    let points: Vec<(f64, f64)> =
        values.iter().enumerate().map(|(i, value)| (i as f64, value - values[0])).collect();
    points.iter().map(|(x, y)| y - line_at(&points, *x)).collect()
}

/// The adjusted strength of a period, the F of its phase means with its degrees of freedom, and how many residuals are worth one of
/// white noise.
pub fn phase_test(values: &[f64], period: usize) -> (f64, f64, [f64; 2], f64) {
    let half = period / 2;
    let trend = moving_average(values, period);
    let d: Vec<f64> = (half..values.len() - half).map(|i| (values[i] - values[0]) - trend[i]).collect();
    let phase = |p: usize| d.iter().copied().skip(p).step_by(period);
    let means: Vec<f64> = (0..period).map(|p| phase(p).sum::<f64>() / phase(p).count() as f64).collect();
    let rest: Vec<f64> = d.iter().enumerate().map(|(i, value)| value - means[i % period]).collect();
    let mean = d.iter().sum::<f64>() / d.len() as f64;
    let total: f64 = d.iter().map(|value| (value - mean).powi(2)).sum();
    let square: f64 = rest.iter().map(|value| value * value).sum();
    let (n, m) = (d.len() as f64, period as f64);
    let strength = (1.0 - (square / (n - m)) / (total / (n - 1.0))).max(0.0);
    let f = ((total - square) / (m - 1.0)) / (square / (n - m));
    let product = |lag: usize| -> f64 { rest.iter().zip(&rest[lag..]).map(|(a, b)| a * b).sum() };
    let squares: f64 = (1..=period.min(rest.len() - 1)).map(|lag| (product(lag) / square).powi(2)).sum();
    (strength, f, [m - 1.0, n - m], 1.0 + 2.0 * squares)
}

//! The row of a window: from its moments, and slowly from its samples, for whoever checks the first.
//!
//! Not here: which windows are answered, and what of a row is shown (`statistics.rs`).

use super::panes::WindowPlan;
use crate::kernels::moments::Moments;
use crate::kernels::reference;
use crate::kernels::sketch::QuantileSketch;
use crate::rows::WindowStats;
use crate::rows::windows::QuantileValues;
use crate::sample::SeriesId;
use crate::settings::QUANTILES;

/// A window's row: its moments, its revision and whether it is partial.
pub(super) fn of_moments(
    series: SeriesId,
    plan: &WindowPlan,
    at_ms: i64,
    moments: &Moments,
    (revision, partial): (u32, bool),
) -> WindowStats {
    WindowStats { series, window_ms: plan.length_ms, at_ms, revision, partial, ..numbers(moments) }
}

/// The numbers of a row.
pub fn numbers(moments: &Moments) -> WindowStats {
    WindowStats {
        count: moments.count,
        span_ms: moments.span_ms(),
        min: moments.min,
        max: moments.max,
        avg: moments.avg(),
        std: moments.std(),
        first: moments.first,
        last: moments.last,
        sum: moments.sum(),
        changes: moments.changes,
        increase: moments.increase,
        resets: moments.resets,
        ..WindowStats::default()
    }
}

/// What samples come to, computed slowly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExactNumbers {
    /// As the numbers of a row.
    pub row: WindowStats,
    /// Sum of the magnitudes that the increase sums: what its rounding is relative to.
    pub steps: f64,
}

/// All quantiles of these values.
fn quantiles(values: &[f64], (min, max): (f64, f64)) -> QuantileValues {
    let mut sketch = QuantileSketch::default();
    values.iter().for_each(|value| sketch.add(*value));
    QuantileValues(QUANTILES.map(|q| sketch.quantile(q).clamp(min, max)))
}

/// What samples by time come to, by the slow twin, with all quantiles. There is at least one.
pub fn exact(samples: &[(i64, f64)]) -> ExactNumbers {
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    let values: Vec<f64> = samples.iter().map(|(_, value)| *value).collect();
    let slow = reference::moments(&values);
    let row = WindowStats {
        count: u32::try_from(samples.len()).unwrap_or(u32::MAX),
        span_ms: u32::try_from(last.0 - first.0).unwrap_or(u32::MAX),
        min: slow.min,
        max: slow.max,
        avg: slow.avg,
        std: slow.std,
        first: first.1,
        last: last.1,
        sum: slow.sum,
        changes: slow.changes,
        increase: slow.increase,
        resets: slow.resets,
        quantiles: quantiles(&values, (slow.min, slow.max)),
        ..WindowStats::default()
    };
    ExactNumbers { row, steps: slow.steps }
}

//! Order statistics of steps: any quantile, the median and the median absolute deviation.
//! Not here: quantiles that merge over panes of samples, which are approximate.
//!
//! # Formula
//! Of `n` values in order `x_0 ... x_{n-1}` the quantile `q` stands at `h = q (n - 1)`. It is `x_i + (h - i)(x_{i+1} - x_i)` with
//! `i` the whole part of `h`: type 7 of Hyndman and Fan 1996, which numpy and PromQL compute as well.
//! `mad` is the median of `|x - median|` (Hampel 1974), without the factor 1.4826 that makes it a normal deviation.
//!
//! A value that is not finite is an absent step and counts nowhere. Of no values at all every statistic is NaN.
//!
//! # Cost
//! Selection, so `O(n)`: about 5 ns a value for median and `mad` together. The workspace grows to the longest slice once.

/// How many of the newest steps the published statistics are of.
pub const TRAILING: [usize; 3] = [15, 60, 240];
/// The most of them.
pub const TRAILING_MAX: usize = TRAILING[2];

/// Median and spread of some steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OrderStatistics {
    /// The middle value; NaN without values.
    pub median: f64,
    /// The median absolute deviation from the median; NaN without values.
    pub mad: f64,
    /// Steps that are not absent.
    pub count: u32,
}

/// The quantile `q` of some values, with `q` below 0 taken for 0 and above 1 for 1. A `q` of NaN gives NaN.
pub fn quantile(values: &[f64], q: f64, workspace: &mut Vec<f64>) -> f64 {
    present(values, workspace);
    select(workspace, q)
}

/// Median and median absolute deviation. The latter is infinite where deviations pass `f64::MAX`.
pub fn order_statistics(values: &[f64], workspace: &mut Vec<f64>) -> OrderStatistics {
    present(values, workspace);
    let median = select(workspace, 0.5);
    workspace.iter_mut().for_each(|value| *value = (*value - median).abs());
    let mad = select(workspace, 0.5);
    OrderStatistics { median, mad, count: u32::try_from(workspace.len()).unwrap_or(u32::MAX) }
}

/// The same of the newest 15, 60 and 240 steps, the newest last. With fewer steps it is of those there are.
pub fn trailing(steps: &[f64], workspace: &mut Vec<f64>) -> [OrderStatistics; TRAILING.len()] {
    TRAILING.map(|length| order_statistics(&steps[steps.len().saturating_sub(length)..], workspace))
}

/// Leaves the values that are finite in the workspace.
fn present(values: &[f64], workspace: &mut Vec<f64>) {
    workspace.clear();
    workspace.extend(values.iter().copied().filter(|value| value.is_finite()));
}

/// The quantile `q` of these values, none of which is NaN. Their order changes.
pub(super) fn select(values: &mut [f64], q: f64) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    let at = q.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let (below, part) = (at as usize, at - (at as usize) as f64);
    let (_, low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let low = *low;
    if part == 0.0 {
        return low;
    }
    let high = above.iter().copied().fold(f64::INFINITY, f64::min);
    between(low, high, part)
}

/// The value this part of the way from `low` to `high`.
fn between(low: f64, high: f64, part: f64) -> f64 {
    let distance = high - low;
    if distance.is_finite() {
        low + part * distance
    } else if low == high {
        low
    } else {
        low * (1.0 - part) + high * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference::{near, seasonality as slow};
    use crate::kernels::shapes::{Random, values};

    /// Equal but for roundings of the largest value: one between two others is as good as these are.
    fn same(a: f64, b: f64, largest: f64) -> bool {
        near(a, b) || a.is_nan() && b.is_nan() || (a - b).abs() <= 4e-16 * largest
    }

    #[test]
    fn every_quantile_equals_that_of_sorted_values() {
        let mut workspace = Vec::new();
        for seed in 0..2_000 {
            let mut random = Random::new(seed);
            let mut values = values(&mut random);
            for _ in 0..random.below(values.len()) {
                let at = random.below(values.len());
                values[at] = [f64::NAN, f64::INFINITY, 0.0, -0.0][random.below(4)];
            }
            let finite = values.iter().map(|value| value.abs()).filter(|value| value.is_finite());
            let largest = finite.fold(0.0, f64::max);
            for q in [0.0, 0.01, 0.25, 0.5, 0.9, 1.0, random.unit().abs()] {
                let (got, want) = (quantile(&values, q, &mut workspace), slow::quantile(&values, q));
                assert!(same(got, want, largest), "seed {seed}, {q}: {got:e} {want:e}");
            }
            for (got, length) in trailing(&values, &mut workspace).into_iter().zip(TRAILING) {
                let newest = &values[values.len().saturating_sub(length)..];
                let want = slow::order_statistics(newest);
                assert_eq!(got.count, want.count, "seed {seed}");
                assert!(
                    same(got.median, want.median, largest) && same(got.mad, want.mad, largest),
                    "seed {seed}: {got:?} {want:?}"
                );
            }
        }
    }

    #[test]
    fn results_that_are_known_come_out() {
        let mut workspace = Vec::new();
        let mut of = |values: &[f64]| {
            let OrderStatistics { median, mad, count } = order_statistics(values, &mut workspace);
            (median, mad, count)
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3));
        assert_eq!(of(&[1.0, 2.0, 4.0, 100.0]), (3.0, 1.5, 4));
        assert_eq!(of(&[f64::NAN, 7.0, f64::NAN, f64::NEG_INFINITY]), (7.0, 0.0, 1));
        assert_eq!(of(&[0.1; 10]), (0.1, 0.0, 10));
        assert_eq!(of(&[f64::MAX, -f64::MAX]), (0.0, f64::MAX, 2));
        assert_eq!(of(&[f64::MAX, f64::MAX, -f64::MAX]), (f64::MAX, 0.0, 3));
        for values in [&[][..], &[f64::NAN]] {
            let (median, mad, count) = of(values);
            assert!(median.is_nan() && mad.is_nan() && count == 0);
        }
        // As numpy says.
        assert_eq!(quantile(&[15.0, 20.0, 35.0, 40.0, 50.0], 0.4, &mut workspace), 29.0);
        assert_eq!(quantile(&[2.0, 1.0], -1.0, &mut workspace), 1.0);
        assert_eq!(quantile(&[2.0, 1.0], 7.0, &mut workspace), 2.0);
        assert!(quantile(&[2.0, 1.0], f64::NAN, &mut workspace).is_nan());
    }
}

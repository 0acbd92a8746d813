//! What one value of a step is: the mean of a gauge, the rate of a counter. Not here: which samples a step has.
//!
//! The step that ends at `t` covers `(t - step, t]`. A step without a value is NaN, which is what absent means in a ring of steps.
//!
//! # Formula
//! A gauge's value is `(x_1 + ... + x_n) / n`.
//! A counter's is `sum(increase) / sum(seconds)` over the pairs of consecutive samples whose newer one is in the step. The older
//! one may be before it. An increase is `b >= a ? b - a : b`: after a drop the new value counts.
//!
//! # Precision
//! Sums are pairs of f64 (Neumaier 1974). A mean is off by two roundings of itself, however far from 0 the samples are.
//! Time is summed as whole milliseconds. A rate is off by three roundings beside those of the increases.
//!
//! # Cost
//! About 2 ns a sample; 24 bytes for a step that is open.

use super::moments::{power_of_two, product, step, two_sum};

/// From this magnitude on samples are summed in a larger unit, so that no sum of 2^32 of them is infinite.
const LARGE: f64 = power_of_two(960);
const LARGE_UNIT: f64 = power_of_two(-64);

/// The mean of the samples of a step, sample by sample in time order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepMean {
    /// The sum, rounded at each addition.
    pub hi: f64,
    /// What these roundings come to.
    pub lo: f64,
    /// Samples.
    pub count: u32,
    /// Whether the sum is in the larger unit.
    pub large: bool,
}

impl StepMean {
    /// Adds a sample.
    #[inline]
    pub fn push(&mut self, value: f64) {
        if !self.large && value.abs() >= LARGE {
            *self = StepMean { hi: self.hi * LARGE_UNIT, lo: self.lo * LARGE_UNIT, large: true, ..*self };
        }
        let (hi, lost) = two_sum(self.hi, if self.large { value * LARGE_UNIT } else { value });
        *self = StepMean { hi, lo: self.lo + lost, count: self.count.saturating_add(1), ..*self };
    }

    /// The value of the step; NaN without samples, or with one that is not finite.
    pub fn value(&self) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        let n = f64::from(self.count);
        let quotient = self.hi / n;
        let (upper, lower) = product(quotient, n);
        let mean = quotient + (((self.hi - upper) - lower) + self.lo) / n;
        let mean = if self.large { (mean / LARGE_UNIT).clamp(-f64::MAX, f64::MAX) } else { mean };
        if mean.is_finite() { mean } else { f64::NAN }
    }
}

/// The rate of a counter over a step, pair by pair in time order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepRate {
    /// The sum of increases, rounded at each addition.
    pub hi: f64,
    /// What these roundings come to.
    pub lo: f64,
    /// Milliseconds of the pairs.
    pub span_ms: i64,
}

impl StepRate {
    /// Adds the pair of a sample `(at_ms, value)` in the step and the one before it, both finite.
    #[inline]
    pub fn push(&mut self, before: (i64, f64), sample: (i64, f64)) {
        let (hi, lost) = two_sum(self.hi, step(before.1, sample.1));
        let span_ms = self.span_ms.saturating_add(sample.0.saturating_sub(before.0));
        *self = StepRate { hi, lo: self.lo + lost, span_ms };
    }

    /// The value of the step; NaN without a pair, where no time passes, and where it is not finite.
    pub fn value(&self) -> f64 {
        let rate = (self.hi + self.lo) * 1_000.0 / self.span_ms as f64;
        if self.span_ms > 0 && rate.is_finite() { rate } else { f64::NAN }
    }
}

/// The value of a gauge's step with these samples; see [`StepMean::value`].
pub fn mean(values: &[f64]) -> f64 {
    let mut step = StepMean::default();
    values.iter().for_each(|value| step.push(*value));
    step.value()
}

/// The value of a counter's step with these samples, and the sample before it if there is one; see [`StepRate::value`].
///
/// The shorter of the slices says how many samples there are.
pub fn rate(before: Option<(i64, f64)>, at_ms: &[i64], values: &[f64]) -> f64 {
    let mut step = StepRate::default();
    let mut older = before;
    for sample in at_ms.iter().copied().zip(values.iter().copied()) {
        if let Some(before) = older {
            step.push(before, sample);
        }
        older = Some(sample);
    }
    step.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference::seasonality as slow;
    use crate::kernels::shapes::{Random, TINY, values};

    #[test]
    fn means_equal_exact_ones_for_samples_of_any_size() {
        let u = f64::EPSILON / 2.0;
        for seed in 0..5_000 {
            let values = values(&mut Random::new(seed));
            let (got, want) = (mean(&values), slow::step_mean(&values));
            let n = values.len() as f64;
            let largest = values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
            let most = 2.0 * u * want.abs() + n * n * u * u * largest + 2.0 * TINY;
            assert!(got == want || (got - want).abs() <= most, "seed {seed}: {got:e} {want:e}");
        }
    }

    #[test]
    fn rates_equal_exact_ones() {
        for seed in 0..5_000 {
            let mut random = Random::new(seed);
            let (offset, size) = ([0.0, 3e12, 4e10, 1.0][random.below(4)], [1.0, 1e4, 1e6][random.below(3)]);
            let (mut at_ms, mut total) = (1_700_000_000_000, offset);
            let mut next = |random: &mut Random| {
                at_ms += 1 + random.below(60_000) as i64;
                total += size * random.unit().abs();
                total = if random.below(20) == 0 { random.unit().abs() } else { total };
                (at_ms, total)
            };
            let before = next(&mut random);
            let samples: Vec<(i64, f64)> = (0..1 + random.below(80)).map(|_| next(&mut random)).collect();
            let (times, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
            let (got, want) = (rate(Some(before), &times, &values), slow::step_rate(before, &samples));
            let count = samples.len() as f64;
            assert!(
                (got - want).abs() <= (3.0 + count) * f64::EPSILON * want.abs(),
                "seed {seed}: {got:e} {want:e}"
            );
        }
    }

    #[test]
    fn degenerate_steps_have_documented_results() {
        assert!(
            mean(&[]).is_nan() && mean(&[1.0, f64::NAN]).is_nan() && mean(&[f64::INFINITY, 1.0]).is_nan()
        );
        assert_eq!((mean(&[0.1; 10]), mean(&[4e10 + 0.25; 7])), (0.1, 4e10 + 0.25));
        assert_eq!((mean(&[f64::MAX; 3]), mean(&[f64::MAX, -f64::MAX])), (f64::MAX, 0.0));
        let at = [60_000, 75_000, 90_000];
        // 4 in 15 s, 2 behind a reset in 15 s, 1 in 15 s.
        assert_eq!(rate(Some((45_000, 6.0)), &at, &[10.0, 2.0, 3.0]), 7.0 / 45.0);
        assert_eq!(rate(None, &at, &[10.0, 2.0, 3.0]), 3.0 / 30.0);
        for before in [None, Some((60_000, 1.0)), Some((0, f64::NEG_INFINITY))] {
            assert!(rate(before, &at[..1], &[2.0]).is_nan(), "{before:?}");
        }
        assert!(rate(None, &[], &[]).is_nan() && rate(Some((9, 1.0)), &[5], &[2.0]).is_nan());
        assert!(rate(Some((0, -f64::MAX)), &[1], &[f64::MAX]).is_nan());
    }
}

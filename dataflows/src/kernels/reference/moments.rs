//! The slow twin of [`moments`](crate::kernels::moments): sums in whole numbers of any length.

use crate::kernels::exact::Natural;

/// The moments of a whole slice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SlowMoments {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Sum of the values; infinite beyond `f64::MAX`.
    pub sum: f64,
    /// Arithmetic mean.
    pub avg: f64,
    /// Population standard deviation.
    pub std: f64,
    /// Increase as a counter; infinite beyond `f64::MAX`.
    pub increase: f64,
    /// How often a value differs from the one before it.
    pub changes: u32,
    /// How often a value is below the one before it.
    pub resets: u32,
    /// Sum of the magnitudes that `increase` sums: what its rounding is relative to.
    pub steps: f64,
}

/// In whole numbers of any length, rounded once at the end; the deviation, in which a root is taken, within 3 roundings.
///
/// With all sums in units of the smallest f64: `n^2 std^2 = n sum(x^2) - sum(x)^2`, which cancels nothing where nothing
/// is rounded. An empty slice gives zeros. The values are finite.
pub fn moments(values: &[f64]) -> SlowMoments {
    let count = values.len() as u64;
    let Some(first) = values.first().copied() else {
        return SlowMoments::default();
    };
    let (mut all, mut squares, mut gained) = (Signed::default(), Natural::default(), Signed::default());
    let (mut before, mut steps) = (first, 0.0);
    for (i, value) in values.iter().copied().enumerate() {
        all.add(value);
        squares.add_square(value);
        if i > 0 {
            gained.add(value);
            steps += if value >= before { value - before } else { value.abs() };
        }
        if i > 0 && value >= before {
            gained.add(-before);
        }
        before = value;
    }
    let (negative, sum) = all.value();
    let sign = if negative { -1.0 } else { 1.0 };
    let (_, spread) = squares.times(&Natural::from(count)).minus(&sum.times(&sum));
    let (fell, increase) = gained.value();
    SlowMoments {
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        sum: sign * sum.over(1),
        avg: sign * sum.over(count),
        std: spread.root_over(count).min(f64::MAX),
        increase: if fell { -1.0 } else { 1.0 } * increase.over(1),
        changes: pairs(values, |before, value| value != before),
        resets: pairs(values, |before, value| value < before),
        steps,
    }
}

/// How many consecutive values are such a pair.
fn pairs(values: &[f64], such: impl Fn(f64, f64) -> bool) -> u32 {
    let found = values.windows(2).filter(|pair| such(pair[0], pair[1])).count();
    u32::try_from(found).unwrap_or(u32::MAX)
}

/// A sum of f64, exact: what is above 0 and what is below it.
#[derive(Default)]
struct Signed(Natural, Natural);

impl Signed {
    fn add(&mut self, value: f64) {
        let side = if value < 0.0 { &mut self.1 } else { &mut self.0 };
        side.add(value);
    }

    /// Whether it is negative, and its magnitude.
    fn value(&self) -> (bool, Natural) {
        self.0.minus(&self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: f64 = f64::from_bits(1);

    #[test]
    fn results_that_are_known_come_out() {
        let of = |values: &[f64]| {
            let m = moments(values);
            (m.sum, m.avg, m.std, m.increase)
        };
        for (values, want) in [
            (&[][..], (0.0, 0.0, 0.0, 0.0)),
            (&[7.5], (7.5, 7.5, 0.0, 0.0)),
            (&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], (40.0, 5.0, 2.0, 7.0)),
            (&[5.0, 8.0, 2.0, 3.0], (18.0, 4.5, (21.0_f64 / 4.0).sqrt(), 6.0)),
            (&[-1.0, 1.0, -3.0], (-3.0, -1.0, (8.0_f64 / 3.0).sqrt(), -1.0)),
            (&[1e16, 1.0, -1e16, 1.0], (2.0, 0.5, 1e16 / 2.0_f64.sqrt(), 1.0 - 1e16 + 1e16 + 2.0)),
            (&[1e300, 1e16, 1.0, -1e300, -1e16], (1.0, 0.2, (0.4_f64).sqrt() * 1e300, 1.0)),
            (&[1e308, -1e308], (0.0, 0.0, 1e308, -1e308)),
            (&[f64::MAX, f64::MAX], (f64::INFINITY, f64::MAX, 0.0, 0.0)),
            (&[f64::MAX, -f64::MAX], (0.0, 0.0, f64::MAX, -f64::MAX)),
            (&[-f64::MAX, f64::MAX], (0.0, 0.0, f64::MAX, f64::INFINITY)),
            (&[TINY, 3.0 * TINY], (4.0 * TINY, 2.0 * TINY, TINY, 2.0 * TINY)),
            // The mean of 0 and the smallest number is half of it: rounded to even.
            (&[0.0, TINY], (TINY, 0.0, 0.0, TINY)),
            (&[4e10, 4e10 + 1.0], (8e10 + 1.0, 4e10 + 0.5, 0.5, 1.0)),
        ] {
            let got = of(values);
            let near = |a: f64, b: f64| a == b || (a - b).abs() <= 4e-16 * b.abs();
            assert_eq!((got.0, got.1, got.3), (want.0, want.1, want.3), "{values:?}");
            assert!(near(got.2, want.2), "{values:?}: {} {}", got.2, want.2);
        }
    }

    /// Whole numbers, whose sums are exact in i128 as well.
    #[test]
    fn whole_numbers_equal_whole_arithmetic() {
        let mut x = 0x9E37_79B9_7F4A_7C15_u64;
        for round in 0..2_000_usize {
            let values: Vec<i64> = (0..1 + round % 50)
                .map(|_| {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    (x as i64) >> (12 + round % 50)
                })
                .collect();
            let got = moments(&values.iter().map(|x| *x as f64).collect::<Vec<_>>());
            let n = values.len() as i128;
            let sum: i128 = values.iter().map(|x| i128::from(*x)).sum();
            let squares: i128 = values.iter().map(|x| i128::from(*x).pow(2)).sum();
            assert_eq!(got.sum, sum as f64);
            assert!((got.avg - sum as f64 / n as f64).abs() <= 3e-16 * got.avg.abs());
            let std = ((n * squares - sum * sum) as f64).sqrt() / n as f64;
            assert!((got.std - std).abs() <= 4e-16 * std, "{values:?}: {} {std}", got.std);
        }
    }
}

//! The slow twins: each kernel once more, written to be obviously right rather than fast. Used by tests
//! and audits only.

/// The moments of a whole slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowMoments {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Arithmetic mean.
    pub avg: f64,
    /// Population standard deviation.
    pub std: f64,
    /// Increase as a counter.
    pub increase: f64,
}

/// Two passes with compensated sums (Neumaier 1974) over offsets from the first value.
///
/// An empty slice gives zeros.
pub fn moments(values: &[f64]) -> SlowMoments {
    let Some(anchor) = values.first().copied() else {
        return SlowMoments { min: 0.0, max: 0.0, avg: 0.0, std: 0.0, increase: 0.0 };
    };
    let n = values.len() as f64;
    let offset = sum(values.iter().map(|x| x - anchor)) / n;
    let square = |x: &f64| ((x - anchor) - offset) * ((x - anchor) - offset);
    let gained = values.windows(2).map(|w| if w[1] >= w[0] { w[1] - w[0] } else { w[1] });
    SlowMoments {
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        avg: anchor + offset,
        std: (sum(values.iter().map(square)) / n).sqrt(),
        increase: sum(gained),
    }
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut rest) = (0.0_f64, 0.0_f64);
    for x in values {
        let next = sum + x;
        rest += if sum.abs() >= x.abs() { (sum - next) + x } else { (x - next) + sum };
        sum = next;
    }
    sum + rest
}

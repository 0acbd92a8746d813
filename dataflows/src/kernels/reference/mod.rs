//! The slow twins: each kernel once more, written to be obviously right rather than fast. Used by tests
//! and audits only.

mod moments;
pub mod seasonality;
pub mod stationarity;

pub use moments::{SlowMoments, moments};

/// Two roundings at the small end of the numbers, where they are this far apart whatever was computed.
const ROUNDINGS: f64 = f64::from_bits(2);

/// Whether two results are the same number, or are apart by roundings to the smallest f64 alone.
pub fn near(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= ROUNDINGS
}

#[cfg(test)]
mod tests {
    use super::near;

    #[test]
    fn near_is_what_roundings_to_the_smallest_numbers_leave() {
        let units = |n: u64| f64::from_bits(n);
        for (a, b, want) in [
            (0.0, -0.0, true),
            (units(7), units(9), true),
            (-units(1), units(1), true),
            (units(7), units(10), false),
            (-units(1), units(2), false),
            (1.0, 1.0 + f64::EPSILON, false),
            (f64::INFINITY, f64::INFINITY, true),
            (f64::INFINITY, f64::MAX, false),
            (f64::NAN, f64::NAN, false),
        ] {
            assert_eq!((near(a, b), near(b, a)), (want, want), "{a:e} {b:e}");
        }
    }
}

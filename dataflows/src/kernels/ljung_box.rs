//! The Ljung-Box test: whether the first autocorrelations of a window are together more than those of white noise.
//!
//! # Formula
//! `Q_h = n (n + 2) sum_{k=1}^{h} r_k^2 / (n - k)`, which under white noise is chi-squared with `h` degrees of freedom (Ljung
//! and Box 1978; of statsmodels 0.15 `acf(qstat=True)`).
//!
//! The chi-squared survival function is its finite sum for whole degrees of freedom (Abramowitz and Stegun 26.4.4, 26.4.5), with
//! `h = Q / 2`: for even ones `exp(-h) sum_{i < df/2} h^i / i!`, for odd ones
//! `erfc(sqrt h) + exp(-h) sum_{i < (df-1)/2} h^(i + 1/2) / Gamma(i + 3/2)`.
//!
//! # Precision
//! A p-value is within 1e-13 of itself below 200 degrees of freedom, and within 1e-12 below 3,000.

/// Terms are divided by this when they exceed it, so that no sum leaves the numbers: 2^512.
const LARGE: f64 = f64::from_bits((1_023 + 512) << 52);

/// How many lags the verdict on a window of `n` values takes together: `min(10, n / 5)` (Hyndman and Athanasopoulos 2018).
pub fn verdict_lags(n: usize) -> usize {
    (n / 5).min(10)
}

/// The statistic `Q` of the lags 1 to `lags`, of autocorrelations that begin with that of lag 0.
///
/// # Edges
/// It is 0 of 0 lags. It is NaN where an autocorrelation is NaN or is not there, and from lag `n` on.
pub fn statistic(autocorrelations: &[f64], n: usize, lags: usize) -> f64 {
    (1..=lags).fold(0.0, |sum, lag| sum + term(autocorrelations, n, lag))
}

/// Fills `to` with the statistics of the lags 1, 1 to 2, 1 to 3 and so on.
///
/// # Edges
/// As those of [`statistic`].
pub fn statistics(autocorrelations: &[f64], n: usize, to: &mut [f64]) {
    let mut sum = 0.0;
    for (i, to) in to.iter_mut().enumerate() {
        sum += term(autocorrelations, n, i + 1);
        *to = sum;
    }
}

fn term(autocorrelations: &[f64], n: usize, lag: usize) -> f64 {
    let r = autocorrelations.get(lag).filter(|_| lag < n).copied().unwrap_or(f64::NAN);
    let count = n as f64;
    count * (count + 2.0) * (r * r / (count - lag as f64))
}

/// The probability that a chi-squared number with `freedom` degrees of freedom exceeds `statistic`.
///
/// # Edges
/// It is 1 up to 0, 0 at infinity, and NaN of NaN or of 0 degrees of freedom.
///
/// # Cost
/// A multiplication and a division for every second degree of freedom.
pub fn p_value(statistic: f64, freedom: usize) -> f64 {
    if statistic.is_nan() || freedom == 0 {
        return f64::NAN;
    }
    let half = statistic / 2.0;
    if half <= 0.0 {
        return 1.0;
    }
    // By Chernoff's bound it is below all numbers there.
    if half > 1e4 && half >= freedom as f64 {
        return 0.0;
    }
    let (tail, first, shift) = if freedom.is_multiple_of(2) {
        (0.0, 1.0, 0.0)
    } else {
        (libm::erfc(half.sqrt()), 2.0 * (half / std::f64::consts::PI).sqrt(), 0.5)
    };
    (tail + poisson_sum(half, first, shift, freedom / 2)).min(1.0)
}

/// `exp(-half)` times a sum of `count` terms, of which each is the one before times `half / (i + shift)`.
fn poisson_sum(half: f64, first: f64, shift: f64, count: usize) -> f64 {
    let (mut term, mut sum, mut scaled) = (first, 0.0, 0);
    for i in 1..=count {
        sum += term;
        term *= half / (i as f64 + shift);
        if sum > LARGE || term > LARGE {
            term /= LARGE;
            sum /= LARGE;
            scaled += 1;
        }
        if term < sum * 1e-20 && (i as f64) > half {
            break;
        }
    }
    if scaled == 0 && half < 700.0 {
        return sum * libm::exp(-half);
    }
    // The exponent is subtracted from before it rounds: what is left of both is small.
    libm::exp((f64::from(scaled) * (512.0 * std::f64::consts::LN_2) - half) + libm::log(sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::golden;
    use crate::kernels::reference::stationarity as slow;
    use crate::kernels::shapes::{FAMILIES, Random, family};

    fn relative(got: f64, want: f64) -> f64 {
        if got == want { 0.0 } else { ((got - want) / want).abs() }
    }

    #[test]
    fn statsmodels_says_the_same() {
        for series in golden::series() {
            let n = series.x.len();
            let mut got = vec![0.0; series.q.len()];
            statistics(&series.acf, n, &mut got);
            for (i, (q, want)) in got.iter().zip(&series.q).enumerate() {
                assert!(relative(*q, *want) <= 1e-13, "{} lag {}: {q} {want}", series.name, i + 1);
                assert_eq!(statistic(&series.acf, n, i + 1), *q);
                let p = p_value(*q, i + 1);
                assert!((p - series.p[i]).abs() <= 1e-13, "{} lag {}: {p}", series.name, i + 1);
            }
        }
        for case in golden::file()["tables"]["chi2"].as_array().unwrap() {
            let (x, df) = (golden::number(&case["x"]), golden::number(&case["df"]) as usize);
            let (got, want) = (p_value(x, df), golden::number(&case["sf"]));
            assert!(relative(got, want) <= 1e-13, "{x} {df}: {got:e} {want:e}");
        }
    }

    /// Of mpmath 1.3 with 40 digits.
    #[test]
    #[expect(clippy::excessive_precision, reason = "as they were printed")]
    fn many_degrees_of_freedom_keep_their_digits() {
        for (x, df, want) in [
            (6.0, 1, 0.01430587843542964),
            (0.1, 2, 0.95122942450071401),
            (30.0, 5, 1.4748581038443052e-5),
            (204.0, 34, 3.9096147101171846e-26),
            (45.1, 41, 0.30446067301351994),
            (102.5, 41, 3.5390251261354423e-7),
            (360.0, 60, 2.2861731292419865e-44),
            (90.0, 100, 0.75319796559982973),
            (150.0, 100, 0.00090393204235400909),
            (288.0, 288, 0.48891784908736313),
            (432.0, 288, 7.8297263929326922e-8),
            (1728.0, 288, 1.5259445357033473e-203),
            (630.0, 700, 0.97251601179710775),
            (770.0, 700, 0.03365900463510982),
            (1750.0, 700, 2.6650841166976999e-91),
            (1439.0, 1439, 0.49504233982080588),
            (1582.9, 1439, 0.0045252123855390818),
            (2158.5, 1439, 8.5121041189614258e-32),
            (3597.5, 1439, 3.9911774352400479e-185),
            (3022.95, 2879, 0.030392173439286077),
            (4318.5, 2879, 1.6631407913758473e-61),
        ] {
            let got = p_value(x, df);
            let most = if df < 200 { 1e-13 } else { 1e-12 };
            assert!(relative(got, want) <= most, "{x} {df}: {got:e} {want:e} {:e}", relative(got, want));
        }
    }

    #[test]
    fn the_slow_twin_agrees() {
        for freedom in 1..60 {
            for tenths in 1..60 {
                let x = freedom as f64 * f64::from(tenths) / 10.0;
                let (got, want) = (p_value(x, freedom), slow::chi_squared_survival(x, freedom));
                assert!((got - want).abs() <= 1e-12, "{x} {freedom}: {got:e} {want:e}");
            }
        }
        for (seed, name) in FAMILIES.iter().enumerate() {
            let window = family(&mut Random::new(seed as u64), name, 240);
            let r = slow::autocorrelation(&window, 10);
            let (got, want) = (statistic(&r, 240, 10), slow::ljung_box(&window, 10));
            assert!(relative(got, want) <= 1e-13, "{name}: {got} {want}");
        }
    }

    #[test]
    fn edges_are_as_documented() {
        for (x, df, want) in [
            (0.0, 3, 1.0),
            (-1.0, 3, 1.0),
            (f64::INFINITY, 3, 0.0),
            (1e300, 1, 0.0),
            (1e300, 1_000_000, 0.0),
            (3e4, 20_000, 0.0),
            (f64::MIN_POSITIVE, 1, 1.0),
        ] {
            assert_eq!(p_value(x, df), want, "{x} {df}");
        }
        assert!((p_value(1.0, 1_000_000) - 1.0).abs() < 1e-15);
        assert!(p_value(f64::NAN, 1).is_nan() && p_value(1.0, 0).is_nan());
        assert_eq!(statistic(&[1.0, 0.5], 5, 0), 0.0);
        assert!(statistic(&[1.0, 0.5], 5, 2).is_nan() && statistic(&[1.0, 0.5, 0.5], 2, 2).is_nan());
        assert_eq!([0, 4, 5, 49, 50, 1_440].map(verdict_lags), [0, 0, 1, 9, 10, 10]);
    }
}

//! Autocovariance and autocorrelation of a window, and Bartlett's band around it.
//!
//! # Formula
//! With `u_s = x_s - mean` the sums are `P_k = sum_{s>=k} u_s u_{s-k}`, the autocorrelation is `P_k / P_0` (of statsmodels
//! 0.15 `acf(adjusted=False)`; Box and Jenkins 1976). They follow from the lagged products `R_k` of first differences:
//! ```text
//!  P_0 - P_1     = (R_0 + u_0^2 + u_{n-1}^2) / 2
//!  P_k - P_{k+1} = (P_{k-1} - P_k) + R_k + u_0 d_k - u_{n-1} d_{n-k}
//! ```
//! They hold of the levels `w` about the window's line as well, whose slope is `m`. With `c_s = s - (n - 1) / 2` the line adds
//! `m sum (c_{s-k} w_s + c_s w_{s-k}) + m^2 sum c_s c_{s-k}`, which are sums over both ends and a polynomial in `k`.
//!
//! # Precision
//! An autocorrelation is off by less than 5e-13 whatever the offset; those beyond lag 40 are their definition. Where statsmodels differs by more (3e-6 at an
//! offset of 1e12), it rounds the mean.
//!
//! # Cost
//! Ten operations for each lag; the sums cost more.

use super::lag_sums::{LagSums, Shape};
use super::lanes;

/// The quantile of the normal distribution that a band of 95 % ends at.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// How many lags are of interest by default: `min(int(10 log10 n), n - 1)`, as in statsmodels 0.15; 0 below 2 values.
pub fn default_lags(n: usize) -> usize {
    if n < 2 { 0 } else { ((10.0 * libm::log10(n as f64)) as usize).min(n - 1) }
}

/// Fills `to` with the autocorrelations of the lags from 0 on.
///
/// # Edges
/// Those of a window that is constant, empty or not finite are NaN, as are those of lags that the sums do not reach.
/// The first is 1.
pub fn autocorrelation(sums: &LagSums, to: &mut [f64]) {
    centred_products(sums, to);
    let squares = to.first().copied().unwrap_or(f64::NAN);
    to.iter_mut().for_each(|product| *product /= squares);
}

/// Fills `to` with the autocovariances `P_k / n` of the lags from 0 on; that of lag 0 is the population variance.
///
/// # Edges
/// Those of a constant window are 0; those of an empty one or one that is not finite are NaN, as are those of lags that the
/// sums do not reach. Beyond `f64::MAX` they are infinite.
pub fn autocovariance(sums: &LagSums, to: &mut [f64]) {
    if sums.shape() == Shape::Constant && !sums.is_empty() {
        let n = sums.len();
        to.iter_mut().enumerate().for_each(|(lag, to)| *to = if lag < n { 0.0 } else { f64::NAN });
        return;
    }
    centred_products(sums, to);
    let n = sums.len() as f64;
    // The unit twice, not its square, which may be beyond the numbers.
    to.iter_mut().for_each(|product| *product = sums.unscaled(sums.unscaled(*product / n)));
}

/// The arithmetic mean of a window.
///
/// # Edges
/// It is NaN of an empty window and of one that is not finite.
pub fn mean(sums: &LagSums) -> f64 {
    match sums.shape() {
        Shape::Varying => {
            let middle = (sums.len() - 1) as f64 / 2.0;
            sums.unscaled(sums.intercept() + (sums.slope() * middle + sums.mean_level()))
        }
        Shape::Constant => sums.unscaled(sums.first()),
        Shape::NonFinite => f64::NAN,
    }
}

/// Fills `to` with half the widths of the band of 95 % around each autocorrelation.
///
/// # Formula
/// `1.96 sqrt(var_k)` with `var_0 = 0`, `var_1 = 1 / n` and `var_k = (1 + 2 sum_{0<j<k} r_j^2) / n` (Bartlett 1946; of
/// statsmodels 0.15 `acf(alpha=0.05)`).
///
/// # Edges
/// They are NaN where an autocorrelation of a lower lag is, and infinite of 0 values.
pub fn bartlett_half_widths(autocorrelations: &[f64], n: usize, to: &mut [f64]) {
    let mut squares = 0.0;
    for (lag, to) in to.iter_mut().enumerate() {
        if lag > 1 {
            squares += autocorrelations.get(lag - 1).map_or(f64::NAN, |r| r * r);
        }
        let variance = if lag == 0 { 0.0 } else { (1.0 + 2.0 * squares) / n as f64 };
        *to = Z_95 * variance.sqrt();
    }
}

/// Fills `to` with `P_k`, in scaled units.
fn centred_products(sums: &LagSums, to: &mut [f64]) {
    let reached = if sums.shape() == Shape::Varying { (sums.whole().len() + 1).min(sums.len()) } else { 0 };
    let (to, beyond) = to.split_at_mut(reached.min(to.len()));
    let u = sums.centred();
    for (lag, to) in (reached..).zip(beyond) {
        *to = if lag < u.len() { lanes::dot(&u[lag..], &u[..u.len() - lag]) } else { f64::NAN };
    }
    if !to.is_empty() {
        let rest = sums.mean_level();
        products_about_line(sums, rest, to);
        if sums.slope() != 0.0 {
            add_line(sums, rest, to);
        }
    }
}

/// `P_k` of the levels about the window's line; `to` has at most as many as the window has values.
fn products_about_line(sums: &LagSums, rest: f64, to: &mut [f64]) {
    let n = sums.len();
    let (first, last) = (sums.level(0) - rest, sums.level(n - 1) - rest);
    let mut product = sums.squares() - n as f64 * rest * rest;
    let mut fall = (sums.whole()[0] + first * first + last * last) / 2.0;
    to[0] = product;
    for lag in 1..to.len() {
        product -= fall;
        to[lag] = product;
        if lag + 1 < to.len() {
            let ends = first * sums.differences_before(lag)[0] - last * sums.differences_before(n - lag)[0];
            fall += sums.whole()[lag] + ends;
        }
    }
}

/// Adds to `P_k` what the slope of the window's line does.
fn add_line(sums: &LagSums, rest: f64, to: &mut [f64]) {
    let (n, slope) = (sums.len(), sums.slope());
    let middle = (n - 1) as f64 / 2.0;
    let all = sums.moment();
    // Of the oldest and the newest `lag` levels: their sums, and the sums of their products with the centred time.
    let (mut old, mut old_moment, mut new, mut new_moment) = (0.0, 0.0, 0.0, 0.0);
    for (lag, to) in to.iter_mut().enumerate() {
        if lag > 0 {
            let (first, last) = (sums.level(lag - 1) - rest, sums.level(n - lag) - rest);
            old += first;
            old_moment += ((lag - 1) as f64 - middle) * first;
            new += last;
            new_moment += ((n - lag) as f64 - middle) * last;
        }
        let (k, pairs) = (lag as f64, (n - lag) as f64);
        let with_levels = ((all - old_moment) + k * old) + ((all - new_moment) - k * new);
        let with_itself = pairs * (pairs * pairs - 1.0) / 12.0 - pairs * (k * k) / 4.0;
        *to += slope * with_levels + slope * slope * with_itself;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::golden;
    use crate::kernels::reference::stationarity as slow;
    use crate::kernels::shapes::{FAMILIES, Random, family};

    fn of(window: &[f64], lags: usize) -> Vec<f64> {
        let mut sums = LagSums::default();
        sums.compute(window, lags);
        let mut to = vec![0.0; lags + 1];
        autocorrelation(&sums, &mut to);
        to
    }

    fn apart(a: &[f64], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        a.iter()
            .zip(b)
            .map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() })
            .fold(0.0, |a, b| if a >= b { a } else { b })
    }

    #[test]
    fn statsmodels_says_the_same() {
        for series in golden::series() {
            let n = series.x.len();
            let lags = default_lags(n);
            assert_eq!(lags + 1, series.acf.len());
            let (got, mut half) = (of(&series.x, lags), vec![0.0; lags + 1]);
            bartlett_half_widths(&got, n, &mut half);
            let lower: Vec<f64> = got.iter().zip(&half).map(|(r, half)| r - half).collect();
            let upper: Vec<f64> = got.iter().zip(&half).map(|(r, half)| r + half).collect();
            let off = apart(&got, &series.acf);
            assert!(off <= 1e-12, "{}: {off:e}", series.name);
            assert!(apart(&lower, &series.lower) <= 2e-12, "{}", series.name);
            assert!(apart(&upper, &series.upper) <= 2e-12, "{}", series.name);
            for window in series.sliding.iter().filter(|window| !window.acf.is_empty()) {
                assert!(apart(&of(&window.window, 10), &window.acf) <= 1e-12, "{}", series.name);
            }
        }
    }

    #[test]
    fn the_slow_twin_agrees_whatever_the_length_and_the_lags() {
        for name in FAMILIES {
            for (seed, n) in (2..66).chain([240, 480, 1_440]).enumerate() {
                let mut random = Random::new(seed as u64);
                let window = family(&mut random, name, n);
                if window.iter().all(|x| *x == window[0]) {
                    continue;
                }
                for lags in [0, 1, default_lags(n), 1 + random.below(n - 1)] {
                    let off = apart(&of(&window, lags), &slow::autocorrelation(&window, lags));
                    assert!(off <= 5e-13, "{name}, seed {seed}, n {n}, {lags} lags: {off:e}");
                }
            }
        }
    }

    /// The tolerance of 1e-12 tells a window from one that differs in one value by 1e-8 of its deviation.
    #[test]
    fn small_errors_would_be_found() {
        for series in golden::series() {
            let mut changed = series.x.clone();
            let largest = changed.iter().copied().fold(f64::MIN, f64::max);
            let at = changed.iter().position(|x| *x == largest).unwrap();
            changed[at] = (largest + 1e-8 * 2.0_f64.powi(series.scale_exp)).max(largest.next_up());
            let lags = series.acf.len() - 1;
            assert!(apart(&of(&changed, lags), &series.acf) > 1e-12, "{}", series.name);
            assert!(apart(&of(&series.x[1..], lags), &series.acf) > 1e-12, "{}", series.name);
        }
    }

    #[test]
    fn covariance_and_mean_are_those_of_the_twins() {
        for (seed, name) in FAMILIES.iter().enumerate() {
            let window = family(&mut Random::new(seed as u64), name, 240);
            let mut sums = LagSums::default();
            sums.compute(&window, 10);
            let (mut got, want) = ([0.0; 11], slow::autocovariance(&window, 10));
            autocovariance(&sums, &mut got);
            assert!(apart(&got, &want) <= 1e-12 * want[0], "{name}: {got:?} {want:?}");
            let moments = crate::kernels::reference::moments(&window);
            assert!(
                (mean(&sums) - moments.avg).abs() <= 1e-15 * moments.avg.abs() + 1e-15 * moments.std,
                "{name}"
            );
            assert!((got[0].sqrt() - moments.std).abs() <= 1e-12 * moments.std, "{name}");
        }
    }

    #[test]
    fn degenerate_windows_have_documented_results() {
        let check = |window: &[f64], r: [f64; 3], c: [f64; 3], average: f64| {
            let mut sums = LagSums::default();
            sums.compute(window, 2);
            let (mut got, mut covariance) = ([7.0; 3], [7.0; 3]);
            autocorrelation(&sums, &mut got);
            autocovariance(&sums, &mut covariance);
            assert_eq!(
                format!("{:?}", (got, covariance, mean(&sums))),
                format!("{:?}", (r, c, average)),
                "{window:?}"
            );
        };
        let nan = f64::NAN;
        check(&[], [nan; 3], [nan; 3], nan);
        check(&[3.5], [nan; 3], [0.0, nan, nan], 3.5);
        check(&[3.5; 5], [nan; 3], [0.0; 3], 3.5);
        check(&[1.0, nan, 2.0], [nan; 3], [nan; 3], nan);
        check(&[1.0, 3.0], [1.0, -0.5, nan], [1.0, -0.5, nan], 2.0);
        check(&[1.0, 2.0, 3.0], [1.0, 0.0, -0.5], [2.0 / 3.0, 0.0, -1.0 / 3.0], 2.0);
        let mut sums = LagSums::default();
        sums.compute(&[-f64::MAX, f64::MAX, 0.0], 2);
        autocorrelation(&sums, &mut []);
        let (mut r, mut covariance, mut half) = ([0.0; 3], [0.0; 1], [0.0; 3]);
        autocorrelation(&sums, &mut r);
        autocovariance(&sums, &mut covariance);
        assert!(apart(&r, &[1.0, -0.5, 0.0]) <= 1e-15 && mean(&sums).abs() <= 1e-15 * f64::MAX, "{r:?}");
        assert_eq!(covariance, [f64::INFINITY]);
        bartlett_half_widths(&[1.0, 0.5], 4, &mut half);
        assert_eq!(half, [0.0, Z_95 * 0.5, Z_95 * 0.375_f64.sqrt()]);
        bartlett_half_widths(&[], 0, &mut half);
        assert_eq!((half[0], half[1], half[2].is_nan()), (0.0, f64::INFINITY, true));
    }

    #[test]
    fn default_lags_are_those_of_statsmodels() {
        let want =
            [(0, 0), (1, 0), (2, 1), (10, 9), (11, 10), (100, 20), (240, 23), (1_000, 30), (1_440, 31)];
        for (n, lags) in want.into_iter().chain([(10_000, 40), (100_000, 50), (99_999, 49)]) {
            assert_eq!(default_lags(n), lags, "{n}");
        }
    }
}

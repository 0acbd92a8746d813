//! MacKinnon's approximations of the Dickey-Fuller distributions: p-values and critical values of a test of one series.
//!
//! # Formula
//! A p-value is `Phi` of a polynomial in the statistic, one of degree 2 up to `tau*` and one of degree 3 above. It is 0 below
//! `tau_min` and 1 above `tau_max`, with a jump there, as in statsmodels (MacKinnon 1994, "Approximate Asymptotic Distribution
//! Functions for Unit-Root and Cointegration Tests", Journal of Business & Economic Statistics 12, tables 3 and 4).
//!
//! A critical value is a polynomial of degree 3 in `1 / nobs` (MacKinnon 2010, "Critical Values for Cointegration Tests",
//! Queen's Economics Department Working Paper 1227, table 2; without a constant those of 1996). Both as statsmodels 0.15.

/// The deterministic terms of a regression, beside the level and the lags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regression {
    /// None: statsmodels' `n`.
    None,
    /// A constant: statsmodels' `c`.
    Constant,
    /// A constant and a linear trend: statsmodels' `ct`.
    Trend,
}

impl Regression {
    /// All there are.
    pub const ALL: [Regression; 3] = [Regression::None, Regression::Constant, Regression::Trend];

    /// As statsmodels names it.
    pub fn name(self) -> &'static str {
        match self {
            Regression::None => "n",
            Regression::Constant => "c",
            Regression::Trend => "ct",
        }
    }

    /// How many terms they are.
    pub fn terms(self) -> usize {
        match self {
            Regression::None => 0,
            Regression::Constant => 1,
            Regression::Trend => 2,
        }
    }
}

/// The approximation of one distribution.
struct Surface {
    tau_min: f64,
    tau_star: f64,
    tau_max: f64,
    lower: [f64; 3],
    upper: [f64; 4],
    /// For 1 %, 5 % and 10 %.
    critical: [[f64; 4]; 3],
}

const NONE: Surface = Surface {
    tau_min: -19.04,
    tau_star: -1.04,
    tau_max: f64::INFINITY,
    lower: [0.6344, 1.2378, 0.032_496],
    upper: [0.4797, 0.935_57, -0.069_99, 0.033_066],
    critical: [
        [-2.565_74, -2.2358, -3.627, 0.0],
        [-1.941, -0.2686, -3.365, 31.223],
        [-1.616_82, 0.2656, -2.714, 25.364],
    ],
};

const CONSTANT: Surface = Surface {
    tau_min: -18.83,
    tau_star: -1.61,
    tau_max: 2.74,
    lower: [2.1659, 1.4412, 0.038_269],
    upper: [1.7339, 0.932_02, -0.127_45, -0.010_368],
    critical: [
        [-3.430_35, -6.5393, -16.786, -79.433],
        [-2.861_54, -2.8903, -4.234, -40.04],
        [-2.566_77, -1.5384, -2.809, 0.0],
    ],
};

const TREND: Surface = Surface {
    tau_min: -16.18,
    tau_star: -2.89,
    tau_max: 0.7,
    lower: [3.2512, 1.6047, 0.049_588],
    upper: [2.5261, 0.616_54, -0.379_56, -0.060_285],
    critical: [
        [-3.958_77, -9.0531, -28.428, -134.155],
        [-3.410_49, -4.3904, -9.036, -45.374],
        [-3.127_05, -2.5856, -3.925, -22.38],
    ],
};

fn surface(regression: Regression) -> &'static Surface {
    match regression {
        Regression::None => &NONE,
        Regression::Constant => &CONSTANT,
        Regression::Trend => &TREND,
    }
}

/// The probability of a statistic as low as this one under a unit root.
///
/// # Edges
/// It is NaN of NaN.
pub fn p_value(statistic: f64, regression: Regression) -> f64 {
    let of = surface(regression);
    if statistic.is_nan() {
        f64::NAN
    } else if statistic > of.tau_max {
        1.0
    } else if statistic < of.tau_min {
        0.0
    } else if statistic <= of.tau_star {
        normal_cdf(polynomial(&of.lower, statistic))
    } else {
        normal_cdf(polynomial(&of.upper, statistic))
    }
}

/// The statistics that are exceeded downwards with a probability of 1 %, 5 % and 10 % under a unit root.
///
/// # Edges
/// They are not finite for 0 rows.
pub fn critical_values(rows: usize, regression: Regression) -> [f64; 3] {
    let inverse = 1.0 / rows as f64;
    surface(regression).critical.map(|coefficients| polynomial(&coefficients, inverse))
}

/// By Horner's rule; coefficients from that of degree 0 on.
fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * x + coefficient)
}

/// The distribution function of the normal distribution.
fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::golden;

    #[test]
    fn tables_are_those_of_statsmodels() {
        let tables = &golden::file()["tables"];
        for regression in Regression::ALL {
            let name = regression.name();
            let wanted = golden::numbers(&tables["p"][name]);
            let statistics = golden::numbers(&tables["tau"]);
            assert_eq!((statistics.len(), wanted.len()), (193, 193));
            for (statistic, want) in statistics.iter().zip(wanted) {
                let got = p_value(*statistic, regression);
                assert!((got - want).abs() <= 4.5e-16, "{name} {statistic}: {got} {want}");
            }
            for (rows, want) in tables["crit"][name].as_object().unwrap() {
                let got = critical_values(rows.parse().unwrap(), regression);
                for (got, want) in got.iter().zip(golden::numbers(want)) {
                    assert!((got - want).abs() <= 1e-15, "{name} {rows}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn edges_are_as_documented() {
        for regression in Regression::ALL {
            assert!(p_value(f64::NAN, regression).is_nan());
            assert_eq!((p_value(-1e300, regression), p_value(1e300, regression)), (0.0, 1.0));
            assert!(critical_values(0, regression).iter().all(|x| !x.is_finite()));
        }
    }
}

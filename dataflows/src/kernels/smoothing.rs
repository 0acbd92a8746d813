//! Exponential smoothing with additive errors: a state-space filter that a value updates in constant time.
//!
//! # Formula
//! As statsmodels' `ETSModel` with additive error (Hyndman, Koehler, Ord and Snyder 2008, chapter 3), with level `l`, slope `b` and
//! season `s` of `m` steps:
//! ```text
//!  y^ = l + phi b + s[t-m]       e = y - y^
//!  l' = l + phi b + alpha e      b' = phi b + beta e      s' = s[t-m] + gamma e
//! ```
//! `beta` and `gamma` multiply the error itself: they are `alpha beta*` and `(1 - alpha) gamma*` of Holt and Winters. Without a slope
//! this is ANN, with one AAN, damped (`phi < 1`) AAdN; with a season ANA, AAA, AAdA.
//!
//! # Variance
//! A forecast `h` steps ahead is off by `sum psi_j e` over the errors of those steps, with `psi_0 = 1` and
//! `psi_j = alpha + beta (phi + .. + phi^j) + gamma [m divides j]`. Relative to the variance of one error, its variance is
//! `sum psi_j^2` over `j < h`, and that of the mean of the path is `sum (psi_0 + .. + psi_j)^2 / h^2`.
//!
//! # Missing steps
//! The state moves on as if the value had been the one expected: by an error of zero.
//!
//! # Cost
//! Some nanoseconds a value; a forecast costs as much a step. Here nothing is estimated: parameters and the state to begin with are given.

/// How fast a filter forgets. With those of Hyndman (`0 < alpha < 1`, `0 <= beta <= alpha`, `0 <= gamma <= 1 - alpha`,
/// `0 < phi <= 1`) it is stable; others are taken as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmoothingParameters {
    /// Of the level.
    pub alpha: f64,
    /// Of the slope.
    pub beta: f64,
    /// Of the season.
    pub gamma: f64,
    /// What is left of the slope after a step.
    pub phi: f64,
}

impl SmoothingParameters {
    /// Of a level alone.
    pub const fn level(alpha: f64) -> SmoothingParameters {
        SmoothingParameters { alpha, beta: 0.0, gamma: 0.0, phi: 0.0 }
    }

    /// Writes the weights that errors of the path have in a forecast: `psi_0`, `psi_1`, ... A `period` of 0 is no season.
    pub fn error_weights(&self, period: usize, weights: &mut [f64]) {
        let (mut power, mut damped) = (1.0, 0.0);
        for (j, weight) in weights.iter_mut().enumerate() {
            if j == 0 {
                *weight = 1.0;
                continue;
            }
            power *= self.phi;
            damped += power;
            let season = if period > 0 && j % period == 0 { self.gamma } else { 0.0 };
            *weight = self.alpha + self.beta * damped + season;
        }
    }
}

/// The variance of a forecast for each step of the path, relative to that of one error; by the weights of errors.
pub fn variance_factors(weights: &[f64], factors: &mut [f64]) {
    let mut sum = 0.0;
    for (weight, factor) in weights.iter().zip(factors) {
        sum += weight * weight;
        *factor = sum;
    }
}

/// The variance of the mean of the path, relative to that of one error; 0 of no step.
pub fn mean_variance_factor(weights: &[f64]) -> f64 {
    let (mut sum, mut squares) = (0.0, 0.0);
    for weight in weights {
        sum += weight;
        squares += sum * sum;
    }
    if weights.is_empty() { 0.0 } else { squares / (weights.len() * weights.len()) as f64 }
}

/// A filter and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct SmoothingFilter {
    parameters: SmoothingParameters,
    level: f64,
    slope: f64,
    /// By phase; empty without a season.
    season: Vec<f64>,
    /// The phase of the next value.
    phase: usize,
}

impl SmoothingFilter {
    /// Before the first value, whose phase is 0. Without a slope it is 0, without a season that is empty.
    pub fn new(parameters: SmoothingParameters, level: f64, slope: f64, season: Vec<f64>) -> SmoothingFilter {
        SmoothingFilter { parameters, level, slope, season, phase: 0 }
    }

    /// The level.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// The slope a step.
    pub fn slope(&self) -> f64 {
        self.slope
    }

    fn seasonal(&self, ahead: usize) -> f64 {
        match self.season.len() {
            0 => 0.0,
            period => self.season[(self.phase + ahead) % period],
        }
    }

    /// What the next value is expected to be.
    pub fn expected(&self) -> f64 {
        self.level + self.parameters.phi * self.slope + self.seasonal(0)
    }

    /// Takes the next value. By how much it is above the one expected.
    pub fn update(&mut self, value: f64) -> f64 {
        let error = value - self.expected();
        self.advance(error);
        error
    }

    /// The next value is missing.
    pub fn skip(&mut self) {
        self.advance(0.0);
    }

    fn advance(&mut self, error: f64) {
        let SmoothingParameters { alpha, beta, gamma, phi } = self.parameters;
        let damped = phi * self.slope;
        self.level = self.level + damped + alpha * error;
        self.slope = damped + beta * error;
        if let Some(phase) = self.season.get_mut(self.phase) {
            *phase += gamma * error;
            self.phase = (self.phase + 1) % self.season.len();
        }
    }

    /// Writes what the next values are expected to be.
    pub fn forecast(&self, path: &mut [f64]) {
        let (mut power, mut damped) = (1.0, 0.0);
        for (ahead, value) in path.iter_mut().enumerate() {
            power *= self.parameters.phi;
            damped += power;
            *value = self.level + damped * self.slope + self.seasonal(ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::golden::{number, numbers, series};
    use super::*;
    use crate::kernels::shapes::Random;

    /// The 0.95 quantile of the normal distribution.
    const Z90: f64 = 1.644_853_626_951_472_7;

    /// Filters of statsmodels 0.15.0 at parameters it had fitted, over `x - shift` of the series of the same name.
    fn file() -> Value {
        serde_json::from_str(include_str!("../../../tests/golden/smoothing.json")).unwrap()
    }

    fn filter(params: &Value, period: usize) -> SmoothingFilter {
        let of = |name: &str| params[name].as_f64();
        let phi = of("damping_trend").unwrap_or(if of("smoothing_trend").is_some() { 1.0 } else { 0.0 });
        let parameters = SmoothingParameters {
            alpha: of("smoothing_level").unwrap(),
            beta: of("smoothing_trend").unwrap_or(0.0),
            gamma: of("smoothing_seasonal").unwrap_or(0.0),
            phi,
        };
        // The i-th before the first value.
        let season = |i: usize| of(&format!("initial_seasonal.{}", period - 1 - i)).unwrap();
        let season =
            if of("smoothing_seasonal").is_some() { (0..period).map(season).collect() } else { Vec::new() };
        let slope = of("initial_trend").unwrap_or(0.0);
        SmoothingFilter::new(parameters, of("initial_level").unwrap(), slope, season)
    }

    fn deviation(values: &[f64]) -> f64 {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    }

    #[test]
    fn filters_and_intervals_are_those_of_statsmodels() {
        let (golden, mut models, mut worst) = (series(), 0, 0.0_f64);
        for of in file()["series"].as_array().unwrap() {
            let name = of["name"].as_str().unwrap();
            let shift = number(&of["shift"]);
            let x = &golden.iter().find(|series| series.name == name).unwrap().x;
            let y: Vec<f64> = x.iter().map(|x| x - shift).collect();
            let (period, scale) = (of["period"].as_u64().unwrap_or(0) as usize, deviation(&y));
            for (model, of) in of["models"].as_object().unwrap() {
                let mut filter = filter(&of["params"], period);
                let (mut fitted, mut squares) = (Vec::new(), 0.0);
                for value in &y {
                    let error = filter.update(*value);
                    fitted.push(value - error);
                    squares += error * error;
                }
                let mse = squares / y.len() as f64;
                let period = filter.season.len();
                let (mut path, mut weights, mut factors) = ([0.0; 40], [0.0; 40], [0.0; 40]);
                filter.forecast(&mut path);
                filter.parameters.error_weights(period, &mut weights);
                variance_factors(&weights, &mut factors);
                let half = factors.map(|factor| Z90 * (mse * factor).sqrt());
                let bound = |sign: f64| {
                    path.iter().zip(half).map(|(mean, half)| mean + sign * half).collect::<Vec<_>>()
                };
                let mut same = |what: &str, got: &[f64], want: &[f64]| {
                    assert!(!want.is_empty() && got.len() == want.len(), "{name} {model} {what}");
                    for (got, want) in got.iter().zip(want) {
                        let apart = (got - want).abs() / scale;
                        assert!(apart <= 1e-11, "{name} {model} {what}: {got:e} {want:e}");
                        worst = worst.max(apart);
                    }
                };
                let (head, tail) = (numbers(&of["fitted_head"]), numbers(&of["fitted_tail"]));
                same("head", &fitted[..head.len()], &head);
                same("tail", &fitted[fitted.len() - tail.len()..], &tail);
                same("level", &[filter.level], &[number(&of["level_last"])]);
                if let Some(slope) = of["slope_last"].as_f64() {
                    same("slope", &[filter.slope], &[slope]);
                }
                same("forecast", &path, &numbers(&of["forecast"]));
                same("lower", &bound(-1.0), &numbers(&of["pi90_lower"]));
                same("upper", &bound(1.0), &numbers(&of["pi90_upper"]));
                let likelihood = -0.5 * y.len() as f64 * (libm::log(std::f64::consts::TAU * mse) + 1.0);
                let want = number(&of["llf"]);
                assert!(
                    (likelihood - want).abs() <= 1e-11 * want.abs(),
                    "{name} {model}: {likelihood} {want}"
                );
                models += 1;
            }
        }
        println!("{models} models, at most {worst:.1e} deviations apart");
        assert_eq!(models, 44);
    }

    #[test]
    fn holt_and_winters_with_parameters_of_their_own_are_the_same_filter() {
        let golden = series();
        for of in file()["series"].as_array().unwrap() {
            let (name, shift) = (of["name"].as_str().unwrap(), number(&of["shift"]));
            let x = &golden.iter().find(|series| series.name == name).unwrap().x;
            let of = |field: &str| number(&of["holt_winters"][field]);
            let alpha = of("smoothing_level");
            let beta = alpha * of("smoothing_trend_beta_star");
            let parameters = SmoothingParameters { alpha, beta, gamma: 0.0, phi: of("damping_trend") };
            let mut filter =
                SmoothingFilter::new(parameters, of("initial_level"), of("initial_trend"), Vec::new());
            let squares: f64 = x.iter().map(|x| filter.update(x - shift).powi(2)).sum();
            assert!((squares / of("sse") - 1.0).abs() < 1e-11, "{name}: {squares} {}", of("sse"));
            let scale = deviation(x);
            assert!((filter.level() - of("level_last")).abs() <= 1e-11 * scale, "{name}");
            assert!((filter.slope() - of("trend_last")).abs() <= 1e-11 * scale, "{name}");
        }
    }

    /// A path of errors, taken one by one or by their weights.
    #[test]
    fn weights_are_what_an_error_moves_a_forecast_by() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut part = |most: f64| most * random.unit().abs();
            let alpha = part(1.0);
            let parameters =
                SmoothingParameters { alpha, beta: part(alpha), gamma: part(1.0 - alpha), phi: part(1.0) };
            let period = random.below(9);
            let begun = SmoothingFilter::new(parameters, 3.0, 0.5, vec![0.0; period]);
            let errors: Vec<f64> = (0..12).map(|_| random.unit()).collect();
            let (mut path, mut weights) = ([0.0; 12], [0.0; 12]);
            begun.forecast(&mut path);
            parameters.error_weights(period, &mut weights);
            let mut filter = begun;
            for (h, error) in errors.iter().enumerate() {
                let moved = (0..h).map(|j| weights[h - j] * errors[j]).sum::<f64>();
                let expected = filter.expected();
                assert!((expected - path[h] - moved).abs() < 1e-12, "seed {seed}, {h}");
                assert!((filter.update(expected + error) - error).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_missing_value_is_the_one_expected() {
        let parameters = SmoothingParameters { alpha: 0.3, beta: 0.1, gamma: 0.2, phi: 0.9 };
        let mut filter = SmoothingFilter::new(parameters, 1.0, 0.5, vec![1.0, -1.0, 0.0]);
        let mut path = [0.0; 7];
        filter.forecast(&mut path);
        for value in path {
            assert!((filter.expected() - value).abs() < 1e-12);
            let mut other = filter.clone();
            other.update(other.expected());
            filter.skip();
            assert_eq!(filter, other);
        }
        assert_eq!(mean_variance_factor(&[]), 0.0);
        assert_eq!(mean_variance_factor(&[1.0, 0.5]), (1.0 + 2.25) / 4.0);
        let level = SmoothingFilter::new(SmoothingParameters::level(0.5), 4.0, 0.0, Vec::new());
        let mut path = [0.0; 3];
        level.forecast(&mut path);
        assert_eq!(path, [4.0; 3]);
    }
}

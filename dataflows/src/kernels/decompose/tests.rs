//! The decomposition against values of statsmodels and against its slow twin.

use serde_json::Value;

use super::*;
use crate::kernels::reference::seasonality as slow;
use crate::kernels::shapes::Random;

const GOLDEN: &str = include_str!("../../../../tests/golden/seasonality.json");

/// null is NaN.
fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
}

fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|x| x - values[0]).sum::<f64>() / n;
    (values.iter().map(|x| (x - values[0] - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// The largest difference. NaN is equal to NaN only.
fn distance(got: impl IntoIterator<Item = f64>, want: &[f64]) -> f64 {
    let got: Vec<f64> = got.into_iter().collect();
    assert_eq!(got.len(), want.len());
    let apart = |(got, want): (&f64, &f64)| match (got.is_nan(), want.is_nan()) {
        (true, true) => 0.0,
        (false, false) => (got - want).abs(),
        _ => f64::INFINITY,
    };
    got.iter().zip(want).map(apart).fold(0.0, f64::max)
}

/// The tolerance is what issue and statistics ask for. statsmodels sums each mean anew from values that it has shifted by their mean, so
/// the two differ by roundings only.
#[test]
fn decompositions_equal_those_of_statsmodels() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let (mut cases, mut worst) = (0, 0.0_f64);
    for series in golden["series"].as_array().unwrap() {
        let (x, name) = (floats(&series["x"]), series["name"].as_str().unwrap());
        let (period, shift) =
            (series["period"].as_u64().unwrap_or(1) as usize, series["shift"].as_f64().unwrap());
        for want in series["decompositions"].as_array().unwrap() {
            let additive = want["model"] == "additive";
            let model = if additive { SeasonalModel::Additive } else { SeasonalModel::Multiplicative };
            let extrapolate = want["extrapolate"].as_bool().unwrap();
            let extrapolation = if extrapolate { Extrapolation::Period } else { Extrapolation::None };
            let got = decompose(&x, period, model, extrapolation).unwrap();
            let (shift, unit) = if additive { (shift, deviation(&x)) } else { (0.0, 1.0) };
            let trend = (0..x.len()).map(|i| (got.anchor - shift) + got.trend[i]);
            let apart = [
                distance(trend, &floats(&want["trend"])) / deviation(&x),
                distance(got.seasonal.iter().copied(), &floats(&want["seasonal"])) / unit,
                distance(got.residual.iter().copied(), &floats(&want["resid"])) / unit,
            ];
            let most = apart.into_iter().fold(0.0, f64::max);
            assert!(most <= 1e-11, "{name} {model:?} {extrapolation:?}: {apart:?}");
            worst = worst.max(most);
            if let Some(want) = want["strength"].as_object() {
                let got = got.strengths();
                for (got, key) in [(got.trend, "trend"), (got.seasonal, "seasonal")] {
                    assert!(
                        (got - want[key].as_f64().unwrap()).abs() <= 1e-11,
                        "{name}: strength of {key} {got}"
                    );
                }
            }
            cases += 1;
        }
    }
    println!("{cases} decompositions, at most {worst:.1e} standard deviations from statsmodels");
    assert!(cases > 15, "{cases}");
}

/// Trend, season and noise of any period, length, offset and size.
fn seasonal_series(random: &mut Random, model: SeasonalModel) -> (Vec<f64>, usize) {
    let period = 1 + random.below(60);
    let n = 2 * period + random.below(5 * period);
    let (size, slope) = (10.0_f64.powi(random.below(9) as i32 - 4), random.unit());
    let offset = [0.0, 4e10, -4e10, 1e3, 3e12][random.below(5)] * size;
    let phases: Vec<f64> = (0..period).map(|_| 3.0 * random.unit()).collect();
    let mut value = |i: usize| {
        let part = slope * i as f64 / period as f64 + phases[i % period] + random.unit();
        match model {
            SeasonalModel::Additive => offset + size * part,
            SeasonalModel::Multiplicative => {
                size * (1.0 + 0.5 * part / (10.0 + slope.abs() * 7.0)).abs().max(0.01)
            }
        }
    };
    ((0..n).map(&mut value).collect(), period)
}

#[test]
fn moving_sums_equal_sums_that_are_computed_anew() {
    for seed in 0..1_500 {
        let mut random = Random::new(seed);
        let model = [SeasonalModel::Additive, SeasonalModel::Multiplicative][random.below(2)];
        let (x, period) = seasonal_series(&mut random, model);
        for extrapolation in [Extrapolation::None, Extrapolation::Period] {
            let got = decompose(&x, period, model, extrapolation).unwrap();
            let want = slow::decompose(&x, period, model, extrapolation);
            let additive = model == SeasonalModel::Additive;
            let unit = if additive { deviation(&x).max(f64::EPSILON * x[0].abs()) } else { 1.0 };
            let apart = [
                distance(got.trend.iter().copied(), &want.trend)
                    / deviation(&x).max(f64::EPSILON * x[0].abs()),
                distance(got.seasonal.iter().copied(), &want.seasonal) / unit,
                distance(got.residual.iter().copied(), &want.residual) / unit,
            ];
            let what = format!("seed {seed}, {} of period {period}, {model:?} {extrapolation:?}", x.len());
            assert!(apart.iter().all(|apart| *apart <= 1e-11), "{what}: {apart:?}");
            let (got, want) = (got.strengths(), slow::strengths(&want));
            let near = |got: f64, want: f64| (got - want).abs() <= 1e-9;
            assert!(
                near(got.trend, want.trend) && near(got.seasonal, want.seasonal),
                "{what}: {got:?} {want:?}"
            );
        }
    }
}

#[test]
fn what_has_no_decomposition_says_why() {
    use DecompositionError::*;
    let sine: Vec<f64> = (0..48).map(|i| 2.0 + libm::sin(f64::from(i))).collect();
    let (additive, multiplicative) = (SeasonalModel::Additive, SeasonalModel::Multiplicative);
    let error = |x: &[f64], period, model| decompose(x, period, model, Extrapolation::Period).err();
    assert_eq!(error(&[], 0, additive), Some(TooShort));
    assert_eq!(error(&[], 5, additive), Some(TooShort));
    assert_eq!(error(&sine[..23], 12, additive), Some(TooShort));
    assert_eq!(error(&sine, usize::MAX, additive), Some(TooShort));
    for (value, additive_error) in [
        (f64::NAN, Some(OutOfRange)),
        (f64::INFINITY, Some(OutOfRange)),
        (f64::MAX, Some(OutOfRange)),
        (0.0, None),
        (-1.0, None),
    ] {
        let mut x = sine.clone();
        x[17] = value;
        assert_eq!(error(&x, 12, additive), additive_error, "{value}");
        assert!(error(&x, 12, multiplicative).is_some(), "{value}");
    }
    assert_eq!(error(&sine, 12, multiplicative), None);
}

#[test]
fn constants_and_lines_have_no_season() {
    for period in [1, 2, 3, 12] {
        for model in [SeasonalModel::Additive, SeasonalModel::Multiplicative] {
            for extrapolation in [Extrapolation::None, Extrapolation::Period] {
                let got = decompose(&[4e10; 24], period, model, extrapolation).unwrap();
                assert_eq!(got.strengths(), Strengths { trend: 0.0, seasonal: 0.0 }, "{period} {model:?}");
                let neutral = if model == SeasonalModel::Additive { 0.0 } else { 1.0 };
                assert!(got.seasonal.iter().all(|season| *season == neutral), "{period} {model:?}");
                let trend = got.trend_at(12);
                assert!(trend == 4e10 && got.trend_at(24).is_nan(), "{period} {model:?}: {trend}");
            }
        }
        let line: Vec<f64> = (0..24).map(|i| 4e10 + f64::from(i)).collect();
        let got = decompose(&line, period, SeasonalModel::Additive, Extrapolation::Period).unwrap();
        // A period of two leaves one trend value to fit a line to, which is level.
        let strengths = got.strengths();
        assert!(strengths.trend > 0.99 && strengths.seasonal < 0.2, "{period}: {strengths:?}");
    }
}

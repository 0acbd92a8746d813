//! The ADF test against statsmodels, the slow twin, and what has to hold of any window.

use super::*;
use crate::kernels::golden;
use crate::kernels::reference::stationarity as slow;
use crate::kernels::shapes::{FAMILIES, Random, family, values};

fn of(window: &[f64], regression: Regression) -> Adf {
    let mut sums = LagSums::default();
    sums.compute(window, 0);
    test(&sums, regression, &mut Workspace::default())
}

fn relative(got: f64, want: f64) -> f64 {
    if got == want { 0.0 } else { (got - want).abs() / want.abs().max(1e-300) }
}

/// What an ADF test is off by, of what is allowed: beyond 1 it is wrong.
fn off(got: &Adf, want: &golden::GoldenAdf, ic_best: f64) -> f64 {
    let lag_is_certain = want.aic_gap > 1e-6;
    if got.status != Status::Ok || (lag_is_certain && (got.used_lag, got.nobs) != (want.used_lag, want.nobs))
    {
        return f64::INFINITY;
    }
    let critical = got.critical_values.iter().zip(&want.critical_values).map(|(a, b)| (a - b).abs() / 1e-14);
    [
        relative(got.statistic, want.statistic) / 1e-8,
        relative(got.statistic, want.qr80) / 1e-8,
        (got.p_value - want.p_value).abs() / 1e-9,
        relative(got.ic_best, ic_best) / 1e-9,
    ]
    .into_iter()
    .chain(critical)
    .fold(0.0, f64::max)
}

/// The AIC of residuals that were not scaled.
fn unscaled_ic(series: &golden::GoldenSeries, want: &golden::GoldenAdf) -> f64 {
    let rows = series.x.len() - 1 - max_lag(series.x.len(), want.regression).unwrap();
    let scale = if want.regression == Regression::None { 0 } else { series.scale_exp };
    want.ic_best + 2.0 * rows as f64 * f64::from(scale) * std::f64::consts::LN_2
}

#[test]
fn statsmodels_and_80_bits_say_the_same() {
    for series in golden::series() {
        for want in &series.adf {
            let got = of(&series.x, want.regression);
            let off = off(&got, want, unscaled_ic(&series, want));
            assert!(off <= 1.0, "{} {}: {off} {got:?}", series.name, want.regression.name());
        }
        for (i, want) in series.sliding.iter().enumerate() {
            let got = of(&want.window, Regression::Constant);
            assert_eq!(got.status.name(), want.status, "{} window {i}", series.name);
            if got.status == Status::Ok {
                assert_eq!(
                    (got.used_lag, got.nobs),
                    (want.used_lag, want.nobs),
                    "{} window {i}",
                    series.name
                );
                assert!(
                    relative(got.statistic, want.statistic) < 1e-8,
                    "{} window {i}: {got:?}",
                    series.name
                );
                assert!((got.p_value - want.p_value).abs() < 1e-9, "{} window {i}: {got:?}", series.name);
            }
        }
    }
}

/// The tolerances tell a window from one that differs by 1e-5 of its deviation in one value, or lacks a value.
#[test]
fn small_errors_would_be_found() {
    for series in golden::series() {
        let deviation = 2.0_f64.powi(series.scale_exp);
        for want in &series.adf {
            let off_by = |window: &[f64]| off(&of(window, want.regression), want, unscaled_ic(&series, want));
            let mut changed = series.x.clone();
            // Of the largest value: one that is 0 among zeros has no influence of first order.
            let largest = changed.iter().copied().fold(f64::MIN, f64::max);
            let at = changed.iter().position(|x| *x == largest).unwrap();
            changed[at] += 1e-5 * deviation;
            let name = format!("{} {}", series.name, want.regression.name());
            assert!(off_by(&changed) > 1.0, "{name}: {}", off_by(&changed));
            assert!(off_by(&series.x[1..]) > 1.0, "{name}");
            assert!(off_by(&series.x[..series.x.len() - 1]) > 1.0, "{name}");
        }
    }
}

#[test]
fn degenerate_windows_have_their_status() {
    let file = golden::file();
    for case in file["degenerate"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let window = golden::numbers(&case["x"]);
        let got = of(&window, Regression::Constant);
        match case["status"].as_str().unwrap() {
            "ok_after_drop" | "drop_non_finite" => {
                let whole: Vec<f64> = case["x"].as_array().unwrap().iter().map(golden::number).collect();
                assert_eq!(of(&whole, Regression::Constant).status, Status::NonFinite, "{name}");
                assert_eq!((got.status, window.len()), (Status::Ok, 239), "{name}");
            }
            want => {
                assert_eq!(got.status.name(), want, "{name}: {got:?}");
                assert!(
                    got.statistic.is_nan() && got.p_value.is_nan() && got.used_lag == 0,
                    "{name}: {got:?}"
                );
            }
        }
    }
}

/// Compares with the slow twin; gives how the test was computed, if there was anything to compare.
fn check(what: &str, window: &[f64], regression: Regression) -> Option<Path> {
    let got = of(window, regression);
    let constant = window.windows(2).all(|pair| pair[0] == pair[1]);
    let want = match slow::adf(window, regression) {
        None => {
            assert_eq!(got.status, Status::TooShort, "{what}");
            return None;
        }
        Some(_) if constant => {
            assert_eq!(got.status, Status::Constant, "{what}");
            return None;
        }
        Some(want) => want,
    };
    if want.residual_ratio < 1e-26 {
        assert_eq!(got.status, Status::PerfectFit, "{what}: {got:?} {want:?}");
        return None;
    }
    // So near to either, rounding of the twin decides.
    if want.residual_ratio < 1e-20 || want.conditioning < 1e-20 {
        return None;
    }
    assert_eq!(got.status, Status::Ok, "{what}: {got:?} {want:?}");
    // The gap is no number where every model fits exactly.
    if want.aic_gap > 1e-6 || want.aic_gap.is_nan() {
        assert_eq!((got.used_lag, got.nobs), (want.used_lag, want.nobs), "{what}: {got:?} {want:?}");
    } else if got.used_lag != want.used_lag {
        return None;
    }
    let n = window.len() as f64;
    let off = (got.statistic - want.statistic).abs() / want.statistic.abs().max(1.0);
    // What the head of the module says of products; columns that are made orthogonal lose half as many digits.
    let of_products =
        if got.path == Path::Gram { 5e-14 / got.conditioning } else { 1e-15 / got.conditioning.sqrt() };
    let most = 1e-12 + of_products + 1e-15 / want.conditioning.sqrt();
    assert!(off <= most, "{what}: {off:e} > {most:e} {got:?} {want:?}");
    assert!((got.p_value - want.p_value).abs() <= 1e-9 + most, "{what}: {got:?} {want:?}");
    assert!(
        got.ic_best == want.ic_best || (got.ic_best - want.ic_best).abs() <= 1e-9 * want.ic_best.abs().max(n),
        "{what}: {got:?} {want:?}"
    );
    Some(got.path)
}

#[test]
fn the_slow_twin_agrees_on_many_families() {
    let mut paths = [0, 0];
    for name in FAMILIES {
        for seed in 0..4 {
            for n in [20, 60, 61, 240, 480] {
                for regression in Regression::ALL {
                    let window = family(&mut Random::new(seed * 1_000 + n as u64), name, n);
                    let what = format!("{name}, seed {seed}, n {n}, {}", regression.name());
                    match check(&what, &window, regression) {
                        Some(Path::Gram) => paths[0] += 1,
                        Some(Path::Qr) => paths[1] += 1,
                        _ => {}
                    }
                }
            }
        }
    }
    // Both paths were compared, and that by columns is the exception.
    assert!(paths[1] > 10 && paths[0] > 15 * paths[1], "{paths:?}");
}

#[test]
fn the_slow_twin_agrees_on_windows_of_any_small_length() {
    for n in 0..66 {
        for name in FAMILIES {
            for regression in Regression::ALL {
                let window = family(&mut Random::new(n as u64), name, n);
                check(&format!("{name}, n {n}, {}", regression.name()), &window, regression);
            }
        }
    }
}

/// An offset that costs no digit of the differences changes no bit, and neither does a power of two.
#[test]
fn an_offset_and_a_unit_change_no_bit() {
    for name in ["small counts", "steps", "sparse counts", "counter of 10"] {
        for seed in 0..20 {
            let window = family(&mut Random::new(seed), name, 240);
            for regression in Regression::ALL {
                let want = of(&window, regression);
                let bits =
                    |adf: &Adf| (adf.status, adf.statistic.to_bits(), adf.p_value.to_bits(), adf.used_lag);
                for exponent in [-900, -310, -40, 40, 310, 900] {
                    let scaled: Vec<f64> = window.iter().map(|x| x * 2.0_f64.powi(exponent)).collect();
                    let got = of(&scaled, regression);
                    assert_eq!(bits(&got), bits(&want), "{name}, seed {seed}, 2^{exponent}");
                    let rows = 2 * (239 - max_lag(240, regression).unwrap());
                    let ic_best =
                        want.ic_best + f64::from(rows as u32) * f64::from(exponent) * std::f64::consts::LN_2;
                    assert!(
                        got.ic_best == ic_best || relative(got.ic_best, ic_best) < 1e-12,
                        "{got:?} {ic_best}"
                    );
                }
                if regression != Regression::None {
                    let far: Vec<f64> = window.iter().map(|x| x + 4e10).collect();
                    assert_eq!(bits(&of(&far, regression)), bits(&want), "{name}, seed {seed}");
                }
            }
        }
    }
}

/// Whatever was computed before with the same memory, the result is the same.
#[test]
fn memory_is_not_state() {
    let (mut sums, mut workspace) = (LagSums::default(), Workspace::default());
    let mut random = Random::new(1);
    for round in 0..300 {
        let n = random.below(300);
        let name = FAMILIES[random.below(FAMILIES.len())];
        let window = family(&mut random, name, n);
        let regression = Regression::ALL[round % 3];
        sums.compute(&window, random.below(50));
        let got = test(&sums, regression, &mut workspace);
        assert_eq!(
            format!("{got:?}"),
            format!("{:?}", of(&window, regression)),
            "round {round}: {name}, n {n}"
        );
    }
}

/// There is no window that panics, and none whose result is neither documented nor a number.
#[test]
fn any_window_has_a_result() {
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let mut window = values(&mut random);
        if seed % 5 == 0 {
            let at = random.below(window.len());
            window[at] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX][random.below(4)];
        }
        for regression in Regression::ALL {
            let got = of(&window, regression);
            let numbers = got.statistic.is_finite() && (0.0..=1.0).contains(&got.p_value);
            assert_eq!(numbers, got.status == Status::Ok, "seed {seed}: {got:?}");
            let finite = window.iter().all(|x| x.is_finite());
            assert!(
                finite || [Status::NonFinite, Status::TooShort].contains(&got.status),
                "seed {seed}: {got:?}"
            );
        }
    }
}

#[test]
fn the_most_lags_are_those_of_statsmodels() {
    for n in 0..20_000_usize {
        let limit = (12.0 * (n as f64 / 100.0).powf(0.25)).ceil() as i64;
        for regression in Regression::ALL {
            let want = limit.min((n / 2) as i64 - regression.terms() as i64 - 1);
            assert_eq!(max_lag(n, regression).map_or(-1, |lags| lags as i64), want.max(-1), "{n}");
        }
    }
}

/// What one machine computes, all do: a change of these bits is a change of every stored result.
#[test]
fn bits_are_the_same_everywhere() {
    let window = family(&mut Random::new(7), "4e10 and AR 0.9", 480);
    let bits = Regression::ALL.map(|regression| {
        let got = of(&window, regression);
        (got.statistic.to_bits(), got.p_value.to_bits(), got.ic_best.to_bits())
    });
    assert_eq!(
        bits,
        [
            (4_594_458_667_115_423_446, 4_604_759_003_629_790_787, 4_656_319_815_443_251_658),
            (13_840_605_116_170_989_044, 4_539_688_041_393_604_231, 4_656_236_844_044_747_701),
            (13_840_606_197_138_966_036, 4_553_763_810_709_598_054, 4_656_244_963_988_917_150),
        ]
    );
}

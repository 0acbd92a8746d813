//! The search for periods: how often it finds what is there, and what is not; against its slow twin and the numpy model.

use std::f64::consts::TAU;

use serde_json::Value;

use super::*;
use crate::kernels::reference::seasonality as slow;
use crate::kernels::shapes::Random;

const GOLDEN: &str = include_str!("../../../../tests/golden/seasonality.json");

fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * libm::log(random.unit().abs().max(1e-300))).sqrt();
    radius * libm::cos(TAU * random.unit())
}

/// An autoregressive series of unit innovations, past its beginning.
fn autoregression(coefficients: &[f64], n: usize, random: &mut Random) -> Vec<f64> {
    let burn_in = 400;
    let mut x: Vec<f64> = Vec::new();
    for i in 0..n + burn_in {
        let past = coefficients.iter().enumerate().filter(|(lag, _)| i > *lag);
        let value = past.map(|(lag, phi)| phi * x[i - 1 - lag]).sum::<f64>() + normal(random);
        x.push(value);
    }
    x.split_off(burn_in)
}

fn random_walk(n: usize, random: &mut Random) -> Vec<f64> {
    let mut level = 0.0;
    (0..n)
        .map(|_| {
            level += normal(random);
            level
        })
        .collect()
}

/// Student's t with two degrees of freedom: heavy tails.
fn heavy(random: &mut Random) -> f64 {
    let (a, b) = (normal(random), normal(random));
    normal(random) / ((a * a + b * b) / 2.0).sqrt().max(1e-6)
}

const WITHOUT_SEASON: [&str; 16] = [
    "white noise",
    "random walk",
    "AR(1) .5",
    "AR(1) .95",
    "AR(1) .995",
    "AR(1) and a line",
    "heavy tails",
    "level shift",
    "three steps",
    "sparse counts",
    "smooth AR(2)",
    "exponential growth",
    "quadratic trend",
    "one spike",
    "memory in pages",
    "walk, smoothed",
];

fn without_season(family: &str, n: usize, random: &mut Random) -> Vec<f64> {
    let share = |i: usize| i as f64 / n as f64;
    let mut each = |value: &dyn Fn(usize, &mut Random) -> f64| (0..n).map(|i| value(i, random)).collect();
    match family {
        "white noise" => each(&|_, random| normal(random)),
        "exponential growth" => {
            each(&|i, random| 1e3 * libm::exp(8.0 * share(i)) * (1.0 + 0.01 * normal(random)))
        }
        "quadratic trend" => each(&|i, random| 1e-3 * (i as f64).powi(2) + normal(random)),
        "one spike" => each(&|i, _| if i == n / 3 { 100.0 } else { 1.0 }),
        "sparse counts" => {
            each(&|_, random| if random.below(20) == 0 { 1.0 + random.below(2) as f64 } else { 0.0 })
        }
        "random walk" => random_walk(n, random),
        "AR(1) .5" => autoregression(&[0.5], n, random),
        "AR(1) .95" => autoregression(&[0.95], n, random),
        "AR(1) .995" => autoregression(&[0.995], n, random),
        "smooth AR(2)" => autoregression(&[1.99, -0.9901], n, random),
        "AR(1) and a line" => {
            autoregression(&[0.7], n, random).iter().enumerate().map(|(i, x)| x + 0.05 * i as f64).collect()
        }
        "level shift" => {
            let noise = autoregression(&[0.5], n, random);
            noise.iter().enumerate().map(|(i, x)| x + if share(i) > 0.6 { 50.0 } else { 0.0 }).collect()
        }
        "memory in pages" => {
            let noise = autoregression(&[0.97], n, random);
            noise.iter().map(|x| ((4e10 + 1e6 * x) / 4_096.0).round() * 4_096.0).collect()
        }
        "three steps" => {
            let levels: Vec<f64> = (0..4).map(|_| 1.0 + random.below(8) as f64).collect();
            (0..n).map(|i| levels[4 * i / n]).collect()
        }
        "walk, smoothed" => {
            let walk = random_walk(n + 19, random);
            walk.windows(20).map(|part| part.iter().sum::<f64>() / 20.0).collect()
        }
        _ => {
            let mut walk = 0.0;
            (0..n)
                .map(|_| {
                    walk += 0.1 * heavy(random);
                    walk + heavy(random)
                })
                .collect()
        }
    }
}

const WAVES: [&str; 4] = ["sine", "square", "spike", "harmonics"];

/// A wave of this period and standard deviation.
fn wave(kind: &str, n: usize, period: usize, deviation: f64, random: &mut Random) -> Vec<f64> {
    let (shift, angle) = (random.below(period), TAU * random.unit());
    let parts: Vec<(f64, f64)> = (0..4).map(|_| (normal(random), TAU * random.unit())).collect();
    let turn = |i: usize| TAU * i as f64 / period as f64;
    let value = |i: usize| match kind {
        "sine" => libm::sin(turn(i) + angle),
        "square" => f64::from(u8::from((i + shift) % period < period / 3)),
        "spike" => f64::from(u8::from((i + shift) % period < (period / 20).max(1))),
        _ => {
            (1..).zip(&parts).map(|(k, (size, angle))| size * libm::sin(f64::from(k) * turn(i) + angle)).sum()
        }
    };
    let values: Vec<f64> = (0..n).map(value).collect();
    let mean = values.iter().sum::<f64>() / n as f64;
    let own = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
    values.iter().map(|x| (x - mean) / own * deviation).collect()
}

fn noise(kind: &str, n: usize, random: &mut Random) -> Vec<f64> {
    match kind {
        "white" => (0..n).map(|_| normal(random)).collect(),
        "AR(1) .8" => autoregression(&[0.8], n, random).iter().map(|x| 0.6 * x).collect(),
        _ => random_walk(n, random).iter().map(|x| 0.15 * x + 0.3 * normal(random)).collect(),
    }
}

/// Share of series of which the first period is within 3 % of the true one, and of those that get another.
fn hits(deviation: f64, search: &PeriodSearch, cycles: [f64; 3]) -> (f64, f64, usize) {
    let mut workspace = SpectrumWorkspace::default();
    let (mut hits, mut wrong, mut all) = (0, 0, 0);
    for kind in ["white", "AR(1) .8", "walk"] {
        for shape in WAVES {
            for period in [12, 24, 60, 96, 144] {
                for cycles in cycles {
                    let n = (period as f64 * cycles) as usize;
                    if n < 60 {
                        continue;
                    }
                    all += 1;
                    let mut random = Random::new(all as u64);
                    let season = wave(shape, n, period, deviation, &mut random);
                    let x: Vec<f64> =
                        season.iter().zip(noise(kind, n, &mut random)).map(|(a, b)| a + b).collect();
                    match detect_periods(&x, search, &mut workspace).first() {
                        Some(first) if (first.steps as f64 / period as f64 - 1.0).abs() < 0.03 => hits += 1,
                        Some(_) => wrong += 1,
                        None => {}
                    }
                }
            }
        }
    }
    (f64::from(hits) / all as f64, f64::from(wrong) / all as f64, all)
}

#[test]
fn seasons_are_found_as_often_as_their_strength_allows() {
    let wide = PeriodSearch { cycles_min: 3, ..PeriodSearch::default() };
    for (search, cycles) in [(wide, [3.3, 7.0, 14.0]), (PeriodSearch::default(), [4.3, 7.0, 14.0])] {
        for (deviation, least) in [(3.0, 0.85), (1.0, 0.66), (0.5, 0.05)] {
            let (found, wrong, all) = hits(deviation, &search, cycles);
            let (hits, wrong_percent) = (100.0 * found, 100.0 * wrong);
            println!(
                "season {deviation} x noise, {cycles:?} cycles: found in {hits:.0} % of {all}, another in {wrong_percent:.0} %"
            );
            assert!(found >= least && wrong <= 0.12, "{deviation}: {found} {wrong}");
        }
    }
}

#[test]
fn noise_walks_trends_and_steps_have_no_season() {
    let mut workspace = SpectrumWorkspace::default();
    for cycles_min in [3, 4] {
        let search = PeriodSearch { cycles_min, ..PeriodSearch::default() };
        let (mut all, mut strong, mut found) = (0, 0, Vec::new());
        for family in WITHOUT_SEASON {
            for seed in 0..20 {
                for n in [240, 1_008, 1_440] {
                    let x = without_season(family, n, &mut Random::new(1_000 * seed + n as u64));
                    all += 1;
                    if let Some(first) = detect_periods(&x, &search, &mut workspace).first() {
                        strong += usize::from(first.strength >= 0.64);
                        found.push((family, seed, n, first.steps, first.strength));
                    }
                }
            }
        }
        println!(
            "{cycles_min} cycles: {} of {all} without a season get one, {strong} a strong one: {found:?}",
            found.len()
        );
        assert!(found.len() * 100 <= all, "{}", found.len());
    }
}

/// What is periodic in a wider sense, for the record: nothing is asserted but that there is no panic.
#[test]
fn pseudo_cycles_and_saw_teeth_are_reported() {
    let mut workspace = SpectrumWorkspace::default();
    let (mut cycles, mut teeth) = (0, 0);
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let x = autoregression(&[1.6, -0.9], 1_008, &mut random);
        cycles += detect_periods(&x, &PeriodSearch::default(), &mut workspace).len().min(1);
        let x: Vec<f64> =
            (0..1_008).map(|i| (i as f64 * 3.7 + 5.0 * normal(&mut random)).rem_euclid(200.0)).collect();
        let periods = detect_periods(&x, &PeriodSearch::default(), &mut workspace);
        teeth += usize::from(periods.first().is_some_and(|period| (53..=55).contains(&period.steps)));
    }
    println!(
        "AR(2) pseudo-cycles: {cycles} of 40 get a period; saw teeth of 54.05 steps: found in {teeth} of 40"
    );
    assert!(teeth >= 38, "{teeth}");
}

#[test]
fn periods_are_those_of_the_numpy_model() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let (mut workspace, search) =
        (SpectrumWorkspace::default(), PeriodSearch { cycles_min: 3, ..PeriodSearch::default() });
    let mut equal = 0;
    for series in golden["series"].as_array().unwrap() {
        let (x, name): (Vec<f64>, _) = (
            series["x"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect(),
            series["name"].as_str().unwrap(),
        );
        let periods = detect_periods(&x, &search, &mut workspace);
        let want = series["detected"].as_array().unwrap();
        for period in &periods {
            let same = |want: &&Value| want[0].as_u64() == Some(period.steps as u64);
            let want =
                want.iter().find(same).unwrap_or_else(|| panic!("{name}: {period:?} is not in the model"));
            let apart = (period.autocorrelation - want[1].as_f64().unwrap()).abs();
            let apart = apart.max((period.strength - want[2].as_f64().unwrap()).abs());
            assert!(apart <= 1e-9, "{name}: {period:?} {want}");
            equal += 1;
        }
        let found: Vec<usize> = periods.iter().map(|period| period.steps).collect();
        match name {
            // The cycles of the sun differ in length, so the test is not sure of them; the model has no test.
            "sunspots" => {}
            "elnino" | "co2_weekly" | "seas24_480" | "daily_2880" | "sine_lownoise_480" => {
                assert_eq!(found, [series["period"].as_u64().unwrap() as usize], "{name}");
            }
            _ => assert!(found.is_empty(), "{name}: {periods:?}"),
        }
    }
    assert!(equal >= 5, "{equal}");
}

#[test]
fn autocorrelation_strength_and_test_equal_the_slow_twin() {
    let mut workspace = SpectrumWorkspace::default();
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (period, offset) = (4 + random.below(40), [0.0, 4e10, -1e6][random.below(3)]);
        let n = period * 4 + random.below(6 * period) + 20;
        let size = 2.0_f64.powi(random.below(40) as i32 - 20) * if offset == 0.0 { 1.0 } else { 64.0 };
        let season = wave(WAVES[random.below(4)], n, period, 2.0, &mut random);
        let x: Vec<f64> = season
            .iter()
            .zip(noise("AR(1) .8", n, &mut random))
            .map(|(a, b)| offset + size * (a + b))
            .collect();
        let u = slow::detrended(&x);
        assert!(workspace.detrend(&x), "seed {seed}");
        // Of few lags every second power is looked at.
        let least = n.next_power_of_two() + 1;
        for lags in [n / 2 + 2, least.saturating_sub(n).clamp(3, n / 2)] {
            workspace.correlate(lags);
            assert_eq!(workspace.autocorrelation.len(), lags);
            for lag in [1, 2, period, n / 4, n / 2, lags - 1].into_iter().filter(|lag| *lag < lags) {
                let (got, want) = (workspace.autocorrelation[lag], slow::autocorrelation(&u, lag));
                assert!((got - want).abs() <= 1e-12, "seed {seed}, lag {lag}: {got} {want}");
            }
        }
        for period in [4, 5, period, n / 4] {
            let (strength, f, degrees, steps_per_value) = slow::phase_test(&u, period);
            let fit = workspace.fit(period);
            let got = workspace.steps_per_value(period);
            assert!((fit.strength(period) - strength).abs() <= 1e-9, "seed {seed}, {period}");
            assert!((got - steps_per_value).abs() <= 1e-6 * steps_per_value, "seed {seed}, {period}: {got}");
            let got = ((fit.total - fit.rest) / degrees[0]) / (fit.rest / degrees[1]);
            assert!((got - f).abs() <= 1e-8 * f, "seed {seed}, {period}: {got} {f}");
        }
    }
}

#[test]
fn the_approximation_of_f_is_near_tables() {
    for (f, a, b, p) in
        [(6.461, 5, 20, 0.001), (4.849, 10, 10, 0.01), (2.525, 4, 60, 0.05), (1.0, 1_000, 1_000, 0.5)]
    {
        let (a, b) = (f64::from(a), f64::from(b));
        let fit = PhaseFit { count: a + 1.0 + b, total: f * a / b + 1.0, rest: 1.0 };
        let got = fit.p_value(a as usize + 1, 1.0);
        assert!((got / p - 1.0).abs() < 0.06, "{f} {a} {b}: {got}");
    }
}

#[test]
fn hours_and_days_are_found_wherever_the_level_is() {
    let mut workspace = SpectrumWorkspace::default();
    for (n, period, size, offset) in
        [(1_440, 60, 1e6, 4e10), (384, 96, 1.0, 0.0), (1_440, 360, 1e-9, 0.0), (1_440, 60, 1e300, 0.0)]
    {
        let mut random = Random::new(n as u64);
        let season = wave("square", n, period, 2.0, &mut random);
        let mut x: Vec<f64> =
            season.iter().map(|x| offset + size * (x + 0.5 * normal(&mut random))).collect();
        for absent in [0, n / 10] {
            (0..absent).for_each(|_| x[random.below(n)] = f64::NAN);
            let periods = detect_periods(&x, &PeriodSearch::default(), &mut workspace);
            assert_eq!(periods.first().map(|period| period.steps), Some(period), "{n} {period}: {periods:?}");
            assert!(periods[0].strength > 0.64 && periods[0].p_value < 1e-9, "{periods:?}");
        }
    }
    // A prior is tried though nothing else points at it, and nothing else is changed by it.
    let x: Vec<f64> = (0..1_440).map(|_| normal(&mut Random::new(3))).collect();
    let search = PeriodSearch { priors: &[60, 96, 0, usize::MAX], ..PeriodSearch::default() };
    assert_eq!(detect_periods(&x, &search, &mut workspace), []);
}

#[test]
fn nothing_is_found_where_nothing_is_and_nothing_panics() {
    let mut workspace = SpectrumWorkspace::default();
    let mut found = |x: &[f64]| detect_periods(x, &PeriodSearch::default(), &mut workspace);
    let line =
        |slope: f64, offset: f64| (0..1_440).map(|i| offset + slope * f64::from(i)).collect::<Vec<_>>();
    for x in [
        vec![],
        vec![1.0; 15],
        vec![4e10; 1_440],
        vec![f64::NAN; 1_440],
        line(0.1, 0.0),
        line(1e-9, 4e10),
        line(-1e300, 0.0),
        line(f64::from_bits(1), 0.0),
        (0..1_440).map(|i| f64::MAX * f64::from(i % 2)).collect(),
    ] {
        assert_eq!(found(&x), [], "{:?}", x.get(..3));
    }
    for seed in 0..400 {
        let x = crate::kernels::shapes::values(&mut Random::new(seed));
        std::hint::black_box(found(&x));
    }
    let odd = PeriodSearch {
        period_min: 0,
        cycles_min: 0,
        strength_min: f64::NAN,
        significance: 0.0,
        ..PeriodSearch::default()
    };
    assert_eq!(detect_periods(&line(0.1, 0.0)[..40], &odd, &mut workspace), []);
    for n in 0..40 {
        let x: Vec<f64> = (0..n).map(|i| f64::from(i % 5)).collect();
        std::hint::black_box(detect_periods(&x, &odd, &mut workspace));
    }
}

//! What the kernels of steps and seasons cost, beside their slow twins where there is one.

use std::hint::black_box;
use std::time::Instant;

use tidewatch_dataflows::kernels::decompose::{Extrapolation, SeasonalModel, decompose};
use tidewatch_dataflows::kernels::order::trailing;
use tidewatch_dataflows::kernels::phases::{HOUR_PHASES, phase_profile};
use tidewatch_dataflows::kernels::reference::seasonality as slow;
use tidewatch_dataflows::kernels::sketch::QuantileSketch;
use tidewatch_dataflows::kernels::spectrum::{PeriodSearch, SpectrumWorkspace, detect_periods};
use tidewatch_dataflows::kernels::{blocks, steps};

use crate::core::median;

/// A day of minutes.
const STEPS: usize = 1_440;
const ROUNDS: usize = 15;

/// Whole numbers with noise, and a season of this many steps if there is one.
fn day(season: usize, far: f64, size: f64) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(7);
    let wave = |i: usize| if season > 0 && i % season < season / 3 { 60.0 } else { 0.0 };
    (0..STEPS).map(|i| far + size * (wave(i) + f64::from(random.u8(..) / 8)).round()).collect()
}

/// The median time of some rounds of `work`, in microseconds.
fn microseconds(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            (0..20).for_each(|_| work());
            begun.elapsed().as_secs_f64() * 1e6 / 20.0
        })
        .collect();
    median(&mut times)
}

fn show(what: &str, fast: f64, slow: Option<f64>) {
    let twin = slow.map_or(String::new(), |slow| format!("  slow twin {slow:>9.1} us"));
    println!("{what:<46} {fast:>9.2} us{twin}");
}

pub fn seasonality() {
    periods_and_parts();
    order_and_phases();
    blocks_and_sketches();
}

fn periods_and_parts() {
    let mut workspace = SpectrumWorkspace::default();
    let search = PeriodSearch { priors: &[60], ..PeriodSearch::default() };
    let noise: Vec<f64> = day(0, 0.0, 1.0);
    let walk: Vec<f64> = noise
        .iter()
        .scan(0.0, |level, x| {
            *level += x - 15.5;
            Some(*level)
        })
        .collect();
    for (what, values, found) in
        [("season", day(60, 4e10, 4096.0), true), ("noise", noise, false), ("walk", walk, false)]
    {
        assert_eq!(!detect_periods(&values, &search, &mut workspace).is_empty(), found, "{what}");
        let fast = microseconds(|| {
            black_box(detect_periods(black_box(&values), &search, &mut workspace));
        });
        show(&format!("detect_periods, 1,440 steps, {what}"), fast, None);
    }
    for (model, values) in [
        (SeasonalModel::Additive, day(60, 4e10, 4096.0)),
        (SeasonalModel::Multiplicative, day(60, 100.0, 1.0)),
    ] {
        let fast = microseconds(|| {
            black_box(
                decompose(black_box(&values), 60, model, Extrapolation::None)
                    .expect("it has one")
                    .strengths(),
            );
        });
        let twin = microseconds(|| {
            black_box(slow::strengths(&slow::decompose(black_box(&values), 60, model, Extrapolation::None)));
        });
        show(&format!("decompose and strengths, 1,440 steps, {model:?}"), fast, Some(twin));
    }
}

fn order_and_phases() {
    let (values, mut workspace) = (day(60, 4e10, 4096.0), Vec::new());
    let fast = microseconds(|| {
        black_box(trailing(black_box(&values), &mut workspace));
    });
    let newest = |length: usize| &values[STEPS - length..];
    let twin = microseconds(|| {
        [15, 60, 240].iter().for_each(|length| {
            black_box(slow::order_statistics(black_box(newest(*length))));
        })
    });
    show("median and mad of 15, 60 and 240 steps", fast, Some(twin));
    let fast = microseconds(|| {
        black_box(phase_profile(black_box(&values), 1_000, HOUR_PHASES));
    });
    show("phase profile of an hour", fast, None);
    let fast = microseconds(|| {
        values.chunks(4).for_each(|step| {
            black_box(steps::mean(black_box(step)));
        })
    });
    let twin = microseconds(|| {
        values.chunks(4).for_each(|step| {
            black_box(slow::step_mean(black_box(step)));
        })
    });
    show("means of 360 steps of 4 samples", fast, Some(twin));
}

fn blocks_and_sketches() {
    for (what, values) in [
        ("counts", day(60, 0.0, 1.0)),
        ("bytes in pages", day(60, 4e10, 4096.0)),
        ("all digits", day(60, 100.0, 1.0).iter().map(|x| x / 3.0).collect()),
        (
            "with absent steps",
            day(60, 0.0, 1.0)
                .iter()
                .enumerate()
                .map(|(i, x)| if i % 20 == 0 { f64::NAN } else { *x })
                .collect(),
        ),
    ] {
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        let encode = microseconds(|| {
            bytes.clear();
            black_box(&values).chunks(60).for_each(|block| {
                blocks::encode(block, &mut bytes);
            });
        });
        let decode = microseconds(|| {
            back.clear();
            let mut rest = black_box(&bytes[..]);
            while let Some(length) = blocks::decode(rest, &mut back) {
                rest = &rest[length..];
            }
        });
        let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        assert!(back.len() == STEPS && back.iter().zip(&values).all(same), "{what}");
        show(&format!("encode a day of minutes, {what}"), encode, None);
        show(&format!("decode it again, {} bytes", bytes.len()), decode, None);
    }
    let values = day(60, 100.0, 0.37);
    let mut sketch = QuantileSketch::default();
    let add = microseconds(|| {
        sketch = QuantileSketch::default();
        black_box(&values).iter().for_each(|value| sketch.add(*value));
    });
    show("sketch of 1,440 values", add, None);
    let panes: Vec<QuantileSketch> = values
        .chunks(4)
        .map(|pane| {
            let mut sketch = QuantileSketch::default();
            pane.iter().for_each(|value| sketch.add(*value));
            sketch
        })
        .collect();
    let merge = microseconds(|| {
        let mut all = QuantileSketch::default();
        panes.iter().take(60).for_each(|pane| all.merge(pane));
        black_box(all.quantile(0.99));
    });
    show("merge 60 panes of 4 values, one quantile", merge, None);
    let mut bytes = Vec::new();
    panes[0].write(&mut bytes);
    println!("a pane of 4 values takes {} bytes", bytes.len());
}

//! Golden moments: expected values from outside, through the tactics with panes, heads and tails.
//!
//! `golden/moments.json` holds 16 series (real ones, random walks, counters, offsets of 4e10) with moments
//! computed in exact arithmetic by numpy and python's fractions, over the whole series and over sliding windows.
//! The mean is compensated, so it may be two roundings off; the tolerance for std is 1e-14 of the value, for its squares
//! are summed plainly, and a pane is one pass and panes merge pairwise; min and max are exact.

use serde::Deserialize;
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::{EpochEnd, Samples};
use tidewatch_dataflows::settings::{Settings, Window};

use crate::oracle::feed::START_MS;
use crate::rules::Tactics;

const STEP_MS: i64 = 15_000;

#[derive(Deserialize)]
struct Golden {
    name: String,
    x: Vec<f64>,
    moments: Expected,
    sliding: Vec<Sliding>,
}

#[derive(Deserialize)]
struct Expected {
    n: usize,
    mean: f64,
    std_ddof1: f64,
    std_ddof0: f64,
    min: f64,
    max: f64,
}

#[derive(Deserialize)]
struct Sliding {
    w0: usize,
    n: usize,
    #[serde(flatten)]
    expected: Partial,
}

#[derive(Deserialize)]
struct Partial {
    mean: f64,
    std_ddof1: f64,
    std_ddof0: f64,
    min: f64,
    max: f64,
}

/// Every answer of a window of `n` samples, one per sample, as the tactics give it.
fn answers(x: &[f64], n: usize) -> Vec<WindowStats> {
    let windows = vec![Window { length_ms: n as i64 * STEP_MS, hop_ms: STEP_MS }];
    let settings = Settings { windows, ..Settings::default() }.validated().unwrap();
    let mut samples = Samples::default();
    for (i, value) in x.iter().chain([&0.0]).enumerate() {
        samples.push(77, START_MS + (i as i64 + 1) * STEP_MS, *value);
    }
    let end = EpochEnd { epoch: 1, processing_ms: i64::MIN, watermark_ms: i64::MIN, last_of_input: false };
    Tactics::new(&settings).epoch(&(end, samples).into()).lists.windows
}

fn check(what: &str, row: &WindowStats, n: usize, mean: f64, std: (f64, f64), bounds: (f64, f64)) {
    let near = |got: f64, want: f64| (got - want).abs() <= 1e-14 * want.abs();
    assert_eq!((row.count as usize, row.min, row.max), (n, bounds.0, bounds.1), "{what}");
    assert!((row.avg - mean).abs() <= f64::EPSILON * mean.abs(), "{what}: mean {} {mean}", row.avg);
    assert!(near(row.std, std.0), "{what}: std {} {}", row.std, std.0);
    assert!(near(row.std_sample().unwrap(), std.1), "{what}: sample std");
}

#[test]
fn moments_equal_values_computed_elsewhere() {
    let all: Vec<Golden> = serde_json::from_str(include_str!("golden/moments.json")).unwrap();
    assert_eq!(all.len(), 16);
    let mut sliding = 0;
    for Golden { name, x, moments: m, sliding: windows } in all {
        let rows = answers(&x, x.len());
        assert_eq!(rows.len(), x.len(), "{name}");
        check(&name, &rows[x.len() - 1], m.n, m.mean, (m.std_ddof0, m.std_ddof1), (m.min, m.max));
        for Sliding { w0, n, expected: e } in windows {
            let rows = answers(&x, n);
            let what = format!("{name} [{w0}, {})", w0 + n);
            check(&what, &rows[w0 + n - 1], n, e.mean, (e.std_ddof0, e.std_ddof1), (e.min, e.max));
            sliding += 1;
        }
    }
    assert!(sliding > 0, "the file holds sliding windows");
}

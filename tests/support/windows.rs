//! Windows by direct computation from raw samples, and what differs between them and a row of the API.

use serde_json::Value;

/// A window of the configuration under test: its name, its length and its hop in milliseconds.
pub type Window = (&'static str, i64, i64);

/// The times at which a series has a result for certain: every multiple of the hop before its newest sample whose
/// window holds a sample. What comes after the newest sample depends on when one looks.
pub fn times(samples: &[(i64, f64)], (_, length_ms, hop_ms): Window) -> Vec<i64> {
    let (Some((first_ms, _)), Some((newest_ms, _))) = (samples.first(), samples.last()) else {
        return Vec::new();
    };
    let first = first_ms.div_euclid(hop_ms) * hop_ms;
    let all = (0..).map(|i| first + i * hop_ms).take_while(|at_ms| at_ms < newest_ms);
    all.filter(|at_ms| !inside(samples, *at_ms, length_ms).is_empty()).collect()
}

/// The samples in `(at - length, at]`; samples are sorted by time.
fn inside(samples: &[(i64, f64)], at_ms: i64, length_ms: i64) -> &[(i64, f64)] {
    let from = samples.partition_point(|(t, _)| *t <= at_ms - length_ms);
    let to = samples.partition_point(|(t, _)| *t <= at_ms);
    &samples[from..to.max(from)]
}

/// Everything in which a row differs from what its samples give, as sentences.
///
/// Counts and values that are copied have to be the same number (as JSON carries it: within one unit in the last
/// place of the reader), mean and deviation are sums whose rounding may differ.
pub fn differences(row: &Value, samples: &[(i64, f64)], length_ms: i64) -> Vec<String> {
    let at_ms = row["at_ms"].as_i64().unwrap_or_else(|| panic!("no at_ms: {row}"));
    let samples = inside(samples, at_ms, length_ms);
    let mut wrong = Vec::new();
    if row["count"].as_u64() != Some(samples.len() as u64) {
        wrong.push(format!("count: expected {}", samples.len()));
    }
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return wrong };
    let values = || samples.iter().map(|(_, value)| *value);
    let (min, max) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    // Around the first value, so that a clock's seconds since 1970 do not hide a small deviation.
    let n = samples.len() as f64;
    let shift = values().map(|value| value - first.1).sum::<f64>() / n;
    let std = (values().map(|value| (value - first.1 - shift).powi(2)).sum::<f64>() / n).sqrt();
    let spread = max - min;
    let scale = min.abs().max(max.abs());
    let increase: f64 =
        samples.windows(2).map(|p| if p[1].1 >= p[0].1 { p[1].1 - p[0].1 } else { p[1].1 }).sum();
    let mut judge = |field: &str, expected: f64, tolerance: f64| match row[field].as_f64() {
        Some(value) if (value - expected).abs() <= tolerance => {}
        _ => wrong.push(format!("{field}: expected {expected} within {tolerance:e}")),
    };
    let copied = |value: f64| value.abs() * f64::EPSILON;
    judge("min", min, copied(min));
    judge("max", max, copied(max));
    judge("first", first.1, copied(first.1));
    judge("last", last.1, copied(last.1));
    let pairs =
        |such: fn(f64, f64) -> bool| samples.windows(2).filter(|p| such(p[0].1, p[1].1)).count() as f64;
    if counts(row["name"].as_str().unwrap_or_default()) {
        judge("resets", pairs(|a, b| b < a), 0.0);
    }
    judge("changes", pairs(|a, b| a != b), 0.0);
    judge("sum", values().sum(), 1e-12 * scale * n);
    judge("avg", first.1 + shift, 1e-12 * spread + 4.0 * copied(scale));
    judge("std", std, 1e-9 * spread);
    if samples.len() > 1 {
        judge("std_sample", std * (n / (n - 1.0)).sqrt(), 1e-9 * spread);
    }
    if counts(row["name"].as_str().unwrap_or_default()) && samples.len() > 1 {
        let rate = increase / ((last.0 - first.0) as f64 / 1_000.0);
        let tolerance = 1e-9 * increase.abs() + 16.0 * copied(scale);
        judge("increase", increase, tolerance);
        judge("rate", rate, tolerance);
    }
    wrong
}

/// Whether a series of this name is read as a counter.
fn counts(name: &str) -> bool {
    ["_total", "_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix))
}

#[test]
fn the_oracle_computes_what_one_can_compute_by_hand() {
    let samples = [(1_000, 2.0), (3_000, 4.0), (5_000, 1.0), (11_000, 7.0)];
    assert_eq!(times(&samples, ("4s", 4_000, 2_000)), [2_000, 4_000, 6_000, 8_000]);
    let row = serde_json::json!({"name": "a_total", "at_ms": 6_000, "count": 2, "min": 1.0, "max": 4.0, "avg": 2.5,
        "std": 1.5, "std_sample": 4.5f64.sqrt(), "first": 4.0, "last": 1.0, "sum": 5.0, "changes": 1, "increase": 1.0, "rate": 0.5, "resets": 1});
    assert_eq!(differences(&row, &samples, 4_000), Vec::<String>::new());
    for field in [
        "count",
        "min",
        "max",
        "avg",
        "std",
        "std_sample",
        "first",
        "last",
        "sum",
        "changes",
        "increase",
        "rate",
        "resets",
    ] {
        let mut wrong = row.clone();
        wrong[field] = serde_json::json!(9);
        assert_eq!(differences(&wrong, &samples, 4_000).len(), 1, "{field}");
        wrong[field] = Value::Null;
        assert_eq!(differences(&wrong, &samples, 4_000).len(), 1, "{field}");
    }
}

//! Options of series, from `select` to profiles: from the first sample on, carried over kills, taken back by a start with other
//! entries; and all of it is in the journal, which gives the same when it is run again.

use std::f64::consts::TAU;
use std::time::Duration;

use serde_json::{Value, json};
use tidewatch::labels::series_id;
use tidewatch_dataflows::sample::Control;
use tidewatch_dataflows::settings::Settings;

use crate::crashes::{config, rerun};
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;
use crate::support::{eventually, stored};

/// A time long past, so that nothing depends on the clock.
const START_MS: i64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(60);
const NAMES: [&str; 4] = ["hourly", "requests_total", "level", "other"];
const SELECT: &str = "select:
- {match: other, sample: 7}
- {match: hourly, period: 2h, model: multiplicative, quantiles: [0.5, 0.99]}
- {match: '{__name__=~\"requests.*\"}', transform: raw}
- {match: '{job=\"options\"}', transform: rate, period: 5m}
";

fn settings() -> Settings {
    Settings { idle_timeout_ms: 1_000, ..Settings::default() }
}

/// What a server is started with.
fn with(select: &str) -> String {
    config(&settings(), 2, "off").replace("publish_every: 3m", "publish_every: 1m") + select
}

fn value(name: &str, i: i64) -> f64 {
    let noise = fastrand::Rng::with_seed(i as u64).f64();
    match name {
        "hourly" => 10.0 + 3.0 * (TAU * i as f64 / 60.0).sin() + noise,
        _ => i as f64 * 60.0 + noise,
    }
}

/// A sample a minute of each series.
fn send(tidewatch: &Tidewatch, range: std::ops::Range<i64>) {
    let mut request = WriteRequest::default();
    for name in NAMES {
        let samples: Vec<(i64, f64)> =
            range.clone().map(|i| (START_MS + i * 60_000, value(name, i))).collect();
        request = request.series(&[("__name__", name), ("job", "options")], &samples);
    }
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
}

/// The newest profile of each series, once it is of the step before sample `to`, by name.
fn profiles(what: &str, tidewatch: &Tidewatch, to: i64) -> Vec<Value> {
    eventually(what, PATIENCE, || {
        let rows = tidewatch.rows("/api/v1/profiles", &[]);
        let at_ms = START_MS + (to - 2) * 60_000;
        let is_newest = rows.iter().all(|row| row["at_ms"].as_i64() >= Some(at_ms));
        (rows.len() == NAMES.len() && is_newest).then_some(rows.clone()).ok_or_else(|| format!("{rows:?}"))
    })
}

/// Transform, steps and period of each, by name.
fn shown(rows: &[Value]) -> Vec<(Value, u64, Value)> {
    let of = |name: &&str| rows.iter().find(|row| row["name"] == *name).unwrap();
    let shown = |row: &Value| {
        (row["transform"].clone(), row["steps"].as_u64().unwrap(), row["period_seconds"].clone())
    };
    NAMES.iter().map(of).map(shown).collect()
}

/// The series whose newest window of an hour has the quantiles that are set, and those of its samples.
fn quantiles(tidewatch: &Tidewatch, to: i64) -> Vec<String> {
    let at_ms = START_MS + (to - 2) * 60_000;
    let rows = eventually("the newest windows", PATIENCE, || {
        let rows = tidewatch.rows("/api/v1/windows", &[("window", "1h")]);
        let are_newest = rows.iter().all(|row| row["at_ms"].as_i64() >= Some(at_ms));
        (rows.len() == NAMES.len() && are_newest).then_some(rows.clone()).ok_or_else(|| format!("{rows:?}"))
    });
    let with = rows.iter().filter(|row| row.get("p50").is_some() || row.get("p99").is_some());
    let names = with.map(|row| {
        let of = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name}: {row}"));
        let at = (row["at_ms"].as_i64().unwrap() - START_MS) / 60_000;
        let name = row["name"].as_str().unwrap();
        let mut values: Vec<f64> = (at - 59..=at).map(|i| value(name, i)).collect();
        values.sort_by(f64::total_cmp);
        // Between the two in the middle, and just below the largest.
        let wanted =
            [("p50", (values[29] + values[30]) / 2.0), ("p99", values[58] * 0.59 + values[59] * 0.41)];
        for (name, wanted) in wanted {
            assert!((of(name) - wanted).abs() <= 0.01 * wanted.abs(), "{name} is {wanted}: {row}");
        }
        assert!(
            ["p5", "p25", "p75", "p90", "p95", "p999"].iter().all(|name| row.get(*name).is_none()),
            "{row}"
        );
        name.to_owned()
    });
    names.collect()
}

#[test]
fn what_is_set_for_a_series_holds_from_its_first_sample_until_it_is_set_otherwise() {
    let mut tidewatch = Tidewatch::start(&with(SELECT));
    send(&tidewatch, 0..400);
    let rows = shown(&profiles("profiles under what is set", &tidewatch, 400));
    let (raw, rate) = (json!("raw"), json!("rate"));
    // A rate is of two samples, and the last step is open.
    let [hourly, requests, level, other] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(*hourly, (raw.clone(), 399, json!(7_200)));
    assert_eq!((&requests.0, requests.1), (&raw, 399));
    assert_eq!(*level, (rate.clone(), 398, json!(300)));
    assert_eq!((&other.0, other.1, &other.2), (&raw, 399, &Value::Null), "the first entry holds");

    assert_eq!(quantiles(&tidewatch, 400), ["hourly"]);

    tidewatch.process().kill();
    tidewatch.start_again();
    send(&tidewatch, 400..500);
    assert_eq!(quantiles(&tidewatch, 500), ["hourly"]);
    let again = shown(&profiles("profiles after a kill", &tidewatch, 500));
    for (before, after) in rows.iter().zip(&again) {
        assert_eq!((&after.0, after.1, &after.2), (&before.0, before.1 + 100, &before.2), "{again:?}");
    }

    // Nothing is set any more; killed at any moment of the start that says so.
    tidewatch.process().terminate();
    tidewatch.configure(&with(""));
    for ms in [5, 20, 60, 150] {
        tidewatch.start_and_kill(Duration::from_millis(ms));
    }
    tidewatch.start_again();
    send(&tidewatch, 500..700);
    let rows = shown(&profiles("profiles with nothing set", &tidewatch, 700));
    let [hourly, requests, level, other] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(*hourly, (raw.clone(), 699, json!(3_600)), "looked for at once, of the steps there are");
    assert_eq!((&requests.0, &level.0), (&rate, &raw));
    assert!((190..=201).contains(&requests.1) && (190..=201).contains(&level.1), "begun anew: {rows:?}");
    assert_eq!((&other.0, other.1), (&raw, 699));
    assert!(quantiles(&tidewatch, 700).is_empty());

    // And set again, by other words.
    tidewatch.process().terminate();
    tidewatch.configure(&with("select: [{match: '{__name__=~\"l.*\"}', transform: rate}]\n"));
    for ms in [5, 20, 60, 150] {
        tidewatch.start_and_kill(Duration::from_millis(ms));
    }
    tidewatch.start_again();
    send(&tidewatch, 700..800);
    let rows = shown(&profiles("profiles with one thing set", &tidewatch, 800));
    assert_eq!((&rows[2].0, &rows[1].0, rows[0].1), (&rate, &rate, 799), "{rows:?}");
    assert!(rows[2].1 <= 101 && rows[1].1 >= 290, "{rows:?}");
    assert_eq!(tidewatch.process().terminate().code(), Some(0));

    let data = tidewatch.folder().join("data");
    what_is_set_comes_before_samples(&data);
    rerun("options", &settings(), &data);
}

fn what_is_set_comes_before_samples(data: &std::path::Path) {
    let (epochs, _) = stored::epochs(data);
    let id = |name| series_id(&[("__name__", name), ("job", "options")]).0;
    for name in ["hourly", "requests_total", "level"] {
        let sampled = epochs.iter().position(|epoch| epoch.live.series.contains(&id(name))).unwrap();
        let told = epochs.iter().position(|epoch| {
            epoch.controls.iter().any(|control| match &**control {
                Control::Options { series, .. } => series.contains(&id(name)),
                _ => false,
            })
        });
        assert!(told.is_some_and(|told| told <= sampled), "{name}: {told:?} {sampled}");
    }
}

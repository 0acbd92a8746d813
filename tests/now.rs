//! What is open: `at=now` equals a direct computation from the samples of the journal up to the epoch that a row names,
//! for every window, while samples come in, whatever the number of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tidewatch_dataflows::sample::SeriesId;

use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;
use crate::support::windows::{Window, differences};
use crate::support::{eventually, stored};

const CONFIG: &str = "
windows: [{length: 10s, hop: 1s}, {length: 1m, hop: 5s}, {length: 1h, hop: 1m}, {length: 12h, hop: 12m}]
idle_timeout: 2s
allowed_lateness: 1m
limits: {late_samples: 60000}
";
const WINDOWS: [Window; 4] =
    [("10s", 10_000, 1_000), ("1m", 60_000, 5_000), ("1h", 3_600_000, 60_000), ("12h", 43_200_000, 720_000)];
const SERIES: usize = 40;
/// As of so many epochs it is looked.
const EPOCHS: usize = 4;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// One sample of each series: mostly of now, some late, some of a series as an earlier one was.
fn send(url: &str, rng: &mut fastrand::Rng, used: &mut BTreeSet<(usize, i64)>) {
    let mut request = WriteRequest::default();
    for series in 0..SERIES {
        let behind = if rng.u8(0..5) == 0 { rng.i64(0..20_000) } else { 0 };
        let at_ms = now_ms() - behind;
        // One value an instant: what a second one comes to is another test's business.
        if used.insert((series, at_ms)) {
            let (series, value) = (series.to_string(), rng.i32(-500..500));
            let name = if rng.bool() { "now_total" } else { "now" };
            let labels = [("__name__", name), ("series", &series)];
            request = request.series(&labels, &[(at_ms, f64::from(value.abs()) / 8.0)]);
        }
    }
    let answer = request.send(url).unwrap();
    assert_eq!(answer.status, 204, "{answer:?}");
}

/// Tells the sender to end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Looks again and again while samples come in; every row that was shown.
fn look(tidewatch: &Tidewatch, rng: &mut fastrand::Rng) -> Vec<Value> {
    let (stop, url) = (AtomicBool::new(false), tidewatch.url("/api/v1/write"));
    std::thread::scope(|scope| {
        let mut rng = rng.fork();
        scope.spawn({
            let stop = &stop;
            move || {
                let mut used = BTreeSet::new();
                while !stop.load(Relaxed) {
                    send(&url, &mut rng, &mut used);
                }
            }
        });
        // Also where a claim below fails: the sender would never end, and the scope waits for it.
        let _stop = Stop(&stop);
        // Both names of each series come before long.
        eventually("all series are open", Duration::from_secs(60), || {
            let rows = tidewatch.rows("/api/v1/windows", &[("at", "now")]);
            let series: BTreeSet<_> = rows.iter().map(|row| row["series"].as_str().unwrap()).collect();
            (series.len() == 2 * SERIES).then_some(()).ok_or_else(|| format!("{} series", series.len()))
        });
        let (begun, mut seen, mut epochs) = (Instant::now(), Vec::new(), BTreeSet::new());
        while epochs.len() < EPOCHS {
            assert!(begun.elapsed() < Duration::from_secs(300), "no more epochs than {epochs:?}");
            let rows = tidewatch.rows("/api/v1/windows", &[("at", "now")]);
            epochs.extend(rows.iter().map(|row| row["epoch"].as_u64().unwrap()));
            // The shortest window of one that had no sample for ten seconds is empty.
            assert!(rows.len() >= 2 * SERIES * (WINDOWS.len() - 1), "{} rows", rows.len());
            // One series by itself, page by page, shows the same keys.
            let series = rows[seen.len() % rows.len()]["series"].as_str().unwrap();
            let path = format!("/api/v1/windows/{series}");
            let first = tidewatch.get(&path, &[("at", "now"), ("limit", "1")]).json();
            let mut one = first["data"].as_array().unwrap().clone();
            if let Some(next) = first["next"].as_str() {
                one.extend(tidewatch.rows(&path, &[("at", "now"), ("cursor", next)]));
            }
            assert!(one.len() >= WINDOWS.len() - 1, "{one:?}");
            assert!(one.iter().all(|row| row["series"] == series), "{one:?}");
            seen.extend(one);
            seen.extend(rows);
        }
        seen
    })
}

#[test]
fn open_windows_equal_what_the_journal_gives_while_samples_come_in() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for workers in [1, 2, 4] {
        let mut tidewatch = Tidewatch::start(&format!("{CONFIG}workers: {workers}\n"));
        let rows = look(&tidewatch, &mut rng);
        let stored: BTreeSet<i64> =
            tidewatch.rows("/api/v1/windows", &[]).iter().map(|row| row["at_ms"].as_i64().unwrap()).collect();
        assert!(!stored.is_empty(), "windows close as well");
        tidewatch.process().kill();
        let (epochs, _) = stored::epochs(&tidewatch.folder().join("data"));
        let mut of: BTreeMap<SeriesId, Vec<(u64, i64, f64)>> = BTreeMap::new();
        for epoch in &epochs {
            for ((series, at_ms), value) in
                epoch.live.series.iter().zip(&epoch.live.at_ms).zip(&epoch.live.value)
            {
                of.entry(SeriesId(*series)).or_default().push((epoch.end.epoch, *at_ms, *value));
            }
        }
        let ends: BTreeMap<u64, i64> =
            epochs.iter().map(|epoch| (epoch.end.epoch, epoch.end.processing_ms)).collect();
        let (mut instants, mut latest) = (BTreeSet::new(), 0);
        for row in &rows {
            let series: SeriesId = row["series"].as_str().unwrap().parse().unwrap();
            let window = WINDOWS.iter().find(|window| row["window"] == window.0).unwrap();
            let (epoch, at_ms) = (row["epoch"].as_u64().unwrap(), row["at_ms"].as_i64().unwrap());
            let processing_ms = ends[&epoch];
            assert_eq!(
                at_ms,
                (processing_ms.div_euclid(window.2) + 1) * window.2,
                "workers {workers}: {row}"
            );
            assert_eq!(
                (&row["open"], row.get("partial"), row.get("revision")),
                (&Value::Bool(true), None, None)
            );
            let known = of[&series].iter().filter(|(of, ..)| *of <= epoch);
            let mut samples: Vec<(i64, f64)> = known.map(|(_, at_ms, value)| (*at_ms, *value)).collect();
            samples.sort_by_key(|(at_ms, _)| *at_ms);
            let wrong = differences(row, &samples, window.1);
            assert!(wrong.is_empty(), "workers {workers}, seed {seed}: {row}: {wrong:?}");
            instants.insert((epoch, at_ms));
            latest = latest.max(epoch);
        }
        assert!(instants.len() >= 2 * EPOCHS, "it looked at {instants:?} only");
        println!("{workers} workers: {} rows at {} instants", rows.len(), instants.len());
    }
}

#[test]
fn samples_are_shown_as_far_as_the_ring_reaches() {
    let tidewatch = Tidewatch::start("windows: [{length: 1m, hop: 1s}]\n");
    let newest_ms = now_ms() / 1_000 * 1_000;
    let samples: Vec<(i64, f64)> =
        (0..60).rev().map(|i| (newest_ms - i * 1_000, (i * i % 17) as f64 / 4.0)).collect();
    let request = WriteRequest::default().series(&[("__name__", "load"), ("host", "a")], &samples);
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    let points = |parameters: &[(&str, &str)]| {
        let answer = tidewatch.get("/api/v1/samples/load", parameters).json();
        let point = |row: &Value| (row["at_ms"].as_i64().unwrap(), row["value"].as_f64().unwrap());
        (answer["data"].as_array().unwrap().iter().map(point).collect::<Vec<_>>(), answer)
    };
    eventually("the series has rows", Duration::from_secs(30), || {
        let rows = tidewatch.rows("/api/v1/windows", &[]);
        (!rows.is_empty()).then_some(()).ok_or_else(String::new)
    });
    let (all, answer) = points(&[]);
    assert_eq!((all, &answer["source"]), (samples.clone(), &Value::from("ring")), "{answer}");
    assert_eq!(answer["missing"], Value::Null, "a series that is young has no sample that is not held");
    for (name, of) in [
        ("mean", (|all| all.iter().sum::<f64>() / all.len() as f64) as fn(&[f64]) -> f64),
        ("min", |all| all.iter().copied().fold(f64::INFINITY, f64::min)),
        ("sum", |all| all.iter().sum()),
        ("count", |all| all.len() as f64),
        ("last", |all| all[all.len() - 1]),
    ] {
        let mut wanted: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
        for (at_ms, value) in &samples {
            wanted.entry((at_ms - 1).div_euclid(7_000) * 7_000 + 7_000).or_default().push(*value);
        }
        let (got, _) = points(&[("resample", "7s"), ("aggregate", name)]);
        assert_eq!(got.len(), wanted.len(), "{name}");
        for ((at_ms, value), (end_ms, all)) in got.iter().zip(&wanted) {
            assert_eq!(at_ms, end_ms, "{name}");
            assert!((value - of(all)).abs() < 1e-12, "{name} at {at_ms}: {value} for {all:?}");
        }
    }
    let status = |path: &str, parameters: &[(&str, &str)]| {
        crate::support::http::get(&tidewatch.url(path), parameters).unwrap().status
    };
    for (code, parameters) in [
        (400, &[("aggregate", "max")][..]),
        (400, &[("resample", "0s")]),
        (400, &[("resample", "1m"), ("aggregate", "median")]),
        (400, &[("start", "9"), ("end", "8")]),
        (400, &[("at", "now")]),
        (422, &[("start", "0"), ("resample", "1s")]),
    ] {
        assert_eq!(status("/api/v1/samples/load", parameters), code, "{parameters:?}");
    }
    assert_eq!(status("/api/v1/samples/nobody", &[]), 404);
}

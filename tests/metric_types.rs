//! Types of metrics, as remote write 1.0 and 2.0 say them: they decide what rows show, they come before or after the
//! samples, they are journalled once, and a kill loses none.

use std::time::Duration;

use serde_json::Value;
use tidewatch::labels::series_id;
use tidewatch_dataflows::sample::MetricType;

use crate::support::process::Tidewatch;
use crate::support::remote_write::{Histogram, Series2, WriteRequest, WriteRequest2};
use crate::support::{eventually, stored};

/// A time long past, so that windows close by the samples alone and by no clock.
const START_MS: i64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = "windows: [{length: 10s, hop: 1s}]\n";

/// Series, their family, the number of its type in the protocol, and what is shown of them once it is known.
const SERIES: [(&str, &str, u8, &str); 8] = [
    ("requests", "requests", 1, "counter"),
    ("sent_total", "sent", 1, "counter"),
    ("queue_total", "queue_total", 2, "gauge"),
    ("lag_bucket", "lag", 3, "counter"),
    ("pool_sum", "pool", 4, "gauge"),
    ("rpc", "rpc", 5, "gauge"),
    ("rpc_count", "rpc", 5, "counter"),
    ("state_total", "state_total", 7, "gauge"),
];

/// Sends ten samples, one a second, of each series.
fn samples(tidewatch: &Tidewatch, from: i64, metadata: bool) {
    let samples: Vec<(i64, f64)> = (from..from + 10).map(|i| (START_MS + i * 1_000, i as f64)).collect();
    let mut request = WriteRequest2::default();
    for (name, _, kind, _) in SERIES {
        let metadata = metadata.then_some((kind, "help"));
        request = request.series(&Series2 {
            labels: &[("__name__", name)],
            samples: &samples,
            metadata,
            ..Series2::default()
        });
    }
    let answer = request.send(&tidewatch.url("/api/v1/write")).unwrap();
    assert_eq!((answer.status, answer.written), (204, [Some(80), Some(0), Some(0)]), "{answer:?}");
}

/// Sends metadata alone by 1.0, family by family.
fn metadata(tidewatch: &Tidewatch) {
    let families = SERIES
        .iter()
        .fold(WriteRequest::default(), |request, (_, family, kind, _)| request.metadata(*kind, family));
    assert_eq!(families.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
}

/// Waits until catalog, rows, filters and CSV show what is wanted of each series.
fn shows(what: &str, tidewatch: &Tidewatch, wanted: &[(&str, &str)]) {
    eventually(what, PATIENCE, || {
        let catalog = tidewatch.rows("/api/v1/catalog", &[]);
        let rows = tidewatch.rows("/api/v1/windows", &[]);
        let rising = tidewatch.rows("/api/v1/windows", &[("min_increase", "0")]);
        let csv = tidewatch.get("/api/v1/windows", &[("format", "csv")]).text;
        let header = csv.lines().next().unwrap_or_default();
        let increase = header.rsplit(',').position(|column| column == "increase").unwrap();
        for (name, kind) in wanted {
            let of = |rows: &[Value]| rows.iter().find(|row| row["name"] == **name).cloned();
            let (Some(series), Some(row)) = (of(&catalog), of(&rows)) else {
                return Err(format!("no row of {name}"));
            };
            let line = csv.lines().find(|line| line.contains(&format!(",{name},"))).unwrap_or_default();
            let counts = *kind == "counter";
            let same = series["type"] == **kind
                && [row.get("increase").is_some(), row.get("rate").is_some()] == [counts; 2]
                && of(&rising).is_some() == counts
                && line.rsplit(',').nth(increase).is_some_and(|cell| !cell.is_empty()) == counts;
            if !same {
                return Err(format!("{name} is no {kind}: {series} {row} {line}"));
            }
        }
        Ok(())
    });
}

fn all() -> Vec<(&'static str, &'static str)> {
    SERIES.iter().map(|(name, _, _, kind)| (*name, *kind)).collect()
}

#[test]
fn types_come_before_or_after_the_samples_by_1_0_and_2_0_and_a_kill_loses_none() {
    for (what, first) in [("1.0 before", 0), ("1.0 after", 1), ("2.0 with them", 2)] {
        let mut tidewatch = Tidewatch::start(CONFIG);
        match first {
            0 => {
                metadata(&tidewatch);
                samples(&tidewatch, 0, false);
            }
            1 => {
                samples(&tidewatch, 0, false);
                metadata(&tidewatch);
            }
            _ => samples(&tidewatch, 0, true),
        }
        shows(what, &tidewatch, &all());
        // What is known is not said again: not by the same words, not after a kill.
        samples(&tidewatch, 10, first == 2);
        tidewatch.process().kill();
        tidewatch.start_again();
        shows(&format!("{what}, after a kill"), &tidewatch, &all());
        samples(&tidewatch, 20, first == 2);
        if first != 2 {
            metadata(&tidewatch);
        }
        shows(&format!("{what}, and again"), &tidewatch, &all());
        tidewatch.process().kill();
        let told = stored::types(&tidewatch.folder().join("data"));
        assert_eq!(told.len(), SERIES.len(), "{what}: {told:?}");
        let id = |name| series_id(&[("__name__", name)]).0;
        assert!(told.contains(&(id("queue_total"), MetricType::Gauge)), "{what}: {told:?}");
    }
}

#[test]
fn the_newest_type_is_shown_and_a_series_nobody_describes_goes_by_its_name() {
    let tidewatch = Tidewatch::start(CONFIG);
    let url = tidewatch.url("/api/v1/write");
    samples(&tidewatch, 0, true);
    shows("as said", &tidewatch, &all());
    let other = WriteRequest::default().metadata(2, "requests").metadata(1, "rpc").send(&url).unwrap();
    assert_eq!(other.status, 204);
    shows("as said last", &tidewatch, &[("requests", "gauge"), ("rpc", "counter"), ("rpc_count", "counter")]);
    // Two that nothing is said of, and a native histogram of a family of gauges.
    let samples = [(START_MS, 1.0), (START_MS + 5_000, 2.0), (START_MS + 60_000, 3.0)];
    let histograms: Vec<_> =
        samples.iter().map(|(at_ms, _)| Histogram { at_ms: *at_ms, ..Histogram::default() }).collect();
    let request = WriteRequest2::default()
        .series(&Series2 { labels: &[("__name__", "odd_total")], samples: &samples, ..Series2::default() })
        .series(&Series2 {
            labels: &[("__name__", "odd")],
            samples: &samples,
            metadata: Some((0, "")),
            ..Series2::default()
        })
        .series(&Series2 {
            labels: &[("__name__", "now")],
            histograms: &histograms,
            metadata: Some((4, "")),
            ..Series2::default()
        });
    assert_eq!(request.send(&url).unwrap().status, 204);
    shows("gauges", &tidewatch, &[("now_count", "gauge"), ("now_sum", "gauge")]);
    eventually("by their names", PATIENCE, || {
        let rows = tidewatch.rows("/api/v1/windows", &[("match[]", "{__name__=~\"odd.*\"}")]);
        let catalog = tidewatch.rows("/api/v1/catalog", &[("match[]", "{__name__=~\"odd.*\"}")]);
        match (&rows[..], &catalog[..]) {
            ([odd, total], [one, other])
                if odd.get("rate").is_none()
                    && total.get("rate").is_some()
                    && one["type"].is_null()
                    && other["type"].is_null() =>
            {
                Ok(())
            }
            _ => Err(format!("{rows:?} {catalog:?}")),
        }
    });
}

#[test]
fn what_is_open_has_its_type_also_after_a_start_from_snapshots() {
    let mut tidewatch =
        Tidewatch::start("windows: [{length: 30m, hop: 1m}]\nidle_timeout: 1s\nsnapshots: {every: 1s}\n");
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let send = |tidewatch: &Tidewatch, behind: i64, kind: Option<u8>| {
        let request = WriteRequest2::default().series(&Series2 {
            labels: &[("__name__", "jobs")],
            samples: &[(now_ms - behind - 1, 5.0), (now_ms - behind, 7.0)],
            metadata: kind.map(|kind| (kind, "help")),
            ..Series2::default()
        });
        assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    };
    send(&tidewatch, 120_000, Some(1));
    let shows = |what: &str, tidewatch: &Tidewatch| {
        eventually(what, PATIENCE, || {
            let rows = tidewatch.rows("/api/v1/windows", &[("at", "now")]);
            let row = rows.first().ok_or("no row")?;
            row.get("increase").map(|_| ()).ok_or_else(|| row.to_string())
        });
    };
    shows("the increase", &tidewatch);
    // A row that is open is shown before its epoch is in the outbox.
    let begun = eventually("an epoch in the outbox", PATIENCE, || {
        let status = tidewatch.get("/api/v1/status", &[]).json();
        status["epoch"]["outbox"].as_f64().ok_or_else(|| status["epoch"].to_string())
    });
    eventually("every shard is saved behind it twice", PATIENCE, || {
        let saved = tidewatch.metric("tidewatch_snapshot_epoch");
        (saved > begun).then_some(()).ok_or_else(|| format!("{saved} of {begun}"))
    });
    tidewatch.process().kill();
    tidewatch.start_again();
    shows("the increase after a start", &tidewatch);
    send(&tidewatch, 60_000, Some(1));
    shows("the increase after the same was said again", &tidewatch);
    tidewatch.process().kill();
    let told = stored::types(&tidewatch.folder().join("data"));
    assert!(told.len() <= 1, "it was written again: {told:?}");
}

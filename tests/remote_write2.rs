//! Remote write 2.0 beside 1.0, chosen by Content-Type alone: the same samples give the same rows, and every answer says
//! how much of it is written.

use std::time::Duration;

use serde_json::Value;
use tidewatch::labels::series_id;
use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::{Settings, Window};

use crate::support::process::Tidewatch;
use crate::support::remote_write::{
    HEADERS, HEADERS_2, Histogram, Series2, WriteRequest, WriteRequest2, snappy,
};
use crate::support::{eventually, http, stored};

/// A time long past, so that windows close by the samples alone and by no clock.
const START_MS: i64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(60);
const WINDOWS: &str = "windows: [{length: 10s, hop: 1s}]\n";

/// Sorted, as 1.0 has to send them.
const SERIES: [&[(&str, &str)]; 3] = [
    &[("__name__", "up")],
    &[("__name__", "http.server duration"), ("instance", "a:1"), ("job", "é\n🦀")],
    &[("__name__", "requests_total"), ("code", "200"), ("instance", "a:1"), ("path", "/")],
];

fn settings() -> Settings {
    Settings { windows: vec![Window { length_ms: 10_000, hop_ms: 1_000 }], ..Settings::default() }
}

/// Thirty samples of a series.
fn samples(number: usize) -> Vec<(i64, f64)> {
    (0..30_i64).map(|i| (START_MS + i * 1_000, (i * i % 37) as f64 / (number + 1) as f64)).collect()
}

/// What a test sends, and what is found in the end.
fn expected() -> Samples {
    let mut all = Samples::default();
    for (number, labels) in SERIES.iter().enumerate() {
        let id = series_id(labels).0;
        samples(number).iter().for_each(|(at, value)| all.push(id, *at, *value));
    }
    all
}

/// All window rows, once there are as many as the samples give.
fn rows(what: &str, tidewatch: &Tidewatch) -> Vec<Value> {
    let want = crate::oracle::from_scratch(&settings(), &expected()).len();
    let (start, end) = ((START_MS / 1_000).to_string(), (START_MS / 1_000 + 1_000).to_string());
    let rows = || tidewatch.rows("/api/v1/windows", &[("start", &start), ("end", &end)]);
    eventually(what, PATIENCE, || {
        let rows = rows().len();
        if rows >= want { Ok(()) } else { Err(format!("{rows} of {want} rows")) }
    });
    // Those after a series' newest sample depend on when silence was judged.
    let newest = START_MS + 29_000;
    rows().into_iter().filter(|row| row["at_ms"].as_i64().unwrap() < newest).collect()
}

#[test]
fn the_same_samples_by_1_0_and_2_0_give_the_same_rows() {
    let (one, two) = (Tidewatch::start(WINDOWS), Tidewatch::start(WINDOWS));
    for half in [0..15, 15..30] {
        let mut first = WriteRequest::default();
        let mut second = WriteRequest2::default();
        for (number, labels) in SERIES.iter().enumerate() {
            let samples = &samples(number)[half.clone()];
            // The name is the first label.
            first = first.series(labels, samples).metadata(1, labels[0].1);
            // Labels in another order, in another place of the table of symbols, with all that may come along.
            let mut labels = labels.to_vec();
            labels.rotate_left(half.start % 7);
            let created_ms = Some(START_MS - 5_000);
            let metadata = Some((1, "what it is"));
            let series = Series2 {
                labels: &labels,
                samples,
                exemplars: number,
                metadata,
                created_ms,
                ..Series2::default()
            };
            second = second.series(&series);
        }
        let answer = first.send(&one.url("/api/v1/write")).unwrap();
        assert_eq!((answer.status, answer.written), (204, [None; 3]), "{answer:?}");
        for attempt in ["first", "sent again"] {
            let answer = second.send(&two.url("/api/v1/write")).unwrap();
            assert_eq!(
                (answer.status, answer.written),
                (204, [Some(45), Some(0), Some(3)]),
                "{attempt}: {answer:?}"
            );
            assert!(answer.text.is_empty());
        }
    }
    let (by_one, by_two) = (rows("1.0 has its rows", &one), rows("2.0 has its rows", &two));
    assert_eq!(by_one, by_two);
    stored::check("2.0", &settings(), &by_two, &expected());
    let ignored = "tidewatch_write_entries_ignored_total{source=\"remote_write\"}";
    assert_eq!((one.metric(ignored), two.metric(ignored)), (0.0, 4.0 * 3.0), "exemplars");
}

#[test]
fn both_versions_may_write_to_one_server() {
    let tidewatch = Tidewatch::start(WINDOWS);
    let url = tidewatch.url("/api/v1/write");
    // Every series by both, half of the samples twice.
    for half in [0..20, 10..30] {
        for (number, labels) in SERIES.iter().enumerate() {
            let samples = &samples(number)[half.clone()];
            let by_two = WriteRequest2::default().series(&Series2 { labels, samples, ..Series2::default() });
            assert_eq!(by_two.send(&url).unwrap().written, [Some(20), Some(0), Some(0)]);
            assert_eq!(WriteRequest::default().series(labels, samples).send(&url).unwrap().status, 204);
        }
    }
    let rows = rows("the rows", &tidewatch);
    stored::check("both", &settings(), &rows, &expected());
    assert_eq!(tidewatch.rows("/api/v1/catalog", &[]).len(), SERIES.len());
}

#[test]
fn a_partly_bad_request_keeps_the_good_and_says_how_much_is_written() {
    let tidewatch = Tidewatch::start(WINDOWS);
    let url = tidewatch.url("/api/v1/write");
    let samples = [(START_MS, 1.0), (START_MS + 1, f64::NAN), (START_MS, 1.0)];
    let one = &samples[..1];
    let good = Series2 { labels: SERIES[1], samples: &samples, exemplars: 2, ..Series2::default() };
    let uncounted = [Histogram { at_ms: START_MS, count: 1, ..Histogram::default() }];
    let bad = [
        Series2 { labels: &[("job", "x")], samples: one, exemplars: 1, ..Series2::default() },
        Series2 { labels: &[], samples: one, ..Series2::default() },
        Series2 { labels: &[("__name__", "x"), ("a", "1"), ("a", "2")], samples: one, ..Series2::default() },
        Series2 { labels: &[("__name__", "x")], samples: &[(START_MS / 1_000, 1.0)], ..Series2::default() },
        Series2 { labels: &[("__name__", "x")], histograms: &uncounted, ..Series2::default() },
    ];
    for bad in &bad {
        let answer = WriteRequest2::default().series(bad).series(&good).series(bad).send(&url).unwrap();
        assert_eq!(
            (answer.status, answer.written),
            (400, [Some(3), Some(0), Some(2)]),
            "{bad:?}: {answer:?}"
        );
        assert!(
            answer.says().starts_with("3 of 5 samples are written, 2 refused for good: 2 "),
            "{}",
            answer.text
        );
    }
    let histograms = "tidewatch_samples_rejected_total{source=\"remote_write\",gate=\"validate\",reason=\"bad_histogram\"}";
    assert_eq!(tidewatch.metric(histograms), 2.0);
    eventually("the catalog has the good series", PATIENCE, || {
        match &tidewatch.rows("/api/v1/catalog", &[])[..] {
            [row] if row["name"] == "http.server duration" => Ok(()),
            rows => Err(format!("{rows:?}")),
        }
    });

    // Exemplars and metadata without samples are no mistake.
    let alone = Series2 { labels: SERIES[0], exemplars: 3, ..Series2::default() };
    let described = Series2 { labels: SERIES[2], metadata: Some((1, "help")), ..Series2::default() };
    let answer = WriteRequest2::default().series(&alone).series(&described).send(&url).unwrap();
    assert_eq!((answer.status, answer.written), (204, [Some(0), Some(0), Some(3)]), "{answer:?}");
    let answer = WriteRequest2::default().send(&url).unwrap();
    assert_eq!((answer.status, answer.written), (204, [Some(0); 3]), "{answer:?}");
}

#[test]
fn the_message_is_chosen_by_content_type_alone_and_before_the_body_is_read() {
    let tidewatch = Tidewatch::start(WINDOWS);
    let url = tidewatch.url("/api/v1/write");
    let series = Series2 { labels: SERIES[0], samples: &[(START_MS, 1.0)], ..Series2::default() };
    let two = snappy(&WriteRequest2::default().series(&series).message());
    let one = snappy(WriteRequest::default().series(SERIES[0], &[(START_MS, 1.0)]).message());
    let corrupt = &b"\xff\xff\xff\xff\xff"[..];
    let ([encoding, type_1, version_1, _], [_, type_2, version_2, _]) = (HEADERS, HEADERS_2);
    let media = |value| ("Content-Type", value);
    let written = [Some(1), Some(0), Some(0)];
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], u16, [Option<u64>; 3]);
    let cases: [Case; 14] = [
        (&[encoding, type_2, version_1], &two, 204, written),
        (&[encoding, type_2], &two, 204, written),
        (&[type_2], &two, 204, written),
        (&[encoding, type_1, version_2], &one, 204, [None; 3]),
        (&[encoding, version_2], &one, 204, [None; 3]),
        (&[encoding, type_2, version_2], &one, 400, [None; 3]),
        (&[encoding, type_1, version_2], &two, 400, [None; 3]),
        (&[encoding, type_2, version_2], corrupt, 400, [None; 3]),
        (&[encoding, media("application/json"), version_2], corrupt, 415, [None; 3]),
        (&[encoding, media("image/png"), version_2], &two, 415, [None; 3]),
        (&[encoding, media("application/json;proto=io.prometheus.write.v2.Request")], &two, 415, [None; 3]),
        (
            &[encoding, media("application/x-protobuf;proto=io.prometheus.write.v3.Request")],
            corrupt,
            415,
            [None; 3],
        ),
        (&[("Content-Encoding", "gzip"), type_2], corrupt, 415, [None; 3]),
        (&[("Content-Encoding", "deflate"), type_2], &two, 415, [None; 3]),
    ];
    for (headers, body, status, written) in cases {
        let answer = http::post(&url, headers, body).unwrap();
        assert_eq!((answer.status, answer.written), (status, written), "{headers:?}: {answer:?}");
    }
}

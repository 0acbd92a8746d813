//! Requests that are wrong in one way each: the status says whose fault it is, nothing is half applied, and the worker
//! goes on answering.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::eventually;
use crate::support::http;
use crate::support::process::Tidewatch;
use crate::support::remote_write::{HEADERS, WriteRequest, snappy};

/// A time long past that is a fine time for a sample.
const AT_MS: i64 = 1_767_225_600_000;

const HOUR_MS: i64 = 3_600_000;

const PROTOBUF: (&str, &str) = ("Content-Type", "application/x-protobuf");
const SNAPPY: (&str, &str) = ("Content-Encoding", "snappy");

/// What is wrong, the headers, the body, and the status it gets.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], u16);

/// What is wrong, the labels of the series, and the time of its only sample.
type WrongSeries<'a> = (&'a str, &'a [(&'a str, &'a str)], i64);

#[test]
fn each_wrong_write_has_its_status_and_nothing_of_it_is_applied() {
    let worker = Tidewatch::start("");
    let url = worker.url("/api/v1/write");
    let sample = |name: &str| WriteRequest::default().series(&[("__name__", name)], &[(AT_MS, 1.0)]);
    let bad = sample("bad_metric");
    let cut = &bad.message()[..bad.message().len() - 3];
    // The length in front of the data says 4 GiB; nothing of that size may be allocated.
    let huge = [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0; 16]].concat();
    let v2 = ("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request");
    let v3 = ("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v3.Request");
    let json_v2 = ("Content-Type", "application/json;proto=io.prometheus.write.v2.Request");
    let whole = snappy(bad.message());
    let cases: [Case; 14] = [
        ("JSON", &[SNAPPY, ("Content-Type", "application/json")], &whole, 415),
        ("1.0 declared as 2.0", &[SNAPPY, v2], &whole, 400),
        ("2.0 in JSON", &[SNAPPY, json_v2], &whole, 415),
        ("another message", &[SNAPPY, v3], &whole, 415),
        ("JSON that is not compressed", &[SNAPPY, ("Content-Type", "application/json")], b"{}", 415),
        ("gzip", &[("Content-Encoding", "gzip"), PROTOBUF], &whole, 415),
        ("zstd", &[("Content-Encoding", "zstd"), PROTOBUF], &whole, 415),
        ("not compressed", &HEADERS, bad.message(), 400),
        ("cut within the compressed data", &HEADERS, &whole[..whole.len() / 2], 400),
        ("cut within the message", &HEADERS, &snappy(cut), 400),
        (
            "a whole series, then a byte of another",
            &HEADERS,
            &snappy(&[bad.message(), &[0x0a]].concat()),
            400,
        ),
        ("a length beyond the end", &HEADERS, &snappy(&[0x0a, 0xff, 0xff, 0xff, 0x7f]), 400),
        ("an endless varint", &HEADERS, &snappy(&[0xff; 64]), 400),
        ("4 GiB to be", &HEADERS, &huge, 400),
    ];
    for (what, headers, body, status) in cases {
        let answer = http::post(&url, headers, body).unwrap();
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(!answer.text.is_empty(), "{what}: says nothing");
    }
    assert_eq!(http::get(&url, &[]).unwrap().status, 405);

    let wrong_series: [WrongSeries; 6] = [
        ("no name", &[("job", "bad_metric")], AT_MS),
        ("an empty name", &[("__name__", "")], AT_MS),
        ("a label twice", &[("__name__", "bad_metric"), ("a", "1"), ("a", "2")], AT_MS),
        ("seconds for milliseconds", &[("__name__", "bad_metric")], AT_MS / 1_000),
        ("microseconds for milliseconds", &[("__name__", "bad_metric")], AT_MS * 1_000),
        ("an own result", &[("__name__", "tidewatch_window_avg")], AT_MS),
    ];
    let good_name = |what: &str| format!("good_{}", what.replace(' ', "_"));
    for (what, labels, at_ms) in wrong_series {
        let answer = sample(&good_name(what)).series(labels, &[(at_ms, 1.0)]).send(&url).unwrap();
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
        assert!(answer.text.contains('1'), "{what}: no count in {}", answer.text);
    }
    // Nothing at all, as Prometheus sends metadata, is no mistake.
    assert!((200..300).contains(&WriteRequest::default().send(&url).unwrap().status));

    // A later sample of each name closes the windows of what was applied before: the good part, and nothing else.
    let names: Vec<String> = wrong_series.iter().map(|(what, ..)| good_name(what)).collect();
    let closing = names.iter().map(String::as_str).chain(["bad_metric"]);
    let request = closing.fold(WriteRequest::default(), |request, name| {
        request.series(&[("__name__", name)], &[(AT_MS + 2 * HOUR_MS, 1.0)])
    });
    assert!((200..300).contains(&request.send(&url).unwrap().status));
    let (start, end) = ((AT_MS / 1_000).to_string(), ((AT_MS + HOUR_MS) / 1_000 - 1).to_string());
    let expected: BTreeSet<String> = names.into_iter().collect();
    eventually("the good series have their windows", Duration::from_secs(30), || {
        let rows = worker.rows("/api/v1/windows", &[("window", "1h"), ("start", &start), ("end", &end)]);
        let found: BTreeSet<String> =
            rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
        assert!(found.is_subset(&expected), "half applied: {found:?}");
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn each_wrong_question_is_a_problem_that_says_what_is_wrong() {
    let worker = Tidewatch::start("");
    for (path, name, value, status) in [
        ("/api/v1/nothing", "a", "b", 404),
        ("/nothing", "a", "b", 404),
        ("/api/v1/windows", "match[]", "{", 400),
        ("/api/v1/windows", "match[]", "{a=~\"(\"}", 400),
        ("/api/v1/windows", "limit", "0", 400),
        ("/api/v1/windows", "limit", "10001", 400),
        ("/api/v1/windows", "limit", "many", 400),
        ("/api/v1/windows", "start", "yesterday", 400),
        ("/api/v1/windows", "window", "fortnight", 400),
        ("/api/v1/windows", "min_avg", "low", 400),
        ("/api/v1/windows", "min_colour", "1", 400),
        ("/api/v1/windows", "cursor", "nonsense", 400),
        ("/api/v1/catalog", "match[]", "a b", 400),
        ("/api/v1/rejects", "by", "colour", 400),
    ] {
        let answer = http::get(&worker.url(path), &[(name, value)]).unwrap();
        let asked = format!("{path}?{name}={value}: {answer:?}");
        assert_eq!(answer.status, status, "{asked}");
        assert_eq!(answer.content_type, "application/problem+json", "{asked}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{asked}");
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {asked}");
        }
    }
    assert_eq!(worker.get("/-/healthy", &[]).status, 200);
}

#[test]
fn what_is_accepted_is_counted_once() {
    let worker = Tidewatch::start("");
    let samples = [(AT_MS, 1.0), (AT_MS + 1, f64::NAN), (AT_MS + 2, 2.0)];
    let request = WriteRequest::default().series(&[("__name__", "up")], &samples);
    assert_eq!(request.send(&worker.url("/api/v1/write")).unwrap().status, 204);
    let text = worker.get("/metrics", &[]).text;
    for line in [
        "tidewatch_samples_received_total{source=\"remote_write\"} 3",
        "tidewatch_samples_accepted_total{source=\"remote_write\"} 3",
    ] {
        assert!(text.lines().any(|held| held == line), "{line} is not in {text}");
    }
}

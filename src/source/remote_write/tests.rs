//! Unit tests of this module.

use std::sync::Arc;

use super::*;
use crate::labels::{Limits, series_id};
use crate::metrics::Metrics;
use crate::source::histogram::wire::Histogram;
use crate::source::support::Folder;

const NOW: i64 = 1_714_521_600_000;

fn labels(folder: &Folder, limits: Limits) -> Labels {
    Labels::open(&folder.path, limits, Arc::new(Metrics::new())).unwrap()
}

fn take(body: &[u8], labels: &Labels) -> Result<(Samples, DecodedBody), DecodeError> {
    let mut out = Samples::default();
    let decoded = decode(body, labels, EventTimeBounds::at(NOW, false), 7, &mut out)?;
    let kept = out.len() as u64 - decoded.histograms;
    assert_eq!(decoded.received, kept + decoded.refusals.total());
    assert!(out.at_ms.len() == out.len() && out.value.len() == out.len());
    Ok((out, decoded))
}

/// A request of three series with labels, samples, an exemplar, and a metadata entry.
fn request() -> Vec<u8> {
    let exemplar = wire::bytes(3, &wire::label("trace_id", "1"));
    let with_exemplar = [wire::label("__name__", "b"), wire::sample(NOW, 2.5), exemplar].concat();
    let metadata = wire::bytes(3, &[vec![0x08, 1], wire::bytes(2, b"up")].concat());
    [
        wire::series(
            &[("__name__", "up"), ("instance", "a:1"), ("job", "é\n")],
            &[(NOW - 1, 1.0), (NOW, -0.0)],
        ),
        wire::bytes(1, &with_exemplar),
        metadata,
        wire::series(
            &[("__name__", "c")],
            &[(NOW, f64::from_bits(tidewatch_dataflows::sample::STALE_NAN_BITS))],
        ),
    ]
    .concat()
}

#[test]
fn a_native_histogram_becomes_its_count_and_its_sum() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let h = |at_ms, sum| wire::bytes(4, &Histogram::ten(at_ms, sum).0);
    let (name, job) = (wire::label("__name__", "h"), wire::label("job", "x"));
    let bad = wire::bytes(4, &Histogram::at(NOW, 1.0).number(1, 1).0);
    let parts = [&h(NOW - 1, 2.5)[..], &name, &job, &wire::sample(NOW, 1.0), &bad, &h(NOW, 3.5)].concat();
    let body = [wire::bytes(1, &parts), wire::series(&[("__name__", "up")], &[(NOW, 1.0)])].concat();
    let id = |name| series_id(&[("__name__", name), ("job", "x")]).0;
    let (h, count, sum) = (id("h"), id("h_count"), id("h_sum"));
    let up = series_id(&[("__name__", "up")]).0;
    for round in ["cold", "warm"] {
        let (out, decoded) = take(&body, &labels).unwrap();
        assert_eq!(out.series, [h, count, count, sum, sum, up], "{round}");
        assert_eq!(out.value, [1.0, 10.0, 10.0, 2.5, 3.5, 1.0], "{round}");
        assert_eq!(out.at_ms, [NOW, NOW - 1, NOW, NOW - 1, NOW, NOW], "{round}");
        assert_eq!((decoded.histograms, decoded.received), (2, 5));
        assert_eq!((decoded.refusals.total(), decoded.refusals.count("bad_histogram")), (1, 1));
    }
    assert_eq!(labels.len(), 4);
    // A classic histogram beside it is the same series.
    let classic = wire::series(&[("__name__", "h_count"), ("job", "x")], &[(NOW, 10.0)]);
    assert_eq!(take(&classic, &labels).unwrap().0.series, [count]);
}

#[test]
fn metadata_says_types_before_and_after_the_samples() {
    let kind =
        |code, name: &str| wire::bytes(3, &[&[0x08, code][..], &wire::bytes(2, name.as_bytes())].concat());
    let said = [kind(1, "req"), kind(3, "h"), kind(0, "u"), kind(2, "\u{fc}"), wire::bytes(3, b"")].concat();
    let odd = wire::bytes(3, &[vec![0x08, 1], wire::bytes(2, b"\xff")].concat());
    let samples: Vec<u8> = ["req_total", "h_bucket", "u", "\u{fc}", "other"]
        .iter()
        .flat_map(|name| wire::series(&[("__name__", name)], &[(NOW, 1.0)]))
        .collect();
    let id = |name| series_id(&[("__name__", name)]).0;
    let (counter, gauge) = (MetricType::Counter, MetricType::Gauge);
    let mut want = vec![(id("req_total"), counter), (id("h_bucket"), counter), (id("\u{fc}"), gauge)];
    want.sort_unstable();
    for parts in [[&said, &samples], [&samples, &said]] {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let bodies = [parts.map(|part| &part[..]).concat()];
        for bodies in [&bodies[..], &parts.map(Clone::clone)] {
            let decoded: Vec<_> = bodies.iter().map(|body| take(body, &labels).unwrap().1).collect();
            let mut types: Vec<_> = decoded.iter().flat_map(|decoded| decoded.types.clone()).collect();
            types.sort_unstable();
            types.dedup();
            // The second time everything is known, and nothing has changed.
            assert!(types == want || types.is_empty() && bodies.len() == 2, "{types:?}");
            assert_eq!(decoded.iter().map(|decoded| decoded.ignored).sum::<u64>(), 2);
        }
        assert_eq!(take(&odd, &labels).unwrap().1.ignored, 1, "a name that is no text names no series");
    }
    // An undecodable end, and nothing was said.
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    assert!(take(&[&said[..], &[0x0a, 9]].concat(), &labels).is_err());
    assert!(take(&samples, &labels).unwrap().1.types.is_empty());
}

#[test]
fn a_histogram_is_kept_whole_or_not_at_all() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits { series: 2, ..Limits::default() });
    let h = wire::bytes(4, &Histogram::ten(NOW, 2.5).0);
    let series = wire::bytes(1, &[&wire::label("__name__", "h")[..], &h, &h].concat());
    let body = [wire::series(&[("__name__", "a")], &[(NOW, 1.0)]), series].concat();
    for round in ["cold", "warm"] {
        let (out, decoded) = take(&body, &labels).unwrap();
        assert_eq!((out.value, decoded.histograms), (vec![1.0], 0), "{round}");
        assert_eq!(decoded.refusals.count("series_limit"), 2, "{round}");
    }
}

#[test]
fn a_request_becomes_samples_bit_for_bit_cold_and_warm() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let (cold, decoded) = take(&request(), &labels).unwrap();
    let up = series_id(&[("__name__", "up"), ("instance", "a:1"), ("job", "é\n")]).0;
    let (b, c) = (series_id(&[("__name__", "b")]).0, series_id(&[("__name__", "c")]).0);
    assert_eq!((cold.series.clone(), cold.at_ms.clone()), (vec![up, up, b, c], vec![NOW - 1, NOW, NOW, NOW]));
    let bits: Vec<u64> = cold.value.iter().map(|v| v.to_bits()).collect();
    assert_eq!(bits, [1.0_f64.to_bits(), (-0.0_f64).to_bits(), 2.5_f64.to_bits(), 0x7ff0_0000_0000_0002]);
    // The metadata says that "up" is a counter.
    let types = vec![(up, MetricType::Counter)];
    assert_eq!(decoded, DecodedBody { received: 4, ignored: 1, types, ..DecodedBody::default() });
    assert_eq!(labels.len(), 3);
    labels.record_types(&decoded.types);
    let (warm, again) = take(&request(), &labels).unwrap();
    let decoded = DecodedBody { types: vec![], ..decoded };
    assert_eq!((warm.series, again, labels.len()), (cold.series, decoded, 3));
}

#[test]
fn a_request_cut_anywhere_is_refused_whole_or_read_up_to_there() {
    let body = request();
    for cut in 0..body.len() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let mut out = Samples::default();
        out.push(1, 2, 3.0);
        match decode(&body[..cut], &labels, EventTimeBounds::at(NOW, false), 7, &mut out) {
            Ok(decoded) => assert_eq!(out.len() as u64, 1 + decoded.received, "cut at {cut}"),
            Err(error) => {
                assert!(error.at <= cut, "{error} in a body of {cut} bytes");
                assert_eq!((out.len(), labels.len()), (1, 0), "cut at {cut}: nothing may be applied");
            }
        }
    }
}

#[test]
fn a_request_with_any_bytes_changed_never_panics() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits { series: 50, ..Limits::default() });
    let seed = 1;
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..20_000 {
        let mut body = request();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..body.len());
            body[at] = random.u8(..);
        }
        let known = labels.len();
        if take(&body, &labels).is_err() {
            assert_eq!(labels.len(), known, "seed {seed}, round {round}");
        }
    }
    assert_eq!(labels.len(), 50, "the mutations make enough series to reach the limit");
}

#[test]
fn what_is_no_write_request_is_refused_with_its_place() {
    let name = wire::label("__name__", "up");
    let in_series = |bytes: &[u8]| wire::bytes(1, &[&name[..], bytes].concat());
    let reaches = "a field that reaches past the end of its message";
    let cut = "a number that the end of its message cuts off";
    let table: Vec<(Vec<u8>, usize, &str)> = vec![
        (vec![0x0a], 1, cut),
        (vec![0x0a, 0x80], 1, cut),
        (vec![0x0a, 5, 1], 0, reaches),
        (vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], 0, reaches),
        (
            vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            1,
            "a number longer than 64 bits",
        ),
        (
            vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
            0,
            "a number longer than 64 bits",
        ),
        (vec![0x02, 0], 0, "a field number outside 1 to 536870911"),
        (vec![0x80, 0x80, 0x80, 0x80, 0x10, 0], 0, "a field number outside 1 to 536870911"),
        (vec![0x0b], 0, "a group, which remote write does not have"),
        (vec![0x0c], 0, "a group, which remote write does not have"),
        (vec![0x0e], 0, "a wire type that protobuf does not have"),
        (vec![0x0f], 0, "a wire type that protobuf does not have"),
        (vec![0x08, 1], 0, "a message was expected; its wire type is another"),
        (vec![0x39, 1, 2, 3], 0, reaches),
        (vec![0x3d, 1, 2, 3], 0, reaches),
        (wire::bytes(3, &[0x0b]), 2, "a group, which remote write does not have"),
        (in_series(&[0x10, 1]), 2 + name.len(), "a message was expected; its wire type is another"),
        (
            in_series(&wire::bytes(2, &[0x08, 1])),
            4 + name.len(),
            "a double was expected; its wire type is another",
        ),
        (
            in_series(&wire::bytes(2, &[0x11; 9])),
            4 + name.len(),
            "an int64 was expected; its wire type is another",
        ),
        (in_series(&wire::bytes(2, &[0x09, 1])), 4 + name.len(), reaches),
        (
            in_series(&wire::bytes(1, &[0x08, 1])),
            4 + name.len(),
            "a text was expected; its wire type is another",
        ),
    ];
    for (bad, at, what) in table {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        // What comes before must not be applied either.
        let body = [request(), bad.clone()].concat();
        let want = DecodeError { at: at + request().len(), what };
        assert_eq!(take(&body, &labels).unwrap_err(), want, "{bad:02x?}");
        assert_eq!(labels.len(), 0);
    }
    let second = [wire::bytes(4, b""), wire::bytes(5, b"")].concat();
    let folder = Folder::new();
    let message = take(&second, &labels(&folder, Limits::default())).unwrap_err().to_string();
    assert_eq!(
        message,
        "byte 0 of the decompressed body: a field of remote write 2.0 in a request declared as 1.0; \
        set the Content-Type's proto parameter or protobuf_message to prometheus.WriteRequest"
    );
}

#[test]
fn bad_series_are_refused_with_a_reason_and_the_good_ones_kept() {
    let good = |name: &str| wire::series(&[("__name__", name)], &[(NOW, 1.0)]);
    let one = &[(NOW, 1.0), (NOW + 1, 1.0)];
    let many: Vec<(String, String)> = (0..65).map(|n| (format!("l{n}"), "x".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let long = "x".repeat(5_000);
    let bad = Histogram::at(NOW, 1.0).number(1, 1);
    let early = Histogram::at(NOW / 1_000, 1.0);
    let table: [(Vec<u8>, &str, u64); 15] = [
        (
            wire::bytes(1, &[wire::label("__name__", "h"), wire::bytes(4, &early.0)].concat()),
            "before_2000",
            1,
        ),
        (wire::bytes(1, &wire::bytes(4, &Histogram::ten(NOW, 1.0).0)), "missing_name", 1),
        (
            wire::bytes(
                1,
                &[wire::label("__name__", "tidewatch_window"), wire::bytes(4, &Histogram::ten(NOW, 1.0).0)]
                    .concat(),
            ),
            "own_result",
            1,
        ),
        (wire::series(&[("job", "x")], one), "missing_name", 2),
        (wire::series(&[], one), "missing_name", 2),
        (wire::series(&[("__name__", "")], one), "missing_name", 2),
        (wire::series(&[("__name__", "x"), ("", "y")], one), "empty_label_name", 2),
        (wire::series(&[("__name__", "x"), ("a", "1"), ("a", "2")], one), "duplicate_label", 2),
        (wire::series(&many, one), "too_many_labels", 2),
        (wire::series(&[("__name__", "x"), ("a", &long)], one), "labels_too_long", 2),
        (wire::series(&[("__name__", "tidewatch_window_avg")], one), "own_result", 2),
        (wire::series(&[("__name__", "g1")], &[(NOW / 1_000, 1.0)]), "before_2000", 1),
        (wire::series(&[("__name__", "g1")], &[(NOW + 600_001, 1.0)]), "too_far_ahead", 1),
        (
            wire::bytes(1, &[wire::label("__name__", "h"), wire::bytes(4, &bad.0)].concat()),
            "bad_histogram",
            1,
        ),
        (wire::bytes(1, &[wire::label("__name__", "g1"), wire::bytes(2, b"")].concat()), "before_2000", 1),
    ];
    for (bad, reason, count) in table {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let body = [good("g1"), bad.clone(), good("g2"), bad, good("g3")].concat();
        for round in ["cold", "warm"] {
            let (out, decoded) = take(&body, &labels).unwrap();
            let ids = ["g1", "g2", "g3"].map(|name| series_id(&[("__name__", name)]).0);
            assert_eq!(out.series, ids, "{reason}, {round}");
            assert_eq!((decoded.refusals.count(reason), decoded.refusals.total()), (2 * count, 2 * count));
        }
        assert_eq!(labels.len(), 3, "{reason}");
    }
}

#[test]
fn bytes_that_are_no_text_cost_their_own_series_only() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let name = wire::label("__name__", "svc");
    let bad = [
        [&name[..], &wire::label("display", b"B\xfcro")].concat(),
        [&name[..], &wire::label(b"\xc3\x28", "x")].concat(),
        [&name[..], &wire::label(b"\xff", "")].concat(),
        wire::label("__name__", b"\xff"),
    ];
    let samples = [wire::sample(NOW, 1.0), wire::sample(NOW + 1, 2.0)].concat();
    let histogram = wire::bytes(4, &Histogram::ten(NOW, 1.0).0);
    let good = |name| wire::series(&[("__name__", name)], &[(NOW, 1.0)]);
    let mut body = good("g1");
    for labels in &bad {
        body.extend(wire::bytes(1, &[&labels[..], &samples, &histogram].concat()));
        // Nothing is lost of a series without samples.
        body.extend(wire::bytes(1, labels));
    }
    body.extend(good("g2"));
    for round in ["cold", "warm"] {
        let (out, decoded) = take(&body, &labels).unwrap();
        assert_eq!(out.series, ["g1", "g2"].map(|name| series_id(&[("__name__", name)]).0), "{round}");
        assert_eq!((decoded.received, decoded.histograms), (14, 0), "{round}");
        assert_eq!((decoded.refusals.count("not_utf8"), decoded.refusals.total()), (12, 12), "{round}");
        assert_eq!(
            decoded.refusals.sentence(),
            "12 not_utf8 (first: label names and values must be UTF-8; got display=\"B\\xfcro\" for \"svc\")"
        );
    }
    assert_eq!(labels.len(), 2);
    // The sentence is short however long the bytes are.
    let long = vec![0xff; 1 << 20];
    let series = [wire::label("__name__", &long), wire::label(&long, &long), samples].concat();
    let (_, decoded) = take(&wire::bytes(1, &series), &labels).unwrap();
    assert!(decoded.refusals.sentence().len() < 2_000, "{}", decoded.refusals.sentence());
}

#[test]
fn bytes_that_are_no_text_cost_nothing_where_nothing_reads_them() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let metadata =
        [&[0x08, 1][..], &wire::bytes(2, b"up"), &wire::bytes(4, b"\xff"), &wire::bytes(5, b"\xff")];
    // Of a label given twice the last counts.
    let twice = [wire::bytes(1, b"\xff"), wire::bytes(1, b"job"), wire::bytes(2, b"x")].concat();
    let exemplar = wire::bytes(3, &wire::label("trace_id", b"\xff"));
    let series = [
        &wire::label("__name__", "up")[..],
        &wire::bytes(1, &twice),
        &wire::sample(NOW, 1.0),
        &exemplar,
        &wire::bytes(9, b"\xff"),
    ];
    let body = [wire::bytes(1, &series.concat()), wire::bytes(3, &metadata.concat())].concat();
    let up = series_id(&[("__name__", "up"), ("job", "x")]).0;
    for types in [vec![(up, MetricType::Counter)], vec![]] {
        let (out, decoded) = take(&body, &labels).unwrap();
        let want = DecodedBody { received: 1, ignored: 1, types, ..DecodedBody::default() };
        assert_eq!((out.series, decoded), (vec![up], want));
        labels.record_types(&[(up, MetricType::Counter)]);
    }
}

#[test]
fn series_beyond_the_limit_are_refused_and_known_ones_go_on() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits { series: 2, ..Limits::default() });
    let body: Vec<u8> = (0..4)
        .flat_map(|n| wire::series(&[("__name__", &format!("m{n}"))], &[(NOW, f64::from(n))]))
        .collect();
    for _ in 0..2 {
        let (out, decoded) = take(&body, &labels).unwrap();
        assert_eq!((out.value, decoded.refusals.count("series_limit")), (vec![0.0, 1.0], 2));
    }
}

#[test]
fn labels_in_any_order_and_place_name_the_same_series() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let id = series_id(&[("__name__", "x"), ("a", "1"), ("b", "2")]).0;
    let (x, a, b) = (wire::label("__name__", "x"), wire::label("a", "1"), wire::label("b", "2"));
    let s = wire::sample(NOW, 1.0);
    let empty = wire::label("c", "");
    // An unknown field, as a later sender may add, is skipped.
    let unknown = [wire::bytes(9, b"new"), vec![0x78, 5]].concat();
    for parts in [
        [&x[..], &a, &b, &s].concat(),
        [&b[..], &x, &a, &s].concat(),
        [&s[..], &x, &a, &b].concat(),
        [&x[..], &s, &a, &unknown, &b].concat(),
        [&x[..], &a, &empty, &b, &s].concat(),
    ] {
        let body = wire::bytes(1, &parts);
        for _ in 0..2 {
            assert_eq!(take(&body, &labels).unwrap().0.series, [id]);
        }
    }
    assert_eq!(labels.len(), 1);
    let twice = wire::bytes(1, &[&x[..], &s, &s].concat()).repeat(2);
    assert_eq!(take(&twice, &labels).unwrap().0.len(), 4, "one new series, twice in a request");
}

#[test]
fn requests_without_samples_are_fine() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let metadata: Vec<u8> = (0..150).flat_map(|_| wire::bytes(3, &wire::bytes(2, b"up"))).collect();
    assert_eq!(take(&metadata, &labels).unwrap().1, DecodedBody { ignored: 150, ..DecodedBody::default() });
    assert_eq!(take(&[], &labels).unwrap().1, DecodedBody::default());
    assert_eq!(take(&wire::series(&[("__name__", "up")], &[]), &labels).unwrap().1, DecodedBody::default());
    assert_eq!(labels.len(), 0, "a series without a sample is not registered");
}

#[test]
fn millions_of_labels_of_a_series_are_not_gathered() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let mut series = wire::label("__name__", "up");
    (0..2_000).for_each(|i| series.extend(wire::label(format!("l{i}"), "")));
    series.extend(wire::sample(NOW, 1.0));
    let (out, decoded) = take(&wire::bytes(1, &series), &labels).unwrap();
    assert_eq!((out.len(), decoded.refusals.count("too_many_labels")), (0, 1));
    assert!(decoded.refusals.sentence().contains("got 2001 for \"up\""), "{}", decoded.refusals.sentence());
}

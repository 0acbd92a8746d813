//! Unit tests of this module.

use std::sync::Arc;

use super::wire::Request;
use super::*;
use crate::labels::{Limits, series_id};
use crate::metrics::Metrics;
use crate::source::histogram::wire::Histogram;
use crate::source::remote_write;
use crate::source::support::Folder;

const NOW: i64 = 1_714_521_600_000;

fn labels(folder: &Folder, limits: Limits) -> Labels {
    Labels::open(&folder.path, limits, Arc::new(Metrics::new())).unwrap()
}

fn take(body: &[u8], labels: &Labels) -> Result<(Samples, Decoded2), DecodeError> {
    let mut out = Samples::default();
    let decoded = decode(body, labels, EventTimeBounds::at(NOW, false), 7, &mut out)?;
    let kept = out.len() as u64 - decoded.decoded.histograms;
    assert_eq!(decoded.decoded.received, kept + decoded.decoded.refusals.total());
    assert!(out.at_ms.len() == out.len() && out.value.len() == out.len());
    Ok((out, decoded))
}

/// An exemplar with a trace id and a value, whose labels are symbols 1 and 2.
fn exemplar() -> Vec<u8> {
    let value = [&[0x11][..], &f64::NAN.to_le_bytes()].concat();
    wire::bytes(4, &[wire::bytes(1, &[1, 2]), value, vec![0x18, 5]].concat())
}

/// Two series with labels, samples with and without a start, an exemplar, metadata and an old created timestamp.
fn request() -> Request {
    let mut request = Request::new();
    let help = request.symbol("what it is");
    let mut metadata = vec![0x08, 1, 0x18];
    wire::varint(help, &mut metadata);
    let metadata = wire::bytes(5, &metadata);
    let started =
        wire::bytes(2, &[&[0x09][..], &7.5_f64.to_le_bytes(), &[0x10], &now(), &[0x18], &now()].concat());
    let created = [&[0x30][..], &now()].concat();
    request
        .series(
            &[("__name__", "up"), ("instance", "a:1"), ("job", "é\n")],
            &[(NOW - 1, 1.0), (NOW, -0.0)],
            &[&exemplar(), &metadata],
        )
        .series(&[("__name__", "http.server duration"), ("a b", "ü🦀")], &[(NOW, 2.5)], &[&started, &created])
}

fn now() -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::varint(NOW.cast_unsigned(), &mut bytes);
    bytes
}

#[test]
fn a_request_becomes_samples_bit_for_bit_cold_and_warm() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let (cold, decoded) = take(&request().body(), &labels).unwrap();
    let up = series_id(&[("__name__", "up"), ("instance", "a:1"), ("job", "é\n")]).0;
    let utf8 = series_id(&[("__name__", "http.server duration"), ("a b", "ü🦀")]).0;
    assert_eq!(
        (&cold.series[..], &cold.at_ms[..]),
        (&[up, up, utf8, utf8][..], &[NOW - 1, NOW, NOW, NOW][..])
    );
    let bits: Vec<u64> = cold.value.iter().map(|v| v.to_bits()).collect();
    assert_eq!(bits, [1.0_f64, -0.0, 2.5, 7.5].map(f64::to_bits));
    // The metadata says that "up" is a counter.
    let types = vec![(up, MetricType::Counter)];
    let counts = DecodedBody { received: 4, ignored: 1, types, ..DecodedBody::default() };
    assert_eq!(decoded, Decoded2 { decoded: counts, exemplars: 1 });
    labels.record_types(&decoded.decoded.types);
    let (warm, again) = take(&request().body(), &labels).unwrap();
    let decoded = Decoded2 { decoded: DecodedBody { types: vec![], ..decoded.decoded }, ..decoded };
    assert_eq!((warm.series, again, labels.len()), (cold.series, decoded, 2));
}

#[test]
fn a_series_is_the_same_in_any_order_of_labels_table_of_symbols_and_version() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let sorted = [("__name__", "x"), ("a", "1"), ("b", "2"), ("c", "1")];
    let id = series_id(&sorted).0;
    let first = Request::new().series(&sorted, &[(NOW, 1.0)], &[]).body();
    assert_eq!(take(&first, &labels).unwrap().0.series, [id]);
    let bytes = labels.bytes();
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..200 {
        let (mut request, mut shuffled) = (Request::new(), sorted);
        for n in 0..random.usize(..200) {
            request.symbol(format!("other {n}"));
        }
        random.shuffle(&mut shuffled);
        let body = request.series(&shuffled, &[(NOW, 1.0)], &[]).body();
        assert_eq!(take(&body, &labels).unwrap().0.series, [id], "round {round}");
    }
    assert_eq!(labels.bytes(), bytes, "one spelling is enough for all of them");
    // A label without a value is none; 1.0 names the same series.
    let empty = Request::new().series(
        &[("b", "2"), ("c", "1"), ("d", ""), ("a", "1"), ("__name__", "x")],
        &[(NOW, 1.0)],
        &[],
    );
    let one = remote_write::wire::series(&sorted, &[(NOW, 1.0)]);
    for _ in 0..2 {
        assert_eq!(take(&empty.body(), &labels).unwrap().0.series, [id]);
        let mut out = Samples::default();
        remote_write::decode(&one, &labels, EventTimeBounds::at(NOW, false), 7, &mut out).unwrap();
        assert_eq!(out.series, [id]);
    }
    assert_eq!(labels.len(), 1);
}

#[test]
fn fields_may_come_in_any_order_and_references_one_by_one() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let id = series_id(&[("__name__", "x"), ("a", "1")]).0;
    let mut table = Request::new();
    let packed = table.refs(&[("__name__", "x"), ("a", "1")]);
    let (one_by_one, parts) =
        ([8, 1, 8, 2, 8, 3, 8, 4], [wire::bytes(1, &[1]), wire::bytes(1, &[2, 3, 4])].concat());
    let (sample, unknown) = (wire::sample(NOW, 1.0), [wire::bytes(9, b"new"), vec![0x78, 5]].concat());
    for fields in [
        [&packed[..], &sample].concat(),
        [&sample[..], &packed].concat(),
        [&one_by_one[..], &unknown, &sample].concat(),
        [&parts[..2 + 1], &sample, &parts[3..]].concat(),
    ] {
        let (series, symbols) = (wire::bytes(5, &fields), table.body());
        for body in [
            [&symbols[..], &series].concat(),
            [&series[..], &symbols].concat(),
            [&unknown[..], &symbols, &series].concat(),
        ] {
            assert_eq!(take(&body, &labels).unwrap().0.series, [id], "{fields:02x?}");
        }
    }
    // A tag and a length may be longer than they need to be, and a text longer than one byte of length says.
    let long = "y".repeat(300);
    let symbols =
        [&[0xa2, 0x80, 0, 0x80, 0][..], &[0x22, 0x88, 0], b"__name__", &wire::bytes(4, long.as_bytes())];
    let series = wire::bytes(5, &[&wire::bytes(1, &[1, 2])[..], &sample].concat());
    let id = series_id(&[("__name__", &long)]).0;
    assert_eq!(take(&[&symbols.concat()[..], &series].concat(), &labels).unwrap().0.series, [id]);
    let twice = Request::new().series(&[("__name__", "new")], &[(NOW, 1.0)], &[]).series(
        &[("__name__", "new")],
        &[(NOW, 2.0)],
        &[],
    );
    assert_eq!(take(&twice.body(), &labels).unwrap().0.len(), 2, "one new series, twice in a request");
    assert_eq!(labels.len(), 3);
}

#[test]
fn a_request_cut_anywhere_is_refused_whole_or_read_up_to_there() {
    let body = request().body();
    let mut read = 0;
    for cut in 0..body.len() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let mut out = Samples::default();
        out.push(1, 2, 3.0);
        match decode(&body[..cut], &labels, EventTimeBounds::at(NOW, false), 7, &mut out) {
            Ok(decoded) => {
                assert_eq!(out.len() as u64, 1 + decoded.decoded.received, "cut at {cut}");
                read += 1;
            }
            Err(error) => {
                assert!(error.at <= cut, "{error} in a body of {cut} bytes");
                assert_eq!((out.len(), labels.len()), (1, 0), "cut at {cut}: nothing may be applied");
            }
        }
    }
    assert_eq!(read, request().symbols.len() + 2, "only between two fields of the request");
}

#[test]
fn a_request_with_any_bytes_changed_never_panics() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits { series: 50, ..Limits::default() });
    let seed = 1;
    let mut random = fastrand::Rng::with_seed(seed);
    let whole = request().body();
    let mut read = 0;
    for round in 0..20_000 {
        let mut body = whole.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..body.len());
            body[at] = random.u8(..);
        }
        let known = labels.len();
        match take(&body, &labels) {
            Ok(_) => read += 1,
            Err(_) => assert_eq!(labels.len(), known, "seed {seed}, round {round}"),
        }
    }
    assert!(read > 1_000 && labels.len() == 50, "{read} requests were read");
}

#[test]
fn what_is_no_request_is_refused_with_its_place() {
    let series = |fields: &[u8]| wire::bytes(5, fields);
    let odd = "an odd number of label references; they are pairs of name and value";
    let not_empty = "symbols[0] must be the empty text";
    let table: Vec<(Vec<u8>, usize, &str)> = vec![
        (vec![0x20, 1], 0, "a message was expected; its wire type is another"),
        (vec![0x28, 1], 0, "a message was expected; its wire type is another"),
        (vec![0x0b], 0, "a group, which remote write does not have"),
        (series(&wire::bytes(1, &[1, 99])), 5, NO_SYMBOL),
        (series(&[8, 1, 8, 99]), 4, NO_SYMBOL),
        (
            series(&wire::bytes(1, &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])),
            5,
            NO_SYMBOL,
        ),
        (series(&wire::bytes(1, &[1, 0x81])), 5, "a number that the end of its message cuts off"),
        (series(&[0x0d, 0, 0, 0, 0]), 2, "numbers were expected; their wire type is another"),
        (series(&wire::bytes(1, &[1])), 0, odd),
        (series(&[wire::bytes(1, &[1, 2]), vec![8, 1]].concat()), 0, odd),
        (series(&wire::bytes(4, &wire::bytes(1, &[1]))), 2, odd),
        (series(&wire::bytes(4, &wire::bytes(1, &[1, 77]))), 7, NO_SYMBOL),
        (series(&wire::bytes(4, &[0x10, 1])), 4, "a double was expected; its wire type is another"),
        (series(&wire::bytes(5, &[0x18, 77])), 4, NO_SYMBOL),
        (series(&wire::bytes(5, &[0x20, 77])), 4, NO_SYMBOL),
        (series(&wire::bytes(2, &[0x08, 1])), 4, "a double was expected; its wire type is another"),
        (series(&wire::bytes(2, &[0x11; 9])), 4, "an int64 was expected; its wire type is another"),
        (series(&wire::bytes(2, &[0x1a, 0])), 4, "an int64 was expected; its wire type is another"),
        (series(&wire::bytes(6, b"")), 2, "an int64 was expected; its wire type is another"),
        (series(&wire::bytes(3, &[0x0b])), 4, "a group, which remote write does not have"),
    ];
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let before = request().body();
    for (bad, at, what) in table {
        // What comes before must not be applied either.
        let body = [&before[..], &bad].concat();
        let want = DecodeError { at: at + before.len(), what };
        assert_eq!(take(&body, &labels).unwrap_err(), want, "{bad:02x?}");
        assert_eq!(labels.len(), 0);
    }
    let mut named = Request::new();
    named.symbols[0] = b"__name__".to_vec();
    let body = named.series(&[("__name__", "x")], &[(NOW, 1.0)], &[]).body();
    assert_eq!(take(&body, &labels).unwrap_err(), DecodeError { at: 0, what: not_empty });
    let without = wire::bytes(5, &wire::bytes(1, &[0, 0]));
    assert_eq!(take(&without, &labels).unwrap_err(), DecodeError { at: 4, what: NO_SYMBOL });
    let first = remote_write::wire::series(&[("__name__", "up")], &[(NOW, 1.0)]);
    let message = take(&first, &labels).unwrap_err().to_string();
    assert_eq!(
        message,
        "byte 0 of the decompressed body: a field of remote write 1.0 in a request declared as 2.0; \
        set the Content-Type's proto parameter or protobuf_message to io.prometheus.write.v2.Request"
    );
    assert_eq!(labels.len(), 0);
}

#[test]
fn bad_series_are_refused_with_a_reason_and_the_good_ones_kept() {
    let one: &[(i64, f64)] = &[(NOW, 1.0), (NOW + 1, 1.0)];
    let many: Vec<(String, String)> = (0..65).map(|n| (format!("l{n}"), "x".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let long = "x".repeat(5_000);
    let histogram = wire::bytes(3, &Histogram::ten(NOW, 1.0).number(6, 7).0);
    type Bad<'a> = (&'a [(&'a str, &'a str)], &'a [(i64, f64)], &'a [&'a [u8]], &'a str, u64);
    let table: [Bad; 13] = [
        (&[("job", "x")], one, &[], "missing_name", 2),
        (&[], one, &[], "missing_name", 2),
        (&[("__name__", "")], one, &[], "missing_name", 2),
        (&[("__name__", "x"), ("", "y")], one, &[], "empty_label_name", 2),
        (&[("a", "2"), ("__name__", "x"), ("a", "1")], one, &[], "duplicate_label", 2),
        (&[("a", ""), ("__name__", "x"), ("a", "1")], one, &[], "duplicate_label", 2),
        (&many, one, &[], "too_many_labels", 2),
        (&[("__name__", "x"), ("a", &long)], one, &[], "labels_too_long", 2),
        (&[("__name__", "x"), (&long, "")], one, &[], "labels_too_long", 2),
        (&[("__name__", "tidewatch_window_avg")], one, &[], "own_result", 2),
        (&[("__name__", "g1")], &[(NOW / 1_000, 1.0)], &[], "before_2000", 1),
        (&[("__name__", "g1")], &[(NOW + 600_001, 1.0)], &[], "too_far_ahead", 1),
        (&[("__name__", "h")], &[], &[&histogram], "bad_histogram", 1),
    ];
    for (pairs, samples, more, reason, count) in table {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let good = |request: Request, name| request.series(&[("__name__", name)], &[(NOW, 1.0)], &[]);
        let bad = |request: Request| request.series(pairs, samples, more);
        let body = good(bad(good(bad(good(Request::new(), "g1")), "g2")), "g3").body();
        for round in ["cold", "warm"] {
            let (out, Decoded2 { decoded, .. }) = take(&body, &labels).unwrap();
            let ids = ["g1", "g2", "g3"].map(|name| series_id(&[("__name__", name)]).0);
            assert_eq!(out.series, ids, "{reason}, {round}");
            assert_eq!(
                (decoded.refusals.count(reason), decoded.refusals.total()),
                (2 * count, 2 * count),
                "{reason}"
            );
        }
        assert_eq!(labels.len(), 3, "{reason}");
    }
}

#[test]
fn a_symbol_that_is_no_text_costs_the_series_it_labels_only() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let (samples, histogram) = (wire::sample(NOW, 1.0), wire::bytes(3, &Histogram::ten(NOW, 1.0).0));
    let samples = [&samples[..], &wire::sample(NOW + 1, 2.0)].concat();
    let bad: [&[(&[u8], &[u8])]; 5] = [
        &[(b"__name__", b"svc"), (b"display", b"B\xfcro")],
        &[(b"__name__", b"svc"), (b"d\xfc", b"x")],
        &[(b"__name__", b"\xff")],
        &[(b"__name__", b"svc"), (b"\xff", b"")],
        // The key of g1{a="1"}, were it written without being looked at.
        &[(b"__name__\xffg1\xffa", b"1")],
    ];
    let good = |request: Request, name| {
        request.series(&[("__name__", name), ("a", "1")], &[(NOW, 1.0)], &[&exemplar()])
    };
    let mut request = good(Request::new(), "g1");
    for pairs in bad {
        let refs = request.refs(pairs);
        request = request.fields(&[&refs, &samples, &histogram, &exemplar()]);
        // Of a series without samples, and of one with none but a type, nothing is lost.
        request = request.fields(&[&refs]).fields(&[&refs, &wire::bytes(5, &[0x08, 1])]);
    }
    let body = good(request, "g2").body();
    for round in ["cold", "warm"] {
        let (out, Decoded2 { decoded, exemplars }) = take(&body, &labels).unwrap();
        let ids = ["g1", "g2"].map(|name| series_id(&[("__name__", name), ("a", "1")]).0);
        assert_eq!((out.series, exemplars), (ids.to_vec(), 2), "{round}");
        assert_eq!((decoded.received, decoded.histograms), (17, 0), "{round}");
        assert_eq!((decoded.refusals.count("not_utf8"), decoded.refusals.total()), (15, 15), "{round}");
        assert_eq!(
            decoded.refusals.sentence(),
            "15 not_utf8 (first: label names and values must be UTF-8; got display=\"B\\xfcro\" for \"svc\")"
        );
    }
    assert_eq!(labels.len(), 2);
}

#[test]
fn a_symbol_that_is_no_text_costs_nothing_where_nothing_reads_it() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let mut request = Request::new();
    let bad = request.symbol(b"\xff") as u8;
    let exemplar = wire::bytes(4, &wire::bytes(1, &[bad, bad]));
    let metadata = wire::bytes(5, &[0x08, 1, 0x18, bad, 0x20, bad]);
    let body = request.series(&[("__name__", "up")], &[(NOW, 1.0)], &[&exemplar, &metadata]).body();
    for round in ["cold", "warm"] {
        let (out, Decoded2 { decoded, exemplars }) = take(&body, &labels).unwrap();
        assert_eq!((out.len(), exemplars, decoded.types.len()), (1, 1, 1), "{round}");
        assert!(decoded.refusals.is_empty(), "{round}: {:?}", decoded.refusals);
    }
}

#[test]
fn samples_of_an_hour_ago_are_taken() {
    let folder = Folder::new();
    let body =
        Request::new().series(&[("__name__", "x")], &[(NOW - 3_600_000, 1.0), (NOW, f64::NAN)], &[]).body();
    let (out, decoded) = take(&body, &labels(&folder, Limits::default())).unwrap();
    assert_eq!((out.at_ms, decoded.decoded.refusals.is_empty()), (vec![NOW - 3_600_000, NOW], true));
}

#[test]
fn series_without_samples_are_counted_and_not_registered() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let (said, empty) = (wire::bytes(5, &[0x08, 2]), wire::bytes(5, b""));
    let bare = wire::bytes(4, b"");
    let name = [("__name__", "x")];
    let body = Request::new()
        .series(&name, &[], &[&exemplar(), &bare])
        .series(&name, &[], &[&said])
        .series(&name, &[], &[&empty])
        .series(&name, &[], &[]);
    let counts = DecodedBody { ignored: 2, ..DecodedBody::default() };
    assert_eq!(take(&body.body(), &labels).unwrap().1, Decoded2 { decoded: counts, exemplars: 2 });
    assert_eq!(take(&[], &labels).unwrap().1, Decoded2::default());
    assert_eq!(take(&Request::new().body(), &labels).unwrap().1, Decoded2::default());
    assert_eq!(labels.len(), 0);
}

#[test]
fn exemplars_count_as_written_only_where_the_labels_pass() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let (name, unnamed) = ([("__name__", "x")], [("job", "x")]);
    let body = Request::new()
        .series(&unnamed, &[(NOW, 1.0)], &[&exemplar()])
        .series(&name, &[(NOW, 1.0)], &[&exemplar()])
        .series(&unnamed, &[], &[&exemplar(), &exemplar()])
        .series(&name, &[(NOW / 1_000, 1.0)], &[&exemplar()]);
    for round in ["cold", "warm"] {
        let (out, Decoded2 { decoded, exemplars }) = take(&body.body(), &labels).unwrap();
        assert_eq!((out.len(), exemplars, decoded.ignored), (1, 2, 5), "{round}");
        assert_eq!((decoded.refusals.count("missing_name"), decoded.refusals.total()), (1, 2));
    }
    let alone = Request::new().series(&unnamed, &[], &[&exemplar()]).body();
    let (_, Decoded2 { decoded, exemplars }) = take(&alone, &labels).unwrap();
    assert!(exemplars == 0 && decoded.refusals.total() == 0 && !decoded.refusals.is_empty());
}

#[test]
fn millions_of_labels_of_a_series_are_not_gathered_and_long_ones_not_copied() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let mut request = Request::new();
    let name = request.refs(&[("__name__", "up")]);
    let long = request.symbol("x".repeat(1 << 20)) as u8;
    let sample = wire::sample(NOW, 1.0);
    let many = wire::bytes(1, &vec![long; 4_000_000]);
    let (out, decoded) = take(&request.fields(&[&name, &many, &sample]).body(), &labels).unwrap();
    assert_eq!((out.len(), decoded.decoded.refusals.count("too_many_labels")), (0, 1));
    let sentence = decoded.decoded.refusals.sentence();
    assert!(sentence.contains("got 2000001 for \"up\""), "{sentence}");

    // A gigabyte of labels in each of a thousand series: copying or comparing it would take minutes.
    let mut request = Request::new();
    let name = request.refs(&[("__name__", "up")]);
    let long = request.symbol("x".repeat(1 << 20)) as u8;
    let many = wire::bytes(1, &[long; 2_000]);
    let request = (0..1_000).fold(request, |request, _| request.fields(&[&name, &many, &sample]));
    let (out, decoded) = take(&request.body(), &labels).unwrap();
    assert_eq!((out.len(), decoded.decoded.refusals.count("labels_too_long")), (0, 1_000));
    let sentence = decoded.decoded.refusals.sentence();
    assert!(sentence.contains("for \"up\""), "{sentence}");
}

#[test]
fn a_native_histogram_becomes_its_count_and_its_sum_as_in_1_0() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let (name, named) = ([("__name__", "h"), ("job", "x")], [("job", "x"), ("__name__", "h")]);
    let h = |field, sum| wire::bytes(field, &Histogram::ten(NOW, sum).0);
    let id = |name| series_id(&[("__name__", name), ("job", "x")]).0;
    let body = Request::new()
        .series(&name, &[], &[&h(3, 2.5), &exemplar()])
        .series(&[("job", "y")], &[], &[&h(3, 1.0), &exemplar()])
        .series(&named, &[(NOW, 1.0)], &[&h(3, 3.5), &exemplar()])
        .body();
    let first = [wire::bytes(
        1,
        &[remote_write::wire::label("job", "x"), remote_write::wire::label("__name__", "h"), h(4, 4.5)]
            .concat(),
    )]
    .concat();
    let mut out = Samples::default();
    for round in ["cold", "warm"] {
        let (out, Decoded2 { decoded, exemplars }) = take(&body, &labels).unwrap();
        let (h, count, sum) = (id("h"), id("h_count"), id("h_sum"));
        assert_eq!(out.series, [count, sum, h, count, sum], "{round}");
        assert_eq!(out.value, [10.0, 2.5, 1.0, 10.0, 3.5], "{round}");
        assert_eq!((decoded.histograms, exemplars, decoded.refusals.count("missing_name")), (2, 2, 1));
    }
    remote_write::decode(&first, &labels, EventTimeBounds::at(NOW, false), 7, &mut out).unwrap();
    assert_eq!((out.series, labels.len()), (vec![id("h_count"), id("h_sum")], 3));
}

#[test]
fn a_type_is_given_out_until_it_is_told_and_a_series_without_samples_says_it_of_its_name() {
    use MetricType::{Counter, Gauge};
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    let kind = |code| wire::bytes(5, &[0x08, code]);
    let types = |body: &Request| {
        let mut types = take(&body.body(), &labels).unwrap().1.decoded.types;
        types.sort_unstable_by_key(|(series, _)| *series);
        types
    };
    let id = |name| series_id(&[("__name__", name)]).0;
    let one: &[(i64, f64)] = &[(NOW, 1.0)];
    let h = wire::bytes(3, &Histogram::ten(NOW, 1.0).0);
    let name = |name| [("__name__", name)];
    let all = |request: Request| {
        request
            .series(&name("c"), one, &[&kind(1)])
            .series(&name("x_bucket"), one, &[&kind(3)])
            .series(&name("q"), one, &[&kind(5)])
            .series(&name("g"), &[], &[&h, &kind(4)])
            .series(&name("u"), one, &[&kind(0)])
    };
    let mut want = vec![
        (id("c"), Counter),
        (id("x_bucket"), Counter),
        (id("q"), Gauge),
        (id("g_count"), Gauge),
        (id("g_sum"), Gauge),
    ];
    want.sort_unstable();
    let body = all(Request::new());
    assert_eq!((types(&body), types(&body)), (want.clone(), want.clone()), "until it is told");
    labels.record_types(&want);
    assert_eq!(types(&body), []);
    // The newest counts, with samples and without, as long as the series is known.
    let other = Request::new().series(&name("c"), &[], &[&kind(2)]);
    assert_eq!(types(&other), [(id("c"), Gauge)]);
    // Nobody knows this one yet.
    assert_eq!(types(&Request::new().series(&name("new"), &[], &[&kind(1)])), []);
    assert_eq!(types(&Request::new().series(&name("new"), one, &[])), [(id("new"), Counter)]);
    // An undecodable end, and nothing was said.
    let cut = [&Request::new().series(&name("late"), &[], &[&kind(1)]).body()[..], &[0x2a, 9]].concat();
    assert!(take(&cut, &labels).is_err());
    assert_eq!(types(&Request::new().series(&name("late"), one, &[])), []);
}

#[test]
fn what_1_0_was_sent_never_answers_for_labels_of_2_0() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits::default());
    // An unknown field lets a sender of 1.0 end a label as a key of 2.0 without its mark would end.
    let unknown = [&[0x79, 0xff][..], b"aaaaaa", &[0xff]].concat();
    let label = [wire::bytes(1, b"__name__"), wire::bytes(2, b"x"), unknown].concat();
    let encoded = wire::bytes(1, &label);
    let body = wire::bytes(1, &[&encoded[..], &wire::sample(NOW, 1.0)].concat());
    let mut out = Samples::default();
    remote_write::decode(&body, &labels, EventTimeBounds::at(NOW, false), 7, &mut out).unwrap();
    assert!(out.len() == 1 && labels.find(&encoded, 7).is_some());
    let name = str::from_utf8(&encoded[..encoded.len() - 8]).unwrap();
    let body = Request::new().series(&[(name, "aaaaaa")], &[(NOW, 1.0)], &[]).body();
    let (out, decoded) = take(&body, &labels).unwrap();
    assert_eq!((out.len(), decoded.decoded.refusals.count("missing_name")), (0, 1));
}

#[test]
fn series_beyond_the_limit_are_refused_and_known_ones_go_on() {
    let folder = Folder::new();
    let labels = labels(&folder, Limits { series: 2, ..Limits::default() });
    let body = (0..4).fold(Request::new(), |request, n| {
        request.series(&[("__name__", &format!("m{n}"))], &[(NOW, f64::from(n))], &[&wire::bytes(4, b"")])
    });
    for _ in 0..2 {
        let (out, Decoded2 { decoded, exemplars }) = take(&body.body(), &labels).unwrap();
        assert_eq!((out.value, decoded.refusals.count("series_limit"), exemplars), (vec![0.0, 1.0], 2, 2));
    }
}

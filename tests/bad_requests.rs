//! Requests that are wrong in one way each: the status says whose fault it is, nothing is half applied, and the server
//! goes on answering.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::eventually;
use crate::support::http;
use crate::support::process::Tidewatch;
use crate::support::protobuf::bytes as field;
use crate::support::remote_write::{HEADERS, HEADERS_2, WriteRequest, snappy};

/// A time long past that is a fine time for a sample.
const AT_MS: i64 = 1_767_225_600_000;

const HOUR_MS: i64 = 3_600_000;

const PROTOBUF: (&str, &str) = ("Content-Type", "application/x-protobuf");
const SNAPPY: (&str, &str) = ("Content-Encoding", "snappy");

/// What is wrong, the headers, the body, the status it gets, its problem, and what its detail begins with.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Vec<u8>, u16, &'a str, &'a str);

/// A good request whose only series has this name.
fn sample(name: &str) -> WriteRequest {
    WriteRequest::default().series(&[("__name__", name)], &[(AT_MS, 1.0)])
}

/// Bodies and headers that nothing can be made of.
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn unreadable() -> Vec<Case<'static>> {
    let bad = sample("bad_metric");
    let message = bad.message();
    let whole = snappy(message);
    let packed = |message: &[u8]| snappy(message);
    // The length in front of the data; nothing of that size may be allocated.
    let claims = |length: &[u8]| [length, &[0; 16]].concat();
    let type_1 = "Content-Type must be application/x-protobuf, with proto=prometheus.WriteRequest, \
                  proto=io.prometheus.write.v2.Request or none; got ";
    vec![
        (
            "JSON",
            &[SNAPPY, ("Content-Type", "application/json")],
            whole.clone(),
            415,
            "unsupported-media-type",
            type_1,
        ),
        (
            "2.0 in JSON",
            &[SNAPPY, ("Content-Type", "application/json;proto=io.prometheus.write.v2.Request")],
            whole.clone(),
            415,
            "unsupported-media-type",
            type_1,
        ),
        (
            "another message",
            &[SNAPPY, ("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v3.Request")],
            whole.clone(),
            415,
            "unsupported-media-type",
            type_1,
        ),
        (
            "JSON that is not compressed",
            &[SNAPPY, ("Content-Type", "application/json")],
            b"{}".to_vec(),
            415,
            "unsupported-media-type",
            type_1,
        ),
        (
            "gzip",
            &[("Content-Encoding", "gzip"), PROTOBUF],
            whole.clone(),
            415,
            "unsupported-media-type",
            "Content-Encoding must be snappy; got \"gzip\"",
        ),
        (
            "zstd",
            &[("Content-Encoding", "zstd"), PROTOBUF],
            whole.clone(),
            415,
            "unsupported-media-type",
            "Content-Encoding must be snappy; got \"zstd\"",
        ),
        ("no body", &HEADERS, Vec::new(), 400, "bad-body", "the body is not a snappy block: "),
        ("not compressed", &HEADERS, message.to_vec(), 400, "bad-body", "the body is not a snappy block: "),
        (
            "cut within the compressed data",
            &HEADERS,
            whole[..whole.len() / 2].to_vec(),
            400,
            "bad-body",
            "the body is not a snappy block: ",
        ),
        (
            "snappy with frames",
            &HEADERS,
            b"\xff\x06\x00\x00sNaPpY".to_vec(),
            400,
            "bad-body",
            "the body is not a snappy block: ",
        ),
        (
            "4 GiB to be",
            &HEADERS,
            claims(&[0xff, 0xff, 0xff, 0xff, 0x0f]),
            400,
            "bad-body",
            "a decompressed body cannot exceed limits.body_bytes (65536); it claims 4294967295",
        ),
        (
            "a byte too much to be",
            &HEADERS,
            claims(&[0x81, 0x80, 0x04]),
            400,
            "bad-body",
            "a decompressed body cannot exceed limits.body_bytes (65536); it claims 65537",
        ),
        (
            "a MiB of zeros",
            &HEADERS,
            snappy(&vec![0; 1 << 20]),
            400,
            "bad-body",
            "a decompressed body cannot exceed limits.body_bytes (65536); it claims 1048576",
        ),
        (
            "too large as it comes",
            &HEADERS,
            vec![7; (64 << 10) + 1],
            413,
            "too-large",
            "a body cannot exceed limits.body_bytes (65536); got 65537",
        ),
        (
            "1.0 declared as 2.0",
            &HEADERS_2,
            whole.clone(),
            400,
            "bad-body",
            "byte 0 of the decompressed body: a field of remote write 1.0 in a request declared as 2.0; set the Content-Type's proto",
        ),
        (
            "2.0 declared as 1.0",
            &HEADERS,
            snappy(&field(4, b"")),
            400,
            "bad-body",
            "byte 0 of the decompressed body: a field of remote write 2.0 in a request declared as 1.0; set the Content-Type's proto",
        ),
        (
            "cut within the message",
            &HEADERS,
            packed(&message[..message.len() - 3]),
            400,
            "bad-body",
            "byte 0 of the decompressed body: a field that reaches past the end of its message",
        ),
    ]
}

/// What is wrong with a message, the headers, the body, and what the answer ends with, behind the offset.
type Undecodable<'a> = (&'a str, &'a [(&'a str, &'a str)], Vec<u8>, &'a str);

/// Messages that are none: always 400.
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn undecodable() -> Vec<Undecodable<'static>> {
    let bad = sample("bad_metric");
    let message = bad.message();
    let with = |last: &[u8]| snappy(&[message, last].concat());
    let two = |fields: &[u8]| snappy(&[&field(4, b"")[..], &field(4, b"bad_metric"), fields].concat());
    vec![
        (
            "a whole series, then a byte of another",
            &HEADERS,
            with(&[0x0a]),
            "a number that the end of its message cuts off",
        ),
        (
            "a length beyond the end",
            &HEADERS,
            with(&[0x0a, 0xff, 0xff, 0xff, 0x7f]),
            "a field that reaches past the end of its message",
        ),
        ("an endless varint", &HEADERS, with(&[0xff; 64]), "a number longer than 64 bits"),
        ("field 0", &HEADERS, with(&[0x02, 0]), "a field number outside 1 to 536870911"),
        ("a group", &HEADERS, with(&[0x0b, 0x0c]), "a group, which remote write does not have"),
        ("wire type 7", &HEADERS, with(&[0x0f]), "a wire type that protobuf does not have"),
        (
            "a number for a series",
            &HEADERS,
            with(&[0x08, 1]),
            "a message was expected; its wire type is another",
        ),
        (
            "a number for a label's name",
            &HEADERS,
            with(&field(1, &[&field(1, &[0x08, 1])[..], &field(2, &[0x10, 1])].concat())),
            "a text was expected; its wire type is another",
        ),
        (
            "an integer for a value",
            &HEADERS,
            with(&field(1, &field(2, &[0x08, 1]))),
            "a double was expected; its wire type is another",
        ),
        (
            "a double for a time",
            &HEADERS,
            with(&field(1, &field(2, &[&[0x11][..], &[0; 8]].concat()))),
            "an int64 was expected; its wire type is another",
        ),
        (
            "half a double in a histogram",
            &HEADERS,
            with(&field(1, &field(4, &field(13, &[0; 7])))),
            "doubles were expected; their wire type or length is another",
        ),
        (
            "2.0 cut within a series",
            &HEADERS_2,
            two(&[0x2a, 9, 0]),
            "a field that reaches past the end of its message",
        ),
        (
            "a first symbol that is not empty",
            &HEADERS_2,
            snappy(&field(4, b"bad_metric")),
            "symbols[0] must be the empty text",
        ),
        (
            "a label's symbol that is not there",
            &HEADERS_2,
            two(&field(5, &field(1, &[0, 2]))),
            "a reference to a symbol that is not in the request",
        ),
        (
            "an exemplar's symbol that is not there",
            &HEADERS_2,
            two(&field(5, &field(4, &field(1, &[0, 2])))),
            "a reference to a symbol that is not in the request",
        ),
        (
            "a help text that is not there",
            &HEADERS_2,
            two(&field(5, &field(5, &[0x18, 2]))),
            "a reference to a symbol that is not in the request",
        ),
        (
            "half a pair of labels",
            &HEADERS_2,
            two(&field(5, &field(1, &[1]))),
            "an odd number of label references; they are pairs of name and value",
        ),
        (
            "half a pair of an exemplar's labels",
            &HEADERS_2,
            two(&field(5, &field(4, &field(1, &[1])))),
            "an odd number of label references; they are pairs of name and value",
        ),
        (
            "doubles for references",
            &HEADERS_2,
            two(&field(5, &[&[0x09][..], &[0; 8]].concat())),
            "numbers were expected; their wire type is another",
        ),
    ]
}

/// What is wrong, the labels of the series, the time of its only sample, and the words for it.
type WrongSeries = (&'static str, Vec<(&'static str, String)>, i64, &'static str);

/// Series that are refused alone: what else is in their request is kept.
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn refused() -> Vec<WrongSeries> {
    let named = || vec![("__name__", "bad_metric".to_owned())];
    let and = |labels: &[(&'static str, &str)]| {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
        named().into_iter().chain(labels).collect::<Vec<_>>()
    };
    let long = "x".repeat(4_096);
    let wide: Vec<(&str, &str)> = vec![("many", "x"); 64];
    vec![
        (
            "no labels",
            Vec::new(),
            AT_MS,
            "1 missing_name (first: label __name__ must be present and not empty; got labels {})",
        ),
        (
            "no name",
            vec![("job", "bad_metric".to_owned())],
            AT_MS,
            "1 missing_name (first: label __name__ must be present and not empty; got labels {job=\"bad_metric\"})",
        ),
        ("an empty name", vec![("__name__", String::new())], AT_MS, "1 missing_name (first: "),
        (
            "a label without a name",
            and(&[("", "x")]),
            AT_MS,
            "1 empty_label_name (first: label names must not be empty; got an empty name with value \"x\")",
        ),
        (
            "a label twice",
            and(&[("a", "1"), ("a", "2")]),
            AT_MS,
            "1 duplicate_label (first: label names must differ; got \"a\" twice, with values \"1\" and \"2\")",
        ),
        (
            "65 labels",
            and(&wide),
            AT_MS,
            "1 too_many_labels (first: a series has at most 64 labels (limits.labels); got 65 for \"bad_metric\")",
        ),
        (
            "a long label",
            and(&[("a", &long)]),
            AT_MS,
            "1 labels_too_long (first: label names and values of a series have at most 4096 bytes together (limits.label_bytes); got 4115 for \"bad_metric\")",
        ),
        (
            "an own result",
            vec![("__name__", "tidewatch_window_avg".to_owned())],
            AT_MS,
            "1 own_result (first: tidewatch_window_avg is a result of tidewatch; taking it in would compute on results)",
        ),
        (
            "no time",
            named(),
            0,
            "1 before_2000 (first: timestamp_ms cannot be before the year 2000 (946684800000); got 0)",
        ),
        (
            "a time before 1970",
            named(),
            -1,
            "1 before_2000 (first: timestamp_ms cannot be before the year 2000 (946684800000); got -1)",
        ),
        (
            "seconds for milliseconds",
            named(),
            AT_MS / 1_000,
            "1 before_2000 (first: timestamp_ms cannot be before the year 2000 (946684800000); got 1767225600, which looks like seconds)",
        ),
        (
            "microseconds for milliseconds",
            named(),
            AT_MS * 1_000,
            "1 too_far_ahead (first: timestamp_ms cannot be more than 10 minutes ahead of the clock (",
        ),
        (
            "nanoseconds for milliseconds",
            named(),
            AT_MS * 1_000_000,
            "got 1767225600000000000, which looks like nanoseconds)",
        ),
        ("next century", named(), 4_102_444_800_000, "got 4102444800000)"),
    ]
}

#[test]
fn each_wrong_write_has_its_status_and_nothing_of_it_is_applied() {
    let mut tidewatch = Tidewatch::start("limits: {body_bytes: 64KiB}\n");
    let url = tidewatch.url("/api/v1/write");
    for (what, headers, body, status, problem, says) in unreadable() {
        let answer = http::post(&url, headers, &body).unwrap();
        assert_eq!((answer.status, answer.problem().as_str()), (status, problem), "{what}: {answer:?}");
        assert!(answer.says().starts_with(says), "{what}: {answer:?}");
    }
    for (what, headers, body, says) in undecodable() {
        let answer = http::post(&url, headers, &body).unwrap();
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-body"), "{what}: {answer:?}");
        let (at, ends) = ("byte ", format!(" of the decompressed body: {says}"));
        let told = answer.says();
        assert!(told.starts_with(at) && told.ends_with(&ends), "{what}: {answer:?}");
    }
    let answer = http::get(&url, &[]).unwrap();
    assert_eq!((answer.status, answer.problem().as_str()), (405, "method-not-allowed"), "{answer:?}");
    assert_eq!(answer.says(), "/api/v1/write takes POST only; got GET");

    let good_name = |what: &str| format!("good_{}", what.replace(' ', "_"));
    let names: Vec<String> = refused().iter().map(|(what, ..)| good_name(what)).collect();
    for (what, labels, at_ms, says) in refused() {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = sample(&good_name(what)).series(&labels, &[(at_ms, 1.0)]).send(&url).unwrap();
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (400, "samples-refused"),
            "{what}: {answer:?}"
        );
        let kept = "1 of 2 samples are written, 1 refused for good: 1 ";
        let told = answer.says();
        assert!(told.starts_with(kept) && told.contains(says), "{what}: {answer:?}");
    }
    // Nothing at all, as Prometheus sends metadata, is no mistake.
    assert!((200..300).contains(&WriteRequest::default().send(&url).unwrap().status));

    // A later sample of each name closes the windows of what was applied before: the good part, and nothing else.
    let closing = names.iter().map(String::as_str).chain(["bad_metric"]);
    let request = closing.fold(WriteRequest::default(), |request, name| {
        request.series(&[("__name__", name)], &[(AT_MS + 2 * HOUR_MS, 1.0)])
    });
    assert!((200..300).contains(&request.send(&url).unwrap().status));
    let (start, end) = ((AT_MS / 1_000).to_string(), ((AT_MS + HOUR_MS) / 1_000 - 1).to_string());
    let expected: BTreeSet<String> = names.into_iter().collect();
    eventually("the good series have their windows", Duration::from_secs(30), || {
        let rows = tidewatch.rows("/api/v1/windows", &[("window", "1h"), ("start", &start), ("end", &end)]);
        let found: BTreeSet<String> =
            rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
        assert!(found.is_subset(&expected), "half applied: {found:?}");
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let known: BTreeSet<String> = tidewatch
        .rows("/api/v1/catalog", &[])
        .iter()
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .filter(|name| name != "bad_metric")
        .collect();
    assert_eq!(known, expected, "a series was registered");
    assert!(!tidewatch.process().log().contains("panicked"), "{}", tidewatch.process().log_tail());
}

/// A path, a parameter, the status, the problem, and what its detail says.
type Question = (&'static str, &'static str, &'static str, u16, &'static str, &'static str);

const QUESTIONS: [Question; 71] = [
    ("/api/v1/nothing", "a", "b", 404, "no-such-path", "there is nothing at \"/api/v1/nothing\""),
    ("/nothing", "a", "b", 404, "no-such-path", "there is nothing at \"/nothing\""),
    ("/page", "a", "b", 404, "no-such-path", "there is nothing at \"/page\""),
    ("/api/v1/windows/", "limit", "1", 404, "no-such-path", "there is nothing at \"/api/v1/windows/\""),
    ("/api/v1/windows", "match[]", "{", 400, "bad-parameter", "match[]: \"{\" is not a selector: "),
    ("/api/v1/windows", "match[]", "{a=~\"(\"}", 400, "bad-parameter", "is not a selector: "),
    ("/api/v1/windows", "match[]", "{}", 400, "bad-parameter", "match[]: \"{}\" is not a selector: "),
    ("/api/v1/windows", "match[]", "", 400, "bad-parameter", "match[]: \"\" is not a selector: "),
    ("/api/v1/windows", "match[]", "rate(up[5m])", 400, "bad-parameter", "is not a selector: "),
    ("/api/v1/windows", "match[]", "up offset 1h", 400, "bad-parameter", "is not a selector: "),
    ("/api/v1/windows", "match[]", "up + 1", 400, "bad-parameter", "is not a selector: "),
    (
        "/api/v1/windows",
        "match",
        "up",
        400,
        "bad-parameter",
        "/api/v1/windows takes match[], search, sort, window, start, end, at, limit, cursor, format, min_<statistic>, max_<statistic>; got \"match\"",
    ),
    ("/api/v1/windows", "limit", "0", 400, "bad-parameter", "limit must be 1 to 10000; got \"0\""),
    ("/api/v1/windows", "limit", "10001", 400, "bad-parameter", "limit must be 1 to 10000; got \"10001\""),
    ("/api/v1/windows", "limit", "-1", 400, "bad-parameter", "limit must be 1 to 10000; got \"-1\""),
    ("/api/v1/windows", "limit", "many", 400, "bad-parameter", "limit must be 1 to 10000; got \"many\""),
    ("/api/v1/windows", "limit", "", 400, "bad-parameter", "limit must be 1 to 10000; got \"\""),
    (
        "/api/v1/windows",
        "start",
        "yesterday",
        400,
        "bad-parameter",
        "start must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"yesterday\"",
    ),
    (
        "/api/v1/windows",
        "start",
        "NaN",
        400,
        "bad-parameter",
        "start must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"NaN\"",
    ),
    (
        "/api/v1/windows",
        "end",
        "1767225600000",
        400,
        "bad-parameter",
        "end must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"1767225600000\"",
    ),
    (
        "/api/v1/windows",
        "end",
        "2026-01-01T00:00:00",
        400,
        "bad-parameter",
        "end must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"2026-01-01T00:00:00\"",
    ),
    (
        "/api/v1/windows",
        "end",
        "2026-01-01T00:00:00 01:00",
        400,
        "bad-parameter",
        "(a plus sign is written %2B); got \"2026-01-01T00:00:00 01:00\"",
    ),
    (
        "/api/v1/windows",
        "end",
        "2026-02-30T00:00:00Z",
        400,
        "bad-parameter",
        "end must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"2026-02-30T00:00:00Z\"",
    ),
    ("/api/v1/windows", "sort", "up", 400, "bad-parameter", "sort must be name, at, count, min, "),
    (
        "/api/v1/windows",
        "sort",
        "-avg",
        400,
        "bad-parameter",
        "any sort but name takes the latest rows of one window",
    ),
    (
        "/api/v1/windows?start=2",
        "end",
        "1",
        400,
        "bad-parameter",
        "start must be at most end (\"1\"); got \"2\"",
    ),
    (
        "/api/v1/windows",
        "window",
        "fortnight",
        400,
        "bad-parameter",
        "window must be a duration from 1s to 30d, such as 1h30m; got \"fortnight\"",
    ),
    (
        "/api/v1/windows",
        "window",
        "3600",
        400,
        "bad-parameter",
        "window must be a duration from 1s to 30d, such as 1h30m; got \"3600\"",
    ),
    (
        "/api/v1/windows",
        "window",
        "31d",
        400,
        "bad-parameter",
        "window must be a duration from 1s to 30d, such as 1h30m; got \"31d\"",
    ),
    (
        "/api/v1/windows",
        "window",
        "-1h",
        400,
        "bad-parameter",
        "window must be a duration from 1s to 30d, such as 1h30m; got \"-1h\"",
    ),
    (
        "/api/v1/windows",
        "min_avg",
        "low",
        400,
        "bad-parameter",
        "min_avg must be a finite number; got \"low\"",
    ),
    (
        "/api/v1/windows",
        "max_rate",
        "NaN",
        400,
        "bad-parameter",
        "max_rate must be a finite number; got \"NaN\"",
    ),
    ("/api/v1/windows", "min_colour", "1", 400, "bad-parameter", "got \"min_colour\""),
    (
        "/api/v1/windows",
        "cursor",
        "nonsense",
        400,
        "bad-parameter",
        "cursor must be the next of an answer to the same question; got \"nonsense\"",
    ),
    (
        "/api/v1/windows",
        "cursor",
        "",
        400,
        "bad-parameter",
        "cursor must be the next of an answer to the same question; got \"\"",
    ),
    ("/api/v1/windows", "format", "xml", 400, "bad-parameter", "format must be json or csv; got \"xml\""),
    ("/api/v1/windows?limit=1", "limit", "1", 400, "bad-parameter", "limit must be given once; got it twice"),
    ("/api/v1/windows/up", "limit", "1", 404, "unknown-series", "there is no series \"up\""),
    (
        "/api/v1/windows/up",
        "match[]",
        "up",
        400,
        "bad-parameter",
        "/api/v1/windows/up takes window, start, end, at, limit, cursor, format, min_<statistic>, max_<statistic>; got \"match[]\"",
    ),
    ("/api/v1/windows/up", "at", "noon", 404, "unknown-series", "there is no series \"up\""),
    (
        "/api/v1/openapi.json",
        "format",
        "yaml",
        400,
        "bad-parameter",
        "/api/v1/openapi.json takes no parameters",
    ),
    ("/api/v1/backfill/1", "wait", "1", 400, "bad-parameter", "/api/v1/backfill/1 takes no parameters"),
    ("/docs/", "a", "b", 404, "no-such-path", "there is nothing at \"/docs/\""),
    ("/page/docs.html", "a", "b", 404, "no-such-path", "there is nothing at \"/page/docs.html\""),
    ("/api/v1/windows/up/corrections", "limit", "1", 404, "unknown-series", "there is no series \"up\""),
    ("/api/v1/windows/up/corrections", "window", "1", 400, "bad-parameter", "window must be a duration"),
    ("/api/v1/windows/up/corrections", "cursor", "ff", 400, "bad-parameter", "cursor must be"),
    ("/api/v1/windows/up/other", "limit", "1", 404, "no-such-path", "there is nothing at"),
    ("/api/v1/samples/up", "resample", "1h", 404, "unknown-series", "there is no series \"up\""),
    (
        "/api/v1/samples/up",
        "aggregate",
        "mean",
        400,
        "bad-parameter",
        "aggregate has no place without resample",
    ),
    ("/api/v1/problems/none", "", "", 400, "bad-parameter", "takes no parameters"),
    (
        "/api/v1/problems",
        "limit",
        "1",
        400,
        "bad-parameter",
        "/api/v1/problems takes no parameters; got \"limit\"",
    ),
    ("/api/v1/catalog", "match[]", "a b", 400, "bad-parameter", "match[]: \"a b\" is not a selector: "),
    (
        "/api/v1/catalog",
        "window",
        "1h",
        400,
        "bad-parameter",
        "/api/v1/catalog takes match[], limit, cursor, format; got \"window\"",
    ),
    ("/api/v1/catalog", "format", "CSV", 400, "bad-parameter", "format must be json or csv; got \"CSV\""),
    (
        "/api/v1/names",
        "start",
        "1",
        400,
        "bad-parameter",
        "/api/v1/names takes match[], limit, cursor, format; got \"start\"",
    ),
    ("/api/v1/names", "limit", "1e3", 400, "bad-parameter", "limit must be 1 to 10000; got \"1e3\""),
    (
        "/api/v1/rejects",
        "by",
        "colour",
        400,
        "bad-parameter",
        "by must be a list of series, name and reason; got \"colour\"",
    ),
    (
        "/api/v1/rejects",
        "start",
        "soon",
        400,
        "bad-parameter",
        "start must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"soon\"",
    ),
    (
        "/api/v1/status",
        "verbose",
        "1",
        400,
        "bad-parameter",
        "/api/v1/status takes no parameters; got \"verbose\"",
    ),
    (
        "/api/v1/windows/up/explain",
        "at",
        "0",
        400,
        "bad-parameter",
        "window must be given: one of 1h, 3h, 12h",
    ),
    (
        "/api/v1/windows/up/explain?at=0",
        "window",
        "2h",
        400,
        "bad-parameter",
        "window must be one of 1h, 3h, 12h; got \"2h\"",
    ),
    (
        "/api/v1/windows/up/explain?at=0&window=1h",
        "window",
        "3h",
        400,
        "bad-parameter",
        "window must be given once; got it twice",
    ),
    (
        "/api/v1/windows/up/explain",
        "window",
        "1h",
        400,
        "bad-parameter",
        "at must be given: the end of the window",
    ),
    (
        "/api/v1/windows/up/explain?window=3h",
        "at",
        "2026-01-01T00:01:00Z",
        400,
        "bad-parameter",
        "at must be a multiple of the hop 3m since 1970, such as 2026-01-01T00:00:00Z or 2026-01-01T00:03:00Z; got \"2026-01-01T00:01:00Z\"",
    ),
    (
        "/api/v1/windows/up/explain?window=1h",
        "at",
        "60.5",
        400,
        "bad-parameter",
        "such as 1970-01-01T00:01:00Z or 1970-01-01T00:02:00Z",
    ),
    (
        "/api/v1/windows/up/explain?window=1h",
        "at",
        "now",
        400,
        "bad-parameter",
        "at must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"now\"",
    ),
    (
        "/api/v1/windows/up/explain?window=1h&at=0",
        "start",
        "0",
        400,
        "bad-parameter",
        "/api/v1/windows/up/explain takes window, at; got \"start\"",
    ),
    ("/api/v1/windows/up/explain?window=1h", "at", "0", 404, "unknown-series", "there is no series \"up\""),
    (
        "/api/v1/windows/0123456789abcdef/explain?window=1h",
        "at",
        "0",
        404,
        "unknown-series",
        "there is no series \"0123456789abcdef\"",
    ),
    ("/api/v1/windows/%ff/explain?window=1h", "at", "0", 400, "bad-parameter", "UTF-8"),
];

#[test]
fn each_wrong_question_is_a_problem_that_says_what_is_wrong() {
    let tidewatch = Tidewatch::start("");
    let judge = |asked: &str, answer: http::Answer, status: u16, problem: &str, says: &str| {
        let asked = format!("{asked}: {answer:?}");
        assert_eq!((answer.status, answer.problem().as_str()), (status, problem), "{asked}");
        assert!(answer.says().contains(says), "{asked}");
        // What the type says can be read where it points.
        let meaning = tidewatch.get(&format!("/api/v1/problems/{problem}"), &[]).json();
        assert_eq!(
            (&meaning["type"], &meaning["status"]),
            (&answer.json()["type"], &status.into()),
            "{asked}"
        );
    };
    for (path, name, value, status, problem, says) in QUESTIONS {
        let answer = http::get(&tidewatch.url(path), &[(name, value)]).unwrap();
        judge(&format!("{path} {name}={value}"), answer, status, problem, says);
    }
    for (path, problem, says) in [
        ("/api/v1/backfill/1", "unknown-backfill", "there is no backfill \"1\""),
        ("/api/v1/problems/none", "unknown-problem", "there is no problem \"none\""),
    ] {
        judge(path, http::get(&tidewatch.url(path), &[]).unwrap(), 404, problem, says);
    }
    // What a browser sends for a page of another site.
    for (path, site) in
        [("/api/v1/write", "cross-site"), ("/api/v1/backfill", "same-site"), ("/api/v1/nothing", "x")]
    {
        let answer = http::post(&tidewatch.url(path), &[("sec-fetch-site", site)], b"{}").unwrap();
        judge(
            &format!("POST {path}, {site}"),
            answer,
            403,
            "cross-site",
            "Sec-Fetch-Site must be this server's own",
        );
        let own = http::post(&tidewatch.url(path), &[("sec-fetch-site", "same-origin")], b"{}").unwrap();
        assert_ne!(own.status, 403, "{own:?}");
    }
    for path in [
        "/api/v1/windows",
        "/api/v1/windows/up",
        "/api/v1/windows/up/corrections",
        "/api/v1/windows/up/explain",
        "/api/v1/samples/up",
        "/api/v1/problems",
        "/api/v1/names",
        "/api/v1/catalog",
        "/api/v1/rejects",
        "/api/v1/status",
        "/metrics",
        "/-/ready",
    ] {
        let answer = http::post(&tidewatch.url(path), &[], b"{}").unwrap();
        judge(
            &format!("POST {path}"),
            answer,
            405,
            "method-not-allowed",
            &format!("{path:?} does not take \"POST\""),
        );
    }
    assert_eq!(tidewatch.get("/-/healthy", &[]).status, 200);
    assert_eq!(tidewatch.rows("/api/v1/windows", &[]).len(), 0);
}

#[test]
fn what_is_accepted_is_counted_once() {
    let tidewatch = Tidewatch::start("");
    let samples = [(AT_MS, 1.0), (AT_MS + 1, f64::NAN), (AT_MS + 2, 2.0)];
    let request = WriteRequest::default().series(&[("__name__", "up")], &samples);
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    let text = tidewatch.get("/metrics", &[]).text;
    for line in [
        "tidewatch_samples_received_total{source=\"remote_write\"} 3",
        "tidewatch_samples_accepted_total{source=\"remote_write\"} 3",
    ] {
        assert!(text.lines().any(|held| held == line), "{line} is not in {text}");
    }
}

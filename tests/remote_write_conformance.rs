//! What a receiver of remote write has to answer, row by row: the specifications of 1.0 and 2.0, what the reference
//! receiver does, and what the public compliance suite checks, its traps included; sent to a running server, and what it
//! says it stored is read back.
//!
//! Where we differ from the reference on purpose, the row says why: what is malformed is refused by the first gate with a
//! status; what only the computation can judge (duplicates, age, NaN) is written, answered 2xx, and listed in `/rejects`.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use crate::support::process::Tidewatch;
use crate::support::remote_write::{
    HEADERS, HEADERS_2, Histogram, Series2, WriteRequest, WriteRequest2, snappy,
};
use crate::support::{eventually, http, protobuf};

const PATIENCE: Duration = Duration::from_secs(60);
/// Windows close soon, so that samples of now can be read back; a sample of an hour ago is within `allowed_lateness`.
const CONFIG: &str = "windows: [{length: 10s, hop: 1s}]\nidle_timeout: 1s\ncatch_up: 1s\nallowed_lateness: 65m\n\
                      limits: {body_bytes: 64KiB}\n";
const BODY_MAX: usize = 64 << 10;
const STALE: u64 = 0x7ff0_0000_0000_0002;
const HOUR_MS: i64 = 3_600_000;

/// A series, the time of a sample of it, and the value that the window ending right after it shows as its last.
type Stored = (Vec<(String, String)>, i64, f64);

/// What is sent and what has to come of it.
struct Case {
    what: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    status: u16,
    written: [Option<u64>; 3],
    /// What the answer's text has to contain; an answer 204 has none.
    says: &'static str,
    stored: Vec<Stored>,
    /// How often it is sent, each time with the same answer.
    times: usize,
}

impl Case {
    fn new(what: &'static str, headers: &[(&'static str, &'static str)], message: &[u8]) -> Case {
        let (headers, body) = (headers.to_vec(), snappy(message));
        let (status, written, says, stored, times) = (204, [None; 3], "", Vec::new(), 1);
        Case { what, headers, body, status, written, says, stored, times }
    }

    /// A request of 1.0 as Prometheus sends it.
    fn one(what: &'static str, request: &WriteRequest) -> Case {
        Case::new(what, &HEADERS, request.message())
    }

    /// A request of 2.0, and how many samples, histograms and exemplars its answer has to count.
    fn two(what: &'static str, request: &WriteRequest2, written: [u64; 3]) -> Case {
        Case { written: written.map(Some), ..Case::new(what, &HEADERS_2, &request.message()) }
    }

    fn with(mut self, headers: &[(&'static str, &'static str)]) -> Case {
        self.headers = headers.to_vec();
        self
    }

    fn raw(mut self, body: &[u8]) -> Case {
        self.body = body.to_vec();
        self
    }

    fn refused(mut self, status: u16, says: &'static str) -> Case {
        (self.status, self.says) = (status, says);
        self
    }

    fn keeps(mut self, written: [u64; 3]) -> Case {
        self.written = written.map(Some);
        self
    }

    fn unread(mut self, status: u16, says: &'static str) -> Case {
        self.written = [None; 3];
        self.refused(status, says)
    }

    fn stores(mut self, labels: &[(&str, &str)], at_ms: i64, value: f64) -> Case {
        let mut labels: Vec<(String, String)> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        labels.sort();
        self.stored.push((labels, at_ms, value));
        self
    }

    fn times(mut self, times: usize) -> Case {
        self.times = times;
        self
    }
}

fn check(tidewatch: &Tidewatch, case: &Case) {
    let what = case.what;
    for _ in 0..case.times {
        let answer = http::post(&tidewatch.url("/api/v1/write"), &case.headers, &case.body).unwrap();
        assert_eq!((answer.status, answer.written), (case.status, case.written), "{what}: {answer:?}");
        assert!(answer.says().contains(case.says), "{what}: {answer:?}");
        assert_eq!(answer.status == 204, answer.text.is_empty(), "{what}: {answer:?}");
    }
}

/// Waits until the window that ends right after a sample shows it.
fn check_stored(tidewatch: &Tidewatch, what: &str, (labels, at_ms, value): &Stored) {
    let end_ms = (at_ms + 999).div_euclid(1_000) * 1_000;
    let end = (end_ms / 1_000).to_string();
    let name = &labels.iter().find(|(name, _)| name == "__name__").unwrap().1;
    eventually(&format!("{what}: {labels:?} is stored"), PATIENCE, || {
        let rows = tidewatch.rows("/api/v1/windows", &[("start", &end), ("end", &end)]);
        let row = rows.iter().find(|row| {
            let held = row["labels"].as_object().unwrap();
            let same = |(name, value): &(String, String)| {
                name == "__name__" || held.get(name).is_some_and(|held| held == value)
            };
            row["name"] == **name && held.len() + 1 == labels.len() && labels.iter().all(same)
        });
        match row {
            Some(row) if row["last"].as_f64() == Some(*value) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Fifteen seconds ago, at a full second.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap() * 1_000 - 15_000
}

/// A series of 2.0 with these labels and samples.
fn series<'a>(labels: &'a [(&'a str, &'a str)], samples: &'a [(i64, f64)]) -> Series2<'a> {
    Series2 { labels, samples, ..Series2::default() }
}

fn request(all: &[Series2]) -> WriteRequest2 {
    all.iter().fold(WriteRequest2::default(), |request, one| request.series(one))
}

/// The message with one text as an exporter has it that does not know UTF-8.
fn latin_1(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let at = message.windows(4).position(|bytes| bytes == b"B?ro").unwrap();
    message[at + 1] = 0xfc;
    message
}

/// An exemplar without labels.
fn exemplar(value: f64) -> Vec<u8> {
    let (mut exemplar, mut field) = (vec![2 << 3 | 1], Vec::new());
    exemplar.extend_from_slice(&value.to_bits().to_le_bytes());
    protobuf::bytes_into(4, &exemplar, &mut field);
    field
}

/// How a request is wrapped: Content-Type, Content-Encoding, the version header, and bodies that are none.
fn transport(now: i64) -> Vec<Case> {
    let (snappy_coded, version) =
        (("Content-Encoding", "snappy"), ("X-Prometheus-Remote-Write-Version", "2.0.0"));
    let media = |value| ("Content-Type", value);
    let coded = |value| ("Content-Encoding", value);
    let (type_1, type_2) = (HEADERS[1], HEADERS_2[1]);
    let corrupt = b"\xff\xff\xff\xff\xff";
    let sample = [(now, 1.0)];
    let one = |name: &'static str| WriteRequest::default().series(&[("__name__", name)], &sample);
    let two = |name: &'static str| request(&[series(&[("__name__", name)], &sample)]);
    let wrong =
        |what, headers: &[(&'static str, &'static str)]| Case::two(what, &two("never"), [0; 3]).with(headers);
    let unread = |what, headers: &[(&'static str, &'static str)]| Case::new(what, headers, b"").raw(corrupt);
    let mut large = Vec::new();
    let noise = fastrand::Rng::with_seed(1).choose_multiple(0..=u8::MAX, 256);
    (0..BODY_MAX / noise.len() + 1).for_each(|_| large.extend_from_slice(&noise));
    vec![
        wrong("another type", &[snappy_coded, media("application/json"), version])
            .unread(415, "Content-Type must be"),
        wrong("a picture", &[snappy_coded, media("image/png"), version]).unread(415, "got \"image/png\""),
        wrong("another message", &[media("application/x-protobuf;proto=io.prometheus.write.v3.Request")])
            .unread(415, "proto=io.prometheus.write.v2.Request"),
        unread("the type is judged before the body", &[snappy_coded, media("application/json")])
            .unread(415, "Content-Type"),
        unread("the encoding is judged before the body", &[coded("gzip"), type_2])
            .unread(415, "Content-Encoding must be snappy; got \"gzip\""),
        wrong("gzip", &[coded("gzip"), type_2, version]).unread(415, "gzip"),
        wrong("deflate", &[coded("deflate"), type_2, version]).unread(415, "deflate"),
        // vmagent begins with zstd and falls back on 415.
        wrong("zstd", &[coded("zstd"), type_1]).unread(415, "zstd"),
        unread("corrupt snappy of 1.0", &[snappy_coded, type_1])
            .unread(400, "the body is not a snappy block"),
        unread("corrupt snappy of 2.0", &[snappy_coded, type_2, version])
            .unread(400, "the body is not a snappy block"),
        Case::new("corrupt protobuf of 1.0", &HEADERS, b"\x0a\x05x")
            .unread(400, "byte 0 of the decompressed body"),
        Case::new("corrupt protobuf of 2.0", &HEADERS_2, b"\x2a\x05x")
            .unread(400, "byte 0 of the decompressed body"),
        Case::new("2.0 declared as 1.0", &HEADERS, &two("never").message()).unread(400, "declared as 1.0"),
        Case::new("1.0 declared as 2.0", &HEADERS_2, one("never").message()).unread(400, "declared as 2.0"),
        Case::new("framed snappy", &HEADERS, b"").raw(b"\xff\x06\x00\x00sNaPpY").unread(400, ""),
        Case::new("too large", &HEADERS, b"").raw(&large).unread(413, "limits.body_bytes (65536)"),
        Case::new("too large only when decompressed", &HEADERS, &vec![0; BODY_MAX + 1])
            .unread(400, "it claims 65537"),
        Case::one("no encoding is snappy", &one("c_no_encoding")).with(&[type_1]).stores(
            &[("__name__", "c_no_encoding")],
            now,
            1.0,
        ),
        Case::one("no type is 1.0", &one("c_no_type")).with(&[snappy_coded]).stores(
            &[("__name__", "c_no_type")],
            now,
            1.0,
        ),
        Case::one("an empty type is 1.0", &one("c_empty_type")).with(&[media(""), coded("")]),
        Case::one("1.0 without a version", &one("c_no_version")).with(&[snappy_coded, type_1]),
        Case::one("the message by name", &one("c_named"))
            .with(&[media("application/x-protobuf;proto=prometheus.WriteRequest")]),
        Case::one("the version decides nothing", &one("c_version")).with(&[snappy_coded, type_1, version]),
        Case::two("2.0 without a version", &two("c_two"), [1, 0, 0]).with(&[type_2]).stores(
            &[("__name__", "c_two")],
            now,
            1.0,
        ),
    ]
}

/// Labels: what names a series, and what does not.
fn labels(now: i64) -> Vec<Case> {
    let sample = [(now, 2.5)];
    let good = || series(&[("__name__", "l_good")], &sample);
    let bad = |what, labels: &'static [(&'static str, &'static str)], says| {
        Case::two(what, &request(&[series(labels, &sample), good()]), [1, 0, 0]).refused(400, says)
    };
    let utf8 = [("emoji 🦀", "new\nline"), ("__name__", "l_http.server duration"), ("a.b", "ü 🦀\n\t\"")];
    let shuffled = [("job", "x"), ("z", "1"), ("__name__", "l_shuffled"), ("instance", "a:1"), ("b", "2")];
    let sorted = {
        let mut labels = shuffled;
        labels.sort_unstable();
        labels
    };
    let one = |labels: &[(&str, &str)]| WriteRequest::default().series(labels, &sample);
    let latin = || series(&[("__name__", "l_latin"), ("display", "B?ro")], &sample);
    let beside_latin = one(latin().labels).series(&[("__name__", "l_beside_latin")], &sample);
    vec![
        bad("no name", &[("job", "x")], "1 of 2 samples are written, 1 refused for good: 1 missing_name"),
        bad("an empty name", &[("__name__", ""), ("job", "x")], "missing_name"),
        bad("no labels", &[], "missing_name"),
        bad("a label without a name", &[("__name__", "x"), ("", "x")], "empty_label_name"),
        bad("a label twice", &[("__name__", "x"), ("a", "1"), ("a", "2")], "duplicate_label"),
        bad("a result of ours", &[("__name__", "tidewatch_window_avg")], "own_result"),
        Case::new("a label that is not UTF-8", &HEADERS_2, &latin_1(&request(&[latin(), good()]).message()))
            .keeps([1, 0, 0])
            .refused(400, "1 of 2 samples are written, 1 refused for good: 1 not_utf8 (first: label names")
            .stores(&[("__name__", "l_good")], now, 2.5),
        // The reference receiver keeps the others as well, and answers 2xx.
        Case::new("a label that is not UTF-8 in 1.0", &HEADERS, &latin_1(beside_latin.message()))
            .refused(400, "must be UTF-8; got display=\"B\\xfcro\" for \"l_latin\"")
            .stores(&[("__name__", "l_beside_latin")], now, 2.5),
        Case::new(
            "a symbol that is not UTF-8 and labels nothing",
            &HEADERS_2,
            b"\x22\x00\x22\x01\xff\x2a\x00",
        )
        .keeps([0; 3]),
        // The reference receiver skips bad series of 1.0 with 2xx; the sender's log should tell.
        Case::one("1.0 without a name", &one(&[("job", "x")])).refused(400, "1 missing_name"),
        Case::two("any text is a label", &request(&[series(&utf8, &sample)]), [1, 0, 0])
            .stores(&utf8, now, 2.5),
        Case::one("any text is a label in 1.0", &one(&[("__name__", "l_1.0 ü"), ("a b", "🦀\n")])).stores(
            &[("__name__", "l_1.0 ü"), ("a b", "🦀\n")],
            now,
            2.5,
        ),
        // The suite sends labels in the random order of a map.
        Case::two("labels in any order", &request(&[series(&shuffled, &sample)]), [1, 0, 0])
            .stores(&sorted, now, 2.5),
        Case::one("labels in any order in 1.0", &one(&shuffled)).stores(&sorted, now, 2.5),
        Case::two(
            "a label without a value is none",
            &request(&[series(&[("__name__", "l_empty"), ("a", "")], &sample)]),
            [1, 0, 0],
        )
        .stores(&[("__name__", "l_empty")], now, 2.5),
        Case::new("a reference to no symbol", &HEADERS_2, b"\x22\x00\x2a\x04\x0a\x02\x01\x02")
            .unread(400, "a reference to a symbol that is not in the request"),
        Case::new("half a pair of references", &HEADERS_2, b"\x22\x00\x2a\x03\x0a\x01\x00")
            .unread(400, "odd number"),
        Case::new("a first symbol that is not empty", &HEADERS_2, b"\x22\x01x")
            .unread(400, "symbols[0] must be the empty text"),
    ]
}

/// Samples: times, values, repetitions.
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn samples(now: i64) -> Vec<Case> {
    let one = |name: &'static str, samples: &[(i64, f64)]| request(&[series(&[("__name__", name)], samples)]);
    let named = |name: &'static str| [("__name__", name)];
    let (stale, old_stale) = (f64::from_bits(STALE), STALE as f64);
    let values = [
        (now, f64::NAN),
        (now + 1, f64::INFINITY),
        (now + 2, f64::NEG_INFINITY),
        (now + 3, -0.5),
        (now + 4, stale),
    ];
    let ahead = [(now + 15 * 60_000, 1.0)];
    let retried = one("s_retried", &[(now, 1.0), (now + 10, 2.0)]);
    let old = WriteRequest::default().series(&named("s_old"), &[(now - HOUR_MS, 4.0)]);
    let mut cases = vec![
        Case::two("a sample", &one("s_one", &[(now, 1.5)]), [1, 0, 0]).stores(&named("s_one"), now, 1.5),
        // The reference refuses NaN nowhere, nor do we; `/rejects` lists what windows cannot hold.
        Case::two("any value counts as written", &one("s_values", &values), [5, 0, 0]).stores(
            &named("s_values"),
            now + 3,
            -0.5,
        ),
        Case::two(
            "what the suite takes for a staleness marker",
            &one("s_marker", &[(now, old_stale)]),
            [1, 0, 0],
        )
        .stores(&named("s_marker"), now, old_stale),
        Case::two("a staleness marker alone", &one("s_stale", &[(now, stale)]), [1, 0, 0]),
        Case::two("an hour ago", &one("s_hour", &[(now - HOUR_MS, 3.0)]), [1, 0, 0]).stores(
            &named("s_hour"),
            now - HOUR_MS,
            3.0,
        ),
        Case::two("an hour ago and now", &one("s_mixed", &[(now - HOUR_MS, 3.0), (now, 4.0)]), [2, 0, 0])
            .stores(&named("s_mixed"), now - HOUR_MS, 3.0)
            .stores(&named("s_mixed"), now, 4.0),
        Case::one("an hour ago by 1.0", &old).stores(&named("s_old"), now - HOUR_MS, 4.0),
        // Prometheus refuses what is not in order; here a late sample corrects.
        Case::two("not in order", &one("s_order", &[(now + 10, 2.0), (now, 1.0)]), [2, 0, 0]).stores(
            &named("s_order"),
            now + 10,
            2.0,
        ),
        Case::two("the identical request again", &retried, [2, 0, 0]).times(4).stores(
            &named("s_retried"),
            now + 10,
            2.0,
        ),
        // The reference refuses another value for a known time; here the first wins and `/rejects` counts the other.
        Case::two("another value for a time", &one("s_retried", &[(now + 10, 9.0)]), [1, 0, 0]).stores(
            &named("s_retried"),
            now + 10,
            2.0,
        ),
        Case::two("a time far ahead", &one("s_ahead", &ahead), [0; 3]).refused(400, "too_far_ahead"),
        Case::two("a time in seconds", &one("s_seconds", &[(now / 1_000, 1.0)]), [0; 3])
            .refused(400, "which looks like seconds"),
        Case::two(
            "some of many",
            &request(&[series(&named("s_some"), &[(now, 1.0), (0, 1.0)]), series(&[], &[(now, 1.0)])]),
            [1, 0, 0],
        )
        .refused(400, "1 of 3 samples are written, 2 refused for good: 1 before_2000")
        .stores(&named("s_some"), now, 1.0),
        Case::two("nothing at all", &WriteRequest2::default(), [0; 3]),
        // The reference refuses a series with neither samples nor histograms; there is nothing in it to lose.
        Case::two("a series of nothing", &one("s_nothing", &[]), [0; 3]),
        Case::one("nothing at all by 1.0", &WriteRequest::default()),
    ];
    // The suite repeats a series every ten milliseconds.
    cases.extend((0..10).map(|n| {
        let at = now + n * 10;
        Case::two("every 10 ms", &one("s_10ms", &[(at, n as f64)]), [1, 0, 0])
    }));
    cases.push(Case::two("and what is left of it", &WriteRequest2::default(), [0; 3]).stores(
        &named("s_10ms"),
        now + 90,
        9.0,
    ));
    cases
}

/// Exemplars and metadata.
fn beside(now: i64) -> Vec<Case> {
    let (sample, name) = ([(now, 1.0)], [("__name__", "b_exemplars")]);
    let plain = || series(&name, &sample);
    let bare =
        [exemplar(1.0), exemplar(f64::NAN), exemplar(f64::INFINITY), exemplar(f64::NEG_INFINITY)].concat();
    let two = |what, series: Series2, written| Case::two(what, &request(&[series]), written);
    let kinds = || {
        (0..=9).map(|kind| Series2 {
            metadata: Some((kind, "help 🦀\n")),
            ..series(&[("__name__", "b_types")], &sample)
        })
    };
    let many =
        (0..150_u8).fold(WriteRequest::default(), |request, n| request.metadata(n % 8, &format!("m{n}")));
    vec![
        two("exemplars", Series2 { exemplars: 3, ..plain() }, [1, 0, 3]).stores(&name, now, 1.0),
        two("exemplars without labels, with any value", Series2 { fields: &bare, ..plain() }, [1, 0, 4]),
        two("exemplars alone", Series2 { exemplars: 2, samples: &[], ..plain() }, [0, 0, 2]),
        two(
            "exemplars of a series without a name",
            Series2 { labels: &[("job", "x")], exemplars: 2, ..plain() },
            [0; 3],
        )
        .refused(400, "missing_name"),
        two(
            "exemplars alone without a name",
            Series2 { labels: &[], exemplars: 1, samples: &[], ..plain() },
            [0; 3],
        )
        .refused(400, "missing_name"),
        two(
            "orphan metadata",
            Series2 { metadata: Some((1, "help")), ..series(&[("__name__", "b_orphan")], &[]) },
            [0; 3],
        ),
        two("metadata of nothing", Series2 { metadata: Some((2, "help")), ..Series2::default() }, [0; 3]),
        two("a created timestamp", Series2 { created_ms: Some(now - 5), ..plain() }, [1, 0, 0]).times(2),
        Case::two("every type, and some that are none", &request(&kinds().collect::<Vec<_>>()), [10, 0, 0]),
        // Prometheus sends metadata by 1.0 in requests of their own, which are no mistake.
        Case::one("metadata alone by 1.0", &many),
    ]
}

/// Native histograms.
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn histograms(now: i64) -> Vec<Case> {
    let ten = Histogram {
        at_ms: now,
        sum: 12.5,
        count: 10,
        zero: 1,
        positive: &[3, 4],
        negative: &[2],
        ..Histogram::default()
    };
    let custom = Histogram {
        schema: -53,
        count: 6,
        zero: 0,
        positive: &[1, 2, 3],
        negative: &[],
        bounds: &[0.5, 2.0],
        ..ten.clone()
    };
    let empty = Histogram { at_ms: now, ..Histogram::default() };
    let miscounted = Histogram { count: 11, ..ten.clone() };
    let two = |what, name: &'static str, histograms: &[Histogram], written| {
        let labels = [("__name__", name), ("job", "x")];
        Case::two(
            what,
            &request(&[Series2 { labels: &labels, histograms, exemplars: 1, ..Series2::default() }]),
            written,
        )
    };
    let keeps = |case: Case, count: &'static str, sum: &'static str, values: [f64; 2]| {
        let stores = |case: Case, name, value| case.stores(&[("__name__", name), ("job", "x")], now, value);
        stores(stores(case, count, values[0]), sum, values[1])
    };
    let one = |name: &str, histogram: &Histogram| {
        WriteRequest::default().series_with(
            &[("__name__", name), ("job", "x")],
            &[],
            std::slice::from_ref(histogram),
        )
    };
    let floats = Histogram { floats: true, ..ten.clone() };
    let stale = Histogram { sum: f64::from_bits(STALE), ..empty.clone() };
    let bad = |what, change: Histogram, says| {
        let labels = [("__name__", "h_bad")];
        let good = Series2 {
            labels: &[("__name__", "h_ints"), ("job", "x")],
            histograms: std::slice::from_ref(&ten),
            ..Series2::default()
        };
        let bad = Series2 { labels: &labels, histograms: &[change], ..Series2::default() };
        Case::two(what, &request(&[bad, good]), [0, 1, 0]).refused(400, says)
    };
    vec![
        keeps(
            two("integers", "h_ints", std::slice::from_ref(&ten), [0, 1, 1]),
            "h_ints_count",
            "h_ints_sum",
            [10.0, 12.5],
        )
        .times(2),
        keeps(
            two("floats", "h_floats", &[floats], [0, 1, 1]),
            "h_floats_count",
            "h_floats_sum",
            [10.0, 12.5],
        ),
        keeps(
            two("custom buckets", "h_custom", std::slice::from_ref(&custom), [0, 1, 1]),
            "h_custom_count",
            "h_custom_sum",
            [6.0, 12.5],
        ),
        keeps(
            two("no bucket", "h_empty", std::slice::from_ref(&empty), [0, 1, 1]),
            "h_empty_count",
            "h_empty_sum",
            [0.0, 0.0],
        ),
        keeps(Case::one("by 1.0", &one("h_one", &ten)), "h_one_count", "h_one_sum", [10.0, 12.5]),
        two("a stale one", "h_ints", &[Histogram { at_ms: now + 20, ..stale }], [0, 1, 1]),
        bad(
            "a wrong count",
            miscounted.clone(),
            "bad_histogram (first: histogram.count must be equal to the sum of its buckets (10); got 11)",
        ),
        bad("a wrong count of floats", Histogram { floats: true, ..miscounted.clone() }, "bad_histogram"),
        bad(
            "a schema that is none",
            Histogram { schema: 9, ..ten.clone() },
            "histogram.schema must be -4 to 8",
        ),
        bad(
            "bounds that do not rise",
            Histogram { bounds: &[1.0, 1.0], ..custom.clone() },
            "histogram.custom_values must rise",
        ),
        bad(
            "a bucket below zero",
            Histogram { positive: &[8, -1], ..ten.clone() },
            "histogram.positive_deltas",
        ),
        bad("a time in seconds", Histogram { at_ms: now / 1_000, ..ten.clone() }, "before_2000"),
        Case::one("a wrong count by 1.0", &one("h_bad", &miscounted))
            .refused(400, "0 of 1 samples are written, 1 refused for good: 1 bad_histogram"),
    ]
}

#[test]
fn every_row_of_the_contract_is_answered_and_stored_as_it_says() {
    let tidewatch = Tidewatch::start(CONFIG);
    let now = now_ms();
    let all: Vec<Case> = [transport(now), labels(now), samples(now), beside(now), histograms(now)]
        .into_iter()
        .flatten()
        .collect();
    for case in &all {
        check(&tidewatch, case);
    }
    for case in &all {
        case.stored.iter().for_each(|stored| check_stored(&tidewatch, case.what, stored));
    }
    // What was refused is nowhere.
    for row in tidewatch.rows("/api/v1/catalog", &[]) {
        let name = row["name"].as_str().unwrap();
        assert!(!["never", "x", "b_orphan", "s_nothing", "h_bad_count", "h_ints"].contains(&name), "{row}");
    }
    let reduced = "tidewatch_native_histograms_reduced_total{source=\"remote_write\"}";
    assert_eq!(tidewatch.metric(reduced), 7.0 + 6.0);
    // Too old is judged by the computation, once it has applied what is newer.
    let old = [(now - 72 * HOUR_MS, 2.0)];
    let old = request(&[series(&[("__name__", "s_one")], &old)]);
    check(&tidewatch, &Case::two("days ago", &old, [1, 0, 0]));
    // What the computation did not apply is listed by its reason, though it was answered 2xx.
    eventually("the second gate tells", PATIENCE, || {
        let admitted = |reason: &str| {
            let name = format!(
                "tidewatch_samples_rejected_total{{source=\"journal\",gate=\"admit\",reason=\"{reason}\"}}"
            );
            tidewatch.metric(&name)
        };
        let told = ["not_finite", "duplicate", "duplicate_timestamp", "too_old"].map(admitted);
        // A request sent again, histograms sent again: duplicates.
        if told[0] == 3.0 && told[1] >= 6.0 + 2.0 && told[2..] == [1.0, 1.0] {
            Ok(())
        } else {
            Err(format!("{told:?}"))
        }
    });
}

#[test]
fn only_post_is_taken() {
    let tidewatch = Tidewatch::start(CONFIG);
    for method in ["GET", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"] {
        let mut stream = std::net::TcpStream::connect(tidewatch.address()).unwrap();
        let request =
            format!("{method} /api/v1/write HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let answer = std::io::read_to_string(stream).unwrap().to_ascii_lowercase();
        assert!(
            answer.starts_with("http/1.1 405 ") && answer.contains("\r\nallow: post\r\n"),
            "{method}: {answer}"
        );
    }
}

#[test]
fn what_may_pass_by_itself_is_503_with_retry_after_and_says_nothing_of_written() {
    let tidewatch = Tidewatch::start("journal: {bytes_max: 1MiB}\n");
    let now = now_ms();
    let samples: Vec<(i64, f64)> = (0..2_000).map(|n| (now - n, n as f64)).collect();
    let request = request(&[series(&[("__name__", "up")], &samples)]);
    let answer = (0..100)
        .map(|_| request.send(&tidewatch.url("/api/v1/write")).unwrap())
        .find(|answer| answer.status != 204);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.written), (503, [None; 3]), "{answer:?}");
    assert!(answer.retry_after.as_deref().is_some_and(|after| after.parse::<u64>().is_ok()), "{answer:?}");
    assert!(answer.text.contains("journal.bytes_max"), "{answer:?}");
}

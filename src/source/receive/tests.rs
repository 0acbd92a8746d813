//! The route answered as a sender sees it, over a journal that answers as it is told.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, to_bytes};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::*;
use crate::labels::Limits;
use crate::source::histogram::wire::Histogram;
use crate::source::remote_write::wire;
use crate::source::remote_write2::wire as wire2;
use crate::source::support::Folder;

type Header = [(&'static str, &'static str); 1];

const NOW: i64 = 1_714_521_600_000;
const BODY_MAX: usize = 4_096;

/// A journal that answers as it is told.
#[derive(Default)]
struct Fake {
    taken: Mutex<Vec<Samples>>,
    told: Mutex<Vec<Vec<(u64, MetricType)>>>,
    refuse: Option<IntakeRefusal>,
    fail: Option<String>,
    drop: bool,
    catching_up: bool,
    offered: AtomicU64,
}

impl Intake for Fake {
    fn offer(&self, samples: Samples) -> Result<DurableFuture, IntakeRefusal> {
        self.offered.fetch_add(1, Ordering::Relaxed);
        if let Some(refused) = &self.refuse {
            return Err(refused.clone());
        }
        let (answer, durable) = oneshot::channel();
        if !self.drop {
            let result = self.fail.clone().map_or(Ok(()), Err);
            answer.send(result).expect("the receiving end is held");
        }
        self.taken.lock().push(samples);
        Ok(durable)
    }

    fn record_types(&self, types: Vec<(u64, MetricType)>) -> Result<DurableFuture, IntakeRefusal> {
        self.told.lock().push(types);
        self.offer(Samples::default())
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn catching_up(&self) -> bool {
        self.catching_up
    }
}

struct Rig {
    receiver: Arc<Receiver>,
    fake: Arc<Fake>,
    metrics: Arc<Metrics>,
    _folder: Folder,
}

fn rig(fake: Fake) -> Rig {
    rig_with(fake, Limits::default())
}

fn rig_with(fake: Fake, limits: Limits) -> Rig {
    rig_for(BODY_MAX, fake, limits)
}

fn rig_for(body_bytes_max: usize, fake: Fake, limits: Limits) -> Rig {
    let (folder, fake, metrics) = (Folder::new(), Arc::new(fake), Arc::new(Metrics::new()));
    let labels = Labels::open(&folder.path, limits, metrics.clone()).unwrap();
    let threads = Pool::start("decode", DECODERS_MAX).unwrap();
    let receiver =
        Receiver::new(fake.clone(), Arc::new(labels), metrics.clone(), body_bytes_max, || NOW, threads);
    Rig { receiver: Arc::new(receiver), fake, metrics, _folder: folder }
}

fn snappy(body: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(body).unwrap()
}

fn one_sample() -> Vec<u8> {
    snappy(&wire::series(&[("__name__", "up")], &[(NOW, 1.0)]))
}

impl Rig {
    async fn send(&self, request: Request) -> (u16, HeaderMap, String) {
        let response = handle(State(self.receiver.clone()), request).await;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        if parts.status.is_success() {
            return (parts.status.as_u16(), parts.headers, text);
        }
        // Prometheus logs the first line, and of that the first 1,024 bytes.
        assert!(!text.contains('\n') && text.starts_with("{\"detail\":"), "{text}");
        assert_eq!(parts.headers[CONTENT_TYPE], "application/problem+json");
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["status"], parts.status.as_u16());
        (parts.status.as_u16(), parts.headers, format!("{}\n", problem["detail"].as_str().unwrap()))
    }

    async fn post(&self, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, String) {
        let builder = Request::builder().method("POST").uri(ROUTE);
        let builder = headers.iter().fold(builder, |b, (name, value)| b.header(*name, *value));
        let (status, _, text) = self.send(builder.body(Body::from(body)).unwrap()).await;
        (status, text)
    }
}

#[tokio::test]
async fn a_good_request_is_answered_204_once_durable() {
    let rig = rig(Fake::default());
    let plain = ("Content-Type", "application/x-protobuf");
    let coded = ("Content-Encoding", "snappy");
    let ways: [&[(&str, &str)]; 6] = [
        &[plain, coded],
        &[],
        &[("Content-Type", "application/x-protobuf;proto=prometheus.WriteRequest"), coded],
        &[
            ("Content-Type", "Application/X-Protobuf; proto=\"prometheus.WriteRequest\"; charset=utf-8"),
            coded,
        ],
        &[plain, ("Content-Encoding", "Snappy")],
        &[plain, coded, ("X-Prometheus-Remote-Write-Version", "2.0.0")],
    ];
    for headers in ways {
        assert_eq!(rig.post(headers, one_sample()).await, (204, String::new()), "{headers:?}");
    }
    assert_eq!(rig.fake.taken.lock().iter().map(Samples::len).sum::<usize>(), 6);
    let text = rig.metrics.text();
    for line in [
        "tidewatch_samples_received_total{source=\"remote_write\"} 6",
        "tidewatch_http_responses_total{route=\"/api/v1/write\",code=\"204\"} 6",
        "tidewatch_http_request_duration_seconds_count{route=\"/api/v1/write\"} 6",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn metadata_alone_is_204_and_never_reaches_the_journal() {
    let rig = rig(Fake::default());
    let body = snappy(&wire::bytes(3, &wire::bytes(2, b"up")).repeat(150));
    assert_eq!(rig.post(&[], body).await, (204, String::new()));
    assert_eq!(rig.post(&[], snappy(b"")).await, (204, String::new()));
    assert_eq!(rig.fake.offered.load(Ordering::Relaxed), 0);
    assert!(
        rig.metrics.text().contains("tidewatch_write_entries_ignored_total{source=\"remote_write\"} 150")
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
async fn bad_requests_have_their_status_and_message_and_apply_nothing() {
    let kind = "Content-Type must be application/x-protobuf, with proto=prometheus.WriteRequest, \
                proto=io.prometheus.write.v2.Request or none; got ";
    let media = |value| [("Content-Type", value)];
    let coding = |value| [("Content-Encoding", value)];
    let claim = |n: u64| {
        let mut body = Vec::new();
        wire::varint(n, &mut body);
        body
    };
    let mut corrupted = one_sample();
    let middle = corrupted.len() / 2;
    corrupted.truncate(middle);
    let table: [(Header, Vec<u8>, u16, String); 14] = [
        (media("application/json"), one_sample(), 415, format!("{kind}\"application/json\"\n")),
        (media("image/png"), one_sample(), 415, format!("{kind}\"image/png\"\n")),
        (
            media("application/json;proto=io.prometheus.write.v2.Request"),
            b"\xff".to_vec(),
            415,
            format!("{kind}\"application/json;proto=io.prometheus.write.v2.Request\"\n"),
        ),
        (
            media("application/x-protobuf; proto = x"),
            one_sample(),
            415,
            format!("{kind}\"application/x-protobuf; proto = x\"\n"),
        ),
        (coding("gzip"), one_sample(), 415, "Content-Encoding must be snappy; got \"gzip\"\n".to_owned()),
        (
            coding("deflate"),
            one_sample(),
            415,
            "Content-Encoding must be snappy; got \"deflate\"\n".to_owned(),
        ),
        (coding("zstd"), one_sample(), 415, "Content-Encoding must be snappy; got \"zstd\"\n".to_owned()),
        (
            coding("snappy, gzip"),
            one_sample(),
            415,
            "Content-Encoding must be snappy; got \"snappy, gzip\"\n".to_owned(),
        ),
        (
            coding("snappy"),
            vec![0; BODY_MAX + 1],
            413,
            "a body cannot exceed limits.body_bytes (4096); got more\n".to_owned(),
        ),
        (
            coding("snappy"),
            claim(BODY_MAX as u64 + 1),
            400,
            "a decompressed body cannot exceed limits.body_bytes (4096); it claims 4097\n".to_owned(),
        ),
        (
            coding("snappy"),
            claim(u64::from(u32::MAX)),
            400,
            "a decompressed body cannot exceed limits.body_bytes (4096); it claims 4294967295\n".to_owned(),
        ),
        (coding("snappy"), Vec::new(), 400, String::new()),
        (coding("snappy"), corrupted, 400, String::new()),
        (
            coding("snappy"),
            snappy(b"\x0a\x05x"),
            400,
            "byte 0 of the decompressed body: a field that reaches past the end of its message\n".to_owned(),
        ),
    ];
    let rig = rig(Fake::default());
    for (headers, body, status, message) in table {
        let (got, text) = rig.post(&headers, body).await;
        assert_eq!(got, status, "{headers:?} {text}");
        if message.is_empty() {
            assert!(text.starts_with("the body is not a snappy block: "), "{text}");
        } else {
            assert_eq!(text, message);
        }
    }
    let declared = [("Content-Length", "5000")];
    let (status, text) = rig.post(&declared, one_sample()).await;
    assert_eq!(
        (status, text.as_str()),
        (413, "a body cannot exceed limits.body_bytes (4096); got 5000 bytes\n")
    );
    assert_eq!(rig.fake.offered.load(Ordering::Relaxed), 0);
    assert!(rig.metrics.text().contains("tidewatch_limit_reached_total{limit=\"limits.body_bytes\"} 4"));
}

#[tokio::test]
async fn other_methods_are_405_with_what_is_allowed() {
    let rig = rig(Fake::default());
    for method in ["GET", "PUT", "DELETE", "HEAD"] {
        let request = Request::builder().method(method).uri(ROUTE).body(Body::empty()).unwrap();
        let (status, headers, text) = rig.send(request).await;
        assert_eq!((status, headers[ALLOW].to_str().unwrap()), (405, "POST"));
        assert_eq!(text, format!("/api/v1/write takes POST only; got {method}\n"));
    }
}

#[tokio::test]
async fn a_partly_bad_request_keeps_the_good_and_says_what_was_bad() {
    let rig = rig(Fake::default());
    let body = [
        wire::series(&[("__name__", "up")], &[(NOW, 1.0), (NOW / 1_000, 1.0)]),
        wire::series(&[("job", "x")], &[(NOW, 1.0)]),
    ]
    .concat();
    let (status, text) = rig.post(&[], snappy(&body)).await;
    assert_eq!(status, 400);
    let start = "1 of 3 samples are written, 2 refused for good: 1 before_2000 (first: timestamp_ms cannot be before \
                 the year 2000 (946684800000); got 1714521600, which looks like seconds); 1 missing_name (first: ";
    assert!(text.starts_with(start), "{text}");
    assert_eq!(rig.fake.taken.lock()[0].at_ms, [NOW]);
    let text = rig.metrics.text();
    for line in [
        "tidewatch_samples_received_total{source=\"remote_write\"} 3",
        "tidewatch_samples_rejected_total{source=\"remote_write\",gate=\"validate\",reason=\"missing_name\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

/// The Written headers of an answer: samples, histograms, exemplars.
fn written(headers: &HeaderMap) -> [Option<u64>; 3] {
    [SAMPLES_WRITTEN, HISTOGRAMS_WRITTEN, EXEMPLARS_WRITTEN]
        .map(|name| headers.get(name).map(|value| value.to_str().unwrap().parse().unwrap()))
}

#[tokio::test]
async fn answers_to_2_0_say_what_is_written_and_those_to_1_0_do_not() {
    let post = |content_type: &str, body: Vec<u8>| {
        let request = Request::builder().method("POST").uri(ROUTE).header(CONTENT_TYPE, content_type);
        // The version header decides nothing.
        request.header("X-Prometheus-Remote-Write-Version", "0.1.0").body(Body::from(snappy(&body))).unwrap()
    };
    let two = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    let exemplar = wire::bytes(4, b"");
    let histogram = wire::bytes(3, &Histogram::ten(NOW, 1.0).0);
    let bad = wire::bytes(3, &Histogram::at(NOW, 1.0).number(1, 9).0);
    let good = || {
        let samples = [(NOW, 1.0), (NOW, 1.0), (NOW, f64::NAN)];
        wire2::Request::new().series(&[("__name__", "up")], &samples, &[&exemplar, &exemplar])
    };
    let partial = good().series(&[("job", "x")], &[(NOW, 1.0)], &[&exemplar]).series(
        &[("__name__", "h")],
        &[],
        &[&histogram, &bad],
    );
    let whole = good().series(&[("__name__", "h")], &[], &[&histogram, &histogram]);
    let table = [
        (two, whole.body(), 204, Some([3, 2, 2])),
        (two, good().body(), 204, Some([3, 0, 2])),
        (
            "Application/X-Protobuf; proto=\"io.prometheus.write.v2.Request\"",
            good().body(),
            204,
            Some([3, 0, 2]),
        ),
        (two, partial.body(), 400, Some([3, 1, 2])),
        (two, Vec::new(), 204, Some([0, 0, 0])),
        (two, good().body()[1..].to_vec(), 400, None),
        (two, wire::series(&[("__name__", "up")], &[(NOW, 1.0)]), 400, None),
        ("application/x-protobuf", good().body(), 400, None),
        ("application/x-protobuf", wire::series(&[("__name__", "up")], &[(NOW, 1.0)]), 204, None),
        ("application/x-protobuf", wire::series(&[("job", "up")], &[(NOW, 1.0)]), 400, None),
    ];
    let rig = rig(Fake::default());
    for (content_type, body, status, want) in table {
        let (got, headers, text) = rig.send(post(content_type, body)).await;
        assert_eq!(got, status, "{content_type}: {text}");
        let want = want.map_or([None; 3], |numbers: [u64; 3]| numbers.map(Some));
        assert_eq!(written(&headers), want, "{content_type}: {text}");
    }
    // What is not durable is not written.
    let rig = rig_with(Fake { fail: Some("sync: no space".into()), ..Fake::default() }, Limits::default());
    let (status, headers, _) = rig.send(post(two, good().body())).await;
    assert_eq!((status, written(&headers)), (503, [None; 3]));
}

#[tokio::test]
async fn types_are_told_once_and_again_only_after_a_refusal() {
    let metadata = |kind| snappy(&wire::bytes(3, &[&[0x08, kind][..], &wire::bytes(2, b"up")].concat()));
    let up = crate::labels::series_id(&[("__name__", "up")]).0;
    let told = |rig: &Rig| std::mem::take(&mut *rig.fake.told.lock());
    let rig = rig(Fake::default());
    assert_eq!(rig.post(&[], metadata(1)).await.0, 204);
    assert!(told(&rig).is_empty(), "no series bears the name yet");
    for want in [vec![vec![(up, MetricType::Counter)]], vec![]] {
        assert_eq!(rig.post(&[], one_sample()).await.0, 204);
        assert_eq!(told(&rig), want);
    }
    for (kind, want) in [(1, vec![]), (2, vec![vec![(up, MetricType::Gauge)]]), (2, vec![])] {
        assert_eq!(rig.post(&[], metadata(kind)).await.0, 204);
        assert_eq!(told(&rig), want);
    }
    // What is not durable is not told: the next request tells it, whatever is in that.
    let failing =
        rig_with(Fake { fail: Some("sync: no space".into()), ..Fake::default() }, Limits::default());
    assert_eq!(failing.post(&[], metadata(1)).await.0, 204);
    for _ in 0..2 {
        assert_eq!(failing.post(&[], one_sample()).await.0, 503);
        assert_eq!(told(&failing), [vec![(up, MetricType::Counter)]]);
    }
}

#[tokio::test]
async fn what_may_pass_by_itself_is_503_with_retry_after() {
    let full = IntakeRefusal { retry_after_seconds: 5, why: "journal.bytes_max (9) is reached".to_owned() };
    let table = [
        (
            Fake { refuse: Some(full), ..Fake::default() },
            "5",
            "journal.bytes_max (9) is reached; try again in 5 s\n",
        ),
        (
            Fake { fail: Some("sync: no space".into()), ..Fake::default() },
            "1",
            "sync: no space; try again in 1 s\n",
        ),
        (Fake { drop: true, ..Fake::default() }, "1", "the journal was closed; try again in 1 s\n"),
    ];
    for (fake, after, message) in table {
        let rig = rig(fake);
        let request = Request::builder().method("POST").uri(ROUTE).body(Body::from(one_sample())).unwrap();
        let (status, headers, text) = rig.send(request).await;
        assert_eq!((status, headers[RETRY_AFTER].to_str().unwrap(), text.as_str()), (503, after, message));
    }
}

#[test]
fn a_body_that_does_not_arrive_is_503_so_that_it_is_sent_again() {
    let slow = RequestRefusal::Slow;
    let status = slow.kind().about().status.as_u16();
    assert_eq!(status, 503);
    assert_eq!(slow.headers(), [(RETRY_AFTER, "1".to_owned()), (CONNECTION, "close".to_owned())]);
}

#[tokio::test]
async fn a_limit_on_series_refuses_for_good_only_when_it_counts_right() {
    for (catching_up, status) in [(true, 503), (false, 400)] {
        let limits = Limits { series: 1, ..Limits::default() };
        let rig = rig_with(Fake { catching_up, ..Fake::default() }, limits);
        assert_eq!(rig.post(&[], one_sample()).await.0, 204);
        let other = snappy(&wire::series(&[("__name__", "down")], &[(NOW, 1.0)]));
        let (got, text) = rig.post(&[], other).await;
        assert_eq!(got, status, "{text}");
        // What is wrong otherwise is wrong at any time.
        let unnamed = snappy(&wire::series(&[("job", "x")], &[(NOW, 1.0)]));
        assert_eq!(rig.post(&[], unnamed).await.0, 400);
    }
}

#[tokio::test]
async fn requests_and_bodies_in_work_are_bounded() {
    let rig = rig(Fake::default());
    let held = rig.receiver.requests.clone().try_acquire_many_owned(REQUESTS_MAX as u32).unwrap();
    let (status, text) = rig.post(&[], one_sample()).await;
    assert_eq!((status, text.as_str()), (503, "256 write requests are in work; try again in 1 s\n"));
    drop(held);
    let all = BODIES_MAX * BODY_MAX;
    let held = rig.receiver.room.take(all).unwrap();
    let (status, text) = rig.post(&[], one_sample()).await;
    let message = "bodies in work bootstrap their room of 8 times limits.body_bytes; try again in 1 s\n";
    assert_eq!((status, text.as_str()), (503, message));
    drop(held);
    assert_eq!(rig.post(&[], one_sample()).await.0, 204);
    assert_eq!(rig.receiver.requests.available_permits(), REQUESTS_MAX, "room is given back");
    assert_eq!(rig.receiver.room.free(), all);
}

#[tokio::test]
async fn large_bodies_wait_for_their_turn_and_small_ones_do_not() {
    let rig = Arc::new(rig_for(4 << 20, Fake::default(), Limits::default()));
    let samples: Vec<(i64, f64)> = (0..100_000).map(|n| (NOW - n, n as f64)).collect();
    let message = wire::series(&[("__name__", "large")], &samples);
    assert!(message.len() > DECODED_AT_ONCE_MAX);
    let large = snappy(&message);
    let free = rig.receiver.room.free();
    let turns = rig.receiver.decoders.clone().try_acquire_many_owned(DECODERS_MAX as u32).unwrap();
    let waiting = [(); 2].map(|()| {
        let (rig, large) = (rig.clone(), large.clone());
        tokio::spawn(async move { rig.post(&[], large).await })
    });
    assert_eq!(rig.post(&[], one_sample()).await.0, 204);
    let [gone, waiting] = waiting;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled() && !waiting.is_finished());
    assert_eq!(rig.fake.offered.load(Ordering::Relaxed), 1);
    drop(turns);
    assert_eq!(waiting.await.unwrap(), (204, String::new()));
    let taken: Vec<usize> = rig.fake.taken.lock().iter().map(Samples::len).collect();
    assert_eq!(taken, [1, 100_000]);
    assert_eq!((rig.receiver.room.free(), rig.receiver.decoders.available_permits()), (free, DECODERS_MAX));
}

#[tokio::test]
async fn a_body_that_is_waited_for_takes_no_request_s_place() {
    let rig = Arc::new(rig(Fake::default()));
    let (_open, never) = body::tests::pieces();
    let request = Request::builder().method("POST").uri(ROUTE).body(never).unwrap();
    let slow = tokio::spawn({
        let rig = rig.clone();
        async move { rig.send(request).await.0 }
    });
    tokio::task::yield_now().await;
    assert_eq!(rig.receiver.requests.available_permits(), REQUESTS_MAX);
    assert_eq!(rig.receiver.room.free(), BODIES_MAX * BODY_MAX - 1_024);
    assert_eq!(rig.post(&[], one_sample()).await.0, 204);
    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    assert_eq!(rig.receiver.room.free(), BODIES_MAX * BODY_MAX);
}

#[tokio::test]
async fn the_route_answers_over_a_socket() {
    let rig = rig(Fake::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router(rig.receiver.clone())).await });
    #[expect(clippy::disallowed_methods, reason = "a test may panic")]
    let status = tokio::task::spawn_blocking(move || {
        let agent = crate::source::query::client::testing::plain_client();
        let url = format!("http://{address}{ROUTE}");
        let chunked = reqwest::blocking::Body::new(std::io::Cursor::new(vec![0; BODY_MAX + 1]));
        [
            agent.post(&url).body(one_sample()).send().unwrap().status().as_u16(),
            agent.get(&url).send().unwrap().status().as_u16(),
            agent.post(&url).body(chunked).send().unwrap().status().as_u16(),
        ]
    });
    assert_eq!(status.await.unwrap(), [204, 405, 413]);
    server.abort();
}

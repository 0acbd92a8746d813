//! The transport of remote write: `POST /api/v1/write`.
//!
//! ```text
//! method → Content-Type → Content-Encoding → room → body → decompressed length → decode → journal → answer
//!   405        415              415           503    413          400            400       503      204 | 400
//! ```
//!
//! A push is answered 204 when all its samples, and the types of series that are new in it, are durable. If some did
//! not pass the gate the others are kept and the answer is 400 with counts, which makes the sender drop the request and
//! log the reasons. Everything that may pass
//! by itself is 503 with Retry-After: senders drop on 429. Sending a request again is harmless: equal samples count as
//! duplicates. Both answers to 2.0 say in headers how much is written; a sender takes 2.0 without them as failed.
//!
//! What is held at once is bounded by [`REQUESTS_MAX`] and [`BODIES_MAX`], and a body has [`BODY_SECONDS_MAX`] to
//! arrive.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tidewatch_dataflows::sample::{MetricType, Samples};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::labels::Labels;
use crate::metrics::{Answer, Metrics, Route, Source};
use crate::problem::{Kind, Problem};
use crate::source::remote_write::{self, Decoded, SOURCE};
use crate::source::remote_write2::{self, Decoded2};
use crate::source::validate::Bounds;
use crate::source::{Durable, Intake, Refused};

/// The path of the route.
pub const ROUTE: &str = "/api/v1/write";
/// Most requests at once.
pub const REQUESTS_MAX: usize = 256;
/// Most memory for bodies at once, in multiples of `limits.body_bytes`; compressed and decompressed both count.
pub const BODIES_MAX: usize = 8;
/// How long a body may take to arrive.
pub const BODY_SECONDS_MAX: u64 = 30;
/// When a sender that found no room should come again.
const RETRY_SECONDS: u64 = 1;
/// Reasons that may pass by themselves while the worker catches up.
const SERIES_LIMITS: [&str; 2] = ["series_limit", "series_per_name_limit"];
/// The unit in which room for bodies is counted.
const ROOM_BYTES: usize = 1_024;

/// What the route needs.
pub struct Receiver {
    intake: Arc<dyn Intake>,
    labels: Arc<Labels>,
    metrics: Arc<Metrics>,
    body_bytes_max: usize,
    clock: fn() -> i64,
    requests: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

impl Receiver {
    /// A receiver that takes bodies of up to `body_bytes_max` bytes; `clock` gives Unix milliseconds.
    pub fn new(
        intake: Arc<dyn Intake>,
        labels: Arc<Labels>,
        metrics: Arc<Metrics>,
        body_bytes_max: usize,
        clock: fn() -> i64,
    ) -> Receiver {
        let room = (BODIES_MAX * body_bytes_max.div_ceil(ROOM_BYTES)).min(Semaphore::MAX_PERMITS);
        Receiver {
            intake,
            labels,
            metrics,
            body_bytes_max,
            clock,
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            room: Arc::new(Semaphore::new(room)),
        }
    }
}

/// The route, to be merged with the others.
pub fn router(receiver: Arc<Receiver>) -> Router {
    Router::new().route(ROUTE, any(handle)).with_state(receiver)
}

/// The message of 1.0, as Content-Type names it.
const PROTO_1: &str = "prometheus.WriteRequest";
/// The message of 2.0.
const PROTO_2: &str = "io.prometheus.write.v2.Request";

/// What an answer to 2.0 says of what is durable.
const SAMPLES_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-samples-written");
const HISTOGRAMS_WRITTEN: HeaderName =
    HeaderName::from_static("x-prometheus-remote-write-histograms-written");
const EXEMPLARS_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-exemplars-written");

/// The message in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What passed the gate of a request of 2.0 and is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    samples: u64,
    histograms: u64,
    exemplars: u64,
}

impl Written {
    fn put(self, headers: &mut HeaderMap) {
        headers.insert(SAMPLES_WRITTEN, self.samples.into());
        headers.insert(HISTOGRAMS_WRITTEN, self.histograms.into());
        headers.insert(EXEMPLARS_WRITTEN, self.exemplars.into());
    }
}

/// Why a request is not taken whole; each is one status.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("{ROUTE} takes POST only; got {0}")]
    Method(Method),
    #[error(
        "Content-Type must be application/x-protobuf, with proto={PROTO_1}, proto={PROTO_2} or none; got {0:?}"
    )]
    MediaType(String),
    #[error("Content-Encoding must be snappy; got {0:?}")]
    Encoding(String),
    #[error("a body cannot exceed limits.body_bytes ({max}); got {got}")]
    TooLarge { max: usize, got: String },
    #[error("a decompressed body cannot exceed limits.body_bytes ({max}); it claims {got}")]
    DecompressedTooLarge { max: usize, got: usize },
    #[error("the body did not arrive within {BODY_SECONDS_MAX} s")]
    Slow,
    #[error("the body broke off: {0}")]
    BrokenOff(String),
    #[error("the body is not a snappy block: {0}")]
    Snappy(String),
    #[error(transparent)]
    Undecodable(#[from] remote_write::Undecodable),
    #[error("{accepted} of {received} samples are written, {refused} refused for good: {sentence}")]
    Partial { accepted: u64, received: u64, refused: u64, sentence: String, written: Option<Written> },
    #[error(transparent)]
    Busy(#[from] Refused),
}

impl Refusal {
    fn kind(&self) -> Kind {
        match self {
            Refusal::Method(_) => Kind::MethodNotAllowed,
            Refusal::MediaType(_) | Refusal::Encoding(_) => Kind::UnsupportedMediaType,
            Refusal::TooLarge { .. } => Kind::TooLarge,
            // Not 408: a sender gives up on what is not 5xx, and on a slow line the next try may do.
            Refusal::Slow | Refusal::Busy(_) => Kind::Unavailable,
            Refusal::Partial { .. } => Kind::SamplesRefused,
            Refusal::DecompressedTooLarge { .. }
            | Refusal::BrokenOff(_)
            | Refusal::Snappy(_)
            | Refusal::Undecodable(_) => Kind::BadBody,
        }
    }

    fn header(&self) -> Option<(HeaderName, String)> {
        match self {
            Refusal::Method(_) => Some((ALLOW, "POST".to_owned())),
            Refusal::Slow => Some((RETRY_AFTER, RETRY_SECONDS.to_string())),
            Refusal::Busy(refused) => Some((RETRY_AFTER, refused.retry_after_seconds.to_string())),
            _ => None,
        }
    }
}

fn busy(why: String) -> Refusal {
    Refusal::Busy(Refused { retry_after_seconds: RETRY_SECONDS, why })
}

async fn handle(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let begun = Instant::now();
    let response = match take(&receiver, request).await {
        Ok(written) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            written.inspect(|written| written.put(response.headers_mut()));
            response
        }
        Err(refusal) => {
            let mut response = Problem::new(refusal.kind(), refusal.to_string()).into_response();
            if let Some((name, value)) = refusal.header() {
                let value = value.parse().expect("numbers and POST are header values");
                response.headers_mut().insert(name, value);
            }
            if let Refusal::Partial { written: Some(written), .. } = refusal {
                written.put(response.headers_mut());
            }
            response
        }
    };
    let metrics = &receiver.metrics;
    metrics.request_seconds.get_or_create(&Route { route: ROUTE }).observe(begun.elapsed().as_secs_f64());
    metrics.responses.get_or_create(&Answer { route: ROUTE, code: response.status().as_u16() }).inc();
    response
}

/// Takes one request; `Ok` means that everything in it is durable, and says how much of 2.0 that is.
async fn take(receiver: &Receiver, request: Request) -> Result<Option<Written>, Refusal> {
    if request.method() != Method::POST {
        return Err(Refusal::Method(request.method().clone()));
    }
    let version = judge_headers(request.headers())?;
    let requests = receiver.requests.clone();
    let _request = requests.try_acquire_owned().map_err(|_| {
        receiver.metrics.limit("write.requests");
        busy(format!("{REQUESTS_MAX} write requests are in work"))
    })?;
    let (samples, Decoded2 { mut decoded, exemplars }) = read_and_decode(receiver, version, request).await?;
    let types = std::mem::take(&mut decoded.types);
    let telling = Telling::new(&receiver.labels, types, receiver.intake.catching_up());
    let source = Source { source: SOURCE };
    receiver.metrics.received.get_or_create(&source).inc_by(decoded.received);
    receiver.metrics.ignored.get_or_create(&source).inc_by(decoded.ignored);
    let limited = SERIES_LIMITS.iter().any(|reason| decoded.refusals.count(reason) > 0);
    if limited && receiver.intake.catching_up() {
        return Err(busy("series that ended are still counted until the journal is read back".to_owned()));
    }
    decoded.refusals.record(SOURCE, &receiver.metrics);
    let histograms = decoded.histograms;
    // Of a histogram two samples are kept.
    let plain = samples.len() as u64 - 2 * histograms;
    // Both are queued before either is waited for: they go into one commit.
    let samples = if samples.is_empty() { None } else { Some(receiver.intake.offer(samples)?) };
    let types = telling.offer(&*receiver.intake)?;
    if let Some(samples) = samples {
        // The journal counts what it accepted, for every source.
        wait(samples).await?;
        receiver.metrics.reduced.get_or_create(&source).inc_by(histograms);
    }
    if let Some(types) = types {
        wait(types).await?;
        telling.done();
    }
    let written = (version == Version::Two).then_some(Written { samples: plain, histograms, exemplars });
    partial(plain + histograms, &decoded, written)
}

/// Waits until it is durable.
async fn wait(durable: Durable) -> Result<(), Refusal> {
    match durable.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(busy(why)),
        Err(_) => Err(busy("the journal was closed".to_owned())),
    }
}

/// Types of series on their way into the journal. What is dropped before it is durable, because something refused or
/// the sender went away or it is too early, waits for the next request.
struct Telling<'a> {
    labels: &'a Labels,
    types: Vec<(u64, MetricType)>,
    /// Until the journal has been read back nobody knows what it holds: types wait, so that none is written twice.
    /// Nothing is lost by that: senders repeat them.
    early: bool,
}

impl<'a> Telling<'a> {
    fn new(labels: &'a Labels, types: Vec<(u64, MetricType)>, early: bool) -> Telling<'a> {
        // What waited is older.
        let mut all = if early { Vec::new() } else { labels.waiting() };
        all.extend(types);
        all.sort_by_key(|(series, _)| *series);
        all.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                *kept = *next;
            }
            same
        });
        Telling { labels, types: all, early }
    }

    fn offer(&self, intake: &dyn Intake) -> Result<Option<Durable>, Refused> {
        if self.types.is_empty() || self.early {
            return Ok(None);
        }
        intake.tell(self.types.clone()).map(Some)
    }

    /// They are durable.
    fn done(mut self) {
        self.labels.told(&std::mem::take(&mut self.types));
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.types.is_empty() {
            self.labels.not_told(std::mem::take(&mut self.types));
        }
    }
}

/// The answer once everything that passed the gate is durable.
fn partial(accepted: u64, decoded: &Decoded, written: Option<Written>) -> Result<Option<Written>, Refusal> {
    if decoded.refusals.is_empty() {
        return Ok(written);
    }
    let (received, refused) = (decoded.received, decoded.refusals.total());
    Err(Refusal::Partial { accepted, received, refused, sentence: decoded.refusals.sentence(), written })
}

/// Reads, decompresses and decodes a body; the room it took is free again when this returns.
async fn read_and_decode(
    receiver: &Receiver,
    version: Version,
    request: Request,
) -> Result<(Samples, Decoded2), Refusal> {
    let max = receiver.body_bytes_max;
    let too_large = |got: String| {
        receiver.metrics.limit("limits.body_bytes");
        Refusal::TooLarge { max, got }
    };
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if let Some(length) = declared.filter(|length| *length > max) {
        return Err(too_large(format!("{length} bytes")));
    }
    // Without a declared length the body may grow to the limit.
    let _compressed_room = room(receiver, declared.unwrap_or(max))?;
    let reading = read(request.into_body(), declared.unwrap_or(0), max);
    let body = match tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), reading).await {
        Ok(Ok(Some(body))) => body,
        Ok(Ok(None)) => return Err(too_large("more".to_owned())),
        Ok(Err(error)) => return Err(Refusal::BrokenOff(error.to_string())),
        Err(_) => return Err(Refusal::Slow),
    };
    let snappy = |error: snap::Error| Refusal::Snappy(error.to_string());
    let length = snap::raw::decompress_len(&body).map_err(snappy)?;
    if length > max {
        receiver.metrics.limit("limits.body_bytes");
        return Err(Refusal::DecompressedTooLarge { max, got: length });
    }
    let _decompressed_room = room(receiver, length)?;
    let message = snap::raw::Decoder::new().decompress_vec(&body).map_err(snappy)?;
    let bounds = Bounds::at((receiver.clock)(), false);
    let mut samples = Samples::default();
    let epoch = receiver.intake.epoch();
    let decoded = match version {
        Version::One => {
            let decoded = remote_write::decode(&message, &receiver.labels, bounds, epoch, &mut samples)?;
            Decoded2 { decoded, exemplars: 0 }
        }
        Version::Two => remote_write2::decode(&message, &receiver.labels, bounds, epoch, &mut samples)?,
    };
    Ok((samples, decoded))
}

/// Room for `bytes` of a body, or 503.
fn room(receiver: &Receiver, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let units = u32::try_from(bytes.div_ceil(ROOM_BYTES)).unwrap_or(u32::MAX);
    receiver.room.clone().try_acquire_many_owned(units).map_err(|_| {
        receiver.metrics.limit("write.body_room");
        busy(format!("bodies in work fill their room of {BODIES_MAX} times limits.body_bytes"))
    })
}

/// The whole body, or `None` if it is larger than `max`.
async fn read(mut body: Body, declared: usize, max: usize) -> Result<Option<Vec<u8>>, axum::Error> {
    let mut bytes = Vec::with_capacity(declared.min(max));
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        // Trailers are not part of the body.
        let Ok(data) = frame?.into_data() else { continue };
        if data.len() > max - bytes.len() {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes))
}

/// Judges what is sent by its headers alone: the message is chosen by Content-Type, never by a version header.
fn judge_headers(headers: &HeaderMap) -> Result<Version, Refusal> {
    let text = |name| headers.get(name).map_or("", |value| value.to_str().unwrap_or("?")).trim();
    let media = text(CONTENT_TYPE);
    let mut parts = media.split(';').map(str::trim);
    let kind = parts.next().unwrap_or("");
    let protobuf = kind.is_empty() || kind.eq_ignore_ascii_case("application/x-protobuf");
    let proto = parts
        .filter_map(|part| part.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("proto"));
    let version = match proto.map(|(_, value)| value.trim().trim_matches('"')) {
        None | Some(PROTO_1) if protobuf => Version::One,
        Some(PROTO_2) if protobuf => Version::Two,
        _ => return Err(Refusal::MediaType(media.to_owned())),
    };
    let encoding = text(CONTENT_ENCODING);
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("snappy") {
        return Err(Refusal::Encoding(encoding.to_owned()));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::body::to_bytes;
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
        refuse: Option<Refused>,
        fail: Option<String>,
        drop: bool,
        catching_up: bool,
        offered: AtomicU64,
    }

    impl Intake for Fake {
        fn offer(&self, samples: Samples) -> Result<Durable, Refused> {
            self.offered.fetch_add(1, Ordering::Relaxed);
            if let Some(refused) = &self.refuse {
                return Err(refused.clone());
            }
            let (answer, durable) = oneshot::channel();
            if !self.drop {
                let result = self.fail.clone().map_or(Ok(()), Err);
                answer.send(result).expect("the receiving end is held");
            }
            self.taken.lock().unwrap().push(samples);
            Ok(durable)
        }

        fn tell(&self, types: Vec<(u64, MetricType)>) -> Result<Durable, Refused> {
            self.told.lock().unwrap().push(types);
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
        let (folder, fake, metrics) = (Folder::new(), Arc::new(fake), Arc::new(Metrics::new()));
        let labels = Labels::open(&folder.path, limits, metrics.clone()).unwrap();
        let receiver = Receiver::new(fake.clone(), Arc::new(labels), metrics.clone(), BODY_MAX, || NOW);
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
        assert_eq!(rig.fake.taken.lock().unwrap().iter().map(Samples::len).sum::<usize>(), 6);
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
                "a decompressed body cannot exceed limits.body_bytes (4096); it claims 4294967295\n"
                    .to_owned(),
            ),
            (coding("snappy"), Vec::new(), 400, String::new()),
            (coding("snappy"), corrupted, 400, String::new()),
            (
                coding("snappy"),
                snappy(b"\x0a\x05x"),
                400,
                "byte 0 of the decompressed body: a field that reaches past the end of its message\n"
                    .to_owned(),
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
        assert_eq!(rig.fake.taken.lock().unwrap()[0].at_ms, [NOW]);
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
            request
                .header("X-Prometheus-Remote-Write-Version", "0.1.0")
                .body(Body::from(snappy(&body)))
                .unwrap()
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
        let rig =
            rig_with(Fake { fail: Some("sync: no space".into()), ..Fake::default() }, Limits::default());
        let (status, headers, _) = rig.send(post(two, good().body())).await;
        assert_eq!((status, written(&headers)), (503, [None; 3]));
    }

    #[tokio::test]
    async fn types_are_told_once_and_again_only_after_a_refusal() {
        let metadata = |kind| snappy(&wire::bytes(3, &[&[0x08, kind][..], &wire::bytes(2, b"up")].concat()));
        let up = crate::labels::series_id(&[("__name__", "up")]).0;
        let told = |rig: &Rig| std::mem::take(&mut *rig.fake.told.lock().unwrap());
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
        let full = Refused { retry_after_seconds: 5, why: "journal.bytes_max (9) is reached".to_owned() };
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
            let request =
                Request::builder().method("POST").uri(ROUTE).body(Body::from(one_sample())).unwrap();
            let (status, headers, text) = rig.send(request).await;
            assert_eq!(
                (status, headers[RETRY_AFTER].to_str().unwrap(), text.as_str()),
                (503, after, message)
            );
        }
    }

    #[test]
    fn a_body_that_does_not_arrive_is_503_so_that_it_is_sent_again() {
        let slow = Refusal::Slow;
        let status = slow.kind().about().status.as_u16();
        assert_eq!((status, slow.header()), (503, Some((RETRY_AFTER, "1".to_owned()))));
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
        let held = rig
            .receiver
            .room
            .clone()
            .try_acquire_many_owned((BODIES_MAX * BODY_MAX / ROOM_BYTES) as u32)
            .unwrap();
        let (status, text) = rig.post(&[], one_sample()).await;
        let message = "bodies in work fill their room of 8 times limits.body_bytes; try again in 1 s\n";
        assert_eq!((status, text.as_str()), (503, message));
        drop(held);
        assert_eq!(rig.post(&[], one_sample()).await.0, 204);
        assert_eq!(rig.receiver.requests.available_permits(), REQUESTS_MAX, "room is given back");
        assert_eq!(rig.receiver.room.available_permits(), BODIES_MAX * BODY_MAX / ROOM_BYTES);
    }

    #[tokio::test]
    async fn the_route_answers_over_a_socket() {
        let rig = rig(Fake::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router(rig.receiver.clone())).await });
        let status = tokio::task::spawn_blocking(move || {
            let config = ureq::Agent::config_builder().http_status_as_error(false).build();
            let agent: ureq::Agent = config.into();
            let url = format!("http://{address}{ROUTE}");
            let chunked = ureq::SendBody::from_owned_reader(std::io::Cursor::new(vec![0; BODY_MAX + 1]));
            [
                agent.post(&url).send(&one_sample()[..]).unwrap().status().as_u16(),
                agent.get(&url).call().unwrap().status().as_u16(),
                agent.post(&url).send(chunked).unwrap().status().as_u16(),
            ]
        });
        assert_eq!(status.await.unwrap(), [204, 405, 413]);
        server.abort();
    }
}

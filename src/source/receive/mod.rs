//! The transport of remote write: `POST /api/v1/write`.
//!
//! ```text
//! method → Content-Type → Content-Encoding → body → requests → decompressed length → decode → journal → answer
//!   405        415              415        413, 503    503            400            400       503      204 | 400
//! ```
//!
//! A push is answered 204 when all its samples, and the types of series that are new in it, are durable. If some did
//! not pass the gate the others are kept and the answer is 400 with counts, which makes the sender drop the request and
//! log the reasons. Everything that may pass
//! by itself is 503 with Retry-After: senders drop on 429. Sending a request again is harmless: equal samples count as
//! duplicates. Both answers to 2.0 say in headers how much is written; a sender takes 2.0 without them as failed.
//!
//! What is held at once is bounded by [`REQUESTS_MAX`] and [`BODIES_MAX`], and a body has [`BODY_SECONDS_MAX`] to
//! arrive. Until it has, it holds what has come of it (`body`) and no request's place. Of large bodies that are still
//! arriving all together hold half of the room and a begin each, so a few slow senders leave room for ordinary pushes.
//! Large bodies are decoded on threads of their own, a few at a time, so they hold up no other answer.

mod body;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, ORIGIN, RETRY_AFTER,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tidewatch_dataflows::sample::{MetricType, Samples};
use tokio::sync::Semaphore;

use crate::labels::Labels;
use crate::metrics::{AnswerLabels, Metrics, RouteLabels, SourceLabels};
use crate::problem::{Kind, Problem};
use crate::source::remote_write::{self, DecodedBody, SOURCE};
use crate::source::remote_write2::{self, Decoded2};
use crate::source::validate::{CLOCK_BEHIND, EventTimeBounds};
use crate::source::{DurableFuture, Intake, IntakeRefusal};
use crate::threads::Pool;
use body::{BodyError, BodyRoom, Pace, WholeBody};

/// The path of the route.
pub const ROUTE: &str = "/api/v1/write";
/// Most requests at once whose bodies have arrived.
pub const REQUESTS_MAX: usize = 256;
/// Most memory for bodies at once, in multiples of `limits.body_bytes`; compressed and decompressed both count.
pub const BODIES_MAX: usize = 8;
/// How long a body may take to arrive.
pub const BODY_SECONDS_MAX: u64 = 30;
/// How many bytes of it come in a second at least: on average over [`RATE_SECONDS`], and in each second while less than a
/// quarter of the room is free.
pub const BODY_RATE_MIN: usize = 4 << 10;
/// See [`BODY_RATE_MIN`].
pub const RATE_SECONDS: u32 = 10;
/// When a sender that found no room should come again.
const RETRY_SECONDS: u64 = 1;
/// Reasons that may pass by themselves while the server catches up.
const SERIES_LIMITS: [&str; 2] = ["series_limit", "series_per_name_limit"];
/// Largest decompressed body that is decoded where it is read: a few milliseconds, mostly less.
const DECODED_AT_ONCE_MAX: usize = 1 << 20;
/// Most larger ones that are decoded at once; the others wait for their turn.
pub const DECODERS_MAX: usize = 2;

/// What the route needs.
pub struct Receiver {
    intake: Arc<dyn Intake>,
    labels: Arc<Labels>,
    metrics: Arc<Metrics>,
    body_bytes_max: usize,
    clock: fn() -> i64,
    requests: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    threads: Pool,
    room: BodyRoom,
}

impl Receiver {
    /// A receiver that takes bodies of up to `body_bytes_max` bytes; `clock` gives Unix milliseconds. Of `threads` it takes
    /// [`DECODERS_MAX`].
    pub fn new(
        intake: Arc<dyn Intake>,
        labels: Arc<Labels>,
        metrics: Arc<Metrics>,
        body_bytes_max: usize,
        clock: fn() -> i64,
        threads: Pool,
    ) -> Receiver {
        Receiver {
            intake,
            labels,
            metrics,
            body_bytes_max,
            clock,
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            decoders: Arc::new(Semaphore::new(DECODERS_MAX)),
            threads,
            room: BodyRoom::new(BODIES_MAX, body_bytes_max),
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
enum MessageVersion {
    One,
    Two,
}

/// What passed the gate of a request of 2.0 and is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WrittenCounts {
    samples: u64,
    histograms: u64,
    exemplars: u64,
}

impl WrittenCounts {
    fn put(self, headers: &mut HeaderMap) {
        headers.insert(SAMPLES_WRITTEN, self.samples.into());
        headers.insert(HISTOGRAMS_WRITTEN, self.histograms.into());
        headers.insert(EXEMPLARS_WRITTEN, self.exemplars.into());
    }
}

/// Why a request is not taken whole; each is one status.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum RequestRefusal {
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
    #[error(
        "the body came at less than {BODY_RATE_MIN} bytes a second, over {RATE_SECONDS} s or while little room was left"
    )]
    Stalled,
    #[error("the body broke off: {0}")]
    BrokenOff(String),
    #[error("the body is not a snappy block: {0}")]
    Snappy(String),
    #[error(transparent)]
    Undecodable(#[from] remote_write::DecodeError),
    #[error("{accepted} of {received} samples are written, {refused} refused for good: {sentence}")]
    Partial { accepted: u64, received: u64, refused: u64, sentence: String, written: Option<WrittenCounts> },
    #[error(transparent)]
    Busy(#[from] IntakeRefusal),
}

impl RequestRefusal {
    fn kind(&self) -> Kind {
        match self {
            RequestRefusal::Method(_) => Kind::MethodNotAllowed,
            RequestRefusal::MediaType(_) | RequestRefusal::Encoding(_) => Kind::UnsupportedMediaType,
            RequestRefusal::TooLarge { .. } => Kind::TooLarge,
            // Not 408: a sender gives up on what is not 5xx, and on a slow line the next try may do.
            RequestRefusal::Slow | RequestRefusal::Stalled | RequestRefusal::Busy(_) => Kind::Unavailable,
            RequestRefusal::Partial { .. } => Kind::SamplesRefused,
            RequestRefusal::DecompressedTooLarge { .. }
            | RequestRefusal::BrokenOff(_)
            | RequestRefusal::Snappy(_)
            | RequestRefusal::Undecodable(_) => Kind::BadBody,
        }
    }

    fn headers(&self) -> Vec<(HeaderName, String)> {
        match self {
            RequestRefusal::Method(_) => vec![(ALLOW, "POST".to_owned())],
            // Nobody waits once more for what did not come.
            RequestRefusal::Slow | RequestRefusal::Stalled => {
                vec![(RETRY_AFTER, RETRY_SECONDS.to_string()), (CONNECTION, "close".to_owned())]
            }
            RequestRefusal::Busy(refused) => vec![(RETRY_AFTER, refused.retry_after_seconds.to_string())],
            _ => Vec::new(),
        }
    }
}

fn busy(why: String) -> RequestRefusal {
    RequestRefusal::Busy(IntakeRefusal { retry_after_seconds: RETRY_SECONDS, why })
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
            for (name, value) in refusal.headers() {
                let value = value.parse().expect("numbers, POST and close are header values");
                response.headers_mut().insert(name, value);
            }
            if let RequestRefusal::Partial { written: Some(written), .. } = refusal {
                written.put(response.headers_mut());
            }
            response
        }
    };
    let metrics = &receiver.metrics;
    metrics
        .request_seconds
        .get_or_create(&RouteLabels { route: ROUTE })
        .observe(begun.elapsed().as_secs_f64());
    metrics.responses.get_or_create(&AnswerLabels { route: ROUTE, code: response.status().as_u16() }).inc();
    response
}

/// Takes one request; `Ok` means that everything in it is durable, and says how much of 2.0 that is.
async fn take(receiver: &Arc<Receiver>, request: Request) -> Result<Option<WrittenCounts>, RequestRefusal> {
    if request.method() != Method::POST {
        return Err(RequestRefusal::Method(request.method().clone()));
    }
    let version = judge_headers(request.headers())?;
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let sender = address.map(|ConnectInfo(address)| address.ip());
    let body = read_body(receiver, request).await?;
    let requests = receiver.requests.clone();
    let _request = requests.try_acquire_owned().map_err(|_| {
        receiver.metrics.limit("write.requests");
        busy(format!("{REQUESTS_MAX} write requests are in work"))
    })?;
    let PendingWrite { decoded, exemplars, plain, samples, types, telling } =
        decode(receiver, version, sender, body).await?;
    let histograms = decoded.histograms;
    if let Some(samples) = samples {
        // The journal counts what it accepted, for every source.
        wait(samples).await?;
        receiver.metrics.reduced.get_or_create(&SourceLabels { source: SOURCE }).inc_by(histograms);
    }
    if let Some(types) = types {
        wait(types).await?;
        telling.done();
    }
    let written =
        (version == MessageVersion::Two).then_some(WrittenCounts { samples: plain, histograms, exemplars });
    partial(plain + histograms, &decoded, written)
}

/// Reads a body to its end.
async fn read_body(receiver: &Receiver, request: Request) -> Result<WholeBody, RequestRefusal> {
    let max = receiver.body_bytes_max;
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let pace = Pace {
        whole: Duration::from_secs(BODY_SECONDS_MAX),
        part: Duration::from_secs(1),
        bytes_min: BODY_RATE_MIN,
        parts: RATE_SECONDS,
    };
    let arrived = body::read(request.into_body(), declared, max, pace, &receiver.room).await;
    arrived.map_err(|error| match error {
        BodyError::TooLarge { declared } => {
            receiver.metrics.limit("limits.body_bytes");
            let got = declared.map_or_else(|| "more".to_owned(), |length| format!("{length} bytes"));
            RequestRefusal::TooLarge { max, got }
        }
        BodyError::NoRoom => no_room(receiver),
        BodyError::NoRoomToArrive => {
            receiver.metrics.limit("write.body_room");
            busy(format!(
                "bodies that are still arriving bootstrap half of the room of {BODIES_MAX} times limits.body_bytes"
            ))
        }
        BodyError::Slow => {
            receiver.metrics.limit("write.body_seconds");
            RequestRefusal::Slow
        }
        BodyError::Stalled => {
            receiver.metrics.limit("write.body_rate");
            RequestRefusal::Stalled
        }
        BodyError::BrokenOff(why) => RequestRefusal::BrokenOff(why),
    })
}

fn no_room(receiver: &Receiver) -> RequestRefusal {
    receiver.metrics.limit("write.body_room");
    busy(format!("bodies in work bootstrap their room of {BODIES_MAX} times limits.body_bytes"))
}

/// What a request has on its way into the journal.
struct PendingWrite {
    decoded: DecodedBody,
    exemplars: u64,
    /// Samples that are not those of histograms.
    plain: u64,
    samples: Option<DurableFuture>,
    types: Option<DurableFuture>,
    telling: TypesInFlight,
}

/// Decodes a body and offers what is in it to the journal, here or on a thread that may block.
async fn decode(
    receiver: &Arc<Receiver>,
    version: MessageVersion,
    sender: Option<IpAddr>,
    body: WholeBody,
) -> Result<PendingWrite, RequestRefusal> {
    let max = receiver.body_bytes_max;
    let length = snap::raw::decompress_len(&body.bytes).map_err(not_snappy)?;
    if length > max {
        receiver.metrics.limit("limits.body_bytes");
        return Err(RequestRefusal::DecompressedTooLarge { max, got: length });
    }
    if length <= DECODED_AT_ONCE_MAX {
        return decode_now(receiver, version, sender, &body, length);
    }
    let turn = receiver.decoders.clone().acquire_owned().await;
    let (threads, receiver) = (receiver.threads.clone(), receiver.clone());
    // It is done to its end, also if the sender has gone: what is decoded and not offered would be lost.
    let work = move || {
        let _turn = turn;
        decode_now(&receiver, version, sender, &body, length)
    };
    threads.run(work).await.unwrap_or_else(|error| Err(busy(format!("a body was not decoded: {error}"))))
}

/// Decompresses and decodes a body, and offers what is in it to the journal. The room it takes is free again when this
/// returns.
fn decode_now(
    receiver: &Receiver,
    version: MessageVersion,
    sender: Option<IpAddr>,
    body: &WholeBody,
    length: usize,
) -> Result<PendingWrite, RequestRefusal> {
    let _room = receiver.room.take(length).ok_or_else(|| no_room(receiver))?;
    let message = snap::raw::Decoder::new().decompress_vec(&body.bytes).map_err(not_snappy)?;
    let bounds = EventTimeBounds::at((receiver.clock)(), false).proven(receiver.intake.processing_ms());
    let mut samples = Samples::default();
    let epoch = receiver.intake.epoch();
    let Decoded2 { decoded, exemplars } = match version {
        MessageVersion::One => {
            let decoded = remote_write::decode(&message, &receiver.labels, bounds, epoch, &mut samples)?;
            Decoded2 { decoded, exemplars: 0 }
        }
        MessageVersion::Two => {
            remote_write2::decode(&message, &receiver.labels, bounds, epoch, &mut samples)?
        }
    };
    // What it refuses for the clock's sake is beyond the clock.
    let newest_ms = match decoded.refusals.count(CLOCK_BEHIND) {
        0 => samples.at_ms.iter().copied().max(),
        _ => Some(bounds.high_ms.saturating_add(1)),
    };
    if let Some((sender, newest_ms)) = sender.zip(newest_ms) {
        receiver.intake.observe_sender(sender, newest_ms);
    }
    offer(receiver, decoded, exemplars, samples)
}

/// Counts what was decoded, and offers it to the journal.
fn offer(
    receiver: &Receiver,
    mut decoded: DecodedBody,
    exemplars: u64,
    samples: Samples,
) -> Result<PendingWrite, RequestRefusal> {
    let types = std::mem::take(&mut decoded.types);
    let intake = &receiver.intake;
    let telling = TypesInFlight::new(&receiver.labels, types, intake.epoch(), intake.catching_up());
    let source = SourceLabels { source: SOURCE };
    receiver.metrics.received.get_or_create(&source).inc_by(decoded.received);
    receiver.metrics.ignored.get_or_create(&source).inc_by(decoded.ignored);
    let limited = SERIES_LIMITS.iter().any(|reason| decoded.refusals.count(reason) > 0);
    if limited && receiver.intake.catching_up() {
        return Err(busy("series that ended are still counted until the journal is read back".to_owned()));
    }
    if let Some(behind) = decoded.refusals.iter().find(|refusal| refusal.reason == CLOCK_BEHIND) {
        receiver.metrics.limit("clock_behind");
        return Err(busy(format!(
            "the clock is behind what the journal has seen, and {} samples are beyond it (first: {})",
            behind.count, behind.first
        )));
    }
    decoded.refusals.record(SOURCE, &receiver.metrics);
    // Of a histogram two samples are kept.
    let plain = samples.len() as u64 - 2 * decoded.histograms;
    // Both are queued before either is waited for: they go into one commit.
    let samples = if samples.is_empty() { None } else { Some(receiver.intake.offer(samples)?) };
    let types = telling.offer(&*receiver.intake)?;
    Ok(PendingWrite { decoded, exemplars, plain, samples, types, telling })
}

fn not_snappy(error: snap::Error) -> RequestRefusal {
    RequestRefusal::Snappy(error.to_string())
}

/// Waits until it is durable.
async fn wait(durable: DurableFuture) -> Result<(), RequestRefusal> {
    match durable.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(busy(why)),
        Err(_) => Err(busy("the journal was closed".to_owned())),
    }
}

/// Types of series on their way into the journal. What is dropped before it is durable, because something refused or
/// the sender went away or it is too early, waits for the next request.
struct TypesInFlight {
    labels: Arc<Labels>,
    types: Vec<(u64, MetricType)>,
    /// Until the journal has been read back nobody knows what it holds: types wait, so that none is written twice.
    /// Nothing is lost by that: senders repeat them.
    early: bool,
}

impl TypesInFlight {
    fn new(labels: &Arc<Labels>, types: Vec<(u64, MetricType)>, epoch: u64, early: bool) -> TypesInFlight {
        // What waited is older.
        let mut all = if early { Vec::new() } else { labels.waiting(epoch) };
        all.extend(types);
        all.sort_by_key(|(series, _)| *series);
        all.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                *kept = *next;
            }
            same
        });
        TypesInFlight { labels: labels.clone(), types: all, early }
    }

    fn offer(&self, intake: &dyn Intake) -> Result<Option<DurableFuture>, IntakeRefusal> {
        if self.types.is_empty() || self.early {
            return Ok(None);
        }
        intake.record_types(self.types.clone()).map(Some)
    }

    /// They are durable.
    fn done(mut self) {
        self.labels.record_types(&std::mem::take(&mut self.types));
    }
}

impl Drop for TypesInFlight {
    fn drop(&mut self) {
        if !self.types.is_empty() {
            self.labels.defer_types(std::mem::take(&mut self.types));
        }
    }
}

/// The answer once everything that passed the gate is durable.
fn partial(
    accepted: u64,
    decoded: &DecodedBody,
    written: Option<WrittenCounts>,
) -> Result<Option<WrittenCounts>, RequestRefusal> {
    if decoded.refusals.is_empty() {
        return Ok(written);
    }
    let (received, refused) = (decoded.received, decoded.refusals.total());
    Err(RequestRefusal::Partial {
        accepted,
        received,
        refused,
        sentence: decoded.refusals.sentence(),
        written,
    })
}

/// Judges what is sent by its headers alone: the message is chosen by Content-Type, never by a version header.
fn judge_headers(headers: &HeaderMap) -> Result<MessageVersion, RequestRefusal> {
    let text = |name| headers.get(name).map_or("", |value| value.to_str().unwrap_or("?")).trim();
    let media = text(CONTENT_TYPE);
    // A page can have a browser send a body without a type to any address; senders have no origin.
    if media.is_empty() && headers.contains_key(ORIGIN) {
        return Err(RequestRefusal::MediaType(String::new()));
    }
    let mut parts = media.split(';').map(str::trim);
    let kind = parts.next().unwrap_or("");
    let protobuf = kind.is_empty() || kind.eq_ignore_ascii_case("application/x-protobuf");
    let proto = parts
        .filter_map(|part| part.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("proto"));
    let version = match proto.map(|(_, value)| value.trim().trim_matches('"')) {
        None | Some(PROTO_1) if protobuf => MessageVersion::One,
        Some(PROTO_2) if protobuf => MessageVersion::Two,
        _ => return Err(RequestRefusal::MediaType(media.to_owned())),
    };
    let encoding = text(CONTENT_ENCODING);
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("snappy") {
        return Err(RequestRefusal::Encoding(encoding.to_owned()));
    }
    Ok(version)
}

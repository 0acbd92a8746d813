//! Backfills of a running server: ordered over the API, read from a configured Prometheus server, one at a time.
//!
//! ```text
//!  thread "backfill-read": asks, parses, ids ─► 1 answer queued ─► thread "backfill": journal, engine, judging
//! ```
//! Only servers of the configuration are ever asked. Jobs are kept in memory, the last [`JOBS_KEPT`]; a restart forgets
//! them, and what one had written by then stays.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tidewatch_dataflows::sample::Samples;

use crate::api::server::{BackfillOrder, BackfillRefusal, Backfills, ServerName};
use crate::config::{Config, PrometheusSource};
use crate::source::query::SOURCE;
use crate::source::query::choose::Chooser;
use crate::source::query::client::{PrometheusClient, QueryError};
use crate::source::query::read::{ReadObserver, ReadSpan, Reading, StoppedError};
use crate::source::query::take::{TakeContext, Taker};

use super::summary::time;
use super::{BackfillError, BackfillProgress, BackfillRun, BackfillSummary, LiveServer, PATIENCE};

/// Jobs that are remembered, the one at work among them.
pub const JOBS_KEPT: usize = 16;
/// Answers that wait to be computed; each is at most `client::ANSWER_BYTES_MAX`.
const ANSWERS_QUEUED: usize = 1;
/// Failures in a row, each of which may pass by itself, after which a job fails: about three minutes.
const FAILURES_MAX: u64 = 10;
/// How far before the first window is asked: a sample there shows that the window is whole. Longer than most scrape
/// intervals.
const REACH_MS: i64 = 300_000;

/// How a job ended.
enum JobEnd {
    Done(BackfillSummary),
    Failed(String),
    Cancelled,
}

/// One backfill that was ordered.
struct BackfillJob {
    id: String,
    source: PrometheusSource,
    matching: Vec<String>,
    start_ms: i64,
    end_ms: i64,
    started_ms: i64,
    begun: Instant,
    progress: Arc<BackfillProgress>,
    /// Answers, and questions that failed.
    requests: AtomicU64,
    failures: AtomicU64,
    /// Failures since the last answer.
    in_a_row: AtomicU64,
    /// What ended reading before its end.
    gave_up: Mutex<Option<String>>,
    /// How it ended, and after how long.
    ended: Mutex<Option<(JobEnd, Duration)>>,
}

/// Jobs by age, and the thread of the newest.
#[derive(Default)]
struct Jobs {
    all: VecDeque<Arc<BackfillJob>>,
    thread: Option<JoinHandle<()>>,
    last_id: u64,
    closing: bool,
}

/// The backfills of a running server.
pub struct BackfillJobs {
    config: Config,
    live: LiveServer,
    jobs: Mutex<Jobs>,
}

impl BackfillJobs {
    /// None yet.
    pub fn new(config: Config, live: LiveServer) -> BackfillJobs {
        BackfillJobs { config, live, jobs: Mutex::default() }
    }

    /// Ends the one at work and waits for it; takes no more.
    pub fn close(&self) {
        let thread = {
            let mut jobs = self.jobs.lock();
            jobs.closing = true;
            jobs.all.iter().for_each(|job| job.progress.cancel.store(true, Ordering::Relaxed));
            jobs.thread.take()
        };
        // A panic there was printed, and is in what the job says.
        thread.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// The server that an order means.
    fn source(&self, named: Option<&ServerName>) -> Result<PrometheusSource, BackfillRefusal> {
        let sources = &self.config.sources.prometheus;
        let found = match named {
            None => sources.first(),
            Some(ServerName::Place(place)) => {
                usize::try_from(*place).ok().and_then(|place| sources.get(place))
            }
            Some(ServerName::Url(url)) => {
                let url = url.trim_end_matches('/');
                sources.iter().find(|source| source.url.base() == url)
            }
        };
        found.cloned().ok_or_else(|| {
            let urls: Vec<_> = sources.iter().map(|source| source.url.to_string()).collect();
            let bound = match urls.is_empty() {
                true => "an entry of sources.prometheus, of which none is configured".to_owned(),
                false => format!("one of {} in sources.prometheus, or its place from 0", urls.join(", ")),
            };
            let got = match named {
                None => "nothing".to_owned(),
                Some(ServerName::Place(place)) => place.to_string(),
                Some(ServerName::Url(url)) => crate::api::shown(url),
            };
            BackfillRefusal::Source(bound, got)
        })
    }

    fn find(&self, id: &str) -> Option<Arc<BackfillJob>> {
        self.jobs.lock().all.iter().find(|job| job.id == id).cloned()
    }
}

impl Backfills for BackfillJobs {
    fn begin(&self, order: BackfillOrder) -> Result<Value, BackfillRefusal> {
        let source = self.source(order.source.as_ref())?;
        // What must be set right in the configuration is told now, not by a job that fails.
        let client = PrometheusClient::new(&source.url, &source.http, Arc::clone(&self.live.metrics))
            .map_err(|error| BackfillRefusal::Later(error.to_string()))?;
        let mut jobs = self.jobs.lock();
        if let Some(running) = jobs.all.iter().find(|job| job.ended.lock().is_none()) {
            return Err(BackfillRefusal::Running(running.id.clone()));
        }
        if jobs.closing {
            return Err(BackfillRefusal::Later("the server is shutting down".to_owned()));
        }
        if let Err(why) = (self.live.ready)() {
            return Err(BackfillRefusal::Later(why));
        }
        let started_ms = (self.live.clock)();
        // Ids do not repeat over restarts: one that was forgotten is not another's.
        jobs.last_id = u64::try_from(started_ms).unwrap_or(0).max(jobs.last_id + 1);
        let job = Arc::new(BackfillJob {
            id: format!("{:x}", jobs.last_id),
            matching: order.matching.unwrap_or_else(|| source.matching.clone()),
            source,
            start_ms: order.start_ms,
            end_ms: order.end_ms,
            started_ms,
            begun: Instant::now(),
            progress: Arc::default(),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            in_a_row: AtomicU64::new(0),
            gave_up: Mutex::default(),
            ended: Mutex::default(),
        });
        let thread = {
            let (job, config, live) = (Arc::clone(&job), self.config.clone(), self.live.clone());
            let work = move || run(&job, &config, &live, client);
            std::thread::Builder::new().name("backfill".to_owned()).spawn(work)
        };
        let thread =
            thread.map_err(|error| BackfillRefusal::Later(format!("no thread can be started: {error}")))?;
        // The one before has ended.
        jobs.thread.replace(thread).into_iter().for_each(|thread| drop(thread.join()));
        jobs.all.push_back(Arc::clone(&job));
        if jobs.all.len() > JOBS_KEPT {
            jobs.all.pop_front();
        }
        Ok(job.show())
    }

    fn show(&self, id: &str) -> Option<Value> {
        self.find(id).map(|job| job.show())
    }

    fn cancel(&self, id: &str) -> Option<Value> {
        let job = self.find(id)?;
        job.progress.cancel.store(true, Ordering::Relaxed);
        Some(job.show())
    }

    fn now_ms(&self) -> i64 {
        (self.live.clock)()
    }
}

impl BackfillJob {
    fn show(&self) -> Value {
        let ended = self.ended.lock();
        let (state, error, summary, seconds) = match &*ended {
            None => ("running", None, None, self.begun.elapsed()),
            Some((JobEnd::Done(summary), seconds)) => ("done", None, Some(summary.json()), *seconds),
            Some((JobEnd::Failed(why), seconds)) => ("failed", Some(why.clone()), None, *seconds),
            Some((JobEnd::Cancelled, seconds)) => ("cancelled", None, None, *seconds),
        };
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        json!({
            "id": self.id,
            "state": state,
            "source": self.source.url.to_string(),
            "match": self.matching,
            "start": time(self.start_ms),
            "end": time(self.end_ms),
            "started": time(self.started_ms),
            "seconds": seconds.as_millis() as f64 / 1e3,
            "requests": number(&self.requests),
            "requests_failed": number(&self.failures),
            "samples": number(&self.progress.samples),
            "samples_computed": number(&self.progress.computed),
            "rows_judged": number(&self.progress.judged),
            "rows_written": number(&self.progress.written),
            "error": error,
            "summary": summary,
        })
    }

    /// Whether someone wants this job to end, or reading cannot go on.
    fn stopped(&self) -> bool {
        self.progress.cancel.load(Ordering::Relaxed) || self.gave_up.lock().is_some()
    }
}

/// Computes and writes the backfill, and notes how it ended.
fn run(job: &Arc<BackfillJob>, config: &Config, live: &LiveServer, client: PrometheusClient) {
    tracing::info!(
        "backfill {}: {} from {} to {}",
        job.id,
        job.source.url,
        time(job.start_ms),
        time(job.end_ms)
    );
    let client = Arc::new(client);
    let work = std::panic::AssertUnwindSafe(|| work(job, config, live, &client));
    let ended = std::panic::catch_unwind(work);
    // A question may hang when the job is cancelled; the next job is not to ask beside it.
    client.shut_down();
    let ended = match ended {
        Ok(Ok(summary)) => JobEnd::Done(summary),
        Ok(Err(BackfillError::Cancelled)) => JobEnd::Cancelled,
        Ok(Err(error)) => JobEnd::Failed(with_causes(&error)),
        Err(_) => JobEnd::Failed("it panicked; the server's log says where".to_owned()),
    };
    let id = &job.id;
    match &ended {
        JobEnd::Done(summary) => tracing::info!("backfill {id}: done, {} rows written", summary.written()),
        JobEnd::Failed(why) => tracing::warn!("backfill {id} failed: {why}"),
        JobEnd::Cancelled => tracing::info!("backfill {id}: cancelled"),
    }
    *job.ended.lock() = Some((ended, job.begun.elapsed()));
}

/// An error and what it came from.
fn with_causes(error: &dyn Error) -> String {
    let (mut words, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}

fn work(
    job: &Arc<BackfillJob>,
    config: &Config,
    live: &LiveServer,
    client: &Arc<PrometheusClient>,
) -> Result<BackfillSummary, BackfillError> {
    let range = (Some(job.start_ms), Some(job.end_ms));
    let mut backfill =
        BackfillRun::open(config, range, Arc::clone(&job.progress), Arc::clone(&live.metrics))?;
    let chooser = Chooser::new(Vec::new(), Box::new(|_| None));
    let taker = Taker::new(backfill.labels(), Arc::clone(&live.metrics), chooser);
    let after_ms = job.start_ms - config.settings().longest_ms() - REACH_MS;
    let span = ReadSpan { after_ms, to_ms: job.end_ms };
    let parts = ask(job, Arc::clone(client), taker, span, live.clock)?;
    let mut next = |batch: &mut Samples| next(job, &parts, batch);
    backfill.read(&mut next, SOURCE, &mut |_| {})?;
    backfill.write(live)
}

/// What the reading thread sends.
enum ReadPart {
    Samples(Samples),
    End,
}

/// Starts asking for the samples of a span, in a thread of its own: an answer may take longer than anyone waits who
/// wants the job to end. It ends when the client is shut down.
fn ask(
    job: &Arc<BackfillJob>,
    client: Arc<PrometheusClient>,
    mut taker: Taker,
    span: ReadSpan,
    clock: fn() -> i64,
) -> Result<Receiver<ReadPart>, BackfillError> {
    let (to, parts) = sync_channel(ANSWERS_QUEUED);
    let watched = Arc::clone(job);
    let read = move || {
        if read(&watched, &client, &mut taker, span, (&to, clock)).is_ok() {
            // Nobody waits for it any more if the job was cancelled.
            let _ = to.send(ReadPart::End);
        }
    };
    let thread = std::thread::Builder::new().name("backfill-read".to_owned());
    thread.spawn(read).map_err(BackfillError::Thread)?;
    Ok(parts)
}

fn read(
    job: &Arc<BackfillJob>,
    client: &PrometheusClient,
    taker: &mut Taker,
    mut rest: ReadSpan,
    (to, clock): (&SyncSender<ReadPart>, fn() -> i64),
) -> Result<(), StoppedError> {
    let watch = Watcher(job);
    let mut readings: Vec<_> = job.matching.iter().map(|selector| Reading::new(selector)).collect();
    while rest.after_ms < rest.to_ms {
        let span = rest.chunk(job.source.chunk_ms);
        for reading in &mut readings {
            reading.read(client, &watch, span, &mut |answer| {
                let mut samples = Samples::default();
                let taking = TakeContext { now_ms: clock(), epoch: 0, again: false };
                drop(taker.take(answer, taking, &mut samples));
                to.send(ReadPart::Samples(samples)).map_err(|_| StoppedError)?;
                if job.stopped() { Err(StoppedError) } else { Ok(()) }
            })?;
        }
        taker.end_span(span.to_ms);
        rest.after_ms = span.to_ms;
    }
    if job.stopped() { Err(StoppedError) } else { Ok(()) }
}

/// The next answer's samples, or none yet; `false` when there will be no more.
fn next(job: &BackfillJob, parts: &Receiver<ReadPart>, batch: &mut Samples) -> Result<bool, BackfillError> {
    batch.clear();
    match parts.recv_timeout(PATIENCE) {
        Ok(ReadPart::Samples(samples)) => *batch = samples,
        Ok(ReadPart::End) => return Ok(false),
        Err(RecvTimeoutError::Timeout) => {}
        Err(RecvTimeoutError::Disconnected) => {
            let why = job.gave_up.lock().clone();
            job.progress.go_on()?;
            let why = why.unwrap_or_else(|| "reading ended before its end".to_owned());
            return Err(BackfillError::Source(why));
        }
    }
    Ok(true)
}

/// Follows reading for a job.
struct Watcher<'a>(&'a BackfillJob);

impl Watcher<'_> {
    fn give_up(&self, why: String) {
        self.0.gave_up.lock().get_or_insert(why);
    }
}

impl ReadObserver for Watcher<'_> {
    fn answered(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.0.in_a_row.store(0, Ordering::Relaxed);
    }

    fn failed(&self, error: &QueryError, _: Duration) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        let in_a_row = self.0.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        // Whoever ordered the job looks at it; it does not wait until someone has set the server right.
        if matches!(error, QueryError::Definite(_)) || in_a_row >= FAILURES_MAX {
            self.give_up(error.to_string());
        }
    }

    /// Rows of backfill are written once: not of samples of which some are missing.
    fn partial(&self, why: &str, span: ReadSpan, again_in: Duration) -> bool {
        let (after, to) = (time(span.after_ms), time(span.to_ms));
        let why = format!("the answer for {after} to {to} is partial: {why}");
        self.failed(&QueryError::Transient(why), again_in);
        false
    }

    fn left_out(&self, error: &QueryError, selector: &str, span: ReadSpan) {
        let (after, to) = (time(span.after_ms), time(span.to_ms));
        self.give_up(match error {
            QueryError::TooMuch(_) => format!(
                "{selector} between {after} and {to} is too much for the server or for us even minute by minute: \
                 {error}; match fewer series"
            ),
            _ => format!("{selector} between {after} and {to} is refused: {error}"),
        });
    }

    /// It ends with the first name that is left out.
    fn full(&self) {}

    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.0.stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(PATIENCE));
        }
        false
    }
}

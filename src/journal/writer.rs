//! The writer thread and its queue: group commit, and the cutting of epochs.
//!
//! The queue's lock is held for moments only, never over a disk access. Batches are merged into records of up to
//! [`RECORD_SAMPLES_MAX`] samples; one batch may end up in two epochs, never in two commits.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidewatch_dataflows::sample::{Control, EpochEnd, Samples};
use tidewatch_dataflows::settings::Settings;
use tokio::sync::oneshot;

use super::record::{
    Fills, KIND_EPOCH_END, KIND_FILLS, KIND_SETTINGS, RECORD_SAMPLES_MAX, RECORD_TYPES_MAX, encode_columns,
    encode_control, encode_epoch_end, encode_fills, encode_settings, kind_of,
};
use super::{Config, EpochCutter, JournalError, LOG, Mode, Refused};
use crate::metrics::{Gauge, Histogram, Log, Metrics, Queue as QueueLabel, Source};
use crate::segments::{Durable, Segments};

/// Samples after which a group commit takes no further batch: about 5 MB, some milliseconds.
const COMMIT_SAMPLES: usize = 131_072;
/// Bytes a sample takes on disk, about; to see `bytes_max` coming.
const SAMPLE_BYTES: u64 = 20;

type Done = oneshot::Sender<Result<(), String>>;

/// What waits for the writer.
pub(super) enum Item {
    /// Samples, and who waits for them.
    Samples { samples: Samples, source: &'static str, done: Option<Done> },
    /// What is no sample, and who waits for it.
    Control { control: Control, done: Done },
    /// An epoch end, after what was queued before it.
    Cut { stream_ms: i64, close_ms: i64, last_of_input: bool, done: Done },
}

impl Item {
    fn samples(&self) -> usize {
        match self {
            Item::Samples { samples, .. } => samples.len(),
            // On disk they take half of what a sample takes.
            Item::Control { control: Control::Types(types), .. } => types.len(),
            Item::Control { .. } | Item::Cut { .. } => 0,
        }
    }
}

enum State {
    Running,
    /// Write what is queued, end the epoch, stop.
    Closing,
    /// Stop at once: all handles are gone.
    Abandoned,
    Closed,
    Failed(String),
}

struct Queue {
    items: VecDeque<Item>,
    samples: usize,
    /// Samples that the writer has taken and not yet made durable: in neither `samples` nor the bytes on disk.
    writing: usize,
    state: State,
    poked: bool,
}

/// What the handles and the writer share.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// There is something for the writer.
    work: Condvar,
    /// There may be room in the queue.
    room: Condvar,
    batches_max: usize,
    samples_max: usize,
    bytes_max: u64,
    pub(super) durable: Arc<Durable>,
    pub(super) current_epoch: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) last_end: Mutex<Option<EpochEnd>>,
    metrics: Arc<Metrics>,
    depth: Gauge,
}

impl Shared {
    /// Queues `item`; waits for room if `wait`.
    pub(super) fn offer(&self, item: Item, wait: bool) -> Result<(), Refused> {
        let samples = item.samples();
        let mut queue = self.lock();
        loop {
            match &queue.state {
                State::Running => {}
                State::Failed(why) => return Err(Refused::Failed(why.clone())),
                State::Closing | State::Abandoned | State::Closed => return Err(Refused::Closed),
            }
            let coming = (queue.samples + queue.writing + samples) as u64 * SAMPLE_BYTES;
            let bytes = self.bytes.load(Relaxed) + coming;
            // Epoch ends and those of fills are taken even then: they let what is there be computed.
            if bytes > self.bytes_max && samples > 0 {
                self.metrics.limit("journal.bytes_max");
                return Err(Refused::BytesMax { bytes: self.bytes.load(Relaxed), bytes_max: self.bytes_max });
            }
            let fits = queue.items.len() < self.batches_max && queue.samples + samples <= self.samples_max;
            if fits || queue.items.is_empty() {
                break;
            }
            if !wait {
                self.metrics.limit("journal.queue");
                let (batches, samples) = (queue.items.len(), queue.samples);
                let (batches_max, samples_max) = (self.batches_max, self.samples_max);
                return Err(Refused::Full { batches, batches_max, samples, samples_max });
            }
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.samples += samples;
        queue.items.push_back(item);
        self.depth.set(queue.samples as i64);
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    /// Everything taken from the queue is durable, and that is how large the log is now.
    fn written(&self, bytes: u64) {
        let mut queue = self.lock();
        queue.writing = 0;
        self.bytes.store(bytes, Relaxed);
    }

    pub(super) fn failed(&self) -> Option<String> {
        match &self.lock().state {
            State::Failed(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// Asks the writer to finish.
    pub(super) fn close(&self) {
        self.leave(State::Closing);
    }

    /// Asks the writer to stop at once.
    pub(super) fn abandon(&self) {
        self.leave(State::Abandoned);
    }

    fn leave(&self, state: State) {
        let mut queue = self.lock();
        if matches!(queue.state, State::Running) {
            queue.state = state;
        }
        drop(queue);
        self.work.notify_one();
        self.room.notify_all();
    }

    #[cfg(test)]
    pub(super) fn poke(&self) {
        self.lock().poked = true;
        self.work.notify_one();
    }

    /// What is queued, for one commit; nothing after `wait`, or when the journal closes.
    fn take(&self, wait: Option<Duration>) -> Taken {
        let begun = Instant::now();
        let mut queue = self.lock();
        loop {
            if matches!(queue.state, State::Abandoned) {
                return Taken { items: Vec::new(), stop: Some(Stop::Now) };
            }
            if !queue.items.is_empty() {
                break;
            }
            if matches!(queue.state, State::Closing) {
                return Taken { items: Vec::new(), stop: Some(Stop::Finish) };
            }
            if std::mem::take(&mut queue.poked) {
                return Taken::default();
            }
            let Some(wait) = wait else {
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(left) = wait.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
                return Taken::default();
            };
            queue = self.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let (mut items, mut samples) = (Vec::new(), 0);
        while samples < COMMIT_SAMPLES
            && let Some(item) = queue.items.pop_front()
        {
            samples += item.samples();
            items.push(item);
        }
        queue.samples -= samples;
        queue.writing += samples;
        self.depth.set(queue.samples as i64);
        drop(queue);
        self.room.notify_all();
        Taken { items, stop: None }
    }

    /// Ends the writer's work; with a reason the journal has failed and all who wait hear it.
    fn end(&self, state: State) {
        let mut queue = self.lock();
        let waiting = std::mem::take(&mut queue.items);
        queue.samples = 0;
        let why = match &state {
            State::Failed(why) => why.clone(),
            _ => "the journal is closed".to_owned(),
        };
        queue.state = state;
        drop(queue);
        self.depth.set(0);
        self.durable.close();
        self.room.notify_all();
        let waiting = waiting.into_iter().filter_map(|item| match item {
            Item::Samples { done, .. } => done,
            Item::Control { done, .. } | Item::Cut { done, .. } => Some(done),
        });
        answer(waiting, &Err(why));
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(waiting: impl Iterator<Item = Done>, result: &Result<(), String>) {
    for done in waiting {
        // Whoever has stopped waiting does not need the answer.
        let _ = done.send(result.clone());
    }
}

#[derive(Default)]
struct Taken {
    items: Vec<Item>,
    stop: Option<Stop>,
}

#[derive(PartialEq, Eq)]
enum Stop {
    Finish,
    Now,
}

/// If the writer panics, nobody may wait for it.
struct EndOnPanic(Arc<Shared>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(State::Failed("the journal's writer panicked".to_owned()));
        }
    }
}

/// The one who writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    segments: Segments,
    cutter: EpochCutter,
    config: Config,
    before_commit: Box<dyn FnMut() -> io::Result<()> + Send>,
    metrics: Arc<Metrics>,
    bytes: Gauge,
    sync_seconds: Histogram,
    settings: Vec<u8>,
    fills: Fills,
    /// Samples of the current epoch not yet encoded; less than a record.
    partial: Samples,
    epoch_samples: usize,
    /// The epoch holds samples of a fill.
    filled: bool,
    epoch_began_ms: i64,
    /// Something was appended since the last commit.
    dirty: bool,
    waiting: Vec<Done>,
    /// Samples by source, and epochs, that become durable with the next commit.
    accepted: Vec<(&'static str, u64)>,
    epochs: u64,
}

impl Writer {
    pub(super) fn new(
        segments: Segments,
        cutter: EpochCutter,
        settings: &Settings,
        fills: Fills,
        config: Config,
        before_commit: Box<dyn FnMut() -> io::Result<()> + Send>,
        metrics: Arc<Metrics>,
    ) -> Writer {
        let log = Log { log: LOG };
        let shared = Shared {
            queue: Mutex::new(Queue {
                items: VecDeque::new(),
                samples: 0,
                writing: 0,
                state: State::Running,
                poked: false,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            batches_max: config.queue_batches,
            samples_max: config.queue_samples,
            bytes_max: config.bytes_max,
            durable: Arc::new(Durable::new(segments.end(), cutter.last().map(|end| end.epoch))),
            current_epoch: AtomicU64::new(cutter.current_epoch()),
            bytes: AtomicU64::new(segments.bytes()),
            last_end: Mutex::new(cutter.last()),
            depth: metrics.queue_depth.get_or_create(&QueueLabel { queue: LOG }).clone(),
            metrics: metrics.clone(),
        };
        let mut payload = Vec::new();
        encode_settings(settings, &mut payload);
        let bytes = metrics.log_bytes.get_or_create(&log).clone();
        let sync_seconds = metrics.log_sync_seconds.get_or_create(&log).clone();
        // An epoch of no samples would never be filled.
        let config = Config { epoch_samples_max: config.epoch_samples_max.max(1), ..config };
        Writer {
            shared: Arc::new(shared),
            segments,
            cutter,
            epoch_began_ms: (config.clock)(),
            config,
            before_commit,
            bytes,
            sync_seconds,
            metrics,
            settings: payload,
            fills,
            partial: Samples::with_capacity(RECORD_SAMPLES_MAX),
            epoch_samples: 0,
            filled: false,
            dirty: false,
            waiting: Vec::new(),
            accepted: Vec::new(),
            epochs: 0,
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Before anything is taken: settings at the head of the segment, and an end for an epoch that was cut short.
    ///
    /// `before` are the settings that held until now, if they were others: they hold to the end of the epoch that was
    /// cut short.
    pub(super) fn begin(&mut self, open_epoch: bool, before: Option<&Settings>) -> Result<(), JournalError> {
        let now = before.map(|before| {
            let mut payload = Vec::new();
            encode_settings(before, &mut payload);
            std::mem::replace(&mut self.settings, payload)
        });
        self.head();
        if open_epoch {
            let end = self.cutter.cut_at((self.config.clock)(), i64::MIN, i64::MIN, false);
            tracing::warn!(epoch = end.epoch, "closing an epoch that was cut short");
            self.end_epoch(end);
        }
        if let Some(now) = now {
            self.head();
            self.settings = now;
            self.segments.append(KIND_SETTINGS, &self.settings);
            self.dirty = true;
        }
        self.commit().map_err(JournalError::Failed)
    }

    pub(super) fn run(mut self) {
        let _guard = EndOnPanic(self.shared.clone());
        loop {
            let taken = self.shared.take(self.time_left());
            if taken.stop == Some(Stop::Now) {
                return self.shared.end(State::Closed);
            }
            for item in taken.items {
                self.encode(item);
            }
            let finish = taken.stop == Some(Stop::Finish);
            if self.config.mode == Mode::Live && (finish || self.time_left() == Some(Duration::ZERO)) {
                self.cut_live();
            }
            if let Err(why) = self.commit() {
                tracing::error!(why, "the journal has failed; nothing is taken before a restart");
                // First the state, then the answers: who hears of the failure finds the journal failed.
                self.shared.end(State::Failed(why.clone()));
                return answer(self.waiting.drain(..), &Err(why));
            }
            if finish {
                return self.shared.end(State::Closed);
            }
        }
    }

    /// How long the epoch may last yet; no bound when the caller ends epochs.
    fn time_left(&self) -> Option<Duration> {
        if self.config.mode == Mode::File {
            return None;
        }
        let lasted_ms = (self.config.clock)().saturating_sub(self.epoch_began_ms);
        // A clock that was set back must not make an epoch last until it has caught up.
        if lasted_ms < 0 {
            return Some(Duration::ZERO);
        }
        Some(Duration::from_millis(self.config.epoch_ms.saturating_sub(lasted_ms).max(0).unsigned_abs()))
    }

    fn encode(&mut self, item: Item) {
        match item {
            Item::Samples { samples, source, done } => {
                self.add(&samples);
                self.waiting.extend(done);
                match self.accepted.iter_mut().find(|(known, _)| *known == source) {
                    Some((_, n)) => *n += samples.len() as u64,
                    None => self.accepted.push((source, samples.len() as u64)),
                }
            }
            Item::Control { control, done } => {
                self.add_control(control);
                self.waiting.push(done);
            }
            Item::Cut { stream_ms, close_ms, last_of_input, done } => {
                let end = self.cutter.cut_at((self.config.clock)(), stream_ms, close_ms, last_of_input);
                self.end_epoch(end);
                self.waiting.push(done);
            }
        }
    }

    fn add_control(&mut self, control: Control) {
        // A control applies to its whole epoch, so the end of a fill must not be in one with the fill's samples.
        if self.filled && matches!(control, Control::FillEnd { .. }) {
            match self.config.mode {
                Mode::Live => self.cut_live(),
                // Times of a file are the caller's.
                Mode::File => {
                    let end = self.cutter.cut_at((self.config.clock)(), i64::MIN, i64::MIN, false);
                    self.end_epoch(end);
                }
            }
        }
        self.flush();
        let parts = match control {
            Control::Types(types) => {
                types.chunks(RECORD_TYPES_MAX).map(|part| Control::Types(part.to_vec())).collect()
            }
            other => vec![other],
        };
        for part in parts {
            self.head();
            let mut payload = Vec::new();
            let kind = encode_control(&part, &mut payload);
            self.segments.append(kind, &payload);
            // Only now: a head that knew it already would say so even if the tail from here on is torn off.
            self.fills.note(&part);
        }
        self.dirty = true;
    }

    /// Puts samples into records, and ends the epoch each time it is full.
    fn add(&mut self, samples: &Samples) {
        if self.partial.fill != samples.fill {
            self.flush();
            self.partial.fill = samples.fill;
        }
        self.filled |= samples.fill != 0;
        let fill = samples.fill;
        let mut from = 0;
        while from < samples.len() {
            let mut n = (samples.len() - from).min(RECORD_SAMPLES_MAX - self.partial.len());
            if self.config.mode == Mode::Live {
                n = n.min(self.config.epoch_samples_max - self.epoch_samples);
            }
            let to = from + n;
            let (series, at_ms) = (&samples.series[from..to], &samples.at_ms[from..to]);
            let value = &samples.value[from..to];
            if self.partial.is_empty() && n == RECORD_SAMPLES_MAX {
                self.head();
                self.segments
                    .append_with(kind_of(fill), |out| encode_columns(fill, series, at_ms, value, out));
            } else {
                self.partial.series.extend_from_slice(series);
                self.partial.at_ms.extend_from_slice(at_ms);
                self.partial.value.extend_from_slice(value);
            }
            self.dirty = true;
            from = to;
            self.epoch_samples += n;
            if self.partial.len() == RECORD_SAMPLES_MAX {
                self.flush();
            }
            if self.config.mode == Mode::Live && self.epoch_samples >= self.config.epoch_samples_max {
                self.cut_live();
                self.filled = fill != 0 && from < samples.len();
            }
        }
    }

    /// Encodes the samples that do not fill a record.
    fn flush(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        self.head();
        let Samples { series, at_ms, value, fill } = &self.partial;
        self.segments.append_with(kind_of(*fill), |out| encode_columns(*fill, series, at_ms, value, out));
        self.partial.clear();
    }

    fn cut_live(&mut self) {
        let now_ms = (self.config.clock)();
        let end = self.cutter.cut(now_ms);
        self.epoch_began_ms = now_ms;
        self.end_epoch(end);
    }

    fn end_epoch(&mut self, end: EpochEnd) {
        self.flush();
        self.head();
        self.segments.append_with(KIND_EPOCH_END, |out| encode_epoch_end(&end, out));
        self.dirty = true;
        self.epoch_samples = 0;
        self.filled = false;
        self.epochs += 1;
        self.shared.current_epoch.store(self.cutter.current_epoch(), Relaxed);
    }

    /// Every segment begins with the state of fills, if there were any, and the settings in force: whoever finds
    /// these in a segment has found those.
    fn head(&mut self) {
        if self.segments.at_segment_start() {
            if !self.fills.is_empty() {
                let mut payload = Vec::new();
                encode_fills(&self.fills, &mut payload);
                self.segments.append(KIND_FILLS, &payload);
            }
            self.segments.append(KIND_SETTINGS, &self.settings);
            self.dirty = true;
        }
    }

    /// Makes durable what was appended, then tells everyone.
    fn commit(&mut self) -> Result<(), String> {
        if !self.dirty && self.waiting.is_empty() {
            return Ok(());
        }
        self.flush();
        (self.before_commit)().map_err(|e| format!("cannot sync the series log: {e}"))?;
        self.segments.write().map_err(|e| e.to_string())?;
        let begun = Instant::now();
        self.segments.sync().map_err(|e| e.to_string())?;
        self.sync_seconds.observe(begun.elapsed().as_secs_f64());
        self.dirty = false;
        self.bytes.set(i64::try_from(self.segments.bytes()).unwrap_or(i64::MAX));
        self.shared.written(self.segments.bytes());
        for (source, n) in self.accepted.drain(..) {
            self.metrics.accepted.get_or_create(&Source { source }).inc_by(n);
        }
        self.metrics.epochs.inc_by(std::mem::take(&mut self.epochs));
        let last = self.cutter.last();
        *self.shared.last_end.lock().unwrap_or_else(PoisonError::into_inner) = last;
        self.shared.durable.advance(self.segments.end(), last.map(|end| end.epoch));
        answer(self.waiting.drain(..), &Ok(()));
        Ok(())
    }
}
